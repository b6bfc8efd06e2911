#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""8-bit floats as PyTorch has them, beside this script: the value of each code, and what floats round to.

    tests/golden/fp8/make_golden.py        needs PyTorch; made with 2.15

`value CODE BITS`: the code's value, as the bits of an fp32. `rounds CODE BITS`: the code of an fp32 that the format holds
in range; PyTorch rounds to the nearest, ties to even. Floats are the midpoints between neighbours, the floats around them, and
random ones. All hexadecimal."""
import pathlib
import random
import struct

import torch

FORMATS = {"e4m3": (torch.float8_e4m3fn, 448.0), "e5m2": (torch.float8_e5m2, 57344.0)}


def bits_of(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def float_of(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def main():
    rng = random.Random(8)
    for name, (dtype, largest) in FORMATS.items():
        codes = torch.arange(256, dtype=torch.uint8)
        values = codes.view(dtype).to(torch.float32).tolist()
        floats = []
        finite = sorted(v for v in values if 0 <= v <= largest)
        for low, high in zip(finite, finite[1:]):
            middle = bits_of((low + high) / 2)
            floats += [float_of(middle + step) for step in (-1, 0, 1) if middle + step >= 0]
        floats += [rng.choice((-1, 1)) * 2 ** rng.uniform(-20, 8.8 if name == "e4m3" else 15.8) for _ in range(2000)]
        floats = [float_of(bits_of(value)) for value in floats]
        rounded = torch.tensor(floats, dtype=torch.float32).to(dtype).view(torch.uint8).tolist()
        with open(pathlib.Path(__file__).parent / f"{name}.txt", "w") as out:
            for code, value in enumerate(values):
                out.write(f"value {code:02x} {bits_of(value):08x}\n")
            for value, code in zip(floats, rounded):
                if abs(value) <= largest:
                    out.write(f"rounds {code:02x} {bits_of(value):08x}\n")


if __name__ == "__main__":
    main()
