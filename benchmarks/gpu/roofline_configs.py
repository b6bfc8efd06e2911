#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What each file of configs/ should reach on an H200 and an H100, as it stands: tokens/s by roofline.py's arithmetic.

    benchmarks/gpu/roofline_configs.py [FILE.yaml]...      a table; without files all of configs/

Beside roofline.py: a window's fewer scores, fp32, and the host's launches, which bound tiny models. Rates are those of large
micro-batches, so that a file whose micro-batch is small will be below its row. A file names no number of GPUs: where the states of one
copy do not fit a card, the row is per GPU of the fewest (a power of two) whose share by parallel.zero=2 leaves a fifth of each free,
exchanges not counted. Memory is that of states; `plinth pretrain FILE --dry-run` has all."""
import argparse
import pathlib

import roofline
import shapes

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEMORY = {"h200": 150.1e9, "h100": 85.0e9}  # bytes of the card
# TFLOP/s that nobody has measured: fp32 products (67 is the data sheet's rate), fp32 tiles of attention, ALiBi by the own kernels on
# tensor cores (half of the bound of docs/gpu.md).
FP32_PRODUCT, FP32_ATTENTION, ALIBI_ATTENTION = 50, 10, 150
# "About a thousand" launches a micro-batch of 12 layers (docs/gpu.md); microseconds of each on the host.
LAUNCHES_OF_A_LAYER, LAUNCH_US = 80, 3
DEFAULTS = {"vocab_size": 50257, "vocab_multiple": 1, "layers": 12, "width": 768, "heads": 12, "kv_heads": 0, "ffn_width": 0,
            "max_positions": 1024, "norm": "layer", "positions": "learned", "activation": "gelu_tanh", "tied_head": True,
            "attention_bias": True, "qkv_bias": True, "mlp_bias": True, "embedding_norm": False, "sliding_window": 0}
TRAIN = {"global_batch": 8, "micro_batch": 1, "dtype": "fp32", "recompute": "norms"}


def scalar(word):
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def read(path):
    """{section: {key: value}} of a configuration with what it includes: maps in maps, one key a line. Lists stay text."""
    found, open_maps = {}, [(-1, None)]
    open_maps[0] = (-1, found)
    for line in path.read_text().splitlines():
        text = line.split("#")[0].rstrip()
        if not text:
            continue
        indent = len(text) - len(text.lstrip())
        key, _, value = text.strip().partition(":")
        while open_maps[-1][0] >= indent:
            open_maps.pop()
        if value.strip():
            open_maps[-1][1][key] = scalar(value.strip())
        else:
            open_maps.append((indent, open_maps[-1][1].setdefault(key, {})))
    base = found.pop("include", None)
    return merged(read(path.parent / base), found) if base else found


def merged(base, over):
    both = dict(base)
    for key, value in over.items():
        both[key] = merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return both


def shape_of(config):
    """In the words of shapes.py, and train's section beside it."""
    model, train = {**DEFAULTS, **config.get("model", {})}, {**TRAIN, **config.get("train", {})}
    model["kv_heads"] = model["kv_heads"] or model["heads"]
    model["ffn_width"] = model["ffn_width"] or 4 * model["width"]
    model["tokens"] = config["data"]["sequence_length"]
    model["batch"] = train["micro_batch"], train["global_batch"]
    return model, train


def parameters(model):
    """All that is learned; rows of the table that only pad it are not."""
    D, F, L, V = model["width"], model["ffn_width"], model["layers"], model["vocab_size"]
    kv = model["kv_heads"] * (D // model["heads"])
    norm = D * (2 if model["norm"] == "layer" else 1)
    hidden = 2 * F if model["activation"] == "swiglu" else F
    block = D * (D + 2 * kv) + D * D + D * hidden + F * D + 2 * norm
    block += (D + 2 * kv if model["qkv_bias"] else 0) + (D if model["attention_bias"] else 0) + (hidden + D if model["mlp_bias"] else 0)
    tables = V * D * (1 if model["tied_head"] else 2) + (model["max_positions"] * D if model["positions"] == "learned" else 0)
    return L * block + tables + norm * (2 if model["embedding_norm"] else 1)


def padded(model):
    multiple = model["vocab_multiple"]
    return {**model, "vocab_size": -(-model["vocab_size"] // multiple) * multiple}


def rates(model, dtype):
    """TFLOP/s of products and attention, and what is assumed of them."""
    if dtype == "fp32":
        return FP32_PRODUCT, FP32_ATTENTION
    product, attention = roofline.RATES["llama-8b" if model["width"] >= 4096 else "llama-1b" if model["width"] >= 2048 else "gpt2"]
    if model["positions"] == "alibi":
        attention = ALIBI_ATTENTION
    return product, attention


def predict(config, card):
    """{"tokens", "mfu", "gpus", "bound", "parts"}: tokens/s a GPU, causal MFU of bf16's peak, seconds a step by class on one GPU."""
    model, train = shape_of(config)
    shape = padded(model)
    product, attention = rates(model, train["dtype"])
    name = "gpt2-of-a-file"
    shapes.SHAPES[name] = shape
    parts = roofline.step(name, roofline.COPY[card], product=product, attention=attention, recompute=train["recompute"])
    del shapes.SHAPES[name]
    tokens = train["global_batch"] * shape["tokens"]
    seen = 1.0
    if 0 < model["sliding_window"] < model["tokens"]:
        window, length = model["sliding_window"], model["tokens"]
        seen = (window - window * window / (2 * length)) / (length / 2)
    parts["attention"] *= seen
    if train["dtype"] == "fp32":
        for kind in ("norms and elementwise", "cross-entropy"):
            parts[kind] *= 2  # bytes of an element
    launches = train["global_batch"] / train["micro_batch"] * LAUNCHES_OF_A_LAYER * model["layers"] * LAUNCH_US * 1e-6
    seconds = sum(parts.values())
    weights = 6 * shapes.matmul_parameters(shape)
    flops = weights + (shapes.flops_per_token(shape)[0] - weights) * seen
    count, gpus = parameters(model), 1
    half = 2 if train["dtype"] == "bf16" else 0  # weights beside the masters
    kept, shared = half, 4 + 12 + (4 if train["global_batch"] > train["micro_batch"] else 0)  # gradient, masters and moments, lanes' sum
    if train["dtype"] == "fp32":
        kept, shared = 4, shared - 4
    if count * (kept + shared) > 0.95 * MEMORY[card]:
        while gpus < 1024 and count * (kept + shared / gpus) > 0.8 * MEMORY[card]:
            gpus *= 2
    rate = tokens / max(seconds, launches)
    return {"tokens": rate, "mfu": rate * flops / shapes.PEAK_FLOPS, "gpus": gpus, "bound": "launches" if launches > seconds else "",
            "parts": parts, "parameters": count, "flops": flops, "bytes": count * (kept + shared)}


def note_of(model, train, found):
    notes = [f"per GPU of {found['gpus']} or more"] if found["gpus"] > 1 else []
    if train["dtype"] == "fp32":
        notes.append("fp32")
    if found["bound"]:
        notes.append("launches bound it")
    if model["positions"] == "alibi" and train["dtype"] == "bf16":
        notes.append("attention at an assumed rate")
    return ", ".join(notes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    files = parser.parse_args().files or sorted((ROOT / "configs").glob("*/*.yaml"))
    print("| file | parameters | GFLOP a token | states, GiB | recompute | H200, tokens/s | MFU | H100, tokens/s | MFU | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in files:
        config = read(path)
        model, train = shape_of(config)
        cells = []
        for card in ("h200", "h100"):
            found = predict(config, card)
            note = note_of(model, train, found)
            cells.append((f"{found['tokens']:,.0f} | {found['mfu']:.1%}", note))
        notes = cells[0][1] if cells[0][1] == cells[1][1] else f"H200: {cells[0][1] or 'one card'}; H100: {cells[1][1] or 'one card'}"
        print(f"| {path.parent.name}/{path.stem} | {found['parameters']:,} | {found['flops'] / 1e9:.3g} | {found['bytes'] / 2**30:.3g} | "
              f"{train['recompute']} | {cells[0][0]} | {cells[1][0]} | {notes} |")


if __name__ == "__main__":
    main()
