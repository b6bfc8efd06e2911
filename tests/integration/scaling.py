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

# What a process takes beside its tensors after it has started: libraries' own memory, MPI's buffers, stacks of threads.
BESIDE_GIB = 64 / 1024
ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == 0, f"{command[0]} ended with {done.returncode}", done.stdout)
    return done.stdout


def expect(holds, what, said):
    if not holds:
        sys.exit(f"FAILED: {what}\n{said[-3000:]}")


def scale(plinth, folder, mode, layouts):
    """Rows, table and output of scale.py."""
    out = pathlib.Path(folder, mode)
    said = run(sys.executable, "-B", ROOT / "benchmarks/scaling/scale.py", "--plinth", plinth, "--config",
               ROOT / "configs/gpt/tiny.yaml", "--out", out, "--mode", mode, "--steps", 4, "--warm-up", 1, "--layouts",
               "; ".join(layouts), f"data.sources=[{{path: {folder}/text}}]", "optimizer.warmup_steps=0")
    written = json.loads((out / "scaling.json").read_text())
    expect(written["mode"] == mode and [row["layout"] for row in written["rows"]] == layouts, "other rows", said)
    table = (out / "scaling.md").read_text()
    expect(table.startswith(f"# {mode} scaling") and all(f"\n| {layout} |" in table for layout in layouts), "no table", table)
    expect((out / "scaling.svg").read_text().startswith("<svg"), "no picture", said)
    return written["rows"], said


def main():
    plinth = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="plinth-scaling-") as folder:
        run(plinth, "data", "prepare", f"prepare.inputs=[{ROOT}/docs]", f"prepare.output={folder}/text", "prepare.held_out=0")
        rows, said = scale(plinth, folder, "strong", ["data=1", "data=2 zero=1", "tensor=2", "context=2",
                                                "pipeline=2 schedule=1f1b", "data=2 pipeline=2 schedule=1f1b"])
        expect([row["ranks"] for row in rows] == [1, 2, 2, 2, 2, 4], "other layouts", said)
        for row in rows:
            for key in ("tokens_per_second", "memory_gib", "planned_gib", "start_gib", "resident_gib", "efficiency"):
                expect(row[key] and row[key] > 0, f"{row['layout']}: no {key}", said)
            expect(row["resident_gib"] > row["start_gib"] > 0, "a process that does not grow", said)
            # With data ranks the plan has all exchanges under way that ever can be. With context ranks it also has the communicator's
            # copy of the sum of gradients, which is more than a tiny model's activations and no allocator's.
            ratio, most = row["planned_gib"] / row["memory_gib"], 1.09 if "data=2" in row["layout"] else 1.05
            expect("context" in row["layout"] or 0.95 <= ratio <= most, f"{row['layout']}: planned {ratio:.3f} of what it holds", said)
            expect(row["beside_gib"] < BESIDE_GIB, f"{row['layout']}: {row['beside_gib']} GiB beside what a rank holds", said)
            expect(row["global_batch"] == 8, "strong scaling keeps the batch", said)
        expect(rows[0]["bubble"] == 0 and rows[-1]["bubble"] > 0, "the bubble of a pipeline is not found in the plan", said)
        expect(rows[-1]["communication"] and rows[-1]["communication"] > 0, "ranks that do not wait", said)
        rows, said = scale(plinth, folder, "weak", ["data=1", "data=2 zero=2"])
        expect([row["global_batch"] for row in rows] == [8, 16], "weak scaling gives each data rank the batch of one", said)
        expect(rows[0]["efficiency"] == 1 and rows[1]["efficiency"] > 0, "no efficiency", said)
        expect(abs(rows[1]["efficiency"] * 2 * rows[0]["tokens_per_second"] / rows[1]["tokens_per_second"] - 1) < 1e-6,
               "efficiency is not tokens a second and rank", said)
    print("scale.py fills its table")


if __name__ == "__main__":
    main()
