#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plinth's training step beside PyTorch's, on one card (or, small, on the CPU): same shape, data, batch, precision, clip.

    benchmarks/gpu/compare_pytorch.py --plinth PROGRAM --shape gpt2-124m --work FOLDER [--seconds 30] [--how compiled,blocks]
                                      [--micro-batch N] [--torch-micro-batch N] [--set KEY=VALUE]... [--parts gate,torch,plinth]
                                      [--device cuda|cpu] [--dtype bf16|fp32] [--rounds 1] [--python PYTHON]

1. Gate: from the same weights (Plinth's first checkpoint) both compute the same losses: gradients of the first step by their cosine,
   losses and norms of some steps side by side. What failed it is not timed.
2. Time: each side in a process of its own, in turns; warm-up left out, the loss read back every step.
Every part is a line of FOLDER/results.jsonl and is not repeated while it stands there. The last table is read from that file.

--how says what PyTorch runs: eager; blocks (each block compiled); compiled (the whole model); max-autotune; graphs (CUDA graphs).
The best of those given counts. The gate of a large model cuts its layers (--gate-layers): its checkpoint would be most of the time.
Model-FLOPs utilisation is against 989.4 TFLOP/s, with causal attention counted once and in full (shapes.py).
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time

import shapes

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Largest error allowed: of the first loss, of the first gradient's norm (relative), of any later loss; least cosine.
BOUNDS = {"bf16": (5e-3, 0.02, 0.03, 0.999), "fp32": (1e-4, 1e-4, 2e-3, 0.99999)}


# Learning rate of the gate's curves. At the rate that is timed Adam turns the rounding of gradients near zero into whole steps: two
# bf16 curves of PyTorch itself part by some hundredths in the first 20 steps.
GATE_RATE = 3e-5


class Card:
    """What nvidia-smi says of the first card five times a second: memory, clock, power."""

    def __init__(self):
        self.rows = []
        command = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used,clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "200"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            self.process = None
            return
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.rows.append([float(word) for word in line.split(",")])
            except ValueError:
                continue

    def reset(self):
        """Clock and power count from here; memory counts all along."""
        self.timed = len(self.rows)

    def stop(self):
        if not self.process:
            return {}
        self.process.kill()
        self.process.wait()
        timed = self.rows[getattr(self, "timed", 0):]
        if not timed:
            return {}
        return {"card_gib": max(row[0] for row in self.rows) / 1024, "sm_mhz": statistics.mean(row[1] for row in timed),
                "watt": statistics.mean(row[2] for row in timed)}


class Results:
    def __init__(self, path):
        self.path = path
        self.rows = [json.loads(line) for line in open(path)] if path.exists() else []

    def find(self, **key):
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def add(self, row):
        self.rows.append(row)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({name: value for name, value in row.items() if name != "step_seconds"}), flush=True)


class Comparison:
    def __init__(self, options):
        self.options = options
        self.shape = dict(shapes.SHAPES[options.shape])
        micro, total = self.shape.pop("batch")
        self.micro, self.total = options.micro_batch or micro, options.global_batch or total
        self.work = pathlib.Path(options.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = Results(self.work / "results.jsonl")
        reference = subprocess.run([options.plinth, "config", "reference"], capture_output=True, text=True, check=True).stdout
        self.device_key = [f"run.device={options.device}"] if "`run.device`" in reference else []
        self.data = self.make_data()

    # ---- both sides' input ----
    def make_data(self):
        """Drawn tokens in a data set of the model's vocabulary."""
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
                "optimizer.clip=1", "checkpoint.every=0", f"run.folder={run}", f"run.threads={o.threads}",
                "run.metrics.tensorboard=false", "run.hash_check_every=0", f"run.peak_flops={shapes.PEAK_FLOPS}",
                *self.device_key, *words, *o.set]

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
                process.kill()
                process.wait()
        return records

    def torch(self, how, kind, name, card=None, **task):
        o = self.options
        task = {"shape": self.shape, "device": o.device, "dtype": o.dtype, "how": how, "kind": kind, "data": str(self.data),
                "threads": o.threads, "seconds": o.seconds, "warmup": o.warmup, "lr": 3e-4, **task}
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
        run = self.work / "gate"
        command = self.plinth_command(run, shape, micro, total, "train.steps=1", "optimizer.lr=0", "optimizer.min_lr=0")
        with self.log("gate-weights") as log:
            if subprocess.run([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT).returncode:
                raise SystemExit(f"plinth failed:\n{pathlib.Path(log.name).read_text()[-3000:]}")
        curve = self.work / "gate-curve"
        command = self.plinth_command(curve, shape, micro, total, f"train.steps={o.gate_steps + 1}", f"optimizer.lr={GATE_RATE}")
        ours = self.plinth_until(command, curve, lambda records: len(records) >= o.gate_steps, "gate-plinth")[:o.gate_steps]
        theirs = self.torch(o.how.split(",")[0], "gate", "gate-torch", shape=shape, micro_batch=micro, global_batch=total,
                            weights=str(run), steps=o.gate_steps, lr=GATE_RATE)
        if theirs is None:
            raise SystemExit("the gate needs PyTorch")
        row = {"losses_plinth": [r["loss"] for r in ours], "losses_torch": theirs["losses"],
               "first_loss_error": abs(ours[0]["loss"] - theirs["losses"][0]),
               "norm_error": abs(ours[0]["grad_norm"] / theirs["norms"][0] - 1),
               "curve_error": max(abs(r["loss"] - loss) for r, loss in zip(ours, theirs["losses"])),
               "cosine": theirs["cosine"], "worst_cosine": theirs["worst_cosine"], "layers": shape["layers"]}
        first, norm, later, cosine = BOUNDS[o.dtype]
        row["passed"] = bool(row["first_loss_error"] <= first and row["norm_error"] <= norm and row["curve_error"] <= later
                             and row["cosine"] >= cosine)
        shutil.rmtree(run, ignore_errors=True)
        return row

    # ---- time ----
    def rates(self, times, micro):
        median, tokens = statistics.median(times), self.total * self.shape["tokens"]
        causal, full = shapes.flops_per_token(self.shape)
        row = {"micro_batch": micro, "global_batch": self.total, "ms": 1e3 * median, "tokens_per_second": tokens / median,
               "steps": len(times), "step_seconds": times, "tflops_causal": tokens / median * causal / 1e12}
        if len(times) > 2:
            deciles = statistics.quantiles(times, n=10)
            row.update(ms_p10=1e3 * deciles[0], ms_p90=1e3 * deciles[-1])
        if self.options.device == "cuda":
            row.update(mfu_causal=tokens / median * causal / shapes.PEAK_FLOPS, mfu_full=tokens / median * full / shapes.PEAK_FLOPS)
        return row

    def time_plinth(self):
        o, run, card = self.options, self.work / "timed", Card()
        command = self.plinth_command(run, self.shape, self.micro, self.total, "train.steps=1000000", "optimizer.lr=3e-4",
                                      f"train.recompute={o.recompute}")
        began, first = time.time(), []

        def is_enough(records):
            if records and not first:
                first.append(time.time() - began)
            if len(records) == 1 + o.warmup and not hasattr(card, "timed"):
                card.reset()
            timed = [record["step_seconds"] for record in records[1 + o.warmup:]]
            return len(timed) >= 5 and sum(timed) >= o.seconds

        records = self.plinth_until(command, run, is_enough, "plinth")
        row = self.rates([record["step_seconds"] for record in records[1 + o.warmup:]], self.micro)
        return {**row, "first_step_seconds": first[0], "loss": records[-1]["loss"], "recompute": o.recompute, "options": o.set,
                "allocator_gib": records[-1].get("memory_bytes", 0) / 2**30, **card.stop()}

    def time_torch(self, how):
        card = Card()
        micro = self.options.torch_micro_batch or self.micro
        said = self.torch(how, "time", f"torch-{how}", card, micro_batch=micro, global_batch=self.total)
        seen = card.stop()
        if said is None:
            return None
        return {**said, **self.rates(said.pop("step_seconds"), micro), **seen}

    def part(self, name, measure, **key):
        """Measured unless results.jsonl has it."""
        key = {"shape": self.options.shape, "part": name, "device": self.options.device, "dtype": self.options.dtype, **key}
        found = self.results.find(**key)
        if not found:
            row = measure()
            if row is None:
                return None
            self.results.add({**key, **row})
            found = [self.results.rows[-1]]
        return found[-1]

    def run(self):
        o = self.options
        parts = o.parts.split(",")
        if "gate" in parts:
            gate = self.part("gate", self.gate)
            if not gate["passed"]:
                raise SystemExit("gate: the two do not compute the same; nothing is timed")
        for turn in range(o.rounds):
            order = [("plinth", None)] if "plinth" in parts else []
            if "torch" in parts:
                order += [("torch", how) for how in o.how.split(",")]
            for side, how in order if turn % 2 else reversed(order):
                if side == "plinth":
                    self.part("plinth", self.time_plinth, micro_batch=self.micro, recompute=o.recompute, options=o.set, round=turn)
                else:
                    self.part("torch", lambda how=how: self.time_torch(how), how=how, round=turn,
                              micro_batch=o.torch_micro_batch or self.micro)
        self.table()

    def table(self):
        rows = [row for row in self.results.find(shape=self.options.shape, device=self.options.device, dtype=self.options.dtype)
                if row["part"] != "gate"]
        print(f"\n| {self.options.shape} {self.options.dtype} | micro-batch | tokens/s | ms/step (p10, p90) | MFU causal (full) | peak GiB | "
              "SM MHz | W | first step, s |\n|---|---|---|---|---|---|---|---|---|")
        for row in sorted(rows, key=lambda row: -row["tokens_per_second"]):
            name = "Plinth" if row["part"] == "plinth" else f"PyTorch {row['torch']} {row['how']}"
            mfu = f"{row['mfu_causal']:.1%} ({row['mfu_full']:.1%})" if "mfu_causal" in row else "-"
            print(f"| {name} | {row['micro_batch']} | {row['tokens_per_second']:.0f} | {row['ms']:.1f} ({row.get('ms_p10', 0):.1f}, "
                  f"{row.get('ms_p90', 0):.1f}) | {mfu} | {row.get('card_gib', row.get('allocator_gib', 0)):.1f} | "
                  f"{row.get('sm_mhz', 0):.0f} | {row.get('watt', 0):.0f} | {row['first_step_seconds']:.1f} |")
        best = {side: max((row["tokens_per_second"] for row in rows if row["part"] == side), default=None) for side in ("plinth", "torch")}
        if all(best.values()):
            print(f"\nratio {self.options.shape}: Plinth / best PyTorch = {best['plinth'] / best['torch']:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plinth", required=True)
    parser.add_argument("--shape", required=True, choices=[*shapes.SHAPES])
    parser.add_argument("--work", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--how", default="compiled")
    parser.add_argument("--parts", default="gate,torch,plinth")
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--torch-micro-batch", type=int)
    parser.add_argument("--global-batch", type=int)
    parser.add_argument("--gate-layers", type=int)
    parser.add_argument("--gate-steps", type=int, default=20)
    parser.add_argument("--recompute", default="none")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--set", action="append", default=[], help="one more key for Plinth")
    Comparison(parser.parse_args()).run()


if __name__ == "__main__":
    main()
