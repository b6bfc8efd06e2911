#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/scaling/scale.py over two layouts of a tiny model: it finds what the program prints and logs by name, so that a key that
is renamed there would leave holes in its table.

    tests/integration/scaling.py PLINTH"""
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == 0, f"{command[0]} ended with {done.returncode}", done.stdout)
    return done.stdout


def expect(holds, what, said):
    if not holds:
        sys.exit(f"FAILED: {what}\n{said[-3000:]}")


def main():
    plinth = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="plinth-scaling-") as folder:
        run(plinth, "data", "prepare", f"prepare.inputs=[{ROOT}/docs]", f"prepare.output={folder}/text", "prepare.held_out=0")
        said = run(sys.executable, "-B", ROOT / "benchmarks/scaling/scale.py", "--plinth", plinth, "--config",
                   ROOT / "configs/gpt/tiny.yaml", "--out", f"{folder}/out", "--steps", 4, "--warm-up", 1, "--layouts",
                   "data=1; data=2 pipeline=2 schedule=1f1b", f"data.sources=[{{path: {folder}/text}}]", "optimizer.warmup_steps=0")
        out = pathlib.Path(folder, "out")
        rows = json.loads((out / "scaling.json").read_text())["rows"]
        expect([row["ranks"] for row in rows] == [1, 4], "other layouts", said)
        for row in rows:
            for key in ("tokens_per_second", "memory_gib", "planned_gib", "resident_gib", "efficiency"):
                expect(row[key] and row[key] > 0, f"{row['layout']}: no {key}", said)
            expect(row["resident_gib"] > row["memory_gib"], "a process smaller than what its allocator holds", said)
        expect(rows[0]["bubble"] == 0 and rows[1]["bubble"] > 0, "the bubble of a pipeline is not found in the plan", said)
        expect(rows[1]["communication"] and rows[1]["communication"] > 0, "ranks that do not wait", said)
        table = (out / "scaling.md").read_text()
        expect(table.count("\n| data=") == 2 and (out / "scaling.svg").read_text().startswith("<svg"), "no table, no picture", table)
    print("scale.py fills its table")


if __name__ == "__main__":
    main()
