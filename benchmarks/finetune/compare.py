#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of sst2.sh: pretrained against scratch against naive Bayes, as Markdown.

    benchmarks/finetune/compare.py TASK WORK SEED...

WORK holds pretrained.SEED.json and scratch.SEED.json as `plinth evaluate` wrote them: dev first, then test. Standard library only.
"""
import argparse
import json
import os
import statistics

import naive_bayes

KINDS = ("pretrained", "scratch")
SPLITS = ("dev", "test")


def scores(work, kind, seed):
    """Accuracy on each split, in percent."""
    with open(os.path.join(work, f"{kind}.{seed}.json"), encoding="utf-8") as file:
        results = json.load(file)["results"]
    if len(results) != len(SPLITS):
        raise SystemExit(f"{file.name}: {len(results)} results, expected one of dev and one of test")
    return [100.0 * result["accuracy"] for result in results]


def baseline(task):
    """Accuracy of naive Bayes on each split, in percent."""
    model = naive_bayes.train(naive_bayes.read(os.path.join(task, "train.tsv")))
    return [naive_bayes.scores(model, naive_bayes.read(os.path.join(task, split + ".tsv")))[0] for split in SPLITS]


def row(name, cells):
    print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("work")
    parser.add_argument("seeds", nargs="+")
    options = parser.parse_args()

    # One column per split and kind; the differences are per seed.
    rows = []
    for seed in options.seeds:
        pretrained, scratch = (scores(options.work, kind, seed) for kind in KINDS)
        rows.append([value for split in zip(pretrained, scratch) for value in (*split, split[0] - split[1])])
    columns = list(zip(*rows))
    print("| accuracy, % | " + " | ".join(f"{s} {k}" for s in SPLITS for k in (*KINDS, "difference")) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for seed, cells in zip(options.seeds, rows):
        row(f"seed {seed}", cells)
    means = [statistics.mean(column) for column in columns]
    row("mean", means)
    if len(rows) > 1:
        row("standard deviation", [statistics.stdev(column) for column in columns])

    print()
    for split, bayes, pretrained, scratch in zip(SPLITS, baseline(options.task), means[0::3], means[1::3]):
        print(f"naive Bayes, {split}: {bayes:.1f} %; pretrained is {pretrained - bayes:+.1f} points from it, "
              f"scratch {scratch - bayes:+.1f}")


if __name__ == "__main__":
    main()
