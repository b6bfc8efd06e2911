# SPDX-License-Identifier: Apache-2.0
"""plinth evaluate and plinth generate on a checkpoint that a short run has just written."""

import argparse
import json
import math
import os
import pathlib
import random
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARSER = argparse.ArgumentParser()
PARSER.add_argument("--plinth", required=True)
PARSER.add_argument("--tool", help="not needed here")
PARSER.add_argument("case", choices=("evaluate", "generate", "evaluate_layouts", "generate_layouts"))
ARGUMENTS = PARSER.parse_args()
MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}


def run(*words, ranks=0, code=0):
    """Standard output of a stage; the exit code must be `code`, and then errors are returned."""
    launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks else []
    done = subprocess.run(
        [*launcher, ARGUMENTS.plinth, *words], capture_output=True, text=True, env={**os.environ, **MPI_ENVIRONMENT}
    )
    assert done.returncode == code, f"{words}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def write_corpus(path):
    chance = random.Random(1)
    words = "the model reads a row of tokens and says which one comes next naïve Größe 東京 🙂".split()
    with open(path, "w", encoding="utf-8") as out:
        for number in range(300):
            text = " ".join(chance.choice(words) for _ in range(chance.randint(5, 60)))
            out.write(json.dumps({"text": f"{number}: {text}."}) + "\n")


def train(folder, *words, ranks=0):
    write_corpus(folder / "text.jsonl")
    run(
        "data", "prepare", f"prepare.inputs=[{folder}/text.jsonl]", f"prepare.output={folder}/data",
        "prepare.held_out=0.2", "prepare.threads=1",
    )
    run(
        "pretrain", str(ROOT / "configs/gpt/tiny.yaml"), f"data.sources=[{{path: {folder}/data}}]",
        f"run.folder={folder}/run", "train.steps=20", "train.eval_every=10", "train.eval_batches=5",
        "run.threads=1", "checkpoint.every=0", "optimizer.z_loss=0.01", *words, ranks=ranks,
    )


def evaluate(folder, *words, ranks=0):
    out = folder / "result.json"
    run(
        "evaluate", f"evaluate.checkpoint={folder}/run", f"evaluate.output={out}", "evaluate.threads=1",
        "evaluate.micro_batch=2", *words, ranks=ranks,
    )
    return json.loads(out.read_text())


def held_out_losses(folder):
    lines = [json.loads(line) for line in open(folder / "run/metrics.jsonl", encoding="utf-8")]
    return {line["step"]: line["held_out_loss_hex"] for line in lines if line["kind"] == "evaluation"}


def check_training_loss(folder):
    """The z-loss moves the gradient, not the loss that is reported."""
    run(
        "pretrain", str(ROOT / "configs/gpt/tiny.yaml"), f"data.sources=[{{path: {folder}/data}}]",
        f"run.folder={folder}/plain", "train.steps=1", "optimizer.warmup_steps=1", "run.threads=1", "checkpoint.every=0",
    )
    plain, with_z = (json.loads(open(folder / name / "metrics.jsonl").readline()) for name in ("plain", "run"))
    assert plain["loss_hex"] == with_z["loss_hex"], (plain, with_z)
    assert plain["grad_norm_hex"] != with_z["grad_norm_hex"], (plain, with_z)


def check_shards(folder):
    """The windows of training's own evaluation: 5 micro-batches of 2 windows of 64 tokens."""
    data = f"evaluate.data=[{folder}/data]"
    cut = "evaluate.max_tokens=640"
    one = evaluate(folder, data, cut)
    want = held_out_losses(folder)
    assert one["step"] == 20 and one["total"]["tokens"] == 640 and one["total"]["windows"] == 10, one
    assert one["total"]["loss_hex"] == want[20], (one["total"], want)
    # The mutants: other weights, and windows that overlap.
    assert one["total"]["loss_hex"] != want[10]
    overlapping = evaluate(folder, data, cut, "evaluate.stride=16")
    assert overlapping["total"]["tokens"] == 640, overlapping
    assert overlapping["total"]["loss_hex"] != want[20]

    for extra in ([], ["evaluate.stride=16"], ["evaluate.dtype=bf16"]):
        alone = evaluate(folder, data, *extra)
        for ranks in (2, 3):
            assert evaluate(folder, data, *extra, ranks=ranks) == alone, (ranks, extra)
    manifest = json.loads((folder / "data/manifest.json").read_text())
    tokens = sum(shard["tokens"] for shard in manifest["splits"]["heldout"]["shards"])
    assert alone["total"]["tokens"] == tokens - 1, (alone, tokens)

    both = evaluate(folder, f"evaluate.data=[{folder}/data,{folder}/data]", cut)
    assert both["results"] == 2 * one["results"], both
    assert both["total"]["loss"] == one["total"]["loss"] and both["total"]["tokens"] == 1280, both


def check_text(folder):
    text = folder / "plain.txt"
    text.write_text("the row of tokens says naïve 東京.", encoding="utf-8")
    for words in ([], ["evaluate.sequence_length=9", "evaluate.stride=4"]):
        total = evaluate(folder, f"evaluate.data=[{text}]", "evaluate.format=text", *words)["total"]
        size = len(text.read_bytes())
        # All bytes but the first, and the end of the document.
        assert total["tokens"] == size and total["bytes"] == size - 1, total
        nats = total["loss"] * total["tokens"]
        assert math.isclose(total["bits_per_byte"], nats / math.log(2) / (size - 1)), total
        assert math.isclose(total["perplexity"], math.exp(total["loss"])), total
        assert 0 <= total["accuracy"] <= 1, total


def check_sliding(folder):
    """Overlapping windows against each window as a text of its own: the nats of its last targets are those of all its targets
    less those of the others, for what follows a target does not change its loss."""
    length, stride = 16, 5
    text = "the row of tokens says which one comes next and the model reads."
    targets = len(text)  # the end of the document is one, the first byte is none
    begins = [*range(0, targets - length, stride), targets - length]
    paths = []
    for begin in begins:
        paths.append(folder / f"window_{begin}.txt")
        paths[-1].write_text(text[begin : begin + length + 1])

    def nats(path, tokens):
        total = evaluate(
            folder, f"evaluate.data=[{path}]", "evaluate.format=text", f"evaluate.max_tokens={tokens}",
            f"evaluate.sequence_length={length}",
        )["total"]
        assert total["tokens"] == tokens and total["windows"] == 1, total
        return total["loss"] * tokens

    want = nats(paths[0], length)
    for path, begin, before in zip(paths[1:], begins[1:], begins):
        want += nats(path, length) - nats(path, length - (begin - before))
    (folder / "whole.txt").write_text(text)
    words = [f"evaluate.data=[{folder}/whole.txt]", "evaluate.format=text", f"evaluate.sequence_length={length}"]
    total = evaluate(folder, *words, f"evaluate.stride={stride}")["total"]
    assert total["tokens"] == targets and total["windows"] == len(begins), total
    assert math.isclose(total["loss"] * targets, want, rel_tol=1e-5), (total, want)
    apart = evaluate(folder, *words)["total"]  # the mutant: other windows
    assert not math.isclose(apart["loss"] * targets, want, rel_tol=1e-4), (apart, want)


def generate(folder, *words, **options):
    return run("generate", f"generate.checkpoint={folder}/run", "generate.threads=1", *words, **options)


def check_generate(folder):
    prompts = 'generate.prompts=["the model", "", "東京"]'
    short = "generate.max_tokens=40"
    for choice in (["generate.temperature=0"], ["generate.temperature=0.9", "generate.top_k=50", "generate.top_p=0.95"]):
        for dtype in ("fp32", "bf16"):
            words = [prompts, short, f"generate.dtype={dtype}", *choice]
            cached = generate(folder, *words)
            assert cached == generate(folder, *words, "generate.cache=false"), (words, cached)
            assert cached == generate(folder, *words, "generate.stream=false"), words
    assert "--- 3 of 3 ---\n東京" in cached, cached
    alone = generate(folder, 'generate.prompts=["the model"]', short, *choice, "generate.dtype=bf16")
    assert alone.startswith("the model") and cached.startswith("--- 1 of 3 ---\n" + alone), (alone, cached)
    assert cached != generate(folder, *words, "generate.seed=7")


def refuses(message, code, *words, ranks=0):
    said = run(*words, code=code, ranks=ranks)
    # mpirun adds its own, and a slow machine may let another rank repeat the line.
    lines = {re.sub(r"^plinth: rank \d+ on \S+: ", "", line) for line in said.splitlines() if line.startswith("plinth: ")}
    assert message in said and len(lines) == 1 and (ranks or said.count("\n") == 1), said


def check_generate_errors(folder):
    checkpoint = f"generate.checkpoint={folder}/run"
    refuses("no checkpoint here", 4, "generate", f"generate.checkpoint={folder}/data", "generate.prompts=[a]")
    refuses("generate.prompts", 2, "generate", checkpoint)
    refuses("leave no room in the 64 positions", 2, "generate", checkpoint, f"generate.prompts=[{'x' * 64}]")


def check_evaluate_errors(folder):
    checkpoint = f"evaluate.checkpoint={folder}/run"
    data = f"evaluate.data=[{folder}/data]"
    refuses("over the 64 positions", 2, "evaluate", checkpoint, data, "evaluate.sequence_length=65")
    refuses("evaluate.stride", 2, "evaluate", checkpoint, data, "evaluate.stride=65")
    refuses("/none: no such file", 3, "evaluate", checkpoint, f"evaluate.data=[{folder}/none]")
    for name in ("plain.txt", "text.jsonl"):
        refuses(f"{name} is a file, but evaluate.format=shards reads folders that `plinth data prepare` wrote; files are read "
                "with evaluate.format=text, jsonl or classification", 3, "evaluate", checkpoint, f"evaluate.data=[{folder}/{name}]")
    refuses("evaluate.data: \"" + f"{folder}/none" + "\" names no file", 2, "evaluate", checkpoint, f"evaluate.data=[{folder}/none]",
            "evaluate.format=text")
    run(
        "data", "prepare", f"prepare.inputs=[{folder}/text.jsonl]", f"prepare.output={folder}/other",
        "prepare.tokenizer=byte256", "prepare.threads=1", "prepare.held_out=0.2",
    )
    refuses("another tokenizer", 3, "evaluate", checkpoint, f"evaluate.data=[{folder}/other]")


def check_evaluate_layouts(folder):
    """Copies and stages: the same bits. Tensor ranks: within rounding."""
    data, layouts = f"evaluate.data=[{folder}/data]", ((2, 2, 1), (1, 2, 2))
    alone = evaluate(folder, data, "evaluate.stride=48")
    for copies, stages, tensor in layouts:
        words = [f"parallel.pipeline={stages}", f"parallel.tensor={tensor}"]
        shared = evaluate(folder, data, "evaluate.stride=48", *words, ranks=copies * stages * tensor)
        if tensor == 1:
            assert shared == alone, (words, shared, alone)
            continue
        assert shared["total"]["tokens"] == alone["total"]["tokens"] and shared["total"]["bytes"] == alone["total"]["bytes"]
        assert math.isclose(shared["total"]["loss"], alone["total"]["loss"], rel_tol=1e-6), (words, shared, alone)
        assert math.isclose(shared["total"]["accuracy"], alone["total"]["accuracy"], abs_tol=1e-3), (words, shared, alone)
    words = ["evaluate", f"evaluate.checkpoint={folder}/run", data]
    refuses("parallel.tensor: 3 ranks cannot divide model.heads 4", 2, *words, "parallel.tensor=3", ranks=3)
    refuses("parallel.pipeline: 2 ranks cannot be shared by", 2, *words, "parallel.pipeline=3", ranks=2)
    refuses("set parallel.context=1", 2, *words, "parallel.context=2")
    refuses("parallel.pipeline: 1 rank cannot be shared by", 2, *words, "parallel.pipeline=2", "--dry-run")


def check_generate_layouts(folder):
    """Rank 0 prints what one rank prints, in the order of the prompts."""
    words = ['generate.prompts=["the model", "", "reads", "東京", "row"]', "generate.max_tokens=24"]
    for choice in (["generate.temperature=0"], ["generate.top_p=0.95", "generate.stream=false", "generate.cache=false"]):
        alone = generate(folder, *words, *choice)
        for layout, ranks in ((["parallel.tensor=2", "parallel.pipeline=2"], 4), (["parallel.pipeline=2"], 4), ([], 3)):
            shared = generate(folder, *words, *choice, *layout, ranks=ranks)
            assert shared == alone, (layout, shared, alone)
    checkpoint = ["generate", f"generate.checkpoint={folder}/run", "generate.prompts=[a]"]
    refuses("parallel.pipeline: 3 stages", 2, *checkpoint, "parallel.pipeline=3", ranks=3)
    refuses("set parallel.zero=0", 2, *checkpoint, "parallel.zero=1")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if ARGUMENTS.case.endswith("_layouts"):  # what two stages wrote
            train(folder, "parallel.pipeline=2", ranks=2)
        else:
            train(folder)
        if ARGUMENTS.case == "evaluate_layouts":
            check_evaluate_layouts(folder)
        elif ARGUMENTS.case == "generate_layouts":
            check_generate_layouts(folder)
        elif ARGUMENTS.case == "evaluate":
            check_training_loss(folder)
            check_shards(folder)
            check_text(folder)
            check_sliding(folder)
            check_evaluate_errors(folder)
        else:
            check_generate(folder)
            check_generate_errors(folder)
    print("passed")


main()
