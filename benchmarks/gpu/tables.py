#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Markdown tables of what a results file holds: benchmarks/gpu/tables.py RESULTS.jsonl

Side by side with PyTorch, kernel time by class, starts, memory foretold and measured, what ran. Needs no card."""
import json
import pathlib
import sys

import kernel_time
import shapes


def table(head, rows):
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def number(value, form):
    return "-" if value is None else form.format(value)


def side_name(row):
    if row["part"] in ("plinth", "kernels"):
        return " ".join(["Plinth", *row.get("options", []), *([f"recompute {row['recompute']}"] if row.get("recompute", "none") != "none" else [])])
    states = ", all in bf16" if row.get("parameters") == "bf16" else ""
    return f"PyTorch {row['torch']} {row['how']}{states}" if "torch" in row else f"PyTorch{states}"


def newest_build(rows):
    """Of Plinth's rows those of the build that was measured last."""
    builds = [row["build"] for row in rows if "build" in row]
    return [row for row in rows if "build" not in row or row["build"] == builds[-1]]


def side_by_side(rows, **key):
    """Of one shape and precision: a line a timing, fastest first, and the ratio of the best."""
    rows = newest_build([row for row in rows if all(row.get(name) == value for name, value in key.items())])
    timed = [row for row in rows if row["part"] in ("plinth", "torch")]
    if not timed:
        return ""
    precision = key["dtype"] if key["fp8"] == "none" else f"fp8 {key['fp8']}"
    lines = []
    for row in sorted(timed, key=lambda row: -row["tokens_per_second"]):
        mfu = f"{row['mfu_causal']:.1%} ({row['mfu_full']:.1%})" if "mfu_causal" in row else "-"
        lines.append([side_name(row), row["micro_batch"], f"{row['tokens_per_second']:.0f}",
                      f"{row['ms']:.1f} ({row.get('ms_p10', 0):.1f}, {row.get('ms_p90', 0):.1f}; {row['steps']})", mfu,
                      number(row.get("card_gib", row.get("allocator_gib")), "{:.1f}"), number(row.get("sm_mhz"), "{:.0f}"),
                      number(row.get("watt"), "{:.0f}"),
                      number(row["joules_per_token"] * 1e3 if "joules_per_token" in row else None, "{:.3f}"),
                      number(row.get("first_step_seconds"), "{:.1f}")])
    text = table([f"{key['shape']} {precision}, {timed[0]['step_tokens']} tokens a step", "micro-batch", "tokens/s",
                  "ms/step (p10, p90; steps)", "MFU causal (full)", "peak GiB", "SM MHz", "W", "mJ/token", "first step, s"], lines)
    best = {side: max((row["tokens_per_second"] for row in timed if row["part"] == side), default=None) for side in ("plinth", "torch")}
    if all(best.values()):
        text += f"\n\nratio {key['shape']} {precision}: Plinth / best PyTorch = {best['plinth'] / best['torch']:.3f}"
    for target in {target for shape, target, words in shapes.ROWS.values()
                   if shape == key["shape"] and target and ("--fp8" in words) == (key["fp8"] != "none")}:
        if best["plinth"] and key["device"] == "cuda":
            text += f"; {best['plinth'] / target:.1%} of the {target:.0f} tokens/s to reach"
    for start in (row for row in rows if row["part"] == "start"):
        text += f"\nstart to the end of a step of one micro-batch: {start['cold_seconds']:.1f} s, again {start['warm_seconds']:.1f} s"
    return "\n" + "\n\n".join(part for part in (text, kernel_table(rows)) if part) + "\n"


def kernel_table(rows):
    """ms of a step by class; idle is what the fastest timed step of that side takes beyond its kernels."""
    lines = []
    for part, timed_part in (("kernels", "plinth"), ("torch-kernels", "torch")):
        for row in (row for row in rows if row["part"] == part):
            timed = [other["ms"] for other in rows if other["part"] == timed_part and other["micro_batch"] == row["micro_batch"]]
            classes = {kind: 1e3 * seconds for kind, seconds in row["classes"].items()}
            if timed:
                classes = kernel_time.with_idle(classes, min(timed))
            whole = sum(classes.values())
            lines.append(["Plinth" if part == "kernels" else "PyTorch",
                          *(f"{classes[kind]:.1f} ({classes[kind] / whole:.1%})" if kind in classes else "-" for kind in kernel_time.CLASSES)])
    return table(["ms of a step", *kernel_time.CLASSES], lines) if lines else ""


def memory(rows):
    lines = [[row["name"], f"{row['foretold_gib']:.2f}", f"{row['measured_gib']:.2f}", f"{row['measured_gib'] / row['foretold_gib'] - 1:+.1%}",
              number(row.get("foretold_card_gib"), "{:.2f}"), number(row.get("card_gib"), "{:.2f}"),
              number(row["card_gib"] / row["foretold_card_gib"] - 1 if row.get("card_gib") else None, "{:+.1%}"),
              f"{row['tokens_per_second']:.0f}", row["keys"]]
             for row in rows if row.get("part") == "memory"]
    return table(["configuration", "tensors and scratch foretold, GiB", "measured", "off by", "with CUDA's own foretold", "nvidia-smi", "off by",
                  "tokens/s", "keys"], lines) if lines else ""


def ceilings(rows):
    lines = [[row["time"], f"{row['copy_gbs']:.0f}", f"{row['product_tflops']:.0f}"] for row in rows if row.get("part") == "ceilings"]
    return table(["ceilings at", "copy of 1 GiB, GB/s", "product of 8192 x 8192 x 8192, bf16, TFLOP/s"], lines) if lines else ""


def sessions(rows):
    """The machines, in words."""
    words = []
    for row in (row for row in rows if row.get("part") == "session"):
        words.append(f"{row['session']}: {row.get('card', 'no card')}, driver {row.get('driver', '-')}, {row.get('card_mib', '-')} MiB, "
                     f"power limit {row.get('power_limit_w', '-')} W, ECC {row.get('ecc', '-')}; {row.get('libraries', '')}; "
                     f"{row['host']}; build {row['build']}")
    return "\n".join(f"* {text}" for text in words)


def ran(rows):
    """The last outcome of each part, in the order in which they were first tried."""
    last = {}
    for row in (row for row in rows if row.get("part") == "ran"):
        last[row["stage"], row["name"]] = row
    lines = [[row["name"], f"`{row['command']}`", row["outcome"], row["said"].replace("|", "/"), f"{row['seconds']:.0f}", row["session"], row["build"]]
             for row in last.values()]
    return table(["what", "command", "outcome", "it said", "s", "session", "build"], lines) if lines else ""


def everything(rows):
    parts = [sessions(rows), ceilings(rows)]
    keys = []
    for row in rows:
        key = tuple(row.get(name) for name in ("shape", "device", "dtype", "fp8"))
        if row.get("part") in ("plinth", "torch") and key not in keys:
            keys.append(key)
    parts += [side_by_side(rows, shape=shape, device=device, dtype=dtype, fp8=fp8).strip("\n") for shape, device, dtype, fp8 in keys]
    parts += [memory(rows), ran(rows)]
    return "\n\n".join(part for part in parts if part)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = [json.loads(line) for line in pathlib.Path(sys.argv[1]).read_text().splitlines() if line.endswith("}")]
    print(everything(rows))


if __name__ == "__main__":
    main()
