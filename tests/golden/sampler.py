#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second implementation of the sampler (docs/data.md), with exact fractions and no cleverness.

Prints the golden vectors of tests/unit/data/sampler.cpp:  python3 sampler.py > sampler.txt
"""
from fractions import Fraction

WORD = (1 << 64) - 1
BLOCK = 65536


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def hash_of(seed, purpose, source, epoch):
    return mix((mix((mix((mix(seed) + purpose) & WORD) + source) & WORD) + epoch) & WORD)


def fraction_of(seed, name):
    text = 0xCBF29CE484222325
    for byte in name.encode():
        text = ((text ^ byte) * 0x100000001B3) & WORD
    return Fraction(mix(mix(seed) ^ text) % (1 << 24), 1 << 24)


def permuted(index, size, key):
    bits = max(8, (size - 1).bit_length())
    half = (bits + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for r in range(8):
            left, right = right, left ^ (mix(right ^ mix((key + r) & WORD)) & mask)
        index = left << half | right
        if index < size:
            return index


class Sampler:
    def __init__(self, seed, window, sources):
        """sources: (name, units, is_examples) in the order of their numbers."""
        self.seed, self.window, self.sources = seed, window, sources
        self.segments = []

    def add_segment(self, start, shares):
        base = [0] * len(self.sources)
        for i in range(start):
            base[self.entry(i)[0]] += 1
        order = sorted(
            (Fraction(k + fraction_of(self.seed, name)) / a, s, k)
            for s, ((name, _, _), a) in enumerate(zip(self.sources, shares))
            for k in range(a))
        self.segments.append((start, base, shares, [(s, k) for _, s, k in order]))

    def entry(self, sample):
        start, base, shares, table = [g for g in self.segments if g[0] <= sample][-1]
        s, k = table[(sample - start) % BLOCK]
        return s, base[s] + (sample - start) // BLOCK * shares[s] + k

    def locate(self, sample):
        s, ordinal = self.entry(sample)
        _, units, is_examples = self.sources[s]
        size = units if is_examples else units // self.window
        epoch = ordinal // size
        window = permuted(ordinal % size, size, hash_of(self.seed, 1, s, epoch))
        if is_examples:
            return s, ordinal, epoch, window
        phase = hash_of(self.seed, 2, s, epoch) % self.window
        return s, ordinal, epoch, (phase + window * self.window) % units


def main():
    print("# permuted: size key, then the images of 0, 1, 2 and of the last index")
    for size, key in ((1, 0), (2, 7), (10, 7), (255, 1), (256, 1), (257, 1), (100003, 42),
                      ((1 << 40) + 1, 99)):
        indices = [i for i in (0, 1, 2) if i < size] + [size - 1]
        print("permuted", size, key, *(f"{i}:{permuted(i, size, key)}" for i in indices))
    print("# sample: number, source, ordinal, epoch, unit")
    sampler = Sampler(1234, 128, [("code", 1_000_003, False), ("prose", 70_000, False),
                                  ("tasks", 500, True)])
    sampler.add_segment(0, [40000, 25000, 536])
    sampler.add_segment(100_000, [1, 65534, 1])
    for i in (0, 1, 2, 3, 100, 65535, 65536, 99_999, 100_000, 100_001, 165_535, 165_536, 10**9,
              10**15):
        print("sample", i, *sampler.locate(i))


main()
