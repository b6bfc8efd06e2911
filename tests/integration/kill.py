# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a random rank at random times, again and again, while checkpoints are written all the time. After each kill the
newest checkpoint reads back whole, no step that was reported as saved is lost, and in the end losses and state equal those of
a run that nobody killed. --kills sets how often, --seed when and whom."""

import os
import random
import re
import signal
import subprocess
import time

import plinth_runs as runs

CONFIG = "gpt/tiny.yaml"
STEPS = 60
OVERRIDES = {"train.steps": STEPS, "model.dropout": 0.1, "data.sequence_length": 32, "train.lanes": 4,
             "checkpoint.keep": 2}


def numbers(lines, pattern):
    return [int(match.group(1)) for line in lines if (match := re.search(pattern, line))]


class Victim:
    """One run that is killed and restarted until it ends."""

    def __init__(self, lab, rng, number):
        self.lab, self.rng = lab, rng
        self.name = f"victim-{number}"
        self.overrides = {**OVERRIDES, "checkpoint.every": rng.randint(1, 3),
                          "checkpoint.async": rng.choice(("true", "false"))}
        self.committed = 0  # the newest step that was reported as saved
        self.kills = 0

    def folder(self):
        return self.lab.folder / self.name

    def live_once(self, seconds, may_kill):
        """Starts the run and perhaps kills a rank of it; true when it reached its end."""
        ranks = self.rng.randint(2, 4)
        layout = {"parallel.zero": self.rng.randint(0, 3)}
        run = self.lab.start(self.name, CONFIG, {**self.overrides, **layout}, ranks)
        killed = may_kill and self.kill_a_rank(run, ranks, seconds)
        code = self.end_of(run, killed)
        self.check_resumed(run.lines)
        self.committed = max([self.committed, *numbers(run.lines, r"checkpoint of step (\d+) saved")])
        self.check_newest()
        if code == 0:
            return True
        if not killed:
            runs.fail(f"{self.name}: ended with {code}, though no rank was killed", run.lines)
        self.kills += 1
        return False

    def end_of(self, run, killed):
        """The exit code. OpenMPI's mpirun can itself hang when a rank dies while it starts the others. Once no rank is alive, that
        is its fault alone: it is ended as a job controller would end it. A rank that lives on is a hang of ours, and fails."""
        try:
            run.process.wait(30 if killed else 180)
        except subprocess.TimeoutExpired:
            if killed and not run.living_ranks():
                print(f"{self.name}: every rank is gone, but mpirun stays; it is killed too")
                os.killpg(run.process.pid, signal.SIGKILL)
        return run.wait()

    def kill_a_rank(self, run, ranks, seconds):
        """Half the kills come at any time of the run, half around the commit of a checkpoint."""
        if self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(0, seconds))
        else:
            step = self.committed + self.rng.randint(1, 12)
            run.wait_for(f"step {step}/", seconds=30)
            time.sleep(self.rng.uniform(0, 0.03))
        pids = run.rank_pids()
        if not pids:  # not started yet, or at its end already
            return False
        os.kill(self.rng.choice(pids), signal.SIGKILL)
        return True

    def check_resumed(self, lines):
        if any("warning: " in line for line in lines):
            runs.fail(f"{self.name}: a checkpoint could not be read", lines)
        for step in numbers(lines, r"resumed from .* at step (\d+)"):
            if step < self.committed:
                runs.fail(f"{self.name}: resumed at step {step}, but step {self.committed} was saved", lines)
        if self.committed and not numbers(lines, r"resumed from .* at step (\d+)") and any(re.match(r"step \d+/", x) for x in lines):
            runs.fail(f"{self.name}: started afresh, but step {self.committed} was saved", lines)

    def check_newest(self):
        committed = runs.checkpoints_of(self.folder())
        if committed:
            self.lab.hashes(committed[-1])
        newest = int(committed[-1].name[len("step-"):].split(".")[0]) if committed else 0
        if newest < self.committed:
            runs.fail(f"{self.name}: step {self.committed} was saved, but the newest checkpoint is of step {newest}")


def kill(lab, options):
    rng = random.Random(options.seed)
    start = time.monotonic()
    reference = lab.train("reference", CONFIG, {**OVERRIDES, "checkpoint.every": 0}, 3)
    seconds = 1.2 * (time.monotonic() - start)
    kills = number = 0
    while kills < options.kills:
        number += 1
        victim = Victim(lab, rng, number)
        while not victim.live_once(seconds, may_kill=kills + victim.kills < options.kills):
            pass
        kills += victim.kills
        runs.expect_equal(lab, f"run {number}, a checkpoint each {victim.overrides['checkpoint.every']} steps, "
                               f"async {victim.overrides['checkpoint.async']}, killed {victim.kills} times",
                          reference, victim.folder())
    print(f"{kills} kills in {number} runs: no unreadable newest checkpoint, no saved step lost, equal bits")


if __name__ == "__main__":
    runs.main({"kill": kill}, kills=50, seed=1)
