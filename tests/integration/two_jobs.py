# SPDX-License-Identifier: Apache-2.0
"""Two jobs on one folder: the second is refused by name and the first not disturbed; a job that was killed leaves a lock that holds
nobody up; a job that has lost its lock commits nothing more."""

import json
import os
import pathlib
import re
import signal
import time

import plinth_runs as runs

CONFIG = "gpt/tiny.yaml"
STOPPED, IO = 160, 5
OVERRIDES = {"train.steps": 800, "model.dropout": 0.1, "data.sequence_length": 32, "train.lanes": 4, "checkpoint.every": 50}


def locks_of(run):
    return sorted(str(path.relative_to(run)) for path in pathlib.Path(run).rglob("run.lock*"))


def expect_no_locks(run):
    if locks_of(run):
        runs.fail(f"{run} still holds {locks_of(run)}")


def errors_of(run):
    """The first rank speaks for all; a slow launcher lets another repeat the line before it ends."""
    return list(dict.fromkeys(re.sub(r"^plinth: rank \d+ on \S+: ", "plinth: ", line) for line in run.lines
                              if line.startswith("plinth: ")))


def expect_refused(what, run, *words):
    code = run.wait(60)
    said = errors_of(run)
    if code != IO or len(said) != 1 or not all(word in said[0] for word in words):
        runs.fail(f"{what}: exit code {code}, expected {IO} and one line that names {', '.join(words)}", run.lines)
    if any(line.startswith(("step ", "resumed ", "warning: ")) for line in run.lines):
        runs.fail(f"{what}: it began", run.lines)
    print(f"{what}: exit code {code}: {said[0]}", flush=True)


def commits(run):
    return [line for line in list(run.lines) if line.startswith("checkpoint of step ")]


def started(lab, name, ranks, overrides=None):
    run = lab.start(name, CONFIG, overrides or OVERRIDES, ranks)
    if not run.wait_for("checkpoint of step 50 saved"):
        runs.fail(f"{name}: no checkpoint of step 50", run.lines)
    return run


def second_job(lab, options):
    reference = lab.train("reference", CONFIG, OVERRIDES)
    expect_no_locks(reference)
    for ranks in (1, 2):
        name = f"first-{ranks}"
        folder = lab.folder / name
        first = started(lab, name, ranks, {**OVERRIDES, "train.steps": 100000})
        holders = [f"process {pid} on " for pid in first.rank_pids()]
        pid = json.loads((folder / "run.lock").read_text().splitlines()[0])["pid"]
        if f"process {pid} on " not in holders or locks_of(folder) != ["checkpoints/run.lock", "run.lock"]:
            runs.fail(f"{name}: the locks are {locks_of(folder)}, of process {pid}, and the ranks {holders}")
        for others in (1, 2):
            second = lab.start(name, CONFIG, OVERRIDES, others)
            expect_refused(f"{ranks} ranks, then a job of {others}", second, str(folder), f"process {pid} on ",
                           "stop that job, or choose another run.folder")
        second = lab.start("elsewhere", CONFIG, {**OVERRIDES, "checkpoint.folder": folder / "checkpoints"})
        expect_refused("another run.folder, the same checkpoint.folder", second, str(folder / "checkpoints"),
                       "choose another checkpoint.folder")
        expect_no_locks(lab.folder / "elsewhere")
        second = runs.Process([lab.plinth, "finetune", f"checkpoint.init={reference}", f"run.folder={folder}", "run.threads=1",
                               f"finetune.files=[{lab.folder}/corpus.jsonl]", "train.steps=1"])
        expect_refused("finetune into the folder of a pretraining run", second, str(folder), f"process {pid} on ")
        os.kill(first.rank_pids()[0], signal.SIGUSR1)
        if first.wait() != STOPPED or any("warning: " in line for line in first.lines):
            runs.fail(f"{name}: the first job was disturbed", first.lines)
        expect_no_locks(folder)
        if len(runs.metrics_of(folder)) < 60:
            runs.fail(f"{name}: {len(runs.metrics_of(folder))} lines of metrics are left")
        print(f"{name}: went on to step {runs.metrics_of(folder)[-1][1]} and stopped as asked", flush=True)


def killed_job(lab, options):
    reference = lab.train("reference", CONFIG, OVERRIDES)
    for ranks, victim in ((1, 0), (2, 0), (2, 1)):
        name = f"killed-{ranks}-{victim}"
        first = started(lab, name, ranks)
        os.kill(first.rank_pids()[victim], signal.SIGKILL)
        first.wait()
        locks = locks_of(lab.folder / name)  # rank 0 may outlive another one long enough to release them
        if victim == 0 and locks != ["checkpoints/run.lock", "run.lock"]:
            runs.fail(f"{name}: the locks left are {locks}, so this case shows nothing", first.lines)
        began = time.monotonic()
        again = lab.start(name, CONFIG, OVERRIDES, ranks)
        if not again.wait_for("resumed from ", 30):
            runs.fail(f"{name}: not resumed within 30 s", again.lines)
        seconds = time.monotonic() - began
        left = [line for line in again.lines if "which has ended: taken over" in line]
        if again.wait() != 0 or len(left) != len(locks) or any("watched" in line or "warning: " in line for line in again.lines):
            runs.fail(f"{name}: expected a line for each of {locks}, no wait and no warning", again.lines)
        print(f"{name}: resumed after {seconds:.1f} s: {left}", flush=True)
        runs.expect_equal(lab, name, reference, lab.folder / name)
        expect_no_locks(lab.folder / name)


def lost_lock(lab, options):
    """The lock becomes another job's, as after a suspension of minutes: the run ends at its next save, and saves nothing."""
    for ranks in (1, 2):
        name = f"lost-{ranks}"
        run = started(lab, name, ranks, {**OVERRIDES, "train.steps": 100000})
        lock = lab.folder / name / "checkpoints" / "run.lock"
        head, beats = lock.read_text().splitlines()
        other = {**json.loads(head), "host": "node17", "pid": 4711, "token": 32 * "a"}
        temporary = lock.with_name("other")
        temporary.write_text(f"{json.dumps(other)}\n{beats}\n")
        before = len(commits(run))
        temporary.rename(lock)
        code = run.wait(60)
        said = errors_of(run)
        if code != IO or len(said) != 1 or "process 4711 on node17 has taken over this job's lock" not in said[0]:
            runs.fail(f"{name}: exit code {code}; expected {IO} and one line that says who has the lock", run.lines)
        if len(commits(run)) > before + 2 or json.loads(lock.read_text().splitlines()[0])["pid"] != 4711:
            runs.fail(f"{name}: more was committed than what was under way ({before} before), or the lock is gone", run.lines)
        print(f"{name}: exit code {code}: {said[0]}", flush=True)


if __name__ == "__main__":
    runs.main({"second_job": second_job, "killed_job": killed_job, "lost_lock": lost_lock})
