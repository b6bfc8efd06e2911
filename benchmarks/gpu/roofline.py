#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a training step should take on a card: operations over the rates of its units plus bytes over its bandwidth.

    benchmarks/gpu/roofline.py [--product 700] [--attention 400] [--copy 2.9]     rates of the card: TFLOP/s, TFLOP/s, TB/s
        [--fp8 1200 [--delayed]]    with 8-bit products in the blocks, TFLOP/s

The rates are those that gpu_benchmarks prints: of our product rows (the 8192 one is the best case), of attention forward and backward
together, and of a plain copy, of which 90 % are expected. The bytes are those of a step that recomputes nothing and whose kernels
read each input and write each output once. Prints tokens/s, utilisation and the parts."""
import argparse

import shapes

HALF, FULL = 2, 4


def bytes_per_token(shape):
    """Memory-bound kernels, forward and backward: elements of bf16 a token that they read and write."""
    D, F = shape["width"], shape["ffn_width"]
    gated = shape["activation"] == "swiglu"
    norm = 2 + 3                                            # forward x, y; backward dy, x, dx
    first = norm + 1                                        # of a block: and the gradient along the residual stream
    second = norm + 1 + 2                                   # and the residual sum before it: branch, sum
    last = 3                                                # x + branch; the gradient is the same tensor
    elements = D * (first + second + last)
    elements += F * (3 + 5) if gated else F * (2 + 3)       # activation: forward, backward
    if shape["positions"] == "rotary":                      # queries and keys, in place, both ways
        elements += 4 * D * (1 + shape["kv_heads"] / shape["heads"])
    if shape["qkv_bias"]:                                   # column sums of dy for the biases
        elements += 3 * D + D + F + D
    ends = 5 * D + norm * D                                 # embedding forward and backward, final norm
    logits = 3 * shape["vocab_size"]                        # cross-entropy: read; read and write gradients
    return HALF * (shape["layers"] * elements + ends + logits)


def fp8_bytes_per_token(shape, delayed):
    """Quantising what the products of a block meet: an input is read for its scale, read and written forward, transposed copy
    included, and so is a gradient. Delayed scales save the first reading."""
    D, F, K = shape["width"], shape["ffn_width"], shape["width"] // shape["heads"]
    hidden = 2 * F if shape["activation"] == "swiglu" else F
    inputs, outputs = D + D + D + F, D + 2 * shape["kv_heads"] * K + D + hidden + D
    return shape["layers"] * (inputs + outputs) * (HALF + 2 + (0 if delayed else HALF))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--product", type=float, default=700)
    parser.add_argument("--attention", type=float, default=400)
    parser.add_argument("--copy", type=float, default=2.9)
    parser.add_argument("--fp8", type=float, default=0, help="rate of 8-bit products; 0: none are")
    parser.add_argument("--delayed", action="store_true", help="scales of the steps before")
    options = parser.parse_args()
    print("| model | GFLOP/token | products, us/1k tokens | attention | memory-bound | optimizer | tokens/s | MFU causal (full) |")
    print("|---|---|---|---|---|---|---|---|")
    for name, shape in shapes.SHAPES.items():
        if name.startswith("tiny"):
            continue
        causal, full = shapes.flops_per_token(shape)
        weights = shapes.matmul_parameters(shape)
        attention = causal - 6 * weights
        head = shape["vocab_size"] * shape["width"]
        blocks = 6 * (weights - head) / (options.fp8 or options.product) / 1e12
        more = fp8_bytes_per_token(shape, options.delayed) if options.fp8 else 0
        step_tokens = shape["batch"][1] * shape["tokens"]
        parts = [6 * head / options.product / 1e12 + blocks, attention * 3.5 / 3 / options.attention / 1e12,  # scores once more
                 (bytes_per_token(shape) + more) / (0.9 * options.copy * 1e12),
                 # fp32 w, m, v read and written, gradient read, cleared and squared, bf16 weights written
                 weights * (9 * FULL + HALF) / (0.9 * options.copy * 1e12) / step_tokens]
        rate = 1 / sum(parts)
        cells = " | ".join(f"{1e9 * part:.0f}" for part in parts)
        print(f"| {name} | {causal / 1e9:.3f} | {cells} | {rate:.0f} | {rate * causal / shapes.PEAK_FLOPS:.1%} "
              f"({rate * full / shapes.PEAK_FLOPS:.1%}) |")


if __name__ == "__main__":
    main()
