#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a training step should take on a card, by class of kernel: operations over the rates of its units, bytes over its bandwidth.

    benchmarks/gpu/roofline.py [--card h200|h100] [--kernels seen|bar] [--fp8 1200 [--delayed]] [--shape NAME]...
        [--recompute norms|selective|full]
        [--copy 4.3] [--product 650] [--attention 255]     rates in place of those below: TB/s, TFLOP/s, TFLOP/s

Products and attention run at the rates that gpu_benchmarks saw on an H100 (benchmarks/RESULTS.md), which an H200 shares: it has the
same multiprocessors and the same power. --kernels: memory-bound kernels at the share of a plain copy that each was seen at, or all
at 90 % of it, the bar. Bytes are those of a step whose kernels read each input and write each output once; with --recompute what
that policy of train.recompute makes again comes to them, and its operations to those of products and attention (utilisation counts
none of that). With --fp8 the products of the blocks have 8-bit operands, at that rate. --without NAME leaves a kernel out, as if it were
fused into its neighbour. --finished-apart: weight gradients of later micro-batches in kernels of their own, as when the H100 was
measured and as reproducible runs have them. Prints tokens/s, utilisation and the milliseconds of a step."""
import argparse

import shapes

HALF, FULL = 2, 4
COPY = {"h100": 3.0, "h200": 4.3}  # TB/s, read and written; h200: PyTorch's copy, seen in October 2026
# Of an H100: products, attention forward and backward together. Heads of 64 over 2,048 tokens were not measured: an assumption.
RATES = {"gpt2": (650, 255), "llama-1b": (660, 280), "llama-8b": (680, 443)}
BAR = 0.9


def kernels(shape, sums_apart=False):
    """{name: (class, bytes a token forward and backward, share of a plain copy seen on an H100)}; sums_apart: sums in the
    residual stream in kernels of their own, as when the H100 was measured"""
    D, F, L = shape["width"], shape["ffn_width"], shape["layers"]
    gated = shape["activation"] == "swiglu"
    other = "norms and elementwise"
    norms = (2 * L + 1) * D * HALF  # two a block and the last one
    found = {
        "norms forward": (other, 2 * norms, 0.91),
        "norms backward": (other, 3 * norms, 0.73 if gated else 0.58),
        # A block's second norm makes the sum before it: one read, one write more. The sum at the block's end is a kernel.
        "residual sums": (other, (3 * 2 if sums_apart else 2 + 3) * L * D * HALF, 0.98),
        # Where a branch's gradient meets the residual's: the norm's backward pass reads it.
        "sums of gradients": (other, (3 * 2 if sums_apart else 1 * 2) * L * D * HALF, 0.98),
        "embedding": (other, 5 * D * HALF, 0.58),
        "cross-entropy": ("cross-entropy", 3 * shape["vocab_size"] * HALF, 0.97),  # read; read, and gradients written
    }
    if gated:
        found["swiglu"] = (other, (3 + 5) * L * F * HALF, 0.88)
    else:  # in the products' epilogues: what is written for the backward pass, and read there
        found["gelu"] = (other, 2 * L * F * HALF, 0.9)
    if shape["positions"] == "rotary":  # queries and keys, in place, both ways
        found["rotary"] = (other, 4 * L * D * (1 + shape["kv_heads"] / shape["heads"]) * HALF, 0.60)
    if shape["qkv_bias"]:  # column sums of dy
        found["bias gradients"] = (other, L * (3 * D + D + F + D) * HALF, 0.95)
    return found


def fp8_bytes_per_token(shape, delayed):
    """Quantising what the products of a block meet: an input is read for its scale, read and written forward, transposed copy
    included, and so is a gradient. Delayed scales save the first reading."""
    D, F, K = shape["width"], shape["ffn_width"], shape["width"] // shape["heads"]
    hidden = 2 * F if shape["activation"] == "swiglu" else F
    inputs, outputs = D + D + D + F, D + 2 * shape["kv_heads"] * K + D + hidden + D
    return shape["layers"] * (inputs + outputs) * (HALF + 2 + (0 if delayed else HALF))


def gradient_sum_bytes(shape, finished_apart=False):
    """Adding the gradients of a step's micro-batches, all in one lane, beyond writing each once. Later products read the sum that
    they add to; finished apart, a kernel reads sum and gradient and writes the sum. The table of tokens has a gradient for each
    use: its products' and its look-ups'."""
    micro_batch, batch = shape["batch"]
    gradients = shapes.matmul_parameters(shape) + shape["vocab_size"] * shape["width"]
    return (batch // micro_batch - 1) * gradients * (3 if finished_apart else 1) * FULL


RECOMPUTE = ["none", "norms", "selective", "full"]


def made_again(shape, recompute):
    """What train.recompute adds: (operations a token of the blocks' products, share of attention's scores, {name of a kernel: bytes a
    token})."""
    if recompute not in RECOMPUTE:
        raise ValueError(f"train.recompute={recompute}: not in this arithmetic, which knows {', '.join(RECOMPUTE)}")
    D, F, L = shape["width"], shape["ffn_width"], shape["layers"]
    gated = shape["activation"] == "swiglu"
    norm = 2 * D * HALF  # read and written
    again = {"norms forward": 2 * L * norm, "swiglu" if gated else "gelu": (3 if gated else 2) * L * F * HALF}
    if recompute == "none":
        return 0, 0, {}
    if recompute == "norms":
        return 0, 0, again
    if recompute == "selective":  # the norm before the MLP once more, for the product and for its weight's gradient
        return 2 * D * (2 if gated else 1) * F * L, 0, {**again, "norms forward": 3 * L * norm}
    if not gated:  # an epilogue writes both sides of the function
        again["gelu"] = L * F * HALF
    if "rotary" in kernels(shape):
        again["rotary"] = kernels(shape)["rotary"][1] / 2
    head = shape["vocab_size"] * D
    return 2 * (shapes.matmul_parameters(shape) - head), 1 / 3, {**again, "residual sums": (2 + 3) * L * D * HALF}


def rates_of(name):
    return next(rates for family, rates in RATES.items() if name.startswith(family))


def step(name, copy, seen=True, product=None, attention=None, fp8=0, delayed=False, without=(), sums_apart=False,
         finished_apart=False, recompute="none"):
    """{class: seconds of a step} of a shape."""
    shape = shapes.SHAPES[name]
    product, attention = product or rates_of(name)[0], attention or rates_of(name)[1]
    tokens = shape["batch"][1] * shape["tokens"]
    weights = shapes.matmul_parameters(shape)
    head = shape["vocab_size"] * shape["width"]
    scores = shapes.flops_per_token(shape)[0] - 6 * weights
    parts = {"GEMM": tokens * (6 * head / product + 6 * (weights - head) / (fp8 or product)) / 1e12,
             "attention": tokens * scores * 3.5 / 3 / attention / 1e12}  # scores once more in the backward pass
    for kernel, (kind, size, share) in kernels(shape, sums_apart).items():
        if kernel not in without:
            parts[kind] = parts.get(kind, 0) + tokens * size / ((share if seen else BAR) * copy * 1e12)
    products, forwards, sizes = made_again(shape, recompute)
    parts["GEMM"] += tokens * products / (fp8 or product) / 1e12
    parts["attention"] += tokens * scores * forwards / attention / 1e12
    for kernel, size in sizes.items():
        kind, _, share = kernels(shape, sums_apart)[kernel]
        parts[kind] += tokens * size / ((share if seen else BAR) * copy * 1e12)
    if fp8:
        if "gelu" in kernels(shape):  # a kernel of its own then
            parts["norms and elementwise"] += tokens * 3 * shape["layers"] * shape["ffn_width"] * HALF / (0.82 * copy * 1e12)
        parts["8-bit roundings"] = tokens * fp8_bytes_per_token(shape, delayed) / (BAR * copy * 1e12)
    parts["gradient sums"] = gradient_sum_bytes(shape, finished_apart) / ((0.98 if seen else BAR) * copy * 1e12)
    # fp32 w, m, v read and written, gradient read, cleared and squared, bf16 weights written
    parts["optimizer"] = weights * (9 * FULL + HALF) / ((1.0 if seen else BAR) * copy * 1e12)
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", choices=[*COPY], default="h200")
    parser.add_argument("--kernels", choices=["seen", "bar"], default="seen")
    parser.add_argument("--copy", type=float)
    parser.add_argument("--product", type=float)
    parser.add_argument("--attention", type=float)
    parser.add_argument("--fp8", type=float, default=0, help="rate of 8-bit products; 0: none are")
    parser.add_argument("--recompute", choices=RECOMPUTE, default="none")
    parser.add_argument("--delayed", action="store_true", help="scales of the steps before")
    parser.add_argument("--shape", action="append", choices=[name for name in shapes.SHAPES if not name.startswith("tiny")])
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--sums-apart", action="store_true", help="in the residual stream: kernels of their own, as when the H100 was measured")
    parser.add_argument("--finished-apart", action="store_true", help="gradients of later micro-batches: added by kernels of their own, as when the H100 was measured")
    o = parser.parse_args()
    kinds = ["GEMM", "attention", "cross-entropy", "norms and elementwise", *(["8-bit roundings"] if o.fp8 else []), "gradient sums", "optimizer"]
    print(f"| shape | tokens/s | MFU causal (full) | ms of a step | {' | '.join(kinds)} |\n|---|---|---|---|{'---|' * len(kinds)}")
    for name in o.shape or [name for name in shapes.SHAPES if not name.startswith("tiny")]:
        shape = shapes.SHAPES[name]
        parts = step(name, o.copy or COPY[o.card], o.kernels == "seen", o.product, o.attention, o.fp8, o.delayed, o.without, o.sums_apart,
                     o.finished_apart, o.recompute)
        whole = sum(parts.values())
        rate = shape["batch"][1] * shape["tokens"] / whole
        causal, full = shapes.flops_per_token(shape)
        cells = " | ".join(f"{1e3 * parts[kind]:.1f} ({parts[kind] / whole:.1%})" for kind in kinds)
        print(f"| {name} | {rate:.0f} | {rate * causal / shapes.PEAK_FLOPS:.1%} ({rate * full / shapes.PEAK_FLOPS:.1%}) | {1e3 * whole:.0f} | {cells} |")


if __name__ == "__main__":
    main()
