#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plinth's training step beside PyTorch's, on one card (or, small, on the CPU): same shape, data, batch, precision, clip.

    benchmarks/gpu/compare_pytorch.py --plinth PROGRAM --shape gpt2-124m --work FOLDER [--seconds 30] [--how compiled,blocks]
                                      [--micro-batch N] [--torch-micro-batch N] [--set KEY=VALUE]... [--parts gate,torch,plinth]
                                      [--device cuda|cpu] [--dtype bf16|fp32] [--fp8 current] [--rounds 1] [--python PYTHON]
                                      [--results FILE] [--until SECONDS]

Parts, in this order:
  gate     from the same weights (Plinth's first checkpoint) both compute the same losses: gradients of the first step by their
           cosine, losses and norms of some steps side by side. What failed it is not timed.
  torch, plinth   the time of a step, each side in a process of its own, in turns; warm-up left out, the loss read back every step
  start    seconds from the start of the program to the end of a first step of one micro-batch, twice: the second is warm
  kernels, torch-kernels   a step's time by class of kernel (kernel_time.py); needs Nsight Compute
Every part is a line of --results (WORK/results.jsonl) and is not repeated while it stands there; those of Plinth, while its build
is the same. With --until (as of time.time()) no part is begun that would not end by then; exit code 75 says that some are missing.

--how says what PyTorch runs: eager; blocks (each block compiled); compiled (the whole model); max-autotune; graphs (CUDA graphs).
The best of those given counts. The gate of a large model cuts its layers (--gate-layers): its checkpoint would be most of the time.
Model-FLOPs utilisation is against 989.4 TFLOP/s, with causal attention counted once and in full (shapes.py).
"""
import argparse
import functools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import kernel_time
import processes
import shapes
import tables
from card import Card
from results import Results, TimeIsOver

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Largest error allowed: of the first loss, of the first gradient's norm (relative), of any later loss; least cosine.
BOUNDS = {"bf16": (5e-3, 0.02, 0.03, 0.999), "fp32": (1e-4, 1e-4, 2e-3, 0.99999),
          "fp8": (2e-2, 0.2, 0.1, 0.98)}  # as docs/numerics.md bounds 8-bit products; not yet seen on a card
# Seconds that PyTorch takes to compile, roughly: what --until counts with.
COMPILES = {"eager": 10, "blocks": 40, "compiled": 70, "graphs": 120, "max-autotune": 300}


# Learning rate of the gate's curves. At the rate that is timed Adam turns the rounding of gradients near zero into whole steps: two
# bf16 curves of PyTorch itself part by some hundredths in the first 20 steps.
GATE_RATE = 3e-5


class Comparison:
    def __init__(self, options):
        self.options = options
        self.shape = dict(shapes.SHAPES[options.shape])
        micro, total = self.shape.pop("batch")
        self.micro, self.total = options.micro_batch or micro, options.global_batch or total
        self.work = pathlib.Path(options.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = Results(options.results or self.work / "results.jsonl", **json.loads(options.fields))
        said = subprocess.run([options.plinth, "--version"], capture_output=True, text=True, check=True).stdout
        self.build = next((line.split(None, 1)[1] for line in said.splitlines() if line.startswith("plinth ")), said.strip())
        reference = subprocess.run([options.plinth, "config", "reference"], capture_output=True, text=True, check=True).stdout
        self.device_key = [f"run.device={options.device}"] if "`run.device`" in reference else []

    # ---- both sides' input ----
    @functools.cached_property
    def data(self):
        """Drawn tokens in a data set of the model's vocabulary, made when the first part needs it."""
        folder = self.work / f"data-{self.shape['vocab_size']}"
        if not (folder / "manifest.json").exists():
            import plinth_files
            text = self.work / "text.txt"
            text.write_text("A tokenizer needs a text.\n\n" * 40)
            shutil.rmtree(self.work / "prepared", ignore_errors=True)
            subprocess.run([self.options.plinth, "data", "prepare", f"prepare.inputs=[{text}]", f"prepare.output={self.work}/prepared",
                            "prepare.tokenizer=byte"],
                           check=True, stdout=subprocess.DEVNULL)
            prepared = json.loads((self.work / "prepared/manifest.json").read_text())
            shutil.copytree(self.work / "prepared" / prepared["tokenizer"], folder / prepared["tokenizer"], dirs_exist_ok=True)
            count = 48 * 2**20 if self.options.device == "cuda" else 2**18
            plinth_files.write_tokens(folder, plinth_files.draw_tokens(count, self.shape["vocab_size"]), self.shape["vocab_size"], prepared)
        return folder

    def plinth_command(self, run, shape, micro, total, *words):
        o = self.options
        shutil.rmtree(run, ignore_errors=True)
        config = ROOT / "configs/llama/llama_1b.yaml" if shape["positions"] == "rotary" else ROOT / "configs/gpt/gpt2_124m.yaml"
        return [o.plinth, "pretrain", config, "~train.tokens", "~model.rope_scaling", "model.vocab_multiple=1", *shapes.model_options(shape),
                f"data.sources=[{{path: {self.data}}}]", f"data.sequence_length={shape['tokens']}", "data.verify=false",
                f"train.micro_batch={micro}", f"train.global_batch={total}", f"train.dtype={o.dtype}", "train.eval_every=0",
                "train.lanes=1", "optimizer.warmup_steps=0", "optimizer.schedule=constant", "optimizer.weight_decay=0.1",
                "optimizer.clip=1", "checkpoint.every=0", f"run.folder={run}", f"run.threads={o.threads}", f"train.fp8={o.fp8}",
                "run.metrics.tensorboard=false", "run.hash_check_every=0", f"run.peak_flops={shapes.PEAK_FLOPS}",
                *self.device_key, *words]

    def log(self, name):
        return open(self.work / f"{name}.log", "w")

    def plinth_until(self, command, run, is_enough, name):
        """Step records of a run that is killed when `is_enough` says so: it would save a checkpoint at its end."""
        with self.log(name) as log:
            process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT)
            records, metrics, file = [], run / "metrics.jsonl", None
            try:
                while not is_enough(records):
                    if process.poll() is not None:
                        raise SystemExit(f"plinth ended with {process.returncode}:\n{pathlib.Path(log.name).read_text()[-3000:]}")
                    time.sleep(0.02)
                    if file is None and metrics.exists():
                        file = open(metrics)
                    for line in file or []:
                        record = json.loads(line)
                        if record["kind"] == "step":
                            records.append(record)
            finally:
                processes.end(process)
        return records

    def torch(self, how, kind, name, card=None, **task):
        o = self.options
        task = {"shape": self.shape, "device": o.device, "dtype": o.dtype, "how": how, "kind": kind, "data": str(self.data),
                "threads": o.threads, "seconds": o.seconds, "warmup": o.warmup, "least": o.least, "lr": 3e-4,
                "fp8": o.fp8 != "none", "parameters": o.torch_parameters, **task}
        environment = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(self.work / "inductor"),
                           PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True")
        with self.log(name) as log:
            process = subprocess.Popen([o.python, HERE / "torch_step.py", json.dumps(task)], stdout=subprocess.PIPE, stderr=log,
                                       text=True, env=environment)
            last = ""
            for line in process.stdout:
                if line.strip() == "timing" and card:
                    card.reset()
                last = line if line.startswith("{") else last
            if process.wait() != 0 or not last:
                print(f"PyTorch ({how}) ended with {process.returncode}; see {log.name}:\n" + pathlib.Path(log.name).read_text()[-1500:])
                return None
        return json.loads(last)

    # ---- gate ----
    def gate(self):
        o, shape = self.options, dict(self.shape)
        layers = o.gate_layers or (shape["layers"] if shapes.matmul_parameters(shape) < 2e8 else 2)
        shape["layers"] = min(layers, shape["layers"])
        micro, total = self.micro, 2 * self.micro  # the shapes that are timed, so that they are compiled once
        words = [word for word in o.set if not word.startswith("optimizer.moments=")]  # PyTorch has none in bf16
        run = self.work / "gate"
        command = self.plinth_command(run, shape, micro, total, "train.steps=1", "optimizer.lr=0", "optimizer.min_lr=0", *words)
        with self.log("gate-weights") as log:
            if subprocess.run([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT).returncode:
                raise SystemExit(f"plinth failed:\n{pathlib.Path(log.name).read_text()[-3000:]}")
        curve = self.work / "gate-curve"
        command = self.plinth_command(curve, shape, micro, total, f"train.steps={o.gate_steps + 1}", f"optimizer.lr={GATE_RATE}", *words)
        ours = self.plinth_until(command, curve, lambda records: len(records) >= o.gate_steps, "gate-plinth")[:o.gate_steps]
        theirs = self.torch(o.how.split(",")[0], "gate", "gate-torch", shape=shape, micro_batch=micro, global_batch=total,
                            weights=str(run), steps=o.gate_steps, lr=GATE_RATE, parameters="fp32")
        if theirs is None:
            raise SystemExit("the gate needs PyTorch")
        row = {"losses_plinth": [r["loss"] for r in ours], "losses_torch": theirs["losses"],
               "first_loss_error": abs(ours[0]["loss"] - theirs["losses"][0]),
               "norm_error": abs(ours[0]["grad_norm"] / theirs["norms"][0] - 1),
               "curve_error": max(abs(r["loss"] - loss) for r, loss in zip(ours, theirs["losses"])),
               "cosine": theirs["cosine"], "worst_cosine": theirs["worst_cosine"], "layers": shape["layers"]}
        first, norm, later, cosine = BOUNDS["fp8" if o.fp8 != "none" else o.dtype]
        row["passed"] = bool(row["first_loss_error"] <= first and row["norm_error"] <= norm and row["curve_error"] <= later
                             and row["cosine"] >= cosine)
        shutil.rmtree(run, ignore_errors=True)
        return row

    # ---- time ----
    def rates(self, times, micro):
        median, tokens = statistics.median(times), self.total * self.shape["tokens"]
        causal, full = shapes.flops_per_token(self.shape)
        row = {"micro_batch": micro, "global_batch": self.total, "step_tokens": tokens, "ms": 1e3 * median,
               "tokens_per_second": tokens / median, "steps": len(times), "step_seconds": times,
               "tflops_causal": tokens / median * causal / 1e12}
        if len(times) > 2:
            deciles = statistics.quantiles(times, n=10, method="inclusive")
            row.update(ms_p10=1e3 * deciles[0], ms_p90=1e3 * deciles[-1])
        if self.options.device == "cuda":
            row.update(mfu_causal=tokens / median * causal / shapes.PEAK_FLOPS, mfu_full=tokens / median * full / shapes.PEAK_FLOPS)
        return row

    def with_power(self, row, seen):
        """Adds what the card said; joules of the whole card a token."""
        if "watt" in seen:
            seen["joules_per_token"] = seen["watt"] / row["tokens_per_second"]
        return {**row, **seen}

    def timed_command(self, run, total, *words):
        """A run that is killed before its end. It is refused where the disk has no room for the checkpoint that it will not write."""
        o = self.options
        if o.checkpoints:
            shutil.rmtree(f"{o.checkpoints}/{run.name}", ignore_errors=True)
            words += (f"checkpoint.folder={o.checkpoints}/{run.name}",)
        return self.plinth_command(run, self.shape, self.micro, total, "train.steps=1000000", "optimizer.lr=3e-4",
                                   f"train.recompute={o.recompute}", *words, *o.set)

    def time_plinth(self):
        o, run, card = self.options, self.work / "timed", Card()
        began, first = time.time(), []

        def is_enough(records):
            if records and not first:
                first.append(time.time() - began)
            if len(records) == 1 + o.warmup and not card.timed:
                card.reset()
            timed = [record["step_seconds"] for record in records[1 + o.warmup:]]
            return len(timed) >= o.least and sum(timed) >= o.seconds

        records = self.plinth_until(self.timed_command(run, self.total), run, is_enough, "plinth")
        row = self.rates([record["step_seconds"] for record in records[1 + o.warmup:]], self.micro)
        return self.with_power({**row, "first_step_seconds": first[0], "loss": records[-1]["loss"],
                                "allocator_gib": records[-1].get("memory_bytes", 0) / 2**30}, card.stop())

    def time_torch(self, how):
        card = Card()
        micro = self.options.torch_micro_batch or self.micro
        said = self.torch(how, "time", f"torch-{how}", card, micro_batch=micro, global_batch=self.total)
        seen = card.stop()
        if said is None:
            return None
        return self.with_power({**said, **self.rates(said.pop("step_seconds"), micro)}, seen)

    def time_start(self):
        """Twice: what the first start compiles, times and reads from disk, the second finds."""
        seconds = []
        for _ in range(2):
            run, began = self.work / "start", time.time()
            self.plinth_until(self.timed_command(run, self.micro), run, lambda records: bool(records), "start")
            seconds.append(time.time() - began)
        return {"cold_seconds": seconds[0], "warm_seconds": seconds[1]}

    # ---- kernels ----
    def plinth_kernels(self):
        """Micro-batches of two to a step: a whole step's launches are found among those that are profiled."""
        o, run = self.options, self.work / "profiled"
        bound, profile = 2 * kernel_time.launches_bound(self.shape["layers"]), self.work / "ncu.csv"
        profile.unlink(missing_ok=True)
        command = [*kernel_time.ncu_command(2 * bound + 6000, 2 * bound, profile), *self.timed_command(run, 2 * self.micro)]
        try:
            if processes.run(command, o.profile_seconds, self.work / "ncu.log") is None:
                print(f"no end of Nsight Compute within {o.profile_seconds:.0f} s")
            said = profile.read_text()
        except OSError as error:
            print(f"no kernel times of Plinth: {error}; see {self.work}/ncu.log")
            return None
        kernels = kernel_time.read_ncu(said)
        classes = kernel_time.step_of(kernels, 2, self.total // self.micro)
        if classes is None:
            print(f"no kernel times of Plinth: no whole step among {len(kernels)} launches; see {profile}\n{said[-1000:]}")
            return None
        return {"classes": classes, "launches": len(kernels), "longest": kernel_time.longest(kernels)}

    def torch_kernels(self):
        micro = self.options.torch_micro_batch or self.micro
        said = self.torch(self.options.how.split(",")[0], "kernels", "torch-kernels", micro_batch=micro, global_batch=2 * micro)
        if said is None or not said["kernels"]:
            return None
        kernels = [(name, seconds) for name, seconds in said["kernels"]]
        return {"classes": kernel_time.classes_of(kernels, 2, self.total // micro), "longest": kernel_time.longest(kernels)}

    # ---- parts ----
    def expected_seconds(self, name, how):
        """Of a part, as if PyTorch and Plinth reached 40 % of the card; 0 on the CPU."""
        o = self.options
        if o.device != "cuda":
            return 0.0
        step = self.total * self.shape["tokens"] * shapes.flops_per_token(self.shape)[0] / (0.4 * shapes.PEAK_FLOPS)
        starts = 8 + 4e-9 * shapes.matmul_parameters(self.shape)
        # The gate's checkpoint, 12 bytes a parameter at 500 MB/s.
        saved = 24e-9 * shapes.matmul_parameters({**self.shape, "layers": min(2, self.shape["layers"])})
        steps = (1 + o.warmup) * step + max(o.seconds, o.least * step)
        return {"gate": 45 + saved + COMPILES[how], "torch": COMPILES[how] + steps, "plinth": starts + steps,
                "start": 2 * starts, "kernels": starts + 20 + self.shape["layers"], "torch-kernels": COMPILES[how]}[name]

    def part(self, name, measure, how=None, **key):
        """Measured unless the results have it."""
        o = self.options
        key = {"shape": o.shape, "part": name, "device": o.device, "dtype": o.dtype, "fp8": o.fp8, **key}
        if how and name == "torch":
            key["how"] = how
        if name in ("gate", "plinth", "start", "kernels"):
            key.update(build=self.build, micro_batch=self.micro, recompute=o.recompute, options=o.set)
        elif name in ("torch", "torch-kernels"):
            key.update(micro_batch=o.torch_micro_batch or self.micro, parameters=o.torch_parameters)
        found = self.results.find(**key)
        if not found:
            left = o.until - time.time() if o.until else float("inf")
            if self.expected_seconds(name, how or o.how.split(",")[0]) > left:
                raise TimeIsOver(f"{name} of {o.shape} would not end in the {left:.0f} s that are left")
            row = measure()
            if row is None:
                self.failed.append(f"{name} {how or ''}".strip())
                return None
            found = [self.results.add({**row, **key})]
        return found[-1]

    def run(self):
        """False if a part was not measured: what PyTorch or a profiler could not do is no reason to leave out the rest."""
        o, parts = self.options, self.options.parts.split(",")
        self.failed = []
        if "gate" in parts:
            gate = self.part("gate", self.gate)
            if not gate["passed"]:
                raise SystemExit("gate: the two do not compute the same; nothing is timed")
        for turn in range(o.rounds):
            order = [("plinth", None)] if "plinth" in parts else []
            if "torch" in parts:
                order += [("torch", how) for how in o.how.split(",")]
            for side, how in order if turn % 2 else reversed(order):
                measure = self.time_plinth if side == "plinth" else lambda how=how: self.time_torch(how)
                self.part(side, measure, how, round=turn)
        for name, measure in (("start", self.time_start), ("kernels", self.plinth_kernels), ("torch-kernels", self.torch_kernels)):
            if name in parts:
                self.part(name, measure)
        print(tables.side_by_side(self.results.rows, shape=o.shape, device=o.device, dtype=o.dtype, fp8=o.fp8), flush=True)
        if self.failed:
            print(f"not measured: {', '.join(self.failed)}")
        return not self.failed


def options_of(words):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plinth", required=True)
    parser.add_argument("--shape", required=True, choices=[*shapes.SHAPES])
    parser.add_argument("--work", required=True)
    parser.add_argument("--results", help="file that the parts are added to")
    parser.add_argument("--fields", default="{}", help="JSON object: fields of each line that is added")
    parser.add_argument("--until", type=float, default=0)
    parser.add_argument("--checkpoints", help="folder with room for a checkpoint of the timed runs, which are killed before they write one")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--least", type=int, default=5, help="timed steps, however long they take")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--how", default="compiled")
    parser.add_argument("--parts", default="gate,torch,plinth")
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--torch-micro-batch", type=int)
    parser.add_argument("--torch-parameters", choices=["fp32", "bf16"], default="fp32", help="bf16: gradients and AdamW's states too")
    parser.add_argument("--global-batch", type=int)
    parser.add_argument("--gate-layers", type=int)
    parser.add_argument("--gate-steps", type=int, default=20)
    parser.add_argument("--recompute", default="none")
    parser.add_argument("--profile-seconds", type=float, default=240, help="most that Nsight Compute may take")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--fp8", choices=["none", "current", "delayed"], default="none")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--set", action="append", default=[], help="one more key for Plinth")
    options = parser.parse_args(words)
    options.threads = options.threads or (os.cpu_count() if options.device == "cuda" else 2)
    return options


def main():
    try:
        sys.exit(0 if Comparison(options_of(sys.argv[1:])).run() else 1)
    except TimeIsOver as error:
        print(error)
        sys.exit(75)


if __name__ == "__main__":
    main()
