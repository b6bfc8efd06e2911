#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""All that is worth knowing of a build on a machine with a GPU, from a bundle (launch/bundle.sh --with ...), in slots as short as they
come: what is done stands in RESULTS/results.jsonl, and the next call with the same RESULTS goes on with what is missing.

    benchmarks/gpu/on_card.py BUNDLE RESULTS [--minutes 9.5] [--work FOLDER] [--checkpoints FOLDER] STAGE[=DETAIL]...

BUNDLE   its folder, or the .tar.xz that --pack made
RESULTS  results.jsonl, tables.md (all of it as tables) and failures.txt; nothing large
--minutes      no part begins that would not end by then, and what runs is ended then
--work         data, logs, compiled kernels: large, and of no use elsewhere (default a folder in TMPDIR, kept from call to call)
--checkpoints  a folder on a file system with room for a checkpoint of 8B, 100 GB, that is never written: a tmpfs may be larger than
               the memory (mount -t tmpfs -o size=300g tmpfs FOLDER). Without it the largest rows are refused for want of disk

ceilings           a copy of 1 GiB and a product of 8192 x 8192 x 8192
tests[=FILTER]     ctest's label gpu: gpu_kernels, gpu_parallel and the golden models of numerics_models, each suite in a process of
                   its own, so that one bad kernel spoils no other's test; FILTER as GoogleTest takes it
training[=CASE,..] the rest of the label: whole trainings, layouts, 8 bits, resumes, fine-tuning, evaluation and generation
                   (tests/integration/gpu_training.py and gpu_stages.py)
sanitize[=TOOL,..][:SUITE]  compute-sanitizer's tools over the suites (launch/gpu_check.sh): memcheck, racecheck, initcheck, synccheck
rows[=NAME,..]     side by side with PyTorch (compare_pytorch.py; ROWS in shapes.py), ceilings before and after
compare=SHAPE[,OPTION..]    any other comparison, such as compare=gpt2-124m,--parts,plinth,--set,run.graphs=true; a comma within an
                   option is written as a plus
kernels[=NAME]     the table of gpu_benchmarks, into RESULTS/kernels.txt (of NAME into kernels-NAME.txt)
memory[=NAME,..]   the plan beside the card's memory (memory.py); also largest and largest-offload
real[=WORD,..]     GPT-2 124M on text, killed and resumed (real_training.py), with more of its words

Exit 0: all of it is there and passed. 1: something failed; it is listed last. 75: the time was over before the end."""
import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import card
import processes
import shapes
import tables
from results import Results

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The cases of tests/integration by their script, in the order of what a new build should show first.
TRAINING = {"gpu_training": ("equals_cpu", "variants", "resumes", "crosses_devices", "layouts", "fp8", "graphs", "skips", "moments", "offload",
                             "context", "fp8_curve"),
            "gpu_stages": ("finetune_text", "finetune_instruction", "finetune_classification", "evaluate", "generate")}
# Each program with its tests that need a device.
TESTS = {"gpu_kernels": "*", "gpu_parallel": "*", "numerics_models": "*OnADevice*"}
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
REAL = ["model.vocab_multiple=128", "train.micro_batch=32", "train.global_batch=256", "train.dtype=bf16", "train.recompute=none"]
OVER = 75
PARTS = "gate,torch,plinth,start,kernels,torch-kernels"


def unpacked(bundle, work):
    if bundle.is_dir():
        return bundle
    folder = work / f"bundle-{bundle.stat().st_size}-{int(bundle.stat().st_mtime)}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        with tarfile.open(bundle) as archive:
            archive.extractall(part)
        part.rename(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


class Batch:
    def __init__(self, o):
        self.began, self.o = time.time(), o
        self.until = self.began + 60 * o.minutes
        self.work = pathlib.Path(o.work or pathlib.Path(tempfile.gettempdir()) / "plinth-on-card").resolve()
        self.folder = pathlib.Path(o.results).resolve()
        for folder in (self.work, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.bundle = unpacked(pathlib.Path(o.bundle).resolve(), self.work)
        self.plinth = self.bundle / "plinth"
        if not os.access(self.plinth, os.X_OK):
            sys.exit(f"on_card: {self.bundle} holds no plinth")
        said = subprocess.run([self.plinth, "--version"], text=True, capture_output=True).stdout
        self.build = next((line.split(None, 1)[1] for line in said.splitlines() if line.startswith("plinth ")), "unknown")
        self.session = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.began))
        self.results = Results(self.folder / "results.jsonl", session=self.session)
        self.lock, self.failed, self.is_over, self.log_number = threading.Lock(), [], False, 0
        doctor = subprocess.run([self.plinth, "doctor"], text=True, capture_output=True).stdout
        gpus = next((line.split(":", 1)[1].strip() for line in doctor.splitlines() if line.startswith("GPUs:")), "not said")
        self.results.add({"part": "session", "build": self.build, "host": f"{os.cpu_count()} cores, Linux {platform.release()}",
                          "libraries": gpus, **card.described()})

    # ---- processes ----
    def left(self):
        return self.until - time.time()

    def call(self, command, limit, log):
        """(exit code, or None if it was ended for its limit or for the time of all; seconds). Output goes to the file `log`."""
        began = time.time()
        environment = dict(os.environ, PLINTH_SOURCE_DIR=str(ROOT), PATH=f"{self.bundle}:{os.environ.get('PATH', '')}", PYTHONUNBUFFERED="1")
        return processes.run(command, max(1.0, min(limit, self.left())), log, environment), time.time() - began

    def fail(self, title, text=""):
        with self.lock:
            self.failed.append(title)
            with open(self.folder / "failures.txt", "a") as file:
                file.write(f"==== {self.session} {title}\n{text[-6000:]}\n")
            print(f"FAILED: {title}\n{text[-1500:]}", flush=True)

    def pieces(self, stage, pieces, workers, limit, judge):
        """Runs pieces = [(group, name, command)] that have not passed with this build, several at a time; those that failed or were
        skipped before come last. `judge(code, log text)` returns (outcome, what to say, counts). That all are skipped is a failure."""
        def outcome(piece):
            found = self.results.find(part="ran", stage=stage, name=piece[1], build=self.build)
            return found[-1]["outcome"] if found else ""

        waiting = sorted((piece for piece in pieces if outcome(piece) != "passed"), key=lambda piece: outcome(piece) != "")
        print(f"{stage}: {len(pieces) - len(waiting)} of {len(pieces)} done before", flush=True)

        def one(piece):
            group, name, command = piece
            if self.left() < 5:
                self.is_over = True
                return
            log = self.work / "logs" / f"{stage}-{re.sub('[^A-Za-z0-9_.]+', '_', name)}.log"
            log.parent.mkdir(exist_ok=True)
            code, seconds = self.call(command, limit, log)
            text = log.read_text(errors="replace")
            if code is None and self.left() < 2:
                self.is_over = True
                return
            how, said, counts = judge(code, text) if code is not None else ("failed", f"no end within {limit} s", {})
            with self.lock:
                words = " ".join(map(str, command)).replace(sys.executable, "python3")
                for folder in (self.bundle, ROOT, self.work):
                    words = words.replace(f"{folder}/", "")
                self.results.add({"part": "ran", "stage": stage, "group": group, "name": name, "command": words, "outcome": how,
                                  "said": said, "seconds": round(seconds, 1), "build": self.build, **counts}, shown=how == "failed")
            if how == "failed":
                self.fail(f"{stage}: {name}: {said}", text)

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, waiting))
        if waiting and pieces and all(outcome(piece) == "skipped" for piece in pieces):
            reason = next((text for text in (log.read_text(errors="replace") for log in (self.work / "logs").glob(f"{stage}-*.log"))
                           if text.strip()), "")
            self.fail(f"{stage}: all {len(pieces)} were skipped: nothing was checked", reason[-300:])

    # ---- stages ----
    def ceilings(self, detail=""):
        log = self.work / "ceilings.log"
        code, _ = self.call([self.bundle / "gpu_benchmarks", "nothing but the ceilings"], 60, log)
        rates = dict(re.findall(r"^\| (copy|matmul 8192) .*?\| +([\d.]+) (?:GB|TFLOP)/s", log.read_text(), re.M))
        if code != 0 or len(rates) != 2:
            return self.fail(f"ceilings: exit code {code}", log.read_text())
        self.results.add({"part": "ceilings", "time": time.strftime("%H:%M:%S", time.gmtime()), "copy_gbs": float(rates["copy"]),
                          "product_tflops": float(rates["matmul 8192"])})

    def suites(self, program, pattern="*"):
        said = subprocess.run([self.bundle / program, "--gtest_list_tests", f"--gtest_filter={pattern}"], text=True, capture_output=True)
        return [line.split()[0] for line in said.stdout.splitlines() if re.match(r"\S+\.( |$)", line)]

    @staticmethod
    def judge_tests(code, text):
        counts = {name: len(re.findall(rf"^\[ *{word} *\] .*ms\)", text, re.M))
                  for name, word in (("passed", "OK"), ("skipped", "SKIPPED"), ("failed", "FAILED"))}
        if code != 0:
            names = re.findall(r"^\[ *FAILED *\] ([^ ,]+).*ms\)", text, re.M) or re.findall(r"^\[ *RUN *\] (\S+)", text, re.M)[-1:]
            return "failed", f"exit code {code}: {' '.join(names)}", counts
        return ("skipped" if not counts["passed"] else "passed"), "", counts

    def tests(self, detail):
        pieces = []
        for program, own in TESTS.items():
            if not (self.bundle / program).exists():
                self.fail(f"tests: the bundle holds no {program}")
                continue
            for suite in self.suites(program, detail or own):
                pattern = detail if detail.startswith(suite) else f"{suite}{own}"
                pieces.append((program, f"{program} {suite.rstrip('.')}", [self.bundle / program, "--gtest_color=no", f"--gtest_filter={pattern}"]))
        self.pieces("tests", pieces, 6, 150, self.judge_tests)

    def training(self, detail):
        if not (self.bundle / "checkpoint_tool").exists():
            return self.fail("training: the bundle holds no checkpoint_tool")
        known = {case: script for script, cases in TRAINING.items() for case in cases}
        cases = detail.split(",") if detail else list(known)
        if unknown := [case for case in cases if case not in known]:
            return self.fail(f"training: no such case: {', '.join(unknown)}; there are {', '.join(known)}")
        pieces = [(known[case], case, [sys.executable, "-B", ROOT / f"tests/integration/{known[case]}.py", "--plinth", self.plinth, "--tool",
                                       self.bundle / "checkpoint_tool", case]) for case in cases]

        def judge(code, text):
            lines = text.strip().splitlines()
            if code == 77:
                return "skipped", lines[-1] if lines else "", {"skipped": 1}
            close = [line.split(": ", 1)[1] for line in lines if line.startswith("close: ")]
            equal = sum(line.startswith("equal: ") for line in lines)
            if code == 0:
                return "passed", "; ".join([f"{equal} equal in every bit"] * bool(equal) + [f"{len(close)} within their bounds"] * bool(close)), {"passed": 1}
            return "failed", next((line for line in lines if line.startswith("FAILED")), f"exit code {code}"), {"failed": 1}

        self.pieces("training", pieces, 3, 420, judge)

    def sanitize(self, detail):
        tools, _, suite = detail.partition(":")
        pieces = [(tool, f"{tool} {name.rstrip('.')}", [ROOT / "launch/gpu_check.sh", "--program", self.bundle / "gpu_kernels", "--results",
                                                        self.work / "sanitizer" / name.replace("/", "_"), "--suites", f"{name}*", "--jobs", 1, tool])
                  for tool in (tools.split(",") if tools else TOOLS) for name in self.suites("gpu_kernels", f"{suite}.*" if suite else "*")]

        def judge(code, text):
            lines = text.strip().splitlines() or [f"exit code {code}"]
            ran = re.search(r"gpu_check: (\d+) tests, nothing found", lines[-1])
            if code == 0 and ran:
                return "passed", "nothing found", {"passed": int(ran[1])}
            return ("skipped" if code == 77 else "failed"), lines[-1], {"failed" if code != 77 else "skipped": 1}

        self.pieces("sanitize", pieces, 6, 400, judge)

    def script(self, title, command):
        """One of the scripts that add to the results themselves; its output is shown. True if it did all it was to do."""
        log = self.work / "script.log"
        code, _ = self.call(command, 3600, log)
        text = log.read_text(errors="replace")
        print("\n".join(line for line in text.splitlines() if not line.startswith("{"))[-3000:], flush=True)
        # It wrote behind this object's back.
        self.results = Results(self.folder / "results.jsonl", session=self.session)
        if code == OVER or code is None:
            self.is_over = True
        elif code != 0:
            self.fail(f"{title}: exit code {code}", text)
        return code == 0

    def shared_words(self):
        return ["--plinth", self.plinth, "--results", self.folder / "results.jsonl", "--until", self.until - 3,
                "--fields", json.dumps({"session": self.session})]

    def room(self):
        return ["--checkpoints", self.o.checkpoints] if self.o.checkpoints else []

    def compare_words(self, shape, words):
        return self.script(f"compare {shape}", [sys.executable, "-B", HERE / "compare_pytorch.py", *self.shared_words(), *self.room(), "--work",
                                                self.work / "compare", "--shape", shape, *words])

    def compare(self, detail):
        """Options are parted by commas; a comma within one is written as a plus: --parts,gate+plinth"""
        shape, *words = [word.replace("+", ",") for word in detail.split(",")]
        self.compare_words(shape, words)

    def rows(self, detail):
        names = detail.split(",") if detail else list(shapes.ROWS)
        if unknown := [name for name in names if name not in shapes.ROWS]:
            return self.fail(f"rows: no such row: {', '.join(unknown)}; there are {', '.join(shapes.ROWS)}")
        # What could not be measured before comes last.
        tries = {name: self.results.find(part="row", name=name, build=self.build) for name in names}
        missing = sorted((name for name in names if not any(row["is_whole"] for row in tries[name])), key=lambda name: len(tries[name]))
        print(f"rows: {len(names) - len(missing)} of {len(names)} done before", flush=True)
        if missing:
            self.ceilings()
        for name in missing:
            if self.is_over:
                return
            print(f"-- {name}  ({time.time() - self.began:.0f} s)", flush=True)
            shape, _, words = shapes.ROWS[name]
            is_whole = self.compare_words(shape, ["--parts", PARTS, *words])
            if not self.is_over:
                self.results.add({"part": "row", "name": name, "build": self.build, "is_whole": is_whole}, shown=False)
        if missing and self.left() > 20:
            self.ceilings()

    def kernels(self, detail):
        log = self.folder / (f"kernels-{re.sub('[^A-Za-z0-9_.]+', '_', detail)}.txt" if detail else "kernels.txt")
        code, _ = self.call([self.bundle / "gpu_benchmarks", *([detail] if detail else [])], self.left(), log)
        text = log.read_text()
        shares = [(name.strip(), float(share)) for name, share in re.findall(r"^\| ([^|]+)\|[^|]+\|[^|]+\|[^|]+GB/s +\| +([\d.]+) %", text, re.M)]
        low = [f"{name} {share:.0f} %" for name, share in shares if share < 90]
        print(f"{text}\n{len(shares) - len(low)} of {len(shares)} memory-bound kernels reach 90 % of the copy; not: {', '.join(low)}", flush=True)
        if code != 0:
            self.fail(f"kernels: exit code {code}", text)

    def memory(self, detail):
        self.script("memory", [sys.executable, "-B", HERE / "memory.py", *self.shared_words(), *self.room(), "--work", self.work / "memory",
                               *(detail.split(",") if detail else [])])

    def real(self, detail):
        words = detail.split(",") if detail else []
        if self.results.find(part="real", build=self.build):
            return print("real: done before")
        self.script("real", [sys.executable, "-B", HERE / "real_training.py", *self.shared_words(), "--work", self.work / "real",
                             *(f"--set={key}" for key in REAL), *words])

    def run(self):
        for stage in self.o.stages:
            name, _, detail = stage.partition("=")
            print(f"\n==== {stage}  ({time.time() - self.began:.0f} s)", flush=True)
            if self.is_over or self.left() < 5:
                self.is_over = True
                print("left out: the time is over")
                continue
            getattr(self, name)(detail)
        text = tables.everything(self.results.rows)
        (self.folder / "tables.md").write_text(text + "\n")
        print(f"\n==== tables\n\n{text}\n\n==== done  ({time.time() - self.began:.0f} s)")
        for title in self.failed:
            print(f"FAILED: {title[:300]}")
        if self.is_over:
            print("the time was over: the same command goes on with what is missing")
        return 1 if self.failed else OVER if self.is_over else 0


STAGES = ("ceilings", "tests", "training", "sanitize", "rows", "compare", "kernels", "memory", "real")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("results")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--work")
    parser.add_argument("--checkpoints")
    parser.add_argument("stages", nargs="*", metavar="STAGE")
    o = parser.parse_intermixed_args()
    o.stages = o.stages or ["ceilings", "tests"]
    if unknown := [stage for stage in o.stages if stage.partition("=")[0] not in STAGES]:
        parser.error(f"no such stage: {', '.join(unknown)}; there are {', '.join(STAGES)}")
    sys.exit(Batch(o).run())


if __name__ == "__main__":
    main()
