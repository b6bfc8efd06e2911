#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu/on_card.py and what it calls, without a card: stand-ins for the programs of a bundle, nvidia-smi, compute-sanitizer,
Nsight Compute and PyTorch, which answer as the real ones do; Plinth itself is real and on the CPU. What ran once is not run again, a
call that is cut loses nothing, what fails is named, and the tables hold what was said.

    tests/integration/on_card.py PLINTH CHECKPOINT_TOOL"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPU = ROOT / "benchmarks/gpu"
sys.path.insert(0, str(GPU))
sys.dont_write_bytecode = True
import compare_pytorch  # noqa: E402
import kernel_time  # noqa: E402
import memory  # noqa: E402
import on_card  # noqa: E402
import results  # noqa: E402
import roofline  # noqa: E402
import shapes  # noqa: E402

STAND_INS = {
    "bundle/plinth": '#!/bin/sh\n[ -n "$BREAKS" ] && [ -d "$BREAKS/checkpoints" ] && set -- "$@" optimizer.lr=1e-2\n'
                     'if [ -n "$PLAN" ]; then case "$*" in *--dry-run) "$PLINTH" "$@" | sed "s/^# memory a rank  *[0-9.]*/# memory a rank  $PLAN/"; exit;; esac; fi\n'
                     'exec "$PLINTH" "$@"\n',
    "bundle/gpu_benchmarks": """#!/bin/sh
echo 'NVIDIA H200, 132 multiprocessors, 139.8 GiB; cuBLASLt 13.1, cuDNN 9.19'
echo '| copy                       | 1 GiB                  |     499.4 |     4300 GB/s    | 100.0 % |'
echo '| matmul 8192                | 8192x8192x8192         |    1518.0 |    724.3 TFLOP/s | 100.0 % |'
[ "$1" = norm ] && echo '| gpt2 layer_norm backward   | [65536, 768]           |     177.1 |     2486 GB/s    |  57.8 % |'
exit 0
""",
    "bundle/gpu_kernels": """#!/bin/sh
echo "$*" >>"$CALLS"
case "$1" in
    --gtest_list_tests) printf 'AddTest.\\n  Sums\\nCards/CastTest.\\n  Rounds/0  # GetParam() = 4\\nTyped/0.  # TypeParam = float\\n  Works\\n'; exit ;;
esac
case "$*" in *Typed*) [ "$KERNELS" = hang ] && { setsid sleep $NAP & wait; } ;; esac
case "$*" in *CastTest*) [ "$KERNELS" = fail ] && { echo '[ RUN      ] Cards/CastTest.Rounds/0'; echo 'off by one'; echo '[  FAILED  ] Cards/CastTest.Rounds/0, where GetParam() = 4 (3 ms)'; exit 1; } ;; esac
echo '[ RUN      ] One.Test'
echo '[       OK ] One.Test (1 ms)'
""",
    "bundle/gpu_parallel": """#!/bin/sh
[ "$1" = --gtest_list_tests ] && { printf 'NcclTest.\\n  Links\\n'; exit; }
printf 'one GPU\\n[  SKIPPED ] NcclTest.Links (0 ms)\\n[  SKIPPED ] 1 test, listed below:\\n'
""",
    "bundle/numerics_models": """#!/bin/sh
[ "$1" = --gtest_list_tests ] && { [ "$2" = '--gtest_filter=*OnADevice*' ] && printf 'GoldenModels.\\n  OnADevice\\n'; exit; }
[ -e "$PLINTH_SOURCE_DIR/tests/golden/models" ] && [ "$2" = '--gtest_filter=GoldenModels.*OnADevice*' ] || exit 1
echo '[       OK ] GoldenModels.OnADevice (1 ms)'
""",
    "bin/nvidia-smi": """#!/bin/sh
case "$*" in
    *driver_version*) echo 'NVIDIA H200, 580.159.04, 143771, 700.00, 1980, Enabled, Enabled' ;;
    *) echo '1024, 1700, 690.0'; while :; do echo '14336, 1700, 690.0'; sleep 0.02; done ;;
esac
""",
    "bin/compute-sanitizer": '#!/bin/sh\nwhile [ "${1##*/}" != gpu_kernels ]; do shift; done\nexec "$@"\n',
    # The last words are Plinth's; the launches of two steps of two micro-batches.
    "bin/ncu": '#!/bin/sh\nwhile [ "$1" != --log-file ]; do shift; done\ncat "$NCU" >"$2"\n'
               '[ "$NCU" = /dev/null ] || exit 0\nwhile [ "${1##*/}" != plinth ]; do shift; done\n"$@" &\nwait\n',
    "bin/torch": """#!/bin/sh
case "$2" in
    *'"kind": "kernels"'*) echo '{"torch": "2.11.0", "kernels": [["nvjet_tst_192x192", 0.002], ["void cudnn_sdpa", 0.001], ["triton_poi_fused_add", 0.001]]}' ;;
    *) echo timing; echo '{"torch": "2.11.0", "step_seconds": [0.5, 0.5, 0.5, 0.5, 0.5], "first_step_seconds": 3.0, "loss": 5.5}' ;;
esac
""",
}
NAMES = {
    "nvjet_sm90_tst_256x128_64x4_2x1_v_bz_coopB_NNT": "GEMM",
    "nvjet_qqtst_128x256_128x4_e4m3": "GEMM",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float>": "GEMM",
    "void plinth::kernels::cuda::(anonymous namespace)::finish<float>(float *, const float *, long)": "GEMM",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_6_64x128x64": "attention",
    "void plinth::kernels::cuda::(anonymous namespace)::attend<64, float>(plinth::kernels::cuda::Span)": "attention",
    "void plinth::kernels::cuda::<unnamed>::local_rows<plinth::BFloat16>(float *, float *)": "cross-entropy",
    "void plinth::kernels::cuda::(anonymous namespace)::backward_rows<plinth::BFloat16>(plinth::BFloat16 *, const float *, const float *, "
    "const int *, int, int, plinth::kernels::CrossEntropy)": "cross-entropy",
    "void plinth::kernels::cuda::(anonymous namespace)::backward_rows<8, float>(float *, const float *, const float *, long, long)":
        "norms and elementwise",
    "void plinth::kernels::cuda::(anonymous namespace)::norm_backward_rows<plinth::BFloat16, 4>()": "norms and elementwise",
    "void plinth::kernels::cuda::map_elements<plinth::kernels::AddOf, plinth::BFloat16>()": "norms and elementwise",
    "void plinth::kernels::cuda::(anonymous namespace)::quantize<plinth::BFloat16, 1>()": "8-bit roundings",
    "void plinth::kernels::cuda::(anonymous namespace)::update(plinth::kernels::AdamW)": "optimizer",
    "plinth::kernels::cuda::(anonymous namespace)::decide_alone(plinth::kernels::StepTerms)": "optimizer",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>": "optimizer",
    "triton_red_fused__log_softmax_nll_loss_forward_12": "cross-entropy",
    "triton_poi_fused_gelu_7": "norms and elementwise",
}


def fail(what, said=""):
    sys.exit(f"FAILED: {what}\n{said[-4000:]}")


def ncu_lines(steps):
    """Of a profile that begins and ends in the midst of a step: products of 1 ms, attention 0.5 ms, update 2 ms; two micro-batches."""
    names = {kind: name for name, kind in NAMES.items()}
    micro = [(names["GEMM"], "1,000,000"), (names["attention"], "500000")] * 2
    decide = next(name for name in NAMES if "decide_alone" in name)
    launches = micro[1:] + [(decide, "1000"), (names["optimizer"].replace("multi_tensor", "lpnorm"), "1999000"), *micro] * steps + micro[:1]
    head = '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Section Name","Metric Name","Metric Unit","Metric Value"'
    rows = [f'"{i}","7","plinth","127.0.0.1","{name}","1","13","Command line profiler metrics","gpu__time_duration.sum","{unit}","{time}"'
            for i, (name, time) in enumerate(launches) for unit in ["nsecond" if i % 2 else "ns"]]  # older versions, newer ones
    return "\n".join(["==PROF== Connected to process 7", "step 1/9 loss 1", head, *rows, "==PROF== Disconnected"]) + "\n"


def check_kernel_times():
    for name, kind in NAMES.items():
        if kernel_time.class_of(name) != kind:
            fail(f"{name} is {kernel_time.class_of(name)}, not {kind}")
    kernels = kernel_time.read_ncu(ncu_lines(3))
    # The first whole step begins with a decision: three of them bound two steps. 4 micro-batches a step: twice the profiled ones.
    found = kernel_time.step_of(kernels, 2, 4)
    expected = {"GEMM": 4e-3, "attention": 2e-3, "optimizer": 2e-3}
    if any(abs(found[kind] - expected.get(kind, 0)) > 1e-12 for kind in found):
        fail(f"a step of {found}, expected {expected}")
    if abs(kernel_time.with_idle(found, 0.009)["idle"] - 1e-3) > 1e-9 or kernel_time.with_idle(found, 0.001)["idle"] != 0:
        fail("idle time")
    if kernel_time.step_of(kernel_time.read_ncu(ncu_lines(1)), 2, 4) is not None or kernel_time.read_ncu("==ERROR== no card") != []:
        fail("a profile without a whole step gives times")


def check_roofline():
    """Beside what an H100 did (benchmarks/RESULTS.md), with the kernels that it had then. The prediction knows neither gaps between
    kernels nor what a cache holds between two of them."""
    for name, seen in (("gpt2-124m", 548720), ("gpt2-350m", 204953), ("gpt2-774m", 98231)):
        rate = 524288 / sum(roofline.step(name, roofline.COPY["h100"], sums_apart=True, finished_apart=True).values())
        if not 0.99 < rate / seen < 1.01:
            fail(f"{name}: {rate:.0f} tokens/s foretold, {seen} seen")


def check_cases():
    """The batch runs all cases that ctest has under the label gpu."""
    text = (ROOT / "tests/integration/CMakeLists.txt").read_text()
    for script, cases in on_card.TRAINING.items():
        found = re.search(rf"integration_test\({script} TIMEOUT \d+\s+CASES ([^)]*?)\s+LABELS \"gpu;slow\"\)", text)
        if not found or sorted(found[1].split()) != sorted(cases):
            fail(f"{script}: the batch runs {sorted(cases)}, ctest has {sorted(found[1].split()) if found else 'none'}")


def check_results(folder):
    path = folder / "cut.jsonl"
    path.write_text('{"part": "a"}\n{"part": "b", "val')
    held = results.Results(path, session="s")
    held.add({"part": "c"}, shown=False)
    if [row["part"] for row in results.Results(path).rows] != ["a", "c"]:
        fail("a line that was cut is not dropped", path.read_text())


class Lab:
    def __init__(self, folder, plinth, tool):
        self.folder = folder
        for name, text in STAND_INS.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (folder / "bundle/checkpoint_tool").symlink_to(tool)
        (folder / "ncu.csv").write_text(ncu_lines(3))
        self.environment = dict(os.environ, PATH=f"{folder}/bin:{os.environ['PATH']}", PLINTH=str(plinth), CALLS=str(folder / "calls"),
                                NCU=str(folder / "ncu.csv"), NAP=f"61.{os.getpid()}")

    def run(self, expected, *words, text=(), **environment):
        command = [sys.executable, "-B", GPU / "on_card.py", self.folder / "bundle", self.folder / "results", "--work", self.folder / "scratch", *words]
        done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**self.environment, **environment})
        if done.returncode != expected:
            fail(f"{' '.join(words)}: exit code {done.returncode}, expected {expected}", done.stdout)
        for part in (text,) if isinstance(text, str) else text:
            if part not in done.stdout:
                fail(f"{' '.join(words)}: no '{part}' in", done.stdout)
        return done.stdout

    def rows(self, **key):
        return results.Results(self.folder / "results/results.jsonl").find(**key)


def check_tests(lab):
    lab.run(1, "tests", KERNELS="fail", text=["FAILED: tests: gpu_kernels Cards/CastTest: exit code 1: Cards/CastTest.Rounds/0", "off by one",
                                              "| gpu_kernels | `gpu_kernels --gtest_color=no --gtest_filter=AddTest.*` and others | **failed** | 2 passed, 1 failed |"])
    if "off by one" not in (lab.folder / "results/failures.txt").read_text():
        fail("failures.txt does not hold the test's output")
    said = lab.run(0, "ceilings", "tests", text=["tests: 3 of 5 done before", "| gpu_parallel |", "| numerics_models |", "NVIDIA H200, driver 580.159.04, 143771 MiB",
                                               "| 4300 | 724 |"])
    if "**failed**" in said:
        fail("a suite that passed later still counts as failed", said)
    before = (lab.folder / "calls").read_text()
    lab.run(0, "tests", text="4 of 5 done before")
    if (lab.folder / "calls").read_text().replace(before, "").count("--gtest_filter=AddTest.*") != 0:
        fail("a suite that had passed ran again")
    lab.run(0, "sanitize=memcheck,racecheck", text=["| memcheck |", "| racecheck |", "3 passed"])
    lab.run(0, "kernels=norm", text="1 of 2 memory-bound kernels reach 90 % of the copy; not: gpt2 layer_norm backward 58 %")
    # Without a card each case is skipped, which is not to be taken for passed.
    lab.run(1, "training=equal_cpu", text="no such case: equal_cpu; there are equals_cpu, ")
    lab.run(1, "training=equals_cpu,generate", text=["| equals_cpu |", "| generate |", "GPUs: none", "FAILED: training: all 2 were skipped: nothing was checked"])


def expect_nothing_left(word):
    """No process has that word on its command line."""
    for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in command.read_bytes().split(b"\0"):
                fail(f"a process that was started goes on: {command.read_bytes()}")
        except OSError:
            continue


def check_cut(lab):
    """The time is over while a suite hangs: the others' lines stand, and the hanging one is run by the next call."""
    (lab.folder / "results/results.jsonl").unlink()
    lab.run(75, "--minutes", "0.25", "tests", "ceilings", KERNELS="hang", text=["left out: the time is over", "goes on with what is missing"])
    expect_nothing_left(lab.environment["NAP"])
    if len(lab.rows(part="ran", outcome="passed")) != 3 or lab.rows(part="ran", outcome="failed"):
        fail("what ended before the cut is not there", str(lab.rows(part="ran")))
    with open(lab.folder / "results/results.jsonl", "a") as file:
        file.write('{"part": "ran", "na')
    lab.run(0, "tests", text="tests: 3 of 5 done before")


def check_rows(lab):
    text = lab.folder / "text.txt"
    text.write_text("A tokenizer needs a text.\n" * 2000)
    subprocess.run([lab.environment["PLINTH"], "data", "prepare", f"prepare.inputs=[{text}]", f"prepare.output={lab.folder}/scratch/compare/data-512"],
                   check=True, stdout=subprocess.DEVNULL)
    words = ["tiny-gpt", "--device", "cpu", "--dtype", "fp32", "--seconds", "0.3", "--python", str(lab.folder / "bin/torch"), "--how", "eager"]
    parts = ["--parts", "torch+plinth+start+kernels+torch-kernels"]
    said = lab.run(0, "compare=" + ",".join(words + parts), text=["ratio tiny-gpt fp32: Plinth / best PyTorch = ", "start to the end of a step", "mJ/token",
                                                                 "| PyTorch 2.11.0 eager | 2 | 1024 | 500.0 ("])
    rows = lab.rows(shape="tiny-gpt")
    if sorted(row["part"] for row in rows) != ["kernels", "plinth", "start", "torch", "torch-kernels"]:
        fail("other parts", str(rows))
    plinth = lab.rows(shape="tiny-gpt", part="plinth")[0]
    # nvidia-smi's stand-in says 690 W and 14 GiB, 1 GiB of them before anything ran.
    if not (abs(plinth["joules_per_token"] * plinth["tokens_per_second"] - 690) < 1e-6 and plinth["card_gib"] == 14 and plinth["idle_gib"] == 1):
        fail("what the card said", str(plinth))
    # 8 samples in micro-batches of 2: twice what was profiled; idle is what 500 ms of PyTorch's step leave.
    if "| PyTorch | 4.0 (0.8%) | 2.0 (0.4%) | 0.0 (0.0%) | 2.0 (0.4%) | 0.0 (0.0%) | 0.0 (0.0%) | 492.0 (98.4%) |" not in said:
        fail("the table of kernel times", said)
    lab.run(0, "compare=" + ",".join(words + parts))
    if len(lab.rows(shape="tiny-gpt")) != len(rows):
        fail("a part was measured again")
    lab.run(1, "compare=" + ",".join([*words, "--parts", "kernels", "--micro-batch", "4", "--profile-seconds", "2"]), NCU="/dev/null",
            text=["no end of Nsight Compute within 2 s", "not measured: kernels"])
    expect_nothing_left(f"run.folder={lab.folder}/scratch/compare/profiled")
    lab.run(1, "rows=gpt2-9b", text="no such row: gpt2-9b")
    # No time for a large row: nothing of it is begun.
    lab.run(75, "--minutes", "0.2", "compare=gpt2-124m,--parts,plinth,--work," + str(lab.folder / "scratch/large"), text="would not end in the")


def check_commands(lab):
    """Plinth takes the command of every row and configuration; a block and a small vocabulary, for a checkpoint has to fit the disk."""
    plinth, small = lab.environment["PLINTH"], ["model.layers=1", "model.vocab_size=1024"]
    for name, (shape, _, words) in shapes.ROWS.items():
        row = compare_pytorch.Comparison(compare_pytorch.options_of(["--plinth", plinth, "--work", str(lab.folder / "rows"), "--shape", shape, *words]))
        row.data, row.device_key = lab.folder / "scratch/compare/data-512", ["run.device=cuda"]
        command = [*row.timed_command(lab.folder / "rows/run", row.total), *small, "--dry-run"]
        done = subprocess.run([str(word) for word in command], text=True, capture_output=True)
        if done.returncode or "of its GPU" not in done.stdout or (f"fp8: {row.options.fp8}" not in done.stdout):
            fail(f"row {name}: {' '.join(map(str, command))}", done.stderr)
        if row.total % row.micro or row.total // row.micro < 4:
            fail(f"row {name}: {row.total} samples in micro-batches of {row.micro}")
    o = argparse.Namespace(plinth=plinth, work=lab.folder / "plans", results=None, fields="{}", device="cuda", checkpoints=None, set=small)
    measurement = memory.Measurement(o)
    for name, (shape, micro, keys) in memory.CONFIGS.items():
        measurement.foretold(shapes.SHAPES[shape], micro, keys)
    for name, keys in memory.LARGEST.items():
        measurement.foretold(shapes.SHAPES["llama-8b"], 1, keys)


def check_memory(lab):
    said = subprocess.run([lab.environment["PLINTH"], "pretrain", ROOT / "configs/gpt/gpt2_124m.yaml", "run.device=cuda", "optimizer.offload=states",
                           f"checkpoint.folder={lab.folder}/none", "checkpoint.keep=1", "--dry-run"], text=True, capture_output=True).stdout
    plan = memory.plan_of(said)
    # On the card weights in bf16 and gradients twice, for the sum of lanes; on the host masters and two moments, and their copy for
    # checkpoints: 10 and 24 bytes of 124 million parameters, and little besides.
    # In scratch the library's 32 MiB beside the gradient of the padded table, which chunks of the head add up.
    parameters, added = 124439808 / 2**30, (4 * 50304 * 768 + 2**25) / 2**30
    if not (plan["fits"] and 10 * parameters < plan["gpu"] < 10 * parameters + 2 and abs(plan["scratch"] - added) < 1e-3
            and 24 * parameters < plan["host"] < 24 * parameters + 0.05 and plan["own"] == 600 / 1024):
        fail(f"the plan is read as {plan}", said)
    lab.run(0, "memory=tiny,--device,cpu", text="| tiny | 0.00 | 0.00 |")
    lab.run(0, "memory=tiny,--device,cpu")
    if len(lab.rows(part="memory")) != 1:
        fail("memory was measured again")
    lab.run(1, "memory=tiny-offloaded,--device,cpu", PLAN="100.0",
            text="more than 5% off: tiny-offloaded: tensors: ")


def check_real(lab):
    words = ["--input", str(ROOT / "docs"), "--held-out", "0.2", "--config", "gpt/tiny.yaml", "--checkpoint-every", "10", "--seconds", "1.5",
             "--set", "train.micro_batch=2", "--set", "train.global_batch=8", "--set", "train.dtype=fp32"]
    lab.run(1, "real=" + ",".join(words), BREAKS=str(lab.folder / "scratch/real/run"), text="have other bits after the resume")
    rows = (lab.folder / "results/results.jsonl").read_text().splitlines()
    (lab.folder / "results/results.jsonl").write_text("".join(f"{row}\n" for row in rows if '"part": "real"' not in row))
    lab.run(0, "real=" + ",".join(words), text=["steps ran twice, each with the same bits", "0 of them differ"])
    if lab.rows(part="real")[-1]["ran_twice"] < 1:
        fail("nothing ran twice")


def main():
    check_kernel_times()
    check_roofline()
    check_cases()
    with tempfile.TemporaryDirectory(prefix="plinth-on-card-") as name:
        folder = pathlib.Path(name)
        check_results(folder)
        lab = Lab(folder, pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
        for check in (check_tests, check_cut, check_rows, check_commands, check_memory, check_real):
            check(lab)
            print(f"{check.__name__}: passed", flush=True)


if __name__ == "__main__":
    main()
