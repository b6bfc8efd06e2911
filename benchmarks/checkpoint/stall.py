#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long an asynchronous save holds up training: GPT-2 124M, one sequence of 1,024 tokens a step, a save after every third step.

    benchmarks/checkpoint/stall.py --plinth build/release/plinth [--folder FOLDER] [--steps 12] [--threads 2]

FOLDER is on the disk to be measured. Prints for each save how long the training thread stood still (save_wait_seconds of the step
after it) as a share of a step, what the processor spent in the background, and the seconds of steps with and without a save under way:
on a machine whose cores all compute, the background threads take their time from the step.
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
EVERY = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plinth", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plinth-stall-", dir=options.folder) as work:
        command = [str(options.plinth.resolve()), "pretrain", str(ROOT / "configs/gpt/gpt2_124m.yaml"), "~train.tokens",
                   f"data.sources=[{{path: {work}/text}}]", "data.sequence_length=1024", "model.vocab_size=50257", "train.lanes=1",
                   "train.micro_batch=1", "train.global_batch=1", f"train.steps={options.steps}", "train.eval_every=0",
                   "optimizer.warmup_steps=1", f"run.threads={options.threads}", "run.metrics.tensorboard=false",
                   f"checkpoint.every={EVERY}", "checkpoint.async=true", "checkpoint.keep=1", f"run.folder={work}/run"]
        prepare = [str(options.plinth.resolve()), "data", "prepare", f"prepare.inputs=[{ROOT}/core, {ROOT}/docs]",
                   f"prepare.output={work}/text", "prepare.held_out=0"]
        for words in (prepare, command):
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                sys.exit(f"{words} ended with {done.returncode}:\n{done.stdout}")
        steps = [json.loads(line) for line in open(f"{work}/run/metrics.jsonl")]
    processor = [float(seconds) for seconds in re.findall(r"background threads took ([\d.]+) s", done.stdout)]
    steps = {record["step"]: record for record in steps if record["kind"] == "step"}
    after = [step for step in steps if step > EVERY and step % EVERY == 1]
    quiet = statistics.median(record["step_seconds"] for step, record in steps.items() if step > 1 and step % EVERY == 0)
    for step in after:
        waited = steps[step]["save_wait_seconds"]
        print(f"save after step {step - 1}: training stood still {1e3 * waited:.1f} ms, {waited / quiet:.2%} of a step of {quiet:.2f} s; "
              f"the step beside it took {steps[step]['step_seconds']:.2f} s")
    print("processor time in the background, s a save:", *processor)


if __name__ == "__main__":
    main()
