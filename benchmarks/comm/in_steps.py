#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The exchange of gradients inside real training steps, over MPI ranks of one machine.

    benchmarks/comm/in_steps.py --plinth build/release/plinth hidden|summation [--ranks 2] [--rounds 3]

hidden: share of the bytes of gradients that were exchanged and summed before the backward passes ended, by bucket size and number of
lanes; a GPT of 4 layers and 192 wide, 4 micro-batches of 4 x 256 tokens a step, 12 steps.
summation: what an order of additions that does not depend on the number of ranks costs. A step of configs/gpt/small.yaml with 8
micro-batches and as many lanes as ranks, each of which then sums its own share first: the fewest bytes and additions that any
summation has; and with 8 lanes, of which each keeps its own sum until all are added in order, so that 1 to 8 ranks give the same
bits. The runs take turns; the row shows the median of each run's steps, the best round of each, and the cost.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUCKETS = ("64KiB", "256KiB", "1MiB", "4MiB", "32MiB")


def run(command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def pretrain(options, work, config, *keys):
    """What a run printed, and the seconds of its steps."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        said = run([ROOT / "launch/run_mpi.sh", "-n", options.ranks, options.plinth, "pretrain", ROOT / config,
                    f"data.sources=[{{path: {work}/text}}]", "run.threads=1", "run.metrics.tensorboard=false", f"run.folder={folder}",
                    "checkpoint.every=0", "train.eval_every=0", *keys])
        records = [json.loads(line) for line in open(f"{folder}/metrics.jsonl")]
    return said, [record["step_seconds"] for record in records if record["kind"] == "step"]


def hidden(options, work):
    print("| lanes | " + " | ".join(BUCKETS) + " |\n" + "|---" * (len(BUCKETS) + 1) + "|")
    for lanes in (options.ranks, 2 * options.ranks):
        row = []
        for bucket in BUCKETS:
            said, _ = pretrain(options, work, "configs/gpt/tiny.yaml", "model.layers=4", "model.width=192", "model.max_positions=256",
                               "data.sequence_length=256", "train.micro_batch=4", f"train.global_batch={8 * options.ranks}",
                               f"train.lanes={lanes}", "train.steps=12", f"parallel.bucket_bytes={bucket}")
            row.append(re.search(r"hidden behind the backward pass: ([\d.]+)%", said)[1] + " %")
        print(f"| {lanes} | " + " | ".join(row) + " |", flush=True)


def summation(options, work):
    lanes = (options.ranks, 8)
    best = dict.fromkeys(lanes, float("inf"))
    for _ in range(options.rounds):
        for count in lanes:
            _, seconds = pretrain(options, work, "configs/gpt/small.yaml", "train.micro_batch=8", "train.global_batch=64",
                                  f"train.lanes={count}", "train.steps=6", "optimizer.warmup_steps=1")
            best[count] = min(best[count], statistics.median(seconds[1:]))
    fewest, fixed = (best[count] for count in lanes)
    print(f"{options.ranks} ranks: {lanes[0]} lanes {fewest:.3f} s a step, {lanes[1]} lanes {fixed:.3f} s: {fixed / fewest - 1:+.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("hidden", "summation"))
    parser.add_argument("--plinth", type=pathlib.Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.ranks < 2:
        parser.error("--ranks: one rank exchanges nothing")
    with tempfile.TemporaryDirectory(prefix="plinth-exchange-") as work:
        run([options.plinth, "data", "prepare", f"prepare.inputs=[{ROOT}/core, {ROOT}/docs, {ROOT}/kernels]", f"prepare.output={work}/text", "prepare.held_out=0"])
        {"hidden": hidden, "summation": summation}[options.part](options, work)


if __name__ == "__main__":
    main()
