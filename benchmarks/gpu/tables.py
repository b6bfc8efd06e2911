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
    for gate in (row for row in rows if row["part"] == "gate"):
        text += (f"\ngate with {gate['layers']} layers: {'passed' if gate['passed'] else '**not passed**'}, first loss within "
                 f"{gate['first_loss_error']:.1e}, norm within {gate['norm_error']:.1e}, losses within {gate['curve_error']:.1e}, "
                 f"cosine of the gradients {gate['cosine']:.5f}")
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
    return table(["configuration", "tensors foretold, GiB", "measured", "off by", "with scratch and CUDA's own foretold", "nvidia-smi", "off by",
                  "tokens/s", "keys"], lines) if lines else ""


def ceilings(rows):
    lines = [[row["time"], f"{row['copy_gbs']:.0f}", f"{row['product_tflops']:.0f}"] for row in rows if row.get("part") == "ceilings"]
    if len(lines) > 1:
        seen = [row for row in rows if row.get("part") == "ceilings" and row.get("session") == rows[-1].get("session")]
        for name, key in (("copy", "copy_gbs"), ("product", "product_tflops")):
            rates = [row[key] for row in seen]
            if len(rates) > 1 and max(rates) / min(rates) > 1.03:
                lines.append([f"**drift of the {name} within a session: {max(rates) / min(rates) - 1:.1%}, more than 3 %**", "", ""])
    return table(["ceilings at", "copy of 1 GiB, GB/s", "product of 8192 x 8192 x 8192, bf16, TFLOP/s"], lines) if lines else ""


def sessions(rows):
    """The machines, in words, and when each was used."""
    used = {}
    for row in (row for row in rows if row.get("part") == "session"):
        words = (f"{row.get('card', 'no card')}, driver {row.get('driver', '-')}, {row.get('card_mib', '-')} MiB, power limit "
                 f"{row.get('power_limit_w', '-')} W, SM clock at most {row.get('max_sm_mhz', '-')} MHz, ECC {row.get('ecc', '-')}; "
                 f"{row['libraries']}; {row['host']}")
        used.setdefault(words, []).append(row["session"])
    return "\n".join(f"* {words}: {', '.join(times)} (UTC)" for words, times in used.items())


def ran(rows):
    """ctest's label gpu and the sanitizers, each piece as it went the last time; pieces of a program or tool in one line."""
    last, groups = {}, {}
    for row in (row for row in rows if row.get("part") == "ran"):
        last[row["stage"], row["name"]] = row
    order = ("tests", "training", "sanitize")
    for row in sorted(last.values(), key=lambda row: (order.index(row["stage"]), row["group"], row["name"])):
        # A training's cases say different things: a line each.
        groups.setdefault((row["stage"], row["name"] if row["stage"] == "training" else row["group"]), []).append(row)
    lines = []
    for (stage, name), pieces in groups.items():
        counts = {kind: sum(piece.get(kind, 0) for piece in pieces) for kind in ("passed", "skipped", "failed")}
        failed = [f"{piece['name']} ({piece['said']})" for piece in pieces if piece["outcome"] == "failed"]
        said = "; ".join(failed) if failed else pieces[0]["said"] if len(pieces) == 1 else ""
        tests = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        lines.append([name, f"`{pieces[0]['command'].replace('|', '/')}`" + (" and others" if len(pieces) > 1 else ""),
                      "**failed**" if failed else "passed" if counts["passed"] else "skipped", tests, said.replace("|", "/"),
                      f"{sum(piece['seconds'] for piece in pieces):.0f}", pieces[-1]["session"], pieces[-1]["build"]])
    return table(["what", "command", "outcome", "tests", "it said", "s", "session", "build"], lines) if lines else ""


def real(rows):
    lines = [[row["steps"], row["step_tokens"], f"{row['first_loss']:.3f}, {row['last_loss']:.3f}",
              ", ".join(f"{loss:.3f} at {step}" for step, loss in row["held_out"]), f"{row['tokens_per_second']:.0f}", row["killed_after"],
              row["resumed_at"], f"{row['ran_twice']}, {len(row['differ'])} of them differ"] for row in rows if row.get("part") == "real"]
    return table(["steps of real training", "tokens a step", "first and last loss", "held-out loss", "tokens/s", "killed after", "resumed at",
                  "steps that ran twice"], lines) if lines else ""


def everything(rows):
    parts = [sessions(rows), ceilings(rows)]
    keys = []
    for row in rows:
        key = tuple(row.get(name) for name in ("shape", "device", "dtype", "fp8"))
        if row.get("part") in ("plinth", "torch") and key not in keys:
            keys.append(key)
    parts += [side_by_side(rows, shape=shape, device=device, dtype=dtype, fp8=fp8).strip("\n") for shape, device, dtype, fp8 in keys]
    parts += [memory(rows), real(rows), ran(rows)]
    return "\n\n".join(part for part in parts if part)


def main():
    if sys.argv[1:] in (["-h"], ["--help"]):
        return print(__doc__)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = [json.loads(line) for line in pathlib.Path(sys.argv[1]).read_text().splitlines() if line.endswith("}")]
    print(everything(rows))


if __name__ == "__main__":
    main()
