# SPDX-License-Identifier: Apache-2.0
"""launch/supervise.sh: a run that dies goes on to the bits of one that did not; what no repetition helps is not repeated; a run that
stands still is ended, mpirun and ranks with it."""

import os
import signal
import subprocess
import time

import plinth_runs as runs

CONFIG = "gpt/tiny.yaml"
OVERRIDES = {"train.steps": 800, "model.dropout": 0.1, "data.sequence_length": 32, "train.lanes": 4,
             "checkpoint.every": 20}


def supervised(lab, name, *options, ranks=2):
    return [str(runs.SOURCE / "launch/supervise.sh"), "--run", str(lab.folder / name), "--wait", "0", *options,
            str(runs.SOURCE / "launch/run_mpi.sh"), "-n", str(ranks)]


def expect(condition, what, run):
    if not condition:
        runs.fail(what, run.lines)
    print(what)


def killed(lab, options):
    reference = lab.train("reference", CONFIG, OVERRIDES)
    run = lab.start("killed", CONFIG, OVERRIDES, 2, supervised(lab, "killed"))
    for mark in ("step 30/", "step 300/"):
        expect(run.wait_for(mark), f"reached {mark}", run)
        os.kill(run.rank_pids()[-1], signal.SIGKILL)
        time.sleep(1.5)
    expect(run.wait() == 0, "exit code 0", run)
    starts = sum("goes on from the newest sound checkpoint" in line for line in run.lines)
    expect(starts >= 1, f"{starts} starts after a kill", run)
    runs.expect_equal(lab, "killed twice under supervision", reference, lab.folder / "killed")


def stopped(lab, options):
    """A rank that is stopped hangs the job: it is ended whole, and the run goes on."""
    run = lab.start("stalled", CONFIG, OVERRIDES, 2, supervised(lab, "stalled", "--stall", "5"))
    expect(run.wait_for("step 30/"), "reached step 30", run)
    first = run.rank_pids()
    os.kill(first[-1], signal.SIGSTOP)
    expect(run.wait_for("the run is ended"), "the standstill was noticed", run)
    expect(run.wait() == 0, "exit code 0", run)
    left = [pid for pid in first if os.path.exists(f"/proc/{pid}")]
    expect(not left, "no process of the first start is left", run)


def hung(lab, options):
    """The ranks themselves notice a stopped one, name it and end the job; the run goes on."""
    reference = lab.train("reference", CONFIG, OVERRIDES)
    run = lab.start("hung", CONFIG, {**OVERRIDES, "run.hang_seconds": "3s"}, 3, supervised(lab, "hung", ranks=3))
    expect(run.wait_for("step 30/"), "reached step 30", run)
    first = run.rank_pids()
    os.kill(first[-1], signal.SIGSTOP)
    expect(run.wait_for("start 1 ended with exit code 162", 15), "exit code 162", run)
    named = [line for line in run.lines if f"(process {first[-1]}) has sent no heartbeat" in line]
    expect(len(named) == 1 and "step " in named[0] and "stopped (process state T)" in named[0], f"named: {named}", run)
    logs = list((lab.folder / "hung").glob("hang_reports.rank-*.log"))
    expect(len(logs) == 1 and named[0] in logs[0].read_text(), "and in the run's folder", run)
    expect(run.wait() == 0, "exit code 0", run)
    runs.expect_equal(lab, "hung under supervision", reference, lab.folder / "hung")


def asked(lab, options):
    run = lab.start("asked", CONFIG, OVERRIDES, 2, supervised(lab, "asked"))
    expect(run.wait_for("step 30/"), "reached step 30", run)
    os.kill(run.process.pid, signal.SIGTERM)
    expect(run.wait() == 160, "a stop request passes through: exit code 160", run)
    for request in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C; the terminal is gone
        name = f"asked-{request.name}"
        run = lab.start(name, CONFIG, OVERRIDES, 2, supervised(lab, name))
        expect(run.wait_for("step 30/"), "reached step 30", run)
        os.kill(run.process.pid, request)
        if request == signal.SIGHUP:  # a closed terminal sends two
            time.sleep(0.05)
            os.kill(run.process.pid, request)
        expect(run.wait() == 160, f"{request.name} stops the run: exit code 160", run)
    limited = lab.start("limited", CONFIG, {**OVERRIDES, "run.time_limit": "2s"}, 1, supervised(lab, "limited", ranks=1))
    expect(limited.wait() == 0, "time limits: exit code 0 in the end", limited)
    expect(any("reached its time limit" in line for line in limited.lines), "and it was started again", limited)


def hopeless(lab, options):
    wrong = lab.start("wrong", CONFIG, {"train.stepz": 3}, 1, supervised(lab, "wrong", ranks=1))
    expect(wrong.wait() == 2 and any("not started again" in line for line in wrong.lines), "a mistake is not repeated", wrong)
    diverging = {**OVERRIDES, "optimizer.lr": "1e30", "optimizer.min_lr": "1e30", "train.max_skipped_steps": 3}
    run = lab.start("diverging", CONFIG, diverging, 1, supervised(lab, "diverging", ranks=1))
    expect(run.wait() == 7 and any("not started again" in line for line in run.lines), "nor is a diverged run", run)
    began = time.monotonic()
    run = runs.Process([str(runs.SOURCE / "launch/supervise.sh"), "--run", str(lab.folder / "none"), "--wait", "0",
                        "--failures", "3", "bash", "-c", "echo a start; kill -9 $$"])
    code = run.wait()
    starts = run.lines.count("a start")
    expect(code == 137 and starts == 3 and time.monotonic() - began < 30, f"given up after {starts} starts, exit code {code}", run)
    for words in ([], ["--run", "x"], ["--run", "x", "--failures", "many", "true"], ["--runn", "x", "true"],
                  ["--run"], ["--run", "runs/x", "true", "run.folder=runs/y"]):
        done = subprocess.run([str(runs.SOURCE / "launch/supervise.sh"), *words], capture_output=True, text=True)
        if done.returncode != 2 or not done.stderr.startswith("supervise: "):
            runs.fail(f"{words}: exit code {done.returncode}", done.stderr.splitlines())


def kubernetes(lab, options):
    """The launcher's command of the Kubernetes template, started again by a controller that knows no exit codes: what no restart can
    mend runs once, whatever is left of the rest goes on. mpirun is a stand-in that ends with a code."""
    lines = (runs.SOURCE / "launch/kubernetes/mpijob.yaml").read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip() == "command:") + 1
    count = next(i for i, line in enumerate(lines[begin:]) if not line.strip().startswith("- "))
    words = [line.split("#")[0].strip()[2:].strip().strip('"') for line in lines[begin:begin + count]]
    words[words.index("--wait") + 1] = "0"
    tools = lab.folder / "stand-ins"
    tools.mkdir()
    (tools / "mpirun").write_text('#!/usr/bin/env bash\necho a start\nexit $CODE\n')
    (tools / "mpirun").chmod(0o755)

    def starts(code, launchers):
        folder = lab.folder / f"code-{code}"
        command = [word.replace("/runs/", f"{folder}/") for word in words]
        environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}", CODE=str(code))
        found = []
        for _ in range(launchers):
            done = subprocess.run(command, cwd=runs.SOURCE, env=environment, capture_output=True, text=True, timeout=60)
            found.append((done.returncode, done.stdout.count("a start")))
        refused = "nothing is started" in done.stderr and "/gpt2_124m/hopeless" in done.stderr
        print(f"code {code}: exit codes and starts of {launchers} launchers: {found}, the last is refused: {refused}", flush=True)
        return found, refused

    for code in (2, 3, 4, 7):
        if starts(code, 3) != ([(code, 1), (code, 0), (code, 0)], True):
            runs.fail(f"code {code} is repeated")
    for code, each in ((160, 1), (6, 5)):  # asked to stop: the launcher was evicted; a lost rank
        if starts(code, 2) != ([(code, each), (code, each)], False):
            runs.fail(f"code {code} is not repeated")
    if starts(0, 1) != ([(0, 1)], False):
        runs.fail("a run that is done fails")


if __name__ == "__main__":
    runs.main({"killed": killed, "stopped": stopped, "hung": hung, "asked": asked, "hopeless": hopeless,
               "kubernetes": kubernetes})
