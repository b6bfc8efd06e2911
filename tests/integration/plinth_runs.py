# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: a corpus, runs of the program on any number of ranks, and the comparison of runs bit for
bit, by the losses and gradient norms of all steps and by every tensor and counter of the last checkpoint."""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
run_seconds = 180  # after which a run hangs


def write_corpus(path, seed=1, documents=300):
    """Sentences of made-up words, one document a line of JSON; the same for the same seed."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfghklmnprst" for v in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    with open(path, "w") as out:
        for _ in range(documents):
            sentences = [" ".join(rng.choices(words, weights, k=rng.randint(4, 14))).capitalize() + "."
                         for _ in range(rng.randint(2, 8))]
            out.write(json.dumps({"text": " ".join(sentences)}) + "\n")


class Process:
    """A started run. Its output is collected while it runs, so that a test can wait for a line."""

    def __init__(self, command, preexec=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)):
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                           OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_rmaps_base_oversubscribe="1")
        # A test that runs in the background of a shell inherits an ignored SIGINT, which no shell script can undo.
        # Python ignores SIGXFSZ; programs under a file-size limit need that too.
        self.process = subprocess.Popen(command, env=environment, text=True, errors="replace", stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=preexec,
                                        restore_signals=False)
        self.lines = []
        self.news = threading.Condition()
        self.ended = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def wait_for(self, text, seconds=60):
        """Until a line holds `text`; false when the run ends or the time is over before."""
        with self.news:
            self.news.wait_for(lambda: self.ended or any(text in line for line in self.lines), seconds)
            return any(text in line for line in self.lines)

    def wait(self, seconds=None):
        """The exit code, when all output is read. A run that hangs is killed, and the test fails."""
        seconds = seconds or run_seconds
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            fail(f"the run did not end within {seconds} s", self.lines)
        self.reader.join(10)
        return code

    def rank_pids(self):
        """The ranks: the processes of the program that descend from this one."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = pathlib.Path("/proc", entry, "stat").read_text()
                    name, rest = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
                    parents[int(entry)] = (int(rest[1]), name)
                except (OSError, ValueError):
                    pass  # it ended meanwhile
        ranks = []
        for pid, (parent, name) in parents.items():
            ancestor = pid
            while ancestor in parents and ancestor != self.process.pid:
                ancestor = parents[ancestor][0]
            if ancestor == self.process.pid and name == "plinth":
                ranks.append(pid)
        return sorted(ranks)

    def living_ranks(self):
        """Those that have not ended: a zombie waits for its launcher only."""
        living = []
        for pid in self.rank_pids():
            try:
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            if stat[stat.rindex(")") + 2] != "Z":
                living.append(pid)
        return living


class Lab:
    """A temporary folder with a data set, and what starts runs in it."""

    def __init__(self, options):
        self.plinth, self.tool = options.plinth, options.tool
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="plinth-test-"))
        self.printed = {}  # lines of the runs that `train` made, by name
        self.data = self.folder / "data"
        write_corpus(self.folder / "corpus.jsonl")
        self.call([self.plinth, "data", "prepare", f"prepare.inputs=[{self.folder}/corpus.jsonl]",
                   f"prepare.output={self.data}", "prepare.held_out=0.1"])

    def call(self, command):
        done = subprocess.run([str(word) for word in command], text=True, capture_output=True)
        if done.returncode != 0:
            fail(f"{command} ended with {done.returncode}", (done.stdout + done.stderr).splitlines())
        return done.stdout

    def command(self, name, config, overrides, ranks=1, launcher=None):
        """Arguments of `plinth pretrain`; one rank runs without mpirun."""
        if launcher is None:
            launcher = [] if ranks == 1 else ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        fixed = {"data.sources.0.path": self.data, "run.folder": self.folder / name, "run.threads": 1,
                 "run.peak_flops": "1e12", "run.metrics.tensorboard": "false"}
        words = [f"{key}={value}" for key, value in {**fixed, **overrides}.items()]
        return [*launcher, self.plinth, "pretrain", str(SOURCE / "configs" / config), *words]

    def start(self, name, config, overrides, ranks=1, launcher=None):
        return Process(self.command(name, config, overrides, ranks, launcher))

    def train(self, name, config, overrides, ranks=1, code=0):
        """A run to its end; the run's folder."""
        run = self.start(name, config, overrides, ranks)
        got = run.wait()
        if got != code:
            fail(f"run {name} on {ranks} ranks ended with {got}, not {code}", run.lines)
        self.printed[name] = run.lines
        return self.folder / name

    def hashes(self, checkpoint):
        """Every tensor's hash, the counters and the sampler of a checkpoint, each block verified."""
        return dict(line.split(" ", 1) for line in self.call([self.tool, "hash", checkpoint]).splitlines())

    def final_state(self, run):
        return self.hashes(newest_checkpoint(run))

    def fork(self, run, name, step, edit=None):
        """Puts the checkpoint of one step, altered by `edit`, into the folder of another, usually new, run."""
        target = self.folder / name / "checkpoints"
        source = checkpoint_of_step(run, step)
        if edit is None:
            shutil.copytree(source, target / source.name)
        else:
            target.mkdir(parents=True, exist_ok=True)
            self.call([self.tool, "edit", source, target, *edit])
        return self.folder / name


def checkpoints_of(run):
    """Committed checkpoints, oldest first."""
    return sorted(path.parent for path in pathlib.Path(run, "checkpoints").glob("step-*/COMMIT"))


def newest_checkpoint(run):
    found = checkpoints_of(run)
    if not found:
        fail(f"{run} has no checkpoint")
    return found[-1]


def checkpoint_of_step(run, step):
    return [path for path in checkpoints_of(run) if path.name.startswith(f"step-{step:012d}.")][-1]


def metrics_of(run):
    """One tuple a line of metrics.jsonl: its kind, step and bits."""
    rows = []
    for line in pathlib.Path(run, "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        bits = ("loss_hex", "grad_norm_hex") if row["kind"] == "step" else ("held_out_loss_hex",)
        z_loss = [row["z_loss"].hex()] if "z_loss" in row else []
        rows.append((row["kind"], row["step"], *(row[key] for key in bits), *z_loss))
    return rows


def differences(lab, expected, run, after=0):
    """What differs between two runs: metrics of the steps after `after`, and the last checkpoint."""
    found = []
    theirs = [row for row in metrics_of(expected) if row[1] > after]
    ours = [row for row in metrics_of(run) if row[1] > after]
    if len(theirs) != len(ours):
        found.append(f"{len(ours)} lines of metrics, expected {len(theirs)}")
    found += [f"{b} instead of {a}" for a, b in zip(theirs, ours) if a != b]
    states = lab.final_state(expected), lab.final_state(run)
    for name in sorted({*states[0], *states[1]}):
        if states[0].get(name) != states[1].get(name):
            found.append(f"final {name} is {states[1].get(name)} instead of {states[0].get(name)}")
    return found


def expect_equal(lab, what, expected, run, after=0):
    found = differences(lab, expected, run, after)
    if found:
        fail(f"{what}: {len(found)} differences", found[:10])
    lines = sum(row[1] > after for row in metrics_of(run))
    print(f"equal: {what}: {lines} lines of metrics, {len(lab.final_state(run))} tensors and counters", flush=True)


def expect_close(what, expected, run, tolerance, after=0):
    """Losses and gradient norms of every step, and held-out losses, as shares of the first run's."""
    rows = [[row for row in metrics_of(each) if row[1] > after] for each in (expected, run)]
    if [row[:2] for row in rows[0]] != [row[:2] for row in rows[1]]:
        fail(f"{what}: other steps or evaluations")
    worst = {}
    for a, b in zip(*rows):
        for i in (2, 3) if a[0] == "step" else (2,):
            distance = abs(float.fromhex(b[i]) / float.fromhex(a[i]) - 1)
            worst[a[0]] = max(worst.get(a[0], 0), distance)
            if not distance <= tolerance:
                fail(f"{what}: losses or gradient norms differ by {distance:.1e}, allowed are {tolerance:.0e}: {a}, {b}")
    found = ", ".join(f"{kind}s within {distance:.1e}" for kind, distance in worst.items())
    print(f"close: {what}: {len(rows[0])} lines of metrics, {found}", flush=True)


def expect_different(lab, what, expected, run, after=0):
    """A mutant: the comparison must see it."""
    found = differences(lab, expected, run, after)
    if not found:
        fail(f"{what}: the comparison sees no difference")
    print(f"caught: {what}: {len(found)} differences, first: {found[0]}", flush=True)


def fail(message, lines=()):
    print(f"FAILED: {message}", *list(lines)[-40:], sep="\n    ", flush=True)
    sys.exit(1)


def main(cases, **extra):
    """Runs the cases named on the command line (all, if none is); `extra` are further integer options and their defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plinth", required=True, help="the program")
    parser.add_argument("--tool", required=True, help="checkpoint_tool")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    for name, value in extra.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(cases))
    options = parser.parse_args()
    lab = Lab(options)
    try:
        for case in options.cases or cases:
            start = time.monotonic()
            cases[case](lab, options)
            print(f"{case}: passed in {time.monotonic() - start:.1f} s", flush=True)
    finally:
        if options.keep:
            print(f"kept {lab.folder}")
        else:
            shutil.rmtree(lab.folder, ignore_errors=True)
