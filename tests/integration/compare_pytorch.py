#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu/compare_pytorch.py on the CPU: its gate finds the two models equal, it times both, and what it has measured it does
not measure again; a Plinth that computes something else (another epsilon, another order of samples) does not pass the gate.

    tests/integration/compare_pytorch.py PLINTH

Skipped (77) where this interpreter has no PyTorch."""
import json
import pathlib
import subprocess
import sys
import tempfile

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "benchmarks/gpu/compare_pytorch.py"


def compare(plinth, work, shape, *words):
    command = [sys.executable, "-B", SCRIPT, "--plinth", plinth, "--work", work, "--shape", shape, "--device", "cpu", "--dtype", "fp32",
               "--how", "eager", "--seconds", "0.3", "--gate-steps", "6", *words]
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def expect(holds, what, said):
    if not holds:
        sys.exit(f"FAILED: {what}\n{said[-3000:]}")


def main():
    try:
        import numpy  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        print(f"SKIPPED: {error}")
        sys.exit(77)
    plinth = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="plinth-compare-") as folder:
        work = pathlib.Path(folder) / "work"
        for shape in ("tiny-gpt", "tiny-llama"):
            code, said = compare(plinth, work, shape)
            expect(code == 0 and f"ratio {shape}: Plinth / best PyTorch" in said, f"{shape}: no ratio", said)
        rows = [json.loads(line) for line in open(work / "results.jsonl")]
        expect([row["part"] for row in rows] == ["gate", "torch", "plinth"] * 2, "other parts than gate, torch, plinth", str(rows))
        expect(all(row["curve_error"] < 1e-4 for row in rows if row["part"] == "gate"), "losses differ", str(rows[0]))
        code, said = compare(plinth, work, "tiny-gpt")
        expect(code == 0 and len(open(work / "results.jsonl").readlines()) == len(rows), "a part was measured again", said)
        for mutant in ("model.norm_eps=1e-2", "data.seed=4321", "train.seed=9"):
            other = pathlib.Path(folder) / mutant
            code, said = compare(plinth, other, "tiny-gpt", "--parts", "gate", "--set", mutant)
            if mutant.startswith("train.seed"):  # other weights, but both sides have them
                expect(code == 0, f"{mutant} fails the gate", said)
            else:
                expect(code != 0 and "do not compute the same" in said, f"{mutant} passes the gate", said)
    print("compare_pytorch compares")


if __name__ == "__main__":
    main()
