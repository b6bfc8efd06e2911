# SPDX-License-Identifier: Apache-2.0
"""Signals, time limits and non-finite steps. A signal to any rank, to mpirun or to launch/run_mpi.sh ends the run with a
checkpoint and the documented exit code, and the next start goes on to the bits of an uninterrupted run."""

import os
import shutil
import signal

import plinth_runs as runs

CONFIG = "gpt/tiny.yaml"
STOPPED, TIME_LIMIT, DIVERGED = 160, 161, 7
OVERRIDES = {"train.steps": 800, "optimizer.decay_steps": 800, "model.dropout": 0.1, "data.sequence_length": 32,
             "train.lanes": 4, "checkpoint.every": 0}
# However late a busy machine brings the signal, the run is not over; past the end of the reference it is sent again.
UNENDING = {"train.steps": 100000}


def stopped_run(lab, name, ranks, send, launcher):
    """The step after which a run stopped that got a signal after step 10, and what it said."""
    run = lab.start(name, CONFIG, {**OVERRIDES, **UNENDING}, ranks, launcher)
    if not run.wait_for("step 10/"):
        runs.fail(f"{name}: no step 10", run.lines)
    send(run)
    code = run.wait()
    said = [line for line in run.lines if line.startswith("stopped on request after step ")]
    if code != STOPPED or len(said) != 1 or len(runs.checkpoints_of(lab.folder / name)) != 1:
        runs.fail(f"{name}: exit code {code}; expected {STOPPED}, a line that says so, and a checkpoint", run.lines)
    print(f"{name}: exit code {code}: {said[0]}")
    return int(said[0].removeprefix("stopped on request after step ").split(";")[0])


def stop_and_go_on(lab, reference, name, ranks, send, launcher=None):
    for _ in range(5):
        if stopped_run(lab, name, ranks, send, launcher) < OVERRIDES["train.steps"]:
            break
        shutil.rmtree(lab.folder / name)
    else:
        runs.fail(f"{name}: five signals came later than {OVERRIDES['train.steps']} steps: the machine is too busy")
    again = lab.start(name, CONFIG, OVERRIDES, ranks, launcher)
    code = again.wait()
    if code != 0 or not any(line.startswith("resumed from ") for line in again.lines):
        runs.fail(f"{name}: the next start ended with {code}; expected to resume and end with 0", again.lines)
    runs.expect_equal(lab, f"{name}, then on to the end", reference, lab.folder / name)


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
    """Three starts may last 1 s each, the last one as long as it takes; each goes on from the one before."""
    reference = lab.train("reference", CONFIG, OVERRIDES)
    for ranks in (1, 2):
        name = f"limited-{ranks}"
        codes = []
        while not codes or codes[-1] == TIME_LIMIT:
            limit = {"run.time_limit": "1s"} if len(codes) < 3 else {}
            run = lab.start(name, CONFIG, {**OVERRIDES, **limit}, ranks)
            codes.append(run.wait())
        if codes[-1] != 0 or len(codes) < 2:
            runs.fail(f"{name}: exit codes {codes}; expected {TIME_LIMIT}, ..., 0", run.lines)
        print(f"{name}: exit codes {codes}")
        runs.expect_equal(lab, name, reference, lab.folder / name)


def look_after_stop(lab, options):
    """A stop writes the checkpoint and leaves; the next start makes the evaluation that is due, the last one too."""
    overrides = {**OVERRIDES, "train.steps": 3, "optimizer.warmup_steps": 0, "train.eval_every": 1, "train.sample_every": 3}
    reference = lab.train("looked", CONFIG, overrides)
    for ranks in (1, 2):
        name = f"looked-{ranks}"
        for step, code in ((1, TIME_LIMIT), (2, TIME_LIMIT), (3, TIME_LIMIT), (3, 0)):
            run = lab.start(name, CONFIG, {**overrides, "run.time_limit": "0.001s"}, ranks)
            got, last = run.wait(), runs.metrics_of(lab.folder / name)[-1]
            if (got, last[:2]) != (code, ("step" if code else "evaluation", step)):
                runs.fail(f"{name}: exit code {got} and {last} last; expected {code} at step {step}", run.lines)
        runs.expect_equal(lab, f"evaluations made by the next start, {ranks} ranks", reference, lab.folder / name)
        lab.train(name, CONFIG, overrides, ranks)
        runs.expect_equal(lab, "the command once more", reference, lab.folder / name)


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


def diverged(lab, options):
    """So many skipped steps in a row end the run: its own exit code, one line, and no checkpoint of a skipped step."""
    overrides = {**OVERRIDES, "train.steps": 12, "optimizer.lr": "1e30", "optimizer.min_lr": "1e30",
                 "optimizer.warmup_steps": 0, "checkpoint.every": 1, "checkpoint.keep": 1}
    for ranks in (1, 2):
        name = f"diverged-{ranks}"
        run = lab.start(name, CONFIG, {**overrides, "train.max_skipped_steps": 4}, ranks)
        code = run.wait()
        steps = [row[1] for row in runs.metrics_of(lab.folder / name)]
        good = len(steps) - 4
        said = [line for line in run.lines if line.startswith("diverged: 4 steps in a row")]
        parts = [f"the last is step {steps[-1]}, learning rate 1.000e+30", f"last good step {good}, newest checkpoint {good},"]
        kept = [path.name for path in runs.checkpoints_of(lab.folder / name)]
        if code != DIVERGED or len(said) != 1 or not all(part in said[0] for part in parts):
            runs.fail(f"{name}: exit code {code}; expected {DIVERGED} and one line with {parts}", run.lines)
        if steps[-1] == 12 or not kept or any(not path.startswith(f"step-{good:012d}.") for path in kept):
            runs.fail(f"{name}: {len(steps)} steps, checkpoints {kept}; expected that of step {good} alone", run.lines)
        print(f"{name}: {said[0]}")
    lab.train("patient", CONFIG, {**overrides, "train.max_skipped_steps": 0})


if __name__ == "__main__":
    runs.main({"stop_signals": stop_signals, "time_limit": time_limit, "look_after_stop": look_after_stop, "non_finite": non_finite,
               "diverged": diverged})
