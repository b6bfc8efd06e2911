#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real training on a card, killed and resumed: text is prepared, GPT-2 124M trained on it in the reproducible mode, the run killed
(kill -9) in the midst of a step, started again with the same command, and the losses of the steps that ran twice compared bit for bit.

    benchmarks/gpu/real_training.py --plinth PROGRAM --work FOLDER [--results FILE] [--until SECONDS] [--input PATH]...
                                    [--tokenizer FOLDER] [--seconds 180] [--config gpt/gpt2_124m.yaml] [--set KEY=VALUE]...

Without --input the text is what launch/collect_text.sh lists on this machine. Without --tokenizer (a folder with vocab.json and
merges.txt) it is bytes. The first process learns how long a step takes; steps are then as many as --seconds allow, up to --epochs
of the text, and six saves at least. Exit 1 if a step that ran twice has another loss, or the loss does not fall; 75 if the time is over before the end."""
import argparse
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from results import Results

ROOT = pathlib.Path(__file__).resolve().parents[2]


def say(text):
    print(f"real_training: {text}", flush=True)


def prepare(o, work):
    """The data set; made once."""
    data = work / "data"
    if (data / "manifest.json").exists():
        return data
    files = o.input or subprocess.run([ROOT / "launch/collect_text.sh", "--limit-mb", str(o.text_mb)], text=True, check=True,
                                      stdout=subprocess.PIPE).stdout.splitlines()
    lines = "".join(f"    - {json.dumps(str(name))}\n" for name in files)
    (work / "prepare.yaml").write_text(f"prepare:\n  inputs:\n{lines}")
    shutil.rmtree(data, ignore_errors=True)
    with open(work / "prepare.log", "w") as log:
        subprocess.run([o.plinth, "data", "prepare", work / "prepare.yaml", f"prepare.output={data}",
                        f"prepare.tokenizer={o.tokenizer or 'byte'}",
                        f"prepare.held_out={o.held_out}"], check=True, stdout=log, stderr=log)
    return data


class Run:
    """Processes of one command and the steps that they wrote to metrics.jsonl."""

    def __init__(self, command, folder, log):
        self.command, self.metrics, self.log = [str(word) for word in command], folder / "metrics.jsonl", log

    def read(self):
        """Step records; a kill may leave half a line."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["kind"] == "step":
                rows.append(row)
        return rows

    def start(self):
        with open(self.log, "a") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log)

    def until(self, process, is_enough, deadline):
        """Waits; True as soon as is_enough(records), False when the process ended or the time is over."""
        while process.poll() is None and time.time() < deadline:
            if is_enough(self.read()):
                return True
            time.sleep(0.02)
        return False


def compared(first, second):
    """(steps that both have, those whose losses or norms differ in a bit)."""
    bits = {row["step"]: (row["loss_hex"], row["grad_norm_hex"]) for row in first}
    both = [row["step"] for row in second if row["step"] in bits]
    return both, [row["step"] for row in second if row["step"] in bits and bits[row["step"]] != (row["loss_hex"], row["grad_norm_hex"])]


def train(o, work, data):
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    (work / "run.log").unlink(missing_ok=True)
    every = o.checkpoint_every
    fixed = [o.plinth, "pretrain", ROOT / "configs" / o.config, "~train.tokens", f"data.sources=[{{path: {data}}}]", "run.reproducible=true",
             "run.hash_check_every=0", f"checkpoint.every={every}", f"run.folder={folder}", *o.set]
    # A long run is killed as soon as it has said how long a step takes: the number of steps is in the learning rate's schedule.
    probe = Run([*fixed, "train.steps=1000000", f"run.folder={work / 'probe'}", "checkpoint.every=0", f"checkpoint.folder={work / 'probe' / 'none'}"],
                work / "probe", work / "probe.log")
    shutil.rmtree(work / "probe", ignore_errors=True)
    process = probe.start()
    known = probe.until(process, lambda rows: len(rows) >= 4, time.time() + 120)
    process.kill()
    process.wait()
    if not known:
        sys.exit(f"real_training: no four steps:\n{pathlib.Path(probe.log).read_text()[-2000:]}")
    seconds = min(row["step_seconds"] for row in probe.read()[1:])
    tokens = json.loads((data / "manifest.json").read_text())["splits"]["train"]["tokens"]
    a_step = probe.read()[0]["tokens"]
    steps = max(6 * every, min(int(o.seconds / seconds), int(o.epochs * tokens / a_step)))
    say(f"{tokens} tokens of text, {seconds * 1e3:.0f} ms and {a_step} tokens a step: {steps} steps")

    run = Run([*fixed, f"train.steps={steps}", f"optimizer.warmup_steps={min(20, steps // 4)}", f"train.eval_every={max(1, steps // 4)}"],
              folder, work / "run.log")
    kill_at = (steps // 2 // every) * every + max(1, every // 2)
    deadline = o.until or time.time() + 1e9
    process = run.start()

    def is_between_saves(rows):
        """A checkpoint is whole, and half the steps to the next one, or more, have followed it: saves are written beside the training."""
        has_saved = any(folder.glob("checkpoints/step-*/COMMIT"))
        return has_saved and bool(rows) and rows[-1]["step"] >= kill_at and every // 2 <= rows[-1]["step"] % every < every - 1

    reached = run.until(process, is_between_saves, deadline)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = run.read()
    if not reached:
        ended = f"the run ended with {process.returncode}" if time.time() < deadline else "the time is over"
        say(f"{ended} before step {kill_at}:\n{pathlib.Path(run.log).read_text()[-1500:]}")
        sys.exit(75 if time.time() >= deadline else 1)
    shutil.copy(run.metrics, work / "before_kill.jsonl")
    process = run.start()
    run.until(process, lambda rows: False, deadline)
    if process.poll() is None:
        process.kill()
        process.wait()
        say("the time is over before the end of the resumed run")
        sys.exit(75)
    if process.returncode != 0:
        sys.exit(f"real_training: the resumed run ended with {process.returncode}:\n{pathlib.Path(run.log).read_text()[-2000:]}")
    return first, run, a_step


def evaluations(metrics):
    rows = [json.loads(line) for line in metrics.read_text().splitlines() if line.strip()]
    return [[row["step"], row["held_out_loss"]] for row in rows if row["kind"] == "evaluation"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plinth", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--results")
    parser.add_argument("--fields", default="{}")
    parser.add_argument("--until", type=float, default=0)
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--text-mb", type=int, default=60)
    parser.add_argument("--tokenizer")
    parser.add_argument("--held-out", type=float, default=0.02)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--checkpoint-every", type=int, default=40)
    parser.add_argument("--config", default="gpt/gpt2_124m.yaml")
    parser.add_argument("--set", action="append", default=[])
    o = parser.parse_args()
    work = pathlib.Path(o.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    results = Results(o.results or work / "results.jsonl", **json.loads(o.fields))
    first, run, a_step = train(o, work, prepare(o, work))
    # A resume cuts metrics.jsonl back to its checkpoint: what follows in it ran in the second process.
    found = re.findall(r"resumed from \S+ at step (\d+)", pathlib.Path(run.log).read_text())
    if not found:
        sys.exit(f"real_training: {run.log} names no checkpoint that was resumed")
    resumed_at = int(found[-1])
    second = [row for row in run.read() if row["step"] > resumed_at]
    again, differ = compared(first, second)
    losses = [row["loss"] for row in second]
    falls = sum(losses[-5:]) / len(losses[-5:]) < sum(row["loss"] for row in first[:5]) / len(first[:5])
    curve_rows = [row for row in first if row["step"] <= resumed_at] + second
    curve = [[row["step"], round(row["loss"], 4)] for row in curve_rows[::max(1, len(curve_rows) // 40)]]
    rates = sorted(row["tokens_per_second"] for row in second)
    row = {"part": "real", "killed_after": first[-1]["step"], "resumed_at": resumed_at, "steps": second[-1]["step"],
           "step_tokens": a_step, "ran_twice": len(again), "differ": differ, "first_loss": first[0]["loss"], "last_loss": losses[-1],
           "held_out": evaluations(run.metrics), "tokens_per_second": rates[len(rates) // 2], "curve": curve, "command": run.command}
    results.add(row)
    if not again:
        sys.exit("real_training: no step ran twice: nothing was compared")
    if differ:
        sys.exit(f"real_training: steps {differ} have other bits after the resume")
    if not falls:
        sys.exit("real_training: the loss does not fall")
    say(f"killed after step {row['killed_after']}, resumed at {row['resumed_at']}: {len(again)} steps ran twice, each with the same bits; "
        f"loss {row['first_loss']:.3f} to {row['last_loss']:.3f}")


if __name__ == "__main__":
    main()
