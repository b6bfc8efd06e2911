# SPDX-License-Identifier: Apache-2.0
"""Time of a training step by class of kernel: from Nsight Compute for Plinth, from PyTorch's profiler for the peer.

Nsight Compute runs one kernel at a time, so that it sees neither the gaps between kernels nor their overlap; and with the card
less busy clocks may be higher than in the timed run. What a timed step takes beyond the sum is printed as idle, and is that."""
import csv
import io
import re

CLASSES = ("GEMM", "attention", "cross-entropy", "norms and elementwise", "8-bit roundings", "optimizer", "idle")
# In this order: the first pattern that fits a kernel's name decides.
PATTERNS = [
    ("attention", r"cudnn|fmha|flash|\battend\b|dot_rows|query_gradients|key_value_gradients|join_rows"),
    # Its backward_rows reads the targets, int32; swiglu.cu's kernel of that name has no such argument.
    ("cross-entropy", r"local_rows|combine_rows|finish_rows|finish_parts|backward_rows.*\bint *(const *)?\*|(?i:softmax|nll_loss|cross_entropy)"),
    ("optimizer", r"cuda::.*\bupdate(_rounded)?\b|sum_squares|sum_limbs|normalize_limbs|decide_alone|[Aa]dam|multi_tensor|lpnorm"),
    ("8-bit roundings", r"largest_magnitude|set_scale|\bquantize|fp8_scale|float8|e4m3|e5m2"),
    ("GEMM", r"nvjet|cublas|cutlass|gemm|splitKreduce|matmul|plinth.*::(finish|convert)\b"),
]
STEP_ENDS = "decide_alone"  # once a step, between its gradients and its update


def class_of(name):
    # An 8-bit product is a product.
    if re.search(r"nvjet|cublasLt|cutlass.*gemm", name):
        return "GEMM"
    for kind, pattern in PATTERNS:
        if re.search(pattern, name):
            return kind
    return "norms and elementwise"


def ncu_command(skip, count, log):
    """What goes before a program's own words; the profile is written to the file `log`. `--clock-control none`: the card is measured as it is. `--kill yes`: no need of the rest of the run."""
    return ["ncu", "--csv", "--log-file", log, "--print-units", "base", "--print-kernel-base", "demangled", "--metrics",
            "gpu__time_duration.sum", "--clock-control", "none", "--cache-control", "none", "--target-processes", "all", "--launch-skip",
            str(skip), "--launch-count", str(count), "--kill", "yes"]


def read_ncu(text):
    """[(name, seconds)] in the order of launches, of what `ncu --csv` prints among other lines."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        return []
    units = {"ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3, "s": 1.0, "second": 1.0}
    kernels = []
    for row in csv.DictReader(io.StringIO("\n".join(line for line in lines[begin:] if line.startswith('"')))):
        if row.get("Metric Name") == "gpu__time_duration.sum":
            kernels.append((row["Kernel Name"], float(row["Metric Value"].replace(",", "")) * units[row["Metric Unit"]]))
    return kernels


def step_of(kernels, profiled_micro_batches, micro_batches):
    """{class: seconds of a step of `micro_batches`} from the launches of steps of `profiled_micro_batches`; None if no whole step
    is among them. All classes but the optimizer's grow with the number of micro-batches."""
    ends = [i for i, (name, _) in enumerate(kernels) if STEP_ENDS in name]
    if len(ends) < 2:
        return None
    sums = classes_of(kernels[ends[0]:ends[-1]], profiled_micro_batches, micro_batches)
    return {kind: seconds / (len(ends) - 1) for kind, seconds in sums.items()}


def classes_of(kernels, profiled_micro_batches, micro_batches):
    """The same of one step's kernels."""
    sums = dict.fromkeys(CLASSES[:-1], 0.0)
    for name, seconds in kernels:
        kind = class_of(name)
        sums[kind] += seconds * (1 if kind == "optimizer" else micro_batches / profiled_micro_batches)
    return sums


def longest(kernels, count=12):
    """[(name, class, share)] of the kernels that take most, by name."""
    sums = {}
    for name, seconds in kernels:
        sums[name] = sums.get(name, 0.0) + seconds
    whole = sum(sums.values())
    return [(name[:120], class_of(name), sums[name] / whole) for name in sorted(sums, key=sums.get, reverse=True)[:count]]


def with_idle(classes, step_seconds):
    """Adds what the step takes beyond its kernels, at least 0."""
    return {**classes, "idle": max(0.0, step_seconds - sum(classes.values()))}


def launches_bound(layers):
    """More launches than a micro-batch has: GPT-2 124M, 12 layers, has about a thousand."""
    return 150 + 110 * layers
