#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training steps side by side on the CPU: Plinth, PyTorch, and the GEMM library alone, on one machine in one run.

    benchmarks/step/compare.py --plinth build/release/plinth --gemm build/bench/benchmarks/gemm_only --data FOLDER
                               [--python PYTHON] [--compile] [--llmc FOLDER] [--shapes A,B] [--dtypes fp32,bf16] [--rounds 2] [--threads 2]

FOLDER holds shards of `plinth data prepare`; PYTHON is an interpreter with PyTorch (without it, no peer is run). In the --llmc
folder stands llm.c's CPU program train_gpt2 with the model and token files that it reads; it knows one shape. The programs take
turns, `rounds` times, so that a slow minute of the machine meets all of them; each gives the median of its steps, and the row shows
the best round. Peak memory is that of the process, Plinth's final checkpoint included. Prints a Markdown table.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPES = {  # layers, width, heads, vocabulary, batch, tokens, timed steps
    "124m-4x64": (12, 768, 12, 50257, 4, 64, 6),
    "124m-1x1024": (12, 768, 12, 50257, 1, 1024, 3),
    "124m-4x1024": (12, 768, 12, 50257, 4, 1024, 2),
    "small-16x256": (6, 384, 6, 257, 16, 256, 6),
}


def run(command):
    """Standard output and peak memory in GiB."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}:\n{said}{errors}")
    return said, usage.ru_maxrss / 2**20


def plinth(options, shape, dtype):
    layers, width, heads, vocab, batch, tokens, steps = shape
    with tempfile.TemporaryDirectory(prefix="plinth-step-") as folder:
        _, peak = run([options.plinth, "pretrain", ROOT / "configs/gpt/gpt2_124m.yaml", "~train.tokens",
                       f"data.sources=[{{path: {options.data}}}]", f"data.sequence_length={tokens}", "data.verify=false",
                       f"model.layers={layers}", f"model.width={width}", f"model.heads={heads}", f"model.vocab_size={vocab}",
                       f"train.micro_batch={batch}", f"train.global_batch={batch}", "train.lanes=1", f"train.dtype={dtype}",
                       f"train.steps={steps + 2}", "train.eval_every=0", "optimizer.warmup_steps=1", "checkpoint.every=0",
                       f"run.folder={folder}/run", f"run.threads={options.threads}", "run.metrics.tensorboard=false"])
        records = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl")]
    times = [record["step_seconds"] for record in records if record["kind"] == "step"][2:]
    return 1e3 * statistics.median(times), peak


def torch(options, shape, dtype, compiled):
    layers, width, heads, vocab, batch, tokens, steps = shape
    said, peak = run([options.python, ROOT / "benchmarks/step/torch_gpt2.py", "--batch", batch, "--tokens", tokens,
                      "--layers", layers, "--width", width, "--heads", heads, "--vocab", vocab, "--dtype", dtype,
                      "--threads", options.threads, "--steps", steps, *(["--compile"] if compiled else [])])
    return float(said.split("|")[4]), peak


def gemm(options, shape, dtype):
    layers, width, _, vocab, batch, tokens, steps = shape
    said, peak = run([options.gemm, batch, tokens, layers, width, vocab, dtype, options.threads, steps])
    return float(said), peak


def llmc(options, shape, dtype):
    """llm.c knows B=4, T=64 in fp32; its run goes on for 40 steps and is ended after those that are timed."""
    if shape != SHAPES["124m-4x64"] or dtype != "fp32":
        return float("inf"), 0.0
    process = subprocess.Popen(["stdbuf", "-oL", "./train_gpt2"], cwd=options.llmc, stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, OMP_NUM_THREADS=str(options.threads)))
    times = []
    for line in process.stdout:
        if match := re.search(r"^step \d+: .*took ([\d.]+) ms", line):
            times.append(float(match[1]))
            if len(times) == 4:
                break
    process.kill()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return statistics.median(times[1:]), usage.ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plinth", required=True)
    parser.add_argument("--gemm", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--python")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--llmc")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    runners = {"Plinth": plinth, "GEMM library alone": gemm}
    if options.python:
        runners["PyTorch eager"] = lambda *case: torch(*case, compiled=False)
        if options.compile:
            runners["PyTorch compiled"] = lambda *case: torch(*case, compiled=True)
    if options.llmc:
        runners["llm.c"] = llmc
    print(f"| shape | {' | '.join(f'{name}, tok/s' for name in runners)} | of GEMM alone | of the best PyTorch | peak GiB |")
    print("|---|" + "---|" * (len(runners) + 3))
    for name in options.shapes.split(","):
        shape = SHAPES[name]
        for dtype in options.dtypes.split(","):
            best, most = {}, {}
            for _ in range(options.rounds):
                for runner, measure in runners.items():
                    ms, peak = measure(options, shape, dtype)
                    best[runner] = min(best.get(runner, ms), ms)
                    most[runner] = max(most.get(runner, peak), peak)
            rates = {runner: shape[4] * shape[5] / ms * 1e3 for runner, ms in best.items()}
            peers = [rate for runner, rate in rates.items() if runner.startswith("PyTorch")]
            against = f"{rates['Plinth'] / max(peers):.2f}" if peers else "-"
            peaks = ", ".join(f"{runner.split()[-1]} {peak:.2f}" for runner, peak in most.items() if runner[0] == "P")
            print(f"| {name} {dtype} | {' | '.join(f'{rate:.0f}' if rate else '-' for rate in rates.values())} | "
                  f"{rates['Plinth'] / rates['GEMM library alone']:.0%} | "
                  f"{against} | {peaks} |", flush=True)


if __name__ == "__main__":
    main()
