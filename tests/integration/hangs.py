# SPDX-License-Identifier: Apache-2.0
"""Ranks that stop, loop, die or go into another collective, and a link that is cut: the right rank and operation are named within
the limit, the job ends with the documented exit code, and nothing of it is left running. And no false alarm on a machine with four
times as many ranks as cores. What goes wrong stands in hanging_ranks.cpp; in two layouts of several groups it is the program itself
that is stopped. --times N repeats each case."""

import os
import pathlib
import re
import signal
import time

import plinth_runs as runs
import two_hosts

HANG, KILLED = 162, 137
LIMIT = 4.0  # run.hang_seconds here
END = 9.0  # more: for mpirun to end the others, and the undertaker if it does not
WAITERS = r"plinth: hang: ranks? [\d, -]+ waits? in collective #\d+ '(part|step) sums' of group '(part|world)'"


class Ranks:
    """hanging_ranks under a launcher; `since` is when it went wrong."""

    def __init__(self, lab, options, case, ranks=3, launcher=None, steps=100000):
        self.reports = lab.folder / "report"
        for old in lab.folder.glob("report.*"):
            old.unlink()
        program = pathlib.Path(options.tool).with_name("hanging_ranks")
        launcher = launcher or ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        self.case = case
        self.run = runs.Process([*launcher, str(program), case, str(LIMIT), str(steps), str(self.reports)])
        self.expect(self.run.wait_for("step 4", 60), "step 4 was reached")
        self.since = time.monotonic()
        found = (re.fullmatch(r"rank (\d+) is process (\d+)", line) for line in list(self.run.lines))
        self.pids = {int(match[1]): int(match[2]) for match in found if match}
        self.expect(len(self.pids) == ranks, f"{ranks} ranks")

    def expect(self, condition, what):
        if not condition:
            runs.fail(f"{self.case}: not so: {what}", self.run.lines)

    def expect_named(self, culprits, pattern, code=HANG, seconds=LIMIT, waiters=WAITERS):
        """The report and the end of the job, with its exit code."""
        self.expect(self.run.wait_for("ends the job with exit code", seconds + 2), f"a report within {seconds} s")
        took = time.monotonic() - self.since
        self.expect(took <= seconds, f"the report came within {seconds} s, it took {took:.1f} s")
        named = {}
        for line in list(self.run.lines):
            if match := re.search(r"plinth: hang: rank (\d+) on \S+ \(process (\d+)\) (.*)", line):
                named[int(match[1])] = match[3]
                self.expect(self.pids[int(match[1])] == int(match[2]), "the process number is right")
        self.expect(sorted(named) == sorted(culprits), f"ranks {culprits} are named, and only they")
        self.expect(all(re.search(pattern, text) for text in named.values()), f"each with {pattern}")
        self.expect(any(re.search(waiters, line) for line in list(self.run.lines)), f"who waits is named: {waiters}")
        got = self.run.wait(seconds + END)
        self.expect(got == code, f"exit code {code}, not {got}")
        self.expect_gone()
        print(f"{self.case}: rank {culprits[0]} named after {took:.1f} s, ended after {time.monotonic() - self.since:.1f} s: "
              f"{named[culprits[0]]}", flush=True)

    def expect_gone(self):
        end = time.monotonic() + END
        while any(is_alive(pid) for pid in self.pids.values()) and time.monotonic() < end:
            time.sleep(0.05)
        self.expect(not any(is_alive(pid) for pid in self.pids.values()), "no rank is left")


def is_alive(pid):
    """A zombie is dead; its number stays until its parent looks."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def repeated(case):
    def run(lab, options):
        for _ in range(options.times):
            case(lab, options)
    return run


def signalled(number, rank, pattern, code=HANG):
    def case(lab, options):
        ranks = Ranks(lab, options, "none")
        os.kill(ranks.pids[rank], number)
        ranks.expect_named([rank], pattern + r".*; step \d+, (backward|reduce|between phases|start)", code)
    return case


def faulty(name, pattern, culprits=(1,), ranks=3):
    def case(lab, options):
        Ranks(lab, options, name, ranks).expect_named(culprits, pattern)
    return case


def slow_disk(lab, options):
    """A rank that reads for longer than the limit is no hang."""
    ranks = Ranks(lab, options, "slow_disk", steps=10)
    ranks.expect(ranks.run.wait(60) == 0, "exit code 0")
    took = time.monotonic() - ranks.since
    ranks.expect(took > LIMIT and not any("plinth: hang" in line for line in ranks.run.lines), f"{took:.1f} s of reading and no report")


def cut_link(lab, options):
    """Each side reports itself and its silent peers: the far one to a file alone, for mpirun is on the other side."""
    with two_hosts.TwoHosts(lab.folder) as hosts:
        ranks = Ranks(lab, options, "none", 4, hosts.launcher(4))
        hosts.cut()
        ranks.since = time.monotonic()
        ranks.expect_named([2, 3], r"no heartbeat .* the link between host0 and host1 is cut; step \d+, ")
        far = pathlib.Path(f"{ranks.reports}.rank-2").read_text()
        for rank in (0, 1):
            text = rf"rank {rank} on host0 \(process {ranks.pids[rank]}\) .*the link between host1 and host0 is cut; step \d+"
            ranks.expect(re.search(text, far), f"the far side says: {text}")
        left = hosts.wait_until_empty(END)
        ranks.expect(not left, f"nothing is left on the hosts: {left}")


def oversubscribed(layout):
    """A training run of eight ranks on two cores, with evaluations and saves, a sixth of the default limit: no report."""
    def case(lab, options):
        cores = sorted(os.sched_getaffinity(0))[:2]
        overrides = {"train.steps": 150, "data.sequence_length": 32, "train.global_batch": 16, "train.lanes": 8,
                     "train.eval_every": 10, "checkpoint.every": 5, "train.sample_every": 50, "run.hang_seconds": "1.5s", **layout}
        launcher = ["taskset", "-c", ",".join(map(str, cores)), "mpirun", "--oversubscribe", "--bind-to", "none", "-n",
                    str(4 * len(cores))]
        run = lab.start(f"oversubscribed-{time.monotonic_ns()}", "gpt/tiny.yaml", overrides, 4 * len(cores), launcher)
        code = run.wait(300)
        if code != 0 or any("plinth: hang" in line for line in run.lines):
            runs.fail(f"exit code {code}, or an alarm without a cause", run.lines)
        print(run.lines[-1], flush=True)
    return case


def pids_of_ranks(run):
    """Process numbers of a training run's ranks, by rank."""
    found = {}
    for pid in run.rank_pids():
        variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found.update((int(word.split(b"=")[1]), pid) for word in variables if word.startswith(b"OMPI_COMM_WORLD_RANK="))
    return found


def stopped_in(layout, stopped, shared):
    """The real program in a layout of several groups: the stopped rank is named with its place, and every other one with the call that
    it waits in. shared[r] are the groups that rank r shares with the stopped one ("data" with "data, gradients 0"): somebody waits in
    one of those, for that one."""
    def case(lab, options):
        overrides = {"train.steps": 100000, "model.vocab_multiple": 8, "checkpoint.every": 100000, "run.hang_seconds": f"{LIMIT:g}s", **layout}
        run = lab.start(f"stopped-{time.monotonic_ns()}", "gpt/tiny.yaml", overrides, len(shared) + 1)

        def expect(condition, what):
            if not condition:
                runs.fail(f"{layout}: not so: {what}", run.lines)

        expect(run.wait_for("step 4/", 60), "step 4 was reached")
        pids = pids_of_ranks(run)
        expect(sorted(pids) == sorted([stopped, *shared]), f"ranks {sorted(pids)}")
        os.kill(pids[stopped], signal.SIGSTOP)
        since = time.monotonic()
        expect(run.wait_for("ends the job with exit code", LIMIT + 2), "a report")
        took = time.monotonic() - since
        expect(took <= LIMIT, f"within {LIMIT} s, it took {took:.1f} s")
        call = r"(?:collective #(\d+) '[^']+'|message #\d+ '[^']+' (?:to|from) rank \d+) of group '([^']+)'"
        text = "\n".join(run.lines)
        named = re.findall(rf"plinth: hang: rank (\d+) on \S+ \(process (\d+)\) (.*)", text)
        expect([(int(rank), int(pid)) for rank, pid, _ in named] == [(stopped, pids[stopped])], f"rank {stopped} is named alone")
        place = re.search(r"it is stopped \(process state T\); step \d+, [a-z ]+, (?:after it began|waiting in) " + call, named[0][2])
        expect(place, "its place is named")
        waits = {}
        for ranks, sequence, group in re.findall(rf"plinth: hang: ranks? ([\d, -]+) waits? in {call}", text):
            for part in ranks.split(", "):
                first, last = (part.split("-") * 2)[:2]
                waits.update((rank, (group, sequence)) for rank in range(int(first), int(last) + 1))
        expect(sorted(waits) == sorted(shared), f"all others wait: {waits}")
        partners = {rank: where for rank, where in waits.items() if where[0].split(",")[0] in shared[rank]}
        expect(partners, f"somebody waits in a group of rank {stopped}: {waits}")
        for group, sequence in partners.values():  # it is no further than those who wait for it
            if sequence and place[1] and place[2] == group:
                expect(int(sequence) >= int(place[1]), f"collective #{sequence} is not before #{place[1]} of group '{group}'")
        expect(run.wait(END) == HANG, f"exit code {HANG}")
        end = time.monotonic() + END
        while any(is_alive(pid) for pid in pids.values()) and time.monotonic() < end:
            time.sleep(0.05)
        expect(not any(is_alive(pid) for pid in pids.values()), "no rank is left")
        print(f"rank {stopped} named after {took:.1f} s: {place[0]}; the others: {waits}", flush=True)
    return case


def reading(lab, options):
    """`evaluate` and `generate` over ranks that share a model: one is stopped."""
    trained = lab.train("trained", "gpt/tiny.yaml", {"train.steps": 1, "optimizer.warmup_steps": 0})
    for stage, words in (("evaluate", [f"evaluate.data=[{', '.join([str(lab.data)] * 100)}]", "evaluate.stride=1", "evaluate.micro_batch=1"]),
                         ("generate", [f"generate.prompts=[{', '.join('a' * 1000)}]", "generate.temperature=0"])):
        run = runs.Process(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2", lab.plinth, stage, *words,
                            f"{stage}.checkpoint={trained}", f"{stage}.threads=1", "parallel.pipeline=2",
                            f"run.hang_seconds={LIMIT:g}s"])
        end = time.monotonic() + 60
        while len(pids_of_ranks(run)) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1.5)  # the ranks know each other, and are at work
        pids = pids_of_ranks(run)
        os.kill(pids[1], signal.SIGSTOP)
        since = time.monotonic()
        said = run.wait_for("ends the job with exit code", LIMIT + 2)
        took = time.monotonic() - since
        named = [line for line in run.lines if re.search(rf"hang: rank 1 on \S+ \(process {pids[1]}\) .* it is stopped", line)]
        if not said or took > LIMIT or len(named) != 1 or run.wait(END) != HANG:
            runs.fail(f"{stage}: rank 1 is named within {LIMIT} s, it took {took:.1f} s, and the job ends with {HANG}", run.lines[-20:])
        print(f"{stage}: {named[0]}", flush=True)


CASES = {
    "stopped": signalled(signal.SIGSTOP, 1, r"has sent no heartbeat for [\d.]+ s: it is stopped \(process state T\)"),
    "stopped_first": signalled(signal.SIGSTOP, 0, r"has sent no heartbeat for [\d.]+ s: it is stopped \(process state T\)"),
    # mpirun sees the death too, and its exit code is that of the first rank that ends.
    "killed": signalled(signal.SIGKILL, 1, "has died", KILLED),
    "loop": faulty("loop", "has made no progress for .* loops or is blocked; step 5, backward, after it began collective "
                           r"#\d+ 'step sums' of group 'world'"),
    "blocked": faulty("sleep", "has made no progress for .* loops or is blocked; step 5, backward"),
    "other_call": faulty("other_call", "is in a call that the others are not in.*; step 5, backward, waiting in collective "
                                       r"#\d+ 'another sum' of group 'world'"),
    "other_kind": faulty("other_kind", "is in a call that the others are not in"),
    "other_group": faulty("other_group", "is in a call that the others are not in.*; step 5, .*of group 'part'"),
    # Rank 0 waits for rank 1 too, which makes it the one.
    "lost_message": faulty("lost_message", "waits for a message that its other end has not begun.*; step 5, backward, waiting in "
                                           "message #1 'never sent' from rank 2 of group 'world'"),
    # Ranks are numbered tensor first: 3 has 2 beside it on the tensor axis and 1 on the context axis.
    "tensor_and_context": stopped_in({"parallel.tensor": 2, "parallel.context": 2}, 3,
                                     {0: ("world",), 1: ("world", "context"), 2: ("world", "tensor")}),
    # The last stage of the first of two pipelines.
    "pipeline_and_data": stopped_in({"parallel.pipeline": 2, "parallel.data": 2, "parallel.zero": 1}, 2,
                                    {0: ("world", "pipeline"), 1: ("world",), 3: ("world", "data", "weights")}),
    "reading": reading,
    "slow_disk": slow_disk,
    "cut_link": cut_link,
    "oversubscribed": oversubscribed({}),
    "oversubscribed_axes": oversubscribed({"parallel.pipeline": 2, "parallel.tensor": 2}),
}

if __name__ == "__main__":
    runs.main({name: repeated(case) for name, case in CASES.items()}, times=1)
