# SPDX-License-Identifier: Apache-2.0
"""The stages beside pretraining on a GPU, scored against the CPU: finetune in its three modes, evaluate and generate, from
checkpoints of either device. In fp32 numbers agree within rounding and texts are the same, and a stage that runs twice prints the
same bits. Needs a CUDA device; without one the cases are skipped with the reason."""

import json
import os
import subprocess

import finetune
import gpu_training as gpu
import plinth_runs as runs

FP32 = {"losses": 2e-5, "norms": 5e-4, "accuracy": 3e-3}
BF16 = {"losses": 5e-3, "norms": 5e-2, "accuracy": 2e-2}
# The loss of a handful of labels, where others have hundreds of tokens over which roundings even out.
BF16_LABELS = {"losses": 5e-2, "norms": 2e-1}
PROMPTS = '["the", "", "Badu keri", "naïve 東京"]'  # of 3, 1, 9 and 13 tokens
CPU, CUDA = "cpu", "cuda"


def prepare(lab):
    """The settings of pretraining, and whether the device is the emulated one."""
    common = gpu.need_device(lab)
    # Algorithms of products that a stage has timed are those of the next one, and of nobody's else.
    os.environ.update(XDG_CACHE_HOME=str(lab.folder / "cache"), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                      OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_mpi_yield_when_idle="1")
    return common, common is not gpu.COMMON


def stage(lab, name, keys, ranks=1):
    """Standard output of a stage."""
    launcher = [] if ranks == 1 else ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    command = [*launcher, lab.plinth, name, f"{name}.threads=1", *(f"{key}={value}" for key, value in keys.items())]
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True)
    if done.returncode != 0:
        runs.fail(f"{command} ended with {done.returncode}", (done.stdout + done.stderr).splitlines())
    return done.stdout


# --- finetune


def tune(lab, name, mode, device, overrides, ranks=1):
    keys = {"run.device": device, "run.reproducible": "true", "run.peak_flops": 1e15, **overrides}
    return finetune.finetune(lab, name, mode, keys, ranks)


def expect_close_runs(what, expected, actual, bounds):
    gpu.expect_close(f"{what}: losses", gpu.losses(expected), gpu.losses(actual), bounds["losses"])
    gpu.expect_close(f"{what}: gradient norms", gpu.norms(expected), gpu.norms(actual), bounds["norms"])
    gpu.expect_close(f"{what}: held-out losses", gpu.losses(expected, "evaluation"), gpu.losses(actual, "evaluation"),
                     bounds["losses"])


def check_mode(lab, mode):
    """Examples of several lengths, dropout, a held-out set; the CPU's run on the same weights."""
    common, is_emulated = prepare(lab)
    finetune.write_examples(lab)
    more = {"model.max_positions": 256} if mode == "instruction" else {}
    lab.train(finetune.base_of(mode), "gpt/tiny.yaml", {"train.steps": 20, "run.device": CPU, **more})
    sizes = {"run.hang_seconds": 0, "train.steps": 6, "train.global_batch": 4, "train.eval_every": 4, "finetune.dropout": 0.1}
    if mode == "instruction":
        sizes["finetune.sequence_length"] = 128
    sizes = sizes if is_emulated else {"finetune.dropout": 0.1}
    cpu = tune(lab, "cpu", mode, CPU, sizes)
    whole = tune(lab, "gpu", mode, CUDA, sizes)
    expect_close_runs(f"{mode}: fp32", cpu, whole, FP32)
    runs.expect_equal(lab, f"{mode}: the same run twice", whole, tune(lab, "again", mode, CUDA, sizes))
    lab.fork(whole, f"{mode}_resumed", 3)
    runs.expect_equal(lab, f"{mode}: resumed at step 3", whole, tune(lab, "resumed", mode, CUDA, sizes), after=3)
    runs.expect_equal(lab, f"{mode}: on two ranks", whole, tune(lab, "ranks", mode, CUDA, sizes, ranks=2))
    for source, start, target in ((cpu, CPU, CUDA), (whole, CUDA, CPU)):
        name = f"{start}_to_{target}"
        lab.fork(source, f"{mode}_{name}", 3)
        moved = tune(lab, name, mode, target, sizes)
        gpu.expect_close(f"{mode}: from {start} at step 3 on {target}", gpu.losses(source)[3:], gpu.losses(moved), FP32["losses"])
    bf16 = {**sizes, "train.dtype": "bf16"}
    expect_close_runs(f"{mode}: bf16", tune(lab, "cpu16", mode, CPU, bf16), tune(lab, "gpu16", mode, CUDA, bf16),
                      BF16_LABELS if mode == "classification" else BF16)
    mutant = tune(lab, "mutant", mode, CUDA, {**sizes, "finetune.seed": 5})
    if not gpu.worst_difference(gpu.losses(cpu), gpu.losses(mutant)) > BF16["losses"]:
        runs.fail(f"{mode}: another order of examples gives the same losses: the comparison sees nothing")
    return cpu, whole


def finetune_text(lab, _):
    for run in check_mode(lab, "text"):
        compare_devices(lab, f"evaluate on the text of {run.name}", run,
                        {"evaluate.data": finetune.files_of(lab, "text", "dev"), "evaluate.format": "jsonl",
                         "evaluate.max_tokens": 600})


def finetune_instruction(lab, _):
    check_mode(lab, "instruction")


def finetune_classification(lab, _):
    data = {"evaluate.data": finetune.files_of(lab, "classification", "dev"), "evaluate.format": "classification"}
    for run in check_mode(lab, "classification"):
        report = compare_devices(lab, f"evaluate the classes of {run.name}", run, data)
        if report["results"][0]["accuracy"] != finetune.held_out(run)[-1]["accuracy"]:
            runs.fail(f"{run.name}: evaluate says {report}, training said {finetune.held_out(run)[-1]}")


# --- evaluate


def evaluate(lab, run, device, keys, ranks=1):
    out = lab.folder / "result.json"
    stage(lab, "evaluate", {"evaluate.checkpoint": run, "evaluate.device": device, "evaluate.micro_batch": 2,
                            "evaluate.output": out, "run.hang_seconds": 0, **keys}, ranks)
    return json.loads(out.read_text())


def expect_close_reports(what, expected, actual, bounds):
    """Numbers with a fraction within the bounds, all else the same."""
    worst = 0.0

    def compare(where, a, b):
        nonlocal worst
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            for key in a.keys() - {"loss_hex"}:
                compare(f"{where}.{key}", a[key], b[key])
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for i, pair in enumerate(zip(a, b)):
                compare(f"{where}.{i}", *pair)
        elif where.endswith(".accuracy"):  # a tie may go another way
            if not abs(a - b) <= bounds["accuracy"]:
                runs.fail(f"{where}: {b}, expected {a}")
        elif isinstance(a, float) and isinstance(b, float):
            worst = max(worst, abs(a - b) / max(abs(a), 1e-30))
        elif a != b:
            runs.fail(f"{where}: {b}, expected {a}")

    compare(what, expected, actual)
    if not worst <= bounds["losses"]:
        runs.fail(f"{what}: relative difference {worst:.2e}, allowed {bounds['losses']:.0e}", [str(expected), str(actual)])
    print(f"close: {what}: {worst:.2e} of {bounds['losses']:.0e}", flush=True)


def compare_devices(lab, what, run, keys, bounds=FP32):
    """The device's report, which is the CPU's within the bounds, and the same when the stage runs again."""
    found = evaluate(lab, run, CUDA, keys)
    expect_close_reports(what, evaluate(lab, run, CPU, keys), found, bounds)
    if evaluate(lab, run, CUDA, keys) != found:
        runs.fail(f"{what}: other bits when it runs again")
    return found


def bases(lab, common, config="gpt/tiny.yaml"):
    """Short runs of either device."""
    return [lab.train(f"base-{config.split('/')[0]}-{device}", config, {**common, "run.device": device}) for device in (CPU, CUDA)]


def check_evaluate(lab, _):
    """Held-out shards, cut once and in windows that overlap, and text, from checkpoints of either device."""
    common, is_emulated = prepare(lab)
    text = lab.folder / "plain.txt"
    text.write_text("Badu keri, naïve 東京. " * (4 if is_emulated else 40), encoding="utf-8")
    shards = {"evaluate.data": f"[{lab.data}]", "evaluate.max_tokens": 700 if is_emulated else 7000}
    for run in bases(lab, common):
        for what, keys in (("shards", shards), ("overlapping windows", {**shards, "evaluate.stride": 24}),
                           ("text", {"evaluate.data": f"[{text}]", "evaluate.format": "text", "evaluate.sequence_length": 19})):
            one = compare_devices(lab, f"{run.name}: {what}", run, keys)
            expect_close_reports(f"{run.name}: {what} on two ranks", one, evaluate(lab, run, CUDA, keys, ranks=2), FP32)
            compare_devices(lab, f"{run.name}: {what} in bf16", run, {**keys, "evaluate.dtype": "bf16"}, BF16)
        # The windows of training's own evaluation, and as mutants the weights of another step and other windows.
        micro_batches = common.get("train.eval_batches", 8)
        same = {**shards, "evaluate.max_tokens": micro_batches * 2 * common["data.sequence_length"]}
        told = {row[1]: float.fromhex(row[2]) for row in runs.metrics_of(run) if row[0] == "evaluation"}
        loss = evaluate(lab, run, CUDA, same)["total"]["loss"]
        first, last = min(told), max(told)
        if not abs(loss / told[last] - 1) <= 1e-5:
            runs.fail(f"{run.name}: evaluate says {loss}, training said {told[last]}")
        other = evaluate(lab, run, CUDA, {**same, "evaluate.stride": 24})["total"]["loss"]
        for what, wrong in (("weights of another step", told[first]), ("windows that overlap", other)):
            if not abs(loss / wrong - 1) > FP32["losses"]:
                runs.fail(f"{run.name}: {what} have the same loss: the comparison sees nothing")
        print(f"close: {run.name}: training's own held-out loss", flush=True)


# --- generate


def generate(lab, run, device, keys, ranks=1):
    return stage(lab, "generate", {"generate.checkpoint": run, "generate.device": device, "generate.prompts": PROMPTS,
                                   "run.hang_seconds": 0, **keys}, ranks)


def check_generate(lab, _):
    """Every way to encode positions, and keys and values shared by heads: texts of prompts of several lengths are the CPU's, greedy
    and drawn, with a cache and without. In bf16, where a tie may go another way, a text is the same when it is made again."""
    common, is_emulated = prepare(lab)
    tokens = {"generate.max_tokens": 12 if is_emulated else 40}
    choices = {"greedy": {"generate.temperature": 0},
               "drawn": {"generate.temperature": 0.9, "generate.top_k": 50, "generate.top_p": 0.95}}
    for config in gpu.MODELS:
        for run in bases(lab, common, config):
            for what, choice in choices.items():
                keys = {**tokens, **choice}
                expected = generate(lab, run, CPU, keys)
                for way in ({}, {"generate.cache": "false"}, {"generate.stream": "false"}):
                    found = generate(lab, run, CUDA, {**keys, **way})
                    if found != expected:
                        runs.fail(f"{run.name}: {what} {way}: another text than the CPU's", [*found.splitlines(), "expected:",
                                                                                         *expected.splitlines()])
                half = [generate(lab, run, CUDA, {**keys, "generate.dtype": "bf16"}) for _ in range(2)]
                if half[0] != half[1]:
                    runs.fail(f"{run.name}: {what} in bf16: other bits when it runs again", half)
                print(f"equal: {run.name}: {what}, {len(expected.encode())} bytes of text", flush=True)
            if generate(lab, run, CUDA, {**keys, "generate.seed": 7}) == expected:
                runs.fail(f"{run.name}: another seed draws the same text: the comparison sees nothing")
            if generate(lab, run, CUDA, keys, ranks=2) != expected:
                runs.fail(f"{run.name}: two ranks print another text")


if __name__ == "__main__":
    runs.main({"finetune_text": finetune_text, "finetune_instruction": finetune_instruction,
               "finetune_classification": finetune_classification, "evaluate": check_evaluate, "generate": check_generate})
