#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Weak and strong scaling: runs a list of layouts under mpirun, one after the other, and writes a table of them.

    benchmarks/scaling/scale.py --plinth build/release/plinth --config configs/gpt/gpt2_124m.yaml --out FOLDER
        [--mode strong|weak] [--layouts "data=1; data=2; data=2 zero=1; tensor=2; pipeline=2 schedule=1f1b; context=2"]
        [--steps 12] [--warm-up 4] [--mpirun "launch/run_mpi.sh --hostfile hosts"] [KEY=VALUE...]

A layout is a list of keys of the section `parallel`; its number of ranks is their product. `strong` keeps the global batch of the
configuration; `weak` multiplies it, and the lanes, by data ranks, so that each of them computes as many micro-batches as one alone.
The first layout is what efficiency is counted against: tokens a second and rank, as a share of its own. KEY=VALUE are overrides for all runs, such as data.sources. Writes scaling.json, scaling.md and
scaling.svg into FOLDER; each row is the median of the steps after the warm-up. Ranks that share cores show the mechanism, not the speed,
and the table says so.
"""
import argparse
import json
import math
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
AXES = ("data", "tensor", "pipeline", "context")
QUIET = ("checkpoint.every=0", "train.eval_every=0", "train.sample_every=0")
DEFAULT = "data=1; data=2; data=2 zero=1; tensor=2; pipeline=2 schedule=1f1b; context=2"
COLUMNS = (("layout", "layout", "{}"), ("ranks", "ranks", "{}"), ("tokens_per_second", "tokens/s", "{:,.0f}"),
           ("efficiency", "efficiency", "{:.0%}"), ("mfu", "MFU of a rank", "{:.1%}"), ("bubble", "bubble planned", "{:.1%}"),
           ("communication", "waiting for communication", "{:.1%}"), ("idle", "idle by uneven lanes", "{:.1%}"),
           ("planned_gib", "memory planned, GiB", "{:.4f}"), ("memory_gib", "held by rank 0, GiB", "{:.4f}"),
           ("start_gib", "resident at start, GiB", "{:.4f}"), ("resident_gib", "resident at most, GiB", "{:.4f}"),
           ("beside_gib", "resident minus start minus held, GiB", "{:.4f}"), ("cores", "cores a rank", "{:.2g}"))


def keys_of(layout):
    """{"data": "2", "zero": "1"} of "data=2 zero=1"."""
    keys = dict(word.split("=", 1) for word in layout.split())
    for axis in AXES:
        keys.setdefault(axis, "1")
    return keys


def ranks_of(keys):
    return math.prod(int(keys[axis]) for axis in AXES)


def overrides_of(options, keys, batch):
    words = [f"parallel.{key}={value}" for key, value in keys.items()]
    if options.mode == "weak":
        data = int(keys["data"])
        words += [f"train.global_batch={batch['global_batch'] * data}", f"train.lanes={batch['lanes'] * data}"]
    if int(keys.get("zero", 0)) >= 2:  # gradients are exchanged after every micro-batch
        slots = batch["global_batch"] // batch["micro_batch"] * (int(keys["data"]) if options.mode == "weak" else 1)
        words = [word for word in words if not word.startswith("train.lanes=")] + [f"train.lanes={slots}"]
    return words


def plan_of(options, words, ranks):
    """What --dry-run says of a layout: memory of rank 0, the batch, the bubble and the idle share."""
    command = launcher(options, ranks) + [options.plinth, "pretrain", options.config, *options.overrides, *words,
                                          *QUIET, "--dry-run"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"scaling: {shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    text = done.stdout
    find = lambda pattern: (re.search(pattern, text) or [None, "0"])[1]
    # The logs are rank 0's, which is on the first stage.
    size, unit = (re.search(r"\n# stage 0 .* ([\d.]+) ([MG])iB in all", text) or
                  re.search(r"\n# memory a rank +([\d.]+) ([MG])iB", text)).groups()
    return {"memory_gib": float(size) / (1024 if unit == "M" else 1), "global_batch": int(find(r"\n  global_batch: (\d+)")),
            "micro_batch": int(find(r"\n  micro_batch: (\d+)")), "lanes": int(find(r"\n  lanes: (\d+)")),
            "bubble": float(find(r"bubble ([\d.]+) %")) / 100, "idle": float(find(r"lanes, ([\d.]+) % of rank time idle")) / 100}


def launcher(options, ranks):
    return [*shlex.split(options.mpirun), "-n", str(ranks)] if ranks > 1 else []


def measure(options, layout, folder, batch):
    keys = keys_of(layout)
    ranks = ranks_of(keys)
    words = overrides_of(options, keys, batch)
    plan = plan_of(options, words, ranks)
    run = pathlib.Path(folder, re.sub(r"\W+", "-", layout))
    command = launcher(options, ranks) + [
        options.plinth, "pretrain", options.config, *options.overrides, *words, f"run.folder={run}",
        f"checkpoint.folder={run}/checkpoints", f"train.steps={options.steps}", *QUIET]
    print(f"{layout}: {ranks} ranks", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"scaling: {shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if step["kind"] == "step"][options.warm_up:]
    median = lambda key: statistics.median(step[key] for step in steps) if all(key in step for step in steps) else None
    gib = lambda key: median(key) / 2**30
    seconds, waited = median("step_seconds"), median("communication_wait_seconds")
    return {"layout": layout, "ranks": ranks, "global_batch": plan["global_batch"], "tokens_per_second": median("tokens_per_second"), "mfu": median("mfu"),
            "bubble": plan["bubble"], "idle": plan["idle"], "communication": waited / seconds if waited is not None else None,
            "step_seconds": seconds, "planned_gib": plan["memory_gib"], "memory_gib": gib("memory_bytes"),
            "start_gib": gib("start_resident_bytes"), "resident_gib": gib("resident_bytes"),
            "beside_gib": gib("resident_bytes") - gib("start_resident_bytes") - gib("memory_bytes"), "steps": len(steps),
            "cores": len(os.sched_getaffinity(0)) / ranks if "hostfile" not in options.mpirun else None}


def table_of(rows):
    lines = ["| " + " | ".join(title for _, title, _ in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        lines.append("| " + " | ".join("-" if row[key] is None else form.format(row[key]) for key, _, form in COLUMNS) + " |")
    return "\n".join(lines)


def picture_of(rows, title):
    """Bars: tokens a second, and beside each the efficiency."""
    bar, left, width = 26, 300, 420
    most = max(row["tokens_per_second"] for row in rows)
    height = 60 + bar * len(rows)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 170}" height="{height}" font-family="sans-serif" '
             f'font-size="13"><rect width="100%" height="100%" fill="white"/>',
             f'<text x="12" y="24" font-size="15">{title}</text>']
    for i, row in enumerate(rows):
        y = 44 + bar * i
        length = width * row["tokens_per_second"] / most
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{row["layout"]}</text>'
                     f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 8}" fill="#3b6ea5"/>'
                     f'<text x="{left + length + 8:.1f}" y="{y + 13}">{row["tokens_per_second"]:,.0f} tokens/s, '
                     f'{row["efficiency"]:.0%}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plinth", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--mode", choices=("strong", "weak"), default="strong")
    parser.add_argument("--layouts", default=DEFAULT)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--mpirun", default=str(ROOT / "launch/run_mpi.sh"), help="what takes `-n RANKS PROGRAM`")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.steps <= options.warm_up:
        sys.exit(f"scaling: --steps {options.steps} leaves nothing after --warm-up {options.warm_up}")
    layouts = [layout.strip() for layout in options.layouts.split(";") if layout.strip()]
    if not layouts:
        sys.exit("scaling: --layouts names none")
    options.out.mkdir(parents=True, exist_ok=True)
    batch = plan_of(options, [], 1)
    with tempfile.TemporaryDirectory(prefix="plinth-scaling-") as folder:
        rows = [measure(options, layout, folder, batch) for layout in layouts]
    first = rows[0]["tokens_per_second"] / rows[0]["ranks"]
    for row in rows:
        row["efficiency"] = row["tokens_per_second"] / row["ranks"] / first
    crowded = any(row["cores"] is not None and row["cores"] < 1 for row in rows)
    shared = len({row["ranks"] for row in rows}) > 1 and not crowded
    remark = ("Ranks share cores here: the table shows the mechanism, not the speed of the layouts." if crowded else
              "All ranks run on one machine: more ranks have fewer threads each, so efficiency is that of the split, not of "
              "added hardware." if shared and rows[0]["cores"] is not None else "")
    title = f"{options.mode} scaling of {pathlib.Path(options.config).name}"
    text = "\n\n".join(part for part in (f"# {title}", remark, table_of(rows)) if part) + "\n"
    (options.out / "scaling.json").write_text(json.dumps({"mode": options.mode, "config": options.config,
                                                          "overrides": options.overrides, "remark": remark, "rows": rows},
                                                         indent=1) + "\n")
    (options.out / "scaling.md").write_text(text)
    (options.out / "scaling.svg").write_text(picture_of(rows, title))
    print(text, end="")


if __name__ == "__main__":
    main()
