#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a training step with each policy of train.recompute, on one machine in one run.

    benchmarks/step/recompute.py --plinth build/release/plinth --data FOLDER [--config configs/gpt/small.yaml] [--rounds 3] [KEY=VALUE ...]

FOLDER holds shards of `plinth data prepare`. The policies take turns, `rounds` times, so that a slow minute of the machine meets all
of them; a row shows the best median of steps, and memory as `memory_bytes` of metrics.jsonl counts it. Losses must be equal in
every bit. Prints a Markdown table.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
POLICIES = ["none", "norms", "selective", "full"]


def train(options, policy):
    """(median seconds of a step, bytes at the peak, losses in hexadecimal)"""
    with tempfile.TemporaryDirectory(prefix="plinth-recompute-") as folder:
        command = [options.plinth, "pretrain", options.config, f"data.sources=[{{path: {options.data}}}]", "data.verify=false",
                   f"train.steps={options.steps + 2}", "train.eval_every=0", "train.sample_every=0", "optimizer.warmup_steps=1",
                   "checkpoint.every=0", f"run.folder={folder}/run", "run.metrics.tensorboard=false", *options.keys,
                   f"train.recompute={policy}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        records = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl")]
    steps = [record for record in records if record["kind"] == "step"]
    return (statistics.median(record["step_seconds"] for record in steps[2:]), max(record["memory_bytes"] for record in steps),
            [record["loss_hex"] for record in steps])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plinth", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--config", default=ROOT / "configs/gpt/small.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    seconds, peak, losses = {policy: [] for policy in POLICIES}, {}, set()
    for _ in range(options.rounds):
        for policy in POLICIES:
            time, peak[policy], loss = train(options, policy)
            seconds[policy].append(time)
            losses.add(tuple(loss))
    if len(losses) != 1:
        sys.exit(f"{len(losses)} different runs of losses: recompute must change no bit")
    least = {policy: min(times) for policy, times in seconds.items()}
    print("| train.recompute | seconds a step, best of the rounds | of none | peak, MiB | of none |\n|---|---|---|---|---|")
    for policy in POLICIES:
        print(f"| {policy} | {least[policy]:.3f} | {least[policy] / least['none']:.3f} | {peak[policy] / 2**20:.1f} "
              f"| {peak[policy] / peak['none']:.3f} |")


if __name__ == "__main__":
    main()
