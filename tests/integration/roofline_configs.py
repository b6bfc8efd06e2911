#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu/roofline_configs.py: it reads the files as they are, counts what they say, and foretells what arithmetic by hand does."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks/gpu"))
sys.dont_write_bytecode = True
import roofline  # noqa: E402
import roofline_configs as configs  # noqa: E402

FILES = sorted((ROOT / "configs").glob("*/*.yaml"))


def expect(found, wanted, what, tolerance=1e-9):
    if abs(found - wanted) > tolerance * abs(wanted):
        sys.exit(f"FAILED: {what}: {found}, expected {wanted}")


def with_train(name, **words):
    return configs.merged(configs.read(ROOT / "configs" / name), {"train": words})


def check_counts():
    """The files' own comments say how many parameters they have."""
    said = 0
    for path in FILES:
        count = re.search(r"(\d+(?:,\d{3}){2,}) parameters", path.read_text())
        if count:
            said += 1
            expect(configs.parameters(configs.shape_of(configs.read(path))[0]), int(count[1].replace(",", "")), path.name, 0)
    if said < 8:
        sys.exit(f"FAILED: {said} files say how many parameters they have")


def check_reading():
    mistral = configs.read(ROOT / "configs/llama/mistral_7b.yaml")  # of llama_8b, of llama_1b
    expect(mistral["model"]["rope_scaling"]["original_positions"], 8192, "a map in a map, of the first file", 0)
    expect(mistral["model"]["rope_scaling"]["factor"], 8, "of the second", 0)
    expect(mistral["model"]["vocab_size"], 32000, "of the last", 0)
    if mistral["model"]["rope_scaling"]["type"] != "none" or mistral["model"]["tied_head"] is not False or mistral["optimizer"]["lr"] != 3e-4:
        sys.exit(f"FAILED: read {mistral}")


def check_arithmetic():
    """GPT-2 124M by hand: 12 blocks of 12 x 768^2 weights, a table of 50,304 rows; 650 and 255 TFLOP/s."""
    tokens, blocks, head, scores = 512 * 1024, 12 * 12 * 768**2, 50304 * 768, 12 * 768 * 1024
    mlp = 12 * 3072 * 768
    seconds = {}
    for recompute, again, attention in (("none", 0, 3.5), ("norms", 0, 3.5), ("selective", 2 * mlp, 3.5), ("full", 2 * blocks, 4.5)):
        parts = configs.predict(with_train("gpt/gpt2_124m.yaml", recompute=recompute), "h200")["parts"]
        expect(parts["GEMM"], tokens * (6 * blocks + again + 6 * head) / 650e12, f"products, {recompute}")
        expect(parts["attention"], tokens * 2 * scores * attention / 255e12, f"attention, {recompute}")
        seconds[recompute] = parts["norms and elementwise"]
    # A norm of 768 is read and written, GELU of 3,072, too; bf16, of 4.3 TB/s the share that each kernel was seen at.
    shares = {name: share for name, (_, _, share) in roofline.kernels(roofline.shapes.SHAPES["gpt2-124m"]).items()}
    norm, gelu, total = (tokens * 12 * moved * 2 / (shares[name] * 4.3e12) for name, moved in (
        ("norms forward", 2 * 768), ("gelu", 2 * 3072), ("residual sums", 5 * 768)))
    expect(seconds["norms"] - seconds["none"], 2 * norm + gelu, "norms and GELU made again")
    expect(seconds["selective"] - seconds["norms"], norm, "the norm before the MLP once more")
    # The product writes both sides of GELU: only one of them is more than without.
    expect(seconds["full"] - seconds["norms"], total - gelu / 2, "the sums of a block made again")
    try:
        configs.predict(with_train("gpt/gpt2_124m.yaml", recompute="default"), "h200")
    except ValueError as problem:
        if "default" not in str(problem):
            sys.exit(f"FAILED: {problem}")
    else:
        sys.exit("FAILED: a policy of recompute that is not there is taken for another")


def check_window_and_cards():
    mistral = configs.read(ROOT / "configs/llama/mistral_7b.yaml")
    whole = configs.merged(mistral, {"model": {"sliding_window": 0}})
    with_window, without = (configs.predict(config, "h200") for config in (mistral, whole))
    # Of 8,192 tokens those behind the first 4,096 see 4,096 each, those before half of it: 3/4 of all that a causal mask leaves.
    expect(with_window["parts"]["attention"], 0.75 * without["parts"]["attention"], "scores within a window")
    expect(without["flops"] - with_window["flops"], 0.25 * 6 * 32 * 4096 * 8192, "operations within a window")
    if not with_window["tokens"] > without["tokens"]:
        sys.exit("FAILED: a window costs time")
    for name, gpus in (("gpt/gpt2_1558m.yaml", (1, 1)), ("llama/llama_1b.yaml", (1, 1)), ("llama/llama_8b.yaml", (2, 4))):
        found = tuple(configs.predict(configs.read(ROOT / "configs" / name), card)["gpus"] for card in ("h200", "h100"))
        if found != gpus:
            sys.exit(f"FAILED: {name} on {found} GPUs, expected {gpus}")
    tiny = configs.predict(configs.read(ROOT / "configs/gpt/tiny.yaml"), "h200")
    expect(tiny["tokens"], 2 * 64 / (2 * 80 * 3e-6), "two layers that launches bound")


def check_table():
    said = subprocess.run([sys.executable, "-B", ROOT / "benchmarks/gpu/roofline_configs.py"], capture_output=True, text=True, check=True).stdout
    for path in FILES:
        if said.count(f"| {path.parent.name}/{path.stem} |") != 1:
            sys.exit(f"FAILED: {path} has no row of its own\n{said}")
    for name, words in (("llama/llama_8b", "per GPU of 2 or more"), ("gpt/tiny", "fp32, launches bound it"), ("bloom/bloom_560m", "assumed rate")):
        if not re.search(f"^\\| {name} \\|.*{words}", said, re.M):
            sys.exit(f"FAILED: {name} does not say: {words}\n{said}")


def main():
    for check in (check_counts, check_reading, check_arithmetic, check_window_and_cards, check_table):
        check()
        print(f"{check.__name__}: passed")


if __name__ == "__main__":
    main()
