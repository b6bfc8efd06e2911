# SPDX-License-Identifier: Apache-2.0
"""plinth finetune in its three modes: learning, the same bits on one and on two ranks, after a kill and a resume (which does
not need checkpoint.init any more), evaluation of the result, and one clear line for wrong input."""

import json
import os
import random
import signal

import plinth_runs as runs

STEPS = 12
MODES = {
    "text": {"finetune.mode": "text"},
    "instruction": {"finetune.mode": "instruction", "finetune.sequence_length": 256},
    "classification": {"finetune.mode": "classification", "train.eval_every": 4},
}


def write_examples(lab):
    """Questions with one right answer, as labels and as responses; new text."""
    rng = random.Random(3)
    for split, count in (("train", 64), ("dev", 20)):
        with open(lab.folder / f"{split}.tsv", "w") as labelled, open(lab.folder / f"{split}.jsonl", "w") as told:
            for _ in range(count):
                word = rng.choice(["good", "poor"])
                text = f"{rng.choice(['a', 'the', 'one'])} {word} {rng.choice(['film', 'play', 'book'])}"
                labelled.write(f"{word}\t{text}\n")
                # Micro-batches of several lengths: some examples are longer than 64 tokens, some than 128.
                told.write(json.dumps({"prompt": text + "? " * rng.choice([1, 1, 1, 30, 60]), "response": word}) + "\n")
        runs.write_corpus(lab.folder / f"{split}_text.jsonl", seed=len(split), documents=20)


def files_of(lab, mode, split):
    name = {"text": f"{split}_text.jsonl", "instruction": f"{split}.jsonl", "classification": f"{split}.tsv"}[mode]
    return f"[{lab.folder / name}]"


def base_of(mode):
    return "base_instruction" if mode == "instruction" else "base"


def command(lab, name, mode, overrides, ranks=1):
    launcher = [] if ranks == 1 else ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    keys = {
        "checkpoint.init": lab.folder / base_of(mode), "finetune.files": files_of(lab, mode, "train"),
        "finetune.held_out": files_of(lab, mode, "dev"), "finetune.dropout": 0.1, "train.steps": STEPS,
        "train.global_batch": 8, "train.micro_batch": 2, "train.eval_every": 5, "optimizer.lr": "2e-3",
        "checkpoint.every": 3, "checkpoint.keep": 10, "run.folder": lab.folder / f"{mode}_{name}", "run.threads": 1,
        "run.peak_flops": "1e12", "run.metrics.tensorboard": "false", **MODES[mode], **overrides,
    }
    return [*launcher, lab.plinth, "finetune", *(f"{key}={value}" for key, value in keys.items())]


def finetune(lab, name, mode, overrides={}, ranks=1):
    run = runs.Process(command(lab, name, mode, overrides, ranks))
    code = run.wait()
    if code != 0:
        runs.fail(f"{name} ended with {code}", run.lines)
    return lab.folder / f"{mode}_{name}"


def refused(lab, what, mode, overrides, *parts, ranks=1):
    run = runs.Process(command(lab, "refused", mode, overrides, ranks))
    code = run.wait()
    # mpirun adds lines of its own.
    lines = run.lines if ranks > 1 else run.lines[-1:]
    line = next((line for line in lines if all(part in line for part in parts)), None)
    if code == 0 or line is None:
        runs.fail(f"{what}: exit code {code}, expected {parts} in the last line", run.lines)
    if runs.checkpoints_of(lab.folder / f"{mode}_refused"):
        runs.fail(f"{what}: training began all the same")
    print(f"refused: {what}: {line}", flush=True)


def held_out(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "evaluation"]


def check_dry_run(lab, mode):
    """It refuses what the run would refuse, and says how the run would begin or go on."""
    def dry_run(name, overrides):
        words = command(lab, name, mode, overrides)
        run = runs.Process([*words[:2], "--dry-run", *words[2:]])
        return run.wait(), run.lines

    for name, overrides, code, text in (
        ("planned", {}, 0, "# begins with         the weights of"),
        ("whole", {}, 0, "# goes on from"),
        ("whole", {"finetune.seed": 5}, 4, "finetune.seed"),
        ("whole", {"train.seed": 7}, 4, "train.seed"),
        ("planned", {"checkpoint.init": lab.folder / "gone"}, 4, "no checkpoint here"),
    ):
        found, lines = dry_run(name, overrides)
        if found != code or not any(text in line for line in lines[-2:]):
            runs.fail(f"dry run of {name} with {overrides}: exit code {found}, expected {code} and '{text}'", lines)
    if (lab.folder / f"{mode}_planned").exists():
        runs.fail("a dry run made a run folder")


def shared_tokens(lab, mode, whole):
    """Context and tensor parallel ranks: within rounding of one rank, held-out losses too."""
    tolerance = 1e-6  # as for pretraining, see equal_ranks.py
    for name, layout, ranks in (("context", {"parallel.context": 2}, 2), ("tensor", {"parallel.tensor": 2}, 2),
                                ("both", {"parallel.context": 2, "parallel.tensor": 2}, 4)):
        runs.expect_close(f"{mode} with {layout}", whole, finetune(lab, name, mode, layout, ranks), tolerance)
    mutant = finetune(lab, "mutant", mode, {"parallel.context": 2, "finetune.seed": 5}, ranks=2)
    runs.expect_different(lab, "another order of examples over context ranks", lab.folder / f"{mode}_context", mutant)


def check_mode(lab, mode):
    write_examples(lab)
    # A further case finds it finished. Long examples need a base with more positions, tensor ranks a table they can divide.
    more = {"model.max_positions": 256} if mode == "instruction" else {}
    lab.train(base_of(mode), "gpt/tiny.yaml", {"train.steps": 20, "model.vocab_multiple": 4, **more})
    whole = finetune(lab, "whole", mode)
    losses = [row["held_out_loss"] for row in held_out(whole)]
    every = MODES[mode].get("train.eval_every", 5)
    if [row["step"] for row in held_out(whole)] != sorted({*range(every, STEPS, every), STEPS}):
        runs.fail(f"not evaluated every {every} steps and at the end", [str(row) for row in held_out(whole)])
    if losses[-1] >= losses[0]:
        runs.fail(f"held-out losses {losses} do not fall")
    runs.expect_equal(lab, f"{mode} on two ranks", whole, finetune(lab, "ranks", mode, ranks=2))
    runs.expect_different(lab, "another order of examples", whole, finetune(lab, "seed", mode, {"finetune.seed": 5}))

    check_dry_run(lab, mode)
    killed = runs.Process(command(lab, "killed", mode, {}))
    if not killed.wait_for("checkpoint of step 6 saved"):
        runs.fail("no checkpoint of step 6", killed.lines)
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.wait()
    resumed = finetune(lab, "killed", mode, {"checkpoint.init": lab.folder / "gone"}, ranks=2)
    runs.expect_equal(lab, f"{mode} killed and resumed on two ranks", whole, resumed)
    return whole


def text(lab, _):
    shared_tokens(lab, "text", check_mode(lab, "text"))
    shards = finetune(lab, "shards", "text", {"finetune.files": f"[{lab.data}]", "finetune.held_out": f"[{lab.data}]"})
    if not held_out(shards):
        runs.fail("no evaluation on the held-out split of a data set")
    refused(lab, "shards beside raw text", "text", {"finetune.files": f"[{lab.data}, {lab.folder}/train_text.jsonl]"},
            "1 of 2 inputs are data sets")
    refused(lab, "raw text held out of shards", "text",
            {"finetune.files": f"[{lab.data}]", "finetune.held_out": f"[{lab.folder}/dev_text.jsonl]"},
            "dev_text.jsonl: is a file", "plinth data prepare")
    refused(lab, "a longer sequence than the positions", "text", {"finetune.sequence_length": 257}, "sequence_length")


def instruction(lab, _):
    shared_tokens(lab, "instruction", check_mode(lab, "instruction"))
    # Three ranks share windows of 96 tokens, but not the 64 to which short examples are padded.
    refused(lab, "short examples that three ranks cannot share", "instruction",
            {"finetune.sequence_length": 96, "parallel.context": 3}, "parallel.context: context 3 x tensor 1",
            "64 tokens of short examples", ranks=3)
    refused(lab, "windows that two ranks cannot share", "instruction",
            {"finetune.sequence_length": 72, "parallel.context": 2}, "finetune.sequence_length", "take 80", ranks=2)
    empty = lab.folder / "empty.jsonl"
    empty.write_text(json.dumps({"prompt": "why?", "response": ""}) + "\n")
    refused(lab, "an empty response", "instruction", {"finetune.files": f"[{empty}]"}, "empty.jsonl:1: the response is empty")
    empty.write_text("")
    refused(lab, "an empty file", "instruction", {"finetune.files": f"[{empty}]"}, "no example", "empty.jsonl")


def classification(lab, _):
    run = check_mode(lab, "classification")
    refused(lab, "a classifier over context ranks", "classification", {"parallel.context": 2},
            "parallel.context: 2 ranks", "finetune.mode=classification", ranks=2)
    long = finetune(lab, "long", "classification", {"train.steps": 60, "train.eval_every": 60})
    if held_out(long)[-1]["accuracy"] < 0.9:
        runs.fail(f"accuracy {held_out(long)[-1]} on two words that decide everything")
    out = lab.folder / "metrics.json"
    lab.call([lab.plinth, "evaluate", f"evaluate.checkpoint={run}", "evaluate.format=classification",
              f"evaluate.data=[{lab.folder}/dev.tsv]", f"evaluate.output={out}", "evaluate.micro_batch=2"])
    result = json.loads(out.read_text())["results"][0]
    if result["accuracy"] != held_out(run)[-1]["accuracy"] or result["examples"] != 20:
        runs.fail(f"evaluate says {result}, training said {held_out(run)[-1]}")
    for stage in (["generate", f"generate.checkpoint={run}", 'generate.prompts=["a good"]'],
                  ["evaluate", f"evaluate.checkpoint={run}", f"evaluate.data=[{lab.folder}/dev.tsv]", "evaluate.format=text"]):
        said = runs.Process([lab.plinth, *stage])
        if said.wait() != 4 or "a classifier" not in said.lines[-1]:
            runs.fail(f"{stage[0]} takes a classifier for a language model", said.lines)
    swapped = lab.folder / "swapped.tsv"
    swapped.write_text("".join(f"film number {i}\tgood\n" for i in range(12)))
    said = runs.Process(command(lab, "swapped", "classification", {"finetune.files": f"[{swapped}]", "finetune.held_out": "[]",
                                                                  "train.steps": 1}))
    said.wait()
    if not any("12 labels for 12 examples" in line for line in said.lines):
        runs.fail("text in the column of labels is not remarked", said.lines)
    one = lab.folder / "one.tsv"
    one.write_text("good\ta good film\ngood\ta good play\n")
    refused(lab, "one label", "classification", {"finetune.files": f"[{one}]"}, "every example has the label", "good")
    one.write_text("fair\ta fair film\n")
    refused(lab, "an unknown label", "classification", {"finetune.held_out": f"[{one}]"}, '"fair"', "good, poor")
    (lab.folder / "classification_refused").symlink_to(lab.folder / "base")
    run = runs.Process(command(lab, "refused", "classification", {}))
    if run.wait() == 0 or "cannot go on" not in run.lines[-1]:
        runs.fail("a pretraining run was taken for one of this stage", run.lines)


if __name__ == "__main__":
    runs.main({"text": text, "instruction": instruction, "classification": classification})
