# SPDX-License-Identifier: Apache-2.0
"""Signals, time limits and non-finite steps. A signal to any rank, to mpirun or to launch/run_mpi.sh ends the run with a
checkpoint and the documented exit code, and the same command goes on to the bits of an uninterrupted run."""

import os
import signal

import plinth_runs as runs

CONFIG = "gpt/tiny.yaml"
STOPPED, TIME_LIMIT = 160, 161
OVERRIDES = {"train.steps": 800, "model.dropout": 0.1, "data.sequence_length": 32, "train.lanes": 4,
             "checkpoint.every": 0}


def stop_and_go_on(lab, reference, name, ranks, send, launcher=None):
    run = lab.start(name, CONFIG, OVERRIDES, ranks, launcher)
    if not run.wait_for("step 10/"):
        runs.fail(f"{name}: no step 10", run.lines)
    send(run)
    code = run.wait()
    said = [line for line in run.lines if line.startswith("stopped on request after step ")]
    if code != STOPPED or len(said) != 1 or len(runs.checkpoints_of(lab.folder / name)) != 1:
        runs.fail(f"{name}: exit code {code}; expected {STOPPED}, a line that says so, and a checkpoint", run.lines)
    print(f"{name}: exit code {code}: {said[0]}")
    again = lab.start(name, CONFIG, OVERRIDES, ranks, launcher)
    code = again.wait()
    if code != 0 or not any(line.startswith("resumed from ") for line in again.lines):
        runs.fail(f"{name}: the same command ended with {code}; expected to resume and end with 0", again.lines)
    runs.expect_equal(lab, f"{name}, then the same command", reference, lab.folder / name)


def to_rank(index, number):
    return lambda run: os.kill(run.rank_pids()[index], number)


def stop_signals(lab, options):
    reference = lab.train("reference", CONFIG, OVERRIDES)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        stop_and_go_on(lab, reference, f"{number.name}-to-one-process", 1, to_rank(0, number))
        stop_and_go_on(lab, reference, f"{number.name}-to-a-rank", 2, to_rank(1, number))
    stop_and_go_on(lab, reference, "SIGUSR1-to-mpirun", 2, lambda run: os.kill(run.process.pid, signal.SIGUSR1))
    for number in (signal.SIGTERM, signal.SIGINT):
        launcher = [str(runs.SOURCE / "launch/run_mpi.sh"), "-n", "3"]
        stop_and_go_on(lab, reference, f"{number.name}-to-run_mpi.sh", 3,
                       lambda run, number=number: os.kill(run.process.pid, number), launcher)


def time_limit(lab, options):
    """Each start may last 1 s; starts go on from one another until the run is done."""
    reference = lab.train("reference", CONFIG, OVERRIDES)
    for ranks in (1, 2):
        name = f"limited-{ranks}"
        codes = []
        while not codes or codes[-1] == TIME_LIMIT:
            run = lab.start(name, CONFIG, {**OVERRIDES, "run.time_limit": "1s"}, ranks)
            codes.append(run.wait())
        if codes[-1] != 0 or len(codes) < 2:
            runs.fail(f"{name}: exit codes {codes}; expected {TIME_LIMIT}, ..., 0", run.lines)
        print(f"{name}: exit codes {codes}")
        runs.expect_equal(lab, name, reference, lab.folder / name)


def non_finite(lab, options):
    """An absurd learning rate: all ranks skip the same steps, count them and say so."""
    overrides = {**OVERRIDES, "train.steps": 8, "optimizer.lr": "1e30", "optimizer.min_lr": "1e30",
                 "optimizer.warmup_steps": 0, "run.hash_check_every": 1}
    one = lab.train("non-finite-1", CONFIG, overrides)
    counters = lab.final_state(one)
    skipped, updates = int(counters["counter.skipped_steps"]), int(counters["counter.updates"])
    if skipped == 0 or skipped + updates != 8:
        runs.fail(f"{skipped} steps skipped and {updates} updates, of 8 steps")
    for ranks in (2, 3):
        run = lab.start(f"non-finite-{ranks}", CONFIG, overrides, ranks)
        if run.wait() != 0:
            runs.fail("a non-finite step ended the run", run.lines)
        said = [line for line in run.lines if line.startswith("warning: step ") and "all ranks skipped" in line]
        if len(said) != skipped or not any(f"{skipped} skipped" in line for line in run.lines if line.startswith("done")):
            runs.fail(f"{len(said)} warnings for {skipped} skipped steps, or none in the last line", run.lines)
        print(said[0])
        runs.expect_equal(lab, f"{skipped} skipped of 8 steps, {ranks} ranks and 1", one, lab.folder / f"non-finite-{ranks}")


if __name__ == "__main__":
    runs.main({"stop_signals": stop_signals, "time_limit": time_limit, "non_finite": non_finite})
