#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The bag-of-words baseline for a classification task: naive Bayes over the words present, with add-one smoothing.

    benchmarks/finetune/naive_bayes.py FOLDER      FOLDER holds train.tsv, dev.tsv and test.tsv: LABEL <tab> TEXT

Words are lower-case and separated by spaces; a word counts once a text, however often it occurs there (for sentiment its
presence says more than its number), and one that the training text lacks is left out. Standard library only.
"""
import argparse
import math
import os
from collections import Counter


def read(path):
    """[(label, words, each once)]; a line that is not LABEL <tab> TEXT ends the program."""
    examples = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            label, tab, text = line.rstrip("\n").partition("\t")
            if not tab or not label.strip().isdigit():
                raise SystemExit(f"{path}:{number}: expected LABEL <tab> TEXT with an integer label")
            examples.append((int(label), sorted(set(text.lower().split()))))
    return examples


def train(examples):
    """(log prior of each label, {label: {word: log probability}})"""
    labels = Counter(label for label, _ in examples)
    words = {label: Counter() for label in labels}
    for label, text in examples:
        words[label].update(text)
    vocabulary = set().union(*words.values())
    prior = {label: math.log(count / len(examples)) for label, count in labels.items()}
    likelihood = {}
    for label, counts in words.items():
        total = sum(counts.values()) + len(vocabulary)
        likelihood[label] = {word: math.log((counts[word] + 1) / total) for word in vocabulary}
    return prior, likelihood


def classify(model, text):
    prior, likelihood = model
    return max(sorted(prior), key=lambda label: prior[label] + sum(likelihood[label].get(word, 0.0) for word in text))


def scores(model, examples):
    """Accuracy and macro F1, in percent."""
    pairs = Counter((label, classify(model, text)) for label, text in examples)
    f1 = []
    for label in model[0]:
        hits = pairs[label, label]
        guessed = sum(n for (_, guess), n in pairs.items() if guess == label)
        true = sum(n for (truth, _), n in pairs.items() if truth == label)
        f1.append(2.0 * hits / (guessed + true) if guessed + true else 0.0)
    accuracy = sum(n for (truth, guess), n in pairs.items() if truth == guess) / len(examples)
    return 100.0 * accuracy, 100.0 * sum(f1) / len(f1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    model = train(read(os.path.join(folder, "train.tsv")))
    for split in ("dev", "test"):
        examples = read(os.path.join(folder, split + ".tsv"))
        accuracy, f1 = scores(model, examples)
        print(f"{split:5} {len(examples):6} examples   accuracy {accuracy:.1f} %   macro F1 {f1:.1f} %")


if __name__ == "__main__":
    main()
