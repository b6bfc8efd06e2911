#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The plan's memory beside what a run took at most, and the largest model that trains on a card.

    benchmarks/gpu/memory.py --plinth PROGRAM --work FOLDER [--results FILE] [--until SECONDS] [--checkpoints FOLDER] [NAME]...

NAME is one of CONFIGS, `largest` or `largest-offload`; all of CONFIGS by default. Of each: what `--dry-run` foretells for tensors,
and with scratch and the estimate of what CUDA and its libraries take; then three steps of two micro-batches, and the most that the
program's allocators handed out (memory_bytes of metrics.jsonl) and that nvidia-smi saw, less what the card held before. A line of
--results each, not repeated for the same build. Exit 1 if one is off by more than 5 %, 75 if the time is over before all are done.

`largest` adds blocks of 8B's width (sequences of 4,096 tokens, moments in bf16, full recompute) as long as the plan says that they
fit, trains that model, and one of a block less while memory runs out. `largest-offload` keeps states and activations on the host,
up to --host-gib (default 85 % of what is free)."""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import processes
import shapes
from card import Card
from results import Results, TimeIsOver

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALLOWED = 0.05
OUT_OF_MEMORY = 5  # exit code: docs/operations.md
# {name: (shape, micro-batch, keys)}
CONFIGS = {
    "124m": ("gpt2-124m", 32, ["train.recompute=none"]),
    "1558m": ("gpt2-1558m", 16, ["train.recompute=none"]),
    "1558m-selective": ("gpt2-1558m", 16, ["train.recompute=selective"]),
    "1558m-recomputed": ("gpt2-1558m", 16, ["train.recompute=full"]),
    "1b-fp8": ("llama-1b", 8, ["train.recompute=none", "train.fp8=current"]),
    "8b-8layers-offloaded": ("llama-8b-8layers", 2, ["train.recompute=none", "optimizer.offload=states"]),
    "8b-16layers-activations-offloaded": ("llama-8b-16layers", 4, ["train.recompute=full", "train.offload_activations=true"]),
    "8b-bf16-moments": ("llama-8b", 1, ["train.recompute=norms", "optimizer.moments=bf16"]),
    "tiny": ("tiny-gpt", 2, ["train.recompute=none"]),
    "tiny-offloaded": ("tiny-llama", 2, ["train.recompute=full", "optimizer.offload=states", "train.offload_activations=true"]),
}
LARGEST = {
    "largest": ["train.recompute=full", "optimizer.moments=bf16"],
    "largest-offload": ["train.recompute=full", "optimizer.moments=bf16", "optimizer.offload=states", "train.offload_activations=true"],
}
GIB = {"MiB": 1 / 1024, "GiB": 1.0}


def plan_of(text):
    """{gpu, scratch, host, own, fits} in GiB from what --dry-run prints; on the CPU `gpu` is the sum of a rank, `scratch` and `own` 0.
    Scratch does not come from the allocator whose peak metrics.jsonl has."""
    found = re.search(r"^# memory a rank +([\d.]+) (MiB|GiB)(?: of its GPU .*? and ([\d.]+) (MiB|GiB) of the host)?", text, re.M)
    if not found:
        raise SystemExit(f"memory: --dry-run says nothing of memory:\n{text[-2000:]}")
    scratch = re.search(r"^# memory a rank .*scratch ([\d.]+) (MiB|GiB)", text, re.M)
    own = re.search(r"libraries take about ([\d.]+) (MiB|GiB)", text)
    return {"gpu": float(found[1]) * GIB[found[2]], "scratch": float(scratch[1]) * GIB[scratch[2]] if scratch else 0.0,
            "host": float(found[3]) * GIB[found[4]] if found[3] else 0.0, "own": float(own[1]) * GIB[own[2]] if own else 0.0, "fits": "# does not fit" not in text}


class Measurement:
    def __init__(self, o):
        self.o, self.work = o, pathlib.Path(o.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = Results(o.results or self.work / "results.jsonl", **json.loads(o.fields))
        said = subprocess.run([o.plinth, "--version"], capture_output=True, text=True, check=True).stdout
        self.build = next((line.split(None, 1)[1] for line in said.splitlines() if line.startswith("plinth ")), said.strip())
        self.data = self.work / "data"
        if not (self.data / "manifest.json").exists():
            text = self.work / "text.txt"
            text.write_text("Memory does not depend on what is learned.\n" * 20000)
            shutil.rmtree(self.data, ignore_errors=True)
            subprocess.run([o.plinth, "data", "prepare", f"prepare.inputs=[{text}]", f"prepare.output={self.data}", "prepare.held_out=0"],
                           check=True, stdout=subprocess.DEVNULL)

    def command(self, shape, micro, keys, run):
        o = self.o
        config = "llama/llama_1b.yaml" if shape["positions"] == "rotary" else "gpt/gpt2_124m.yaml"
        # The run ends by being killed: it needs room for a checkpoint that it never writes.
        folder = pathlib.Path(o.checkpoints or run) / "none"
        return [o.plinth, "pretrain", ROOT / "configs" / config, "~train.tokens", "~model.rope_scaling", "model.vocab_multiple=1",
                *shapes.model_options(shape), f"data.sources=[{{path: {self.data}}}]", f"data.sequence_length={shape['tokens']}",
                f"train.micro_batch={micro}", f"train.global_batch={2 * micro}", "train.dtype=bf16", "train.eval_every=0", "train.lanes=1",
                "train.steps=1000000", "optimizer.warmup_steps=0", "optimizer.lr=1e-5", "optimizer.min_lr=1e-5", "checkpoint.every=0",
                "run.metrics.tensorboard=false", "run.hash_check_every=0", f"run.folder={run}", f"checkpoint.folder={folder}",
                f"run.device={o.device}", *keys, *o.set]

    def foretold(self, shape, micro, keys):
        command = [*self.command(shape, micro, keys, self.work / "planned"), "--dry-run"]
        said = subprocess.run([str(word) for word in command], text=True, capture_output=True)
        if said.returncode:
            raise SystemExit(f"memory: --dry-run ended with {said.returncode}: {said.stderr[-1500:]}")
        return plan_of(said.stdout)

    def run(self, shape, micro, keys, steps=3):
        """(exit code or None if it was ended, step records, what the card said)"""
        run = self.work / "run"
        shutil.rmtree(run, ignore_errors=True)
        card, rows, metrics = Card(), [], run / "metrics.jsonl"
        with open(self.work / "run.log", "w") as log:
            process = subprocess.Popen([str(word) for word in self.command(shape, micro, keys, run)], stdout=log, stderr=log)
        limit = time.time() + self.o.limit
        while process.poll() is None and len(rows) < steps and time.time() < limit:
            time.sleep(0.05)
            if metrics.exists():
                whole = metrics.read_text().rpartition("\n")[0]
                rows = [row for row in map(json.loads, whole.splitlines()) if row["kind"] == "step"]
        code = process.poll()
        processes.end(process)
        return code, rows, card.stop()

    def measure(self, name, shape, micro, keys):
        """The result's row; None if memory ran out."""
        plan = self.foretold(shape, micro, keys)
        code, rows, seen = self.run(shape, micro, keys)
        if code == OUT_OF_MEMORY and "memory" in (self.work / "run.log").read_text():
            return None
        if not rows:
            raise SystemExit(f"memory: {name}: no step ({code}):\n{(self.work / 'run.log').read_text()[-1500:]}")
        row = {"part": "memory", "name": name, "build": self.build, "device": self.o.device, "keys": " ".join(keys), "micro_batch": micro,
               "parameters": self.parameters(shape), "layers": shape["layers"], "foretold_gib": plan["gpu"] - plan["scratch"], "host_gib": plan["host"],
               "measured_gib": rows[-1]["memory_bytes"] / 2**30, "tokens_per_second": max(record["tokens_per_second"] for record in rows)}
        if self.o.device == "cuda" and "card_gib" in seen:
            row.update(foretold_card_gib=plan["gpu"] + plan["own"], card_gib=seen["card_gib"] - seen["idle_gib"])
        return self.results.add(row)

    def parameters(self, shape):
        """Weights of products and the table of an untied head's other end; norms and biases are left out."""
        return shapes.matmul_parameters(shape) + (0 if shape["tied_head"] else shape["vocab_size"] * shape["width"])

    def largest(self, name, keys):
        """Bisects the number of blocks by the plan, then trains, one block less each time that memory runs out."""
        host = self.o.host_gib or 0.85 * free_host_gib()

        def shape_of(layers):
            return shapes.llama(layers, 4096, 32, 8, 14336, 4096, tied_head=False)

        def fits(layers):
            plan = self.foretold(shape_of(layers), 1, keys)
            return plan["fits"] and plan["host"] <= host

        low, high = 1, 256
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        for layers in range(low, max(0, low - 4), -1):
            print(f"{name}: {layers} layers", flush=True)
            row = self.measure(name, shape_of(layers), 1, keys)
            if row:
                return row
        raise SystemExit(f"memory: {name}: {low} layers should fit, and {low - 3} did not")


def free_host_gib():
    found = re.search(r"^MemAvailable: +(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plinth", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--results")
    parser.add_argument("--fields", default="{}")
    parser.add_argument("--until", type=float, default=0)
    parser.add_argument("--checkpoints")
    parser.add_argument("--limit", type=float, default=180, help="seconds of one run")
    parser.add_argument("--host-gib", type=float)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("names", nargs="*", metavar="NAME")
    o = parser.parse_args()
    names = o.names or [name for name in CONFIGS if not name.startswith("tiny")]
    if unknown := [name for name in names if name not in CONFIGS and name not in LARGEST]:
        parser.error(f"no such configuration: {', '.join(unknown)}; there are {', '.join([*CONFIGS, *LARGEST])}")
    measurement, off = Measurement(o), []
    try:
        for name in names:
            found = measurement.results.find(part="memory", name=name, build=measurement.build, device=o.device)
            row = found[-1] if found else None
            if not row:
                expected = 120 if name in LARGEST else 60
                if o.device == "cuda" and o.until and time.time() + expected > o.until:
                    raise TimeIsOver(f"{name} would not end in the {o.until - time.time():.0f} s that are left")
                if name in LARGEST:
                    row = measurement.largest(name, LARGEST[name])
                else:
                    shape, micro, keys = CONFIGS[name]
                    row = measurement.measure(name, shapes.SHAPES[shape], micro, keys)
            if row is None:
                off.append(f"{name}: memory ran out, though the plan says that it fits")
                continue
            for kind, foretold, measured in (("tensors", row["foretold_gib"], row["measured_gib"]),
                                             ("the card", row.get("foretold_card_gib"), row.get("card_gib"))):
                if measured and abs(measured / foretold - 1) > ALLOWED:
                    off.append(f"{name}: {kind}: {foretold:.2f} GiB foretold, {measured:.2f} measured")
    except TimeIsOver as error:
        print(f"memory: {error}")
        sys.exit(75)
    for line in off:
        print(f"memory: more than {ALLOWED:.0%} off: {line}")
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    main()
