# SPDX-License-Identifier: Apache-2.0
"""1, 2, 3 and 4 ranks with the same global batch, micro-batch and lanes give the same bits over 50 steps, and so does any
number of threads. Each case also runs a mutant: one lane more or less adds the same gradients in another order."""

import functools
import math
import re

import plinth_runs as runs

BUCKET_BYTES = 8192
COMMON = {"train.steps": 50, "model.dropout": 0.1, "optimizer.clip": 0.5, "parallel.bucket_bytes": BUCKET_BYTES,
          "data.sequence_length": 32, "checkpoint.every": 20, "train.eval_every": 25, "run.hash_check_every": 10}

RAMP = "[{samples: 0, global_batch: 8}, {samples: 80, global_batch: 12}, {samples: 200, global_batch: 14}]"

CASES = {
    "tied_fp32_lanes_4": ("gpt/tiny.yaml", {"train.global_batch": 16, "train.lanes": 4}),
    "tied_bf16_7_slots_7_lanes": ("gpt/tiny.yaml", {"train.global_batch": 14, "train.lanes": 7, "train.dtype": "bf16"}),
    "untied_fp32_7_slots": ("llama/tiny.yaml", {"train.global_batch": 14, "train.lanes": 4, "optimizer.z_loss": 1e-3}),
    "untied_bf16_lanes_slots": ("llama/tiny.yaml", {"train.global_batch": 8, "train.lanes": 4, "train.dtype": "bf16",
                                                    "parallel.wire_dtype": "bf16"}),
    "batch_ramp": ("llama/tiny.yaml", {"train.global_batch": 14, "train.lanes": 4, "train.batch_ramp": RAMP}),
    "document_mask": ("bloom/tiny.yaml", {"train.global_batch": 10, "train.lanes": 5, "data.document_mask": "true"}),
}


def expect_clipping(run, clip):
    norms = [float.fromhex(row[3]) for row in runs.metrics_of(run) if row[0] == "step"]
    clipped = sum(norm > clip for norm in norms)
    if clipped < len(norms) // 2:
        runs.fail(f"only {clipped} of {len(norms)} steps were clipped: the case does not test clipping")
    print(f"{clipped} of {len(norms)} steps clipped", flush=True)


def expect_buckets(lab, config, overrides, least):
    """The plan says into how many buckets a rank's gradients are cut."""
    plan = lab.call([*lab.command("plan", config, overrides), "--dry-run"])
    buckets = int(re.search(r"^# buckets +(\d+)$", plan, re.MULTILINE).group(1))
    if buckets < least:
        runs.fail(f"the gradients make only {buckets} buckets")
    print(f"{buckets} buckets", flush=True)


def expect_z_loss(run, weight):
    """The metric is weight * log_sum^2; at the start the logits are small and log_sum about that of 257 classes."""
    steps = [row for row in runs.metrics_of(run) if row[0] == "step"]
    if weight == 0:
        if any(len(row) > 4 for row in steps):
            runs.fail("z_loss is logged though it is not minimised")
        return
    z_losses = [float.fromhex(row[4]) for row in steps]
    expected = weight * math.log(257) ** 2
    if not 0.8 < z_losses[0] / expected < 1.2 or not z_losses[-1] < z_losses[0]:
        runs.fail(f"z_loss goes from {z_losses[0]} to {z_losses[-1]}, expected about {expected} and less")


def over_ranks(lab, options, name):
    config, overrides = CASES[name]
    overrides = {**COMMON, **overrides}
    one = lab.train(f"{name}-1", config, overrides)
    expect_clipping(one, COMMON["optimizer.clip"])
    expect_z_loss(one, overrides.get("optimizer.z_loss", 0))
    expect_buckets(lab, config, overrides, 5)
    for ranks in (2, 3, 4):
        run = lab.train(f"{name}-{ranks}", config, overrides, ranks)
        runs.expect_equal(lab, f"{ranks} ranks and 1", one, run)
    threaded = lab.train(f"{name}-threads", config, {**overrides, "run.threads": 2})
    runs.expect_equal(lab, "1 rank x 2 threads and 1 x 1 (so 2 x 1)", one, threaded)
    mutant = lab.train(f"{name}-mutant", config, {**overrides, "train.lanes": overrides["train.lanes"] - 1})
    runs.expect_different(lab, "one lane less", one, mutant)


def over_zero(lab, options):
    """Sharded optimizer states, gradients and weights: the same bits as one rank with all of them. Seven slots, which no
    number of ranks divides; evaluations and samples on the way."""
    for dtype in ("fp32", "bf16"):
        overrides = {**COMMON, "train.steps": 20, "train.global_batch": 14, "train.lanes": 7, "train.dtype": dtype,
                     "train.eval_every": 8, "train.sample_every": 10}
        one = lab.train(f"zero-{dtype}-0-1", "gpt/tiny.yaml", overrides)
        expect_buckets(lab, "gpt/tiny.yaml", overrides, 5)
        for zero, ranks in ((1, 3), (2, 2), (3, 4)):
            run = lab.train(f"zero-{dtype}-{zero}-{ranks}", "gpt/tiny.yaml", {**overrides, "parallel.zero": zero}, ranks)
            runs.expect_equal(lab, f"{dtype}: zero {zero} on {ranks} ranks and zero 0 on 1", one, run)
        mutant = lab.train(f"zero-{dtype}-mutant", "gpt/tiny.yaml",
                           {**overrides, "parallel.zero": 1, "train.lanes": 6}, 3)
        runs.expect_different(lab, f"{dtype}: zero 1 with a lane less", one, mutant)


def over_threads(lab, options):
    """A width whose products are split among threads in every dimension."""
    overrides = {**COMMON, "train.steps": 6, "model.width": 192, "model.heads": 4, "train.eval_every": 3}
    for dtype in ("fp32", "bf16"):
        typed = {**overrides, "train.dtype": dtype}
        one = lab.train(f"threads-{dtype}-1", "gpt/tiny.yaml", typed)
        for threads in range(2, 9):
            run = lab.train(f"threads-{dtype}-{threads}", "gpt/tiny.yaml", {**typed, "run.threads": threads})
            runs.expect_equal(lab, f"{dtype}: {threads} threads and 1", one, run)
        mutant = lab.train(f"threads-{dtype}-mutant", "gpt/tiny.yaml", {**typed, "run.threads": 2, "train.lanes": 3})
        runs.expect_different(lab, f"{dtype}: a lane less", one, mutant)
    # Micro-batches and rows so long that the products of weight gradients sum in several blocks, from copies.
    long = {**overrides, "train.steps": 2, "train.eval_every": 0, "optimizer.warmup_steps": 1, "model.width": 256,
            "data.sequence_length": 256, "model.max_positions": 256, "train.micro_batch": 4}
    one = lab.train("threads-long-1", "gpt/tiny.yaml", long)
    for threads in (2, 3, 8):
        run = lab.train(f"threads-long-{threads}", "gpt/tiny.yaml", {**long, "run.threads": threads})
        runs.expect_equal(lab, f"products of 1024 rows, {threads} threads and 1", one, run)


def recompute(lab, options):
    for config, ranks in (("gpt/tiny.yaml", 1), ("llama/tiny.yaml", 2), ("bloom/tiny.yaml", 1)):
        name = f"recompute-{config.split('/')[0]}"
        overrides = {**COMMON, "train.steps": 10, "train.eval_every": 5}
        off = lab.train(f"{name}-off", config, {**overrides, "train.recompute": "none"}, ranks)
        for what in ("norms", "selective", "full"):
            on = lab.train(f"{name}-{what}", config, {**overrides, "train.recompute": what}, ranks)
            runs.expect_equal(lab, f"{config} on {ranks} ranks, recompute {what} and none", off, on)
        mutant = lab.train(f"{name}-mutant", config, {**overrides, "train.recompute": "full", "train.lanes": 3}, ranks)
        runs.expect_different(lab, f"{config}, recompute full with a lane less", off, mutant)


def pipeline(lab, options):
    """Two stages of two data ranks, with other schedules, against one rank; the text samples of the stages too."""
    overrides = {**COMMON, "train.steps": 30, "train.global_batch": 14, "train.lanes": 4, "model.layers": 4,
                 "train.eval_every": 10, "train.sample_every": 15}
    for config, dtype, layout in (
            ("gpt/tiny.yaml", "fp32", {"parallel.pipeline": 2}),
            ("llama/tiny.yaml", "bf16", {"parallel.pipeline": 2, "parallel.schedule": "interleaved",
                                         "parallel.virtual_stages": 2}),
            ("gpt/tiny.yaml", "bf16", {"parallel.pipeline": 2, "parallel.schedule": "zero_bubble",
                                       "parallel.zero": 1})):
        name = f"pipeline-{config.split('/')[0]}-{dtype}"
        typed = {**overrides, "train.dtype": dtype}
        one = lab.train(f"{name}-1", config, typed)
        expect_clipping(one, COMMON["optimizer.clip"])
        run = lab.train(f"{name}-4", config, {**typed, **layout}, 4)
        runs.expect_equal(lab, f"{config}, {dtype}: {layout} x 2 data ranks and 1 rank", one, run)
        mutant = lab.train(f"{name}-mutant", config, {**typed, **layout, "train.lanes": 5}, 4)
        runs.expect_different(lab, "one lane more", one, mutant)


def pipeline_resume(lab, options):
    """2 stages, then 1 rank, then 3 stages go on from each other's checkpoints with the bits of one rank throughout."""
    for config in ("gpt/tiny.yaml", "llama/tiny.yaml"):
        name = f"pipeline-resume-{config.split('/')[0]}"
        overrides = {**COMMON, "train.steps": 24, "model.layers": 3, "checkpoint.every": 8, "train.eval_every": 8,
                     "train.global_batch": 12, "train.lanes": 3}
        one = lab.train(f"{name}-1", config, overrides)
        two = lab.train(f"{name}-2", config, {**overrides, "parallel.pipeline": 2}, 2)
        runs.expect_equal(lab, f"{config}: 2 stages and 1", one, two)
        back = lab.fork(two, f"{name}-2-1", 8)
        lab.train(f"{name}-2-1", config, overrides)
        runs.expect_equal(lab, f"{config}: 2 stages, then 1 from step 8 on", one, back, after=8)
        on = lab.fork(back, f"{name}-2-1-3", 16)
        lab.train(f"{name}-2-1-3", config, {**overrides, "parallel.pipeline": 3, "parallel.schedule": "zero_bubble"}, 3)
        runs.expect_equal(lab, f"{config}: 2 stages, 1, then 3 from step 16 on", one, on, after=16)
        mutant = lab.fork(two, f"{name}-mutant", 8, edit=("counter", "updates", "-1"))
        lab.train(f"{name}-mutant", config, overrides)
        runs.expect_different(lab, f"{config}: 2 stages, then 1 with an update not counted", one, mutant, after=8)


def expect_same_text(lab, name, other, after=0):
    """The text samples of two runs."""
    texts = [[line for line in lab.printed[each] if re.match(r"step \d+ sample: ", line) and int(line.split()[1]) > after]
             for each in (name, other)]
    if not texts[0] or texts[0] != texts[1]:
        runs.fail(f"{name} and {other} wrote other texts", sum(texts, []))
    print(f"equal: {len(texts[0])} text samples of {name} and {other}", flush=True)


def expect_hidden_share(lab, says):
    """A run says at its end how much of the gradient exchange was hidden where data ranks exchange, and only there."""
    for name, expected in says.items():
        if any("gradient exchange hidden behind" in line for line in lab.printed[name]) != expected:
            runs.fail(f"run {name} must {'' if expected else 'not '}speak of its exchange", lab.printed[name])


def train_on(lab, name, config, overrides, ranks, changed):
    """A resume to its end. It warns of each of the `changed` keys and of nothing else."""
    lab.train(name, config, overrides, ranks)
    warned = [line for line in lab.printed[name] if "no longer equals an uninterrupted one" in line]
    if len(warned) != len(changed) or not all(any(f"{key}: " in line for line in warned) for key in changed):
        runs.fail(f"run {name} must warn of {changed}", warned or lab.printed[name])
    print(f"warned of: {', '.join(changed) or 'nothing'}", flush=True)


def shared_tokens(lab, options):
    """Tensor and context parallel ranks: within rounding of one rank, and the same bits whatever is divided beside them; a
    checkpoint of one layout goes on in another. Twenty steps, evaluations and text samples on the way."""
    tolerance = 1e-6  # fp32 sums in another grouping, and what twenty updates make of that; 1e-7 was seen
    overrides = {**COMMON, "train.steps": 20, "train.global_batch": 8, "train.lanes": 4,
                 "data.sequence_length": 64, "checkpoint.every": 10, "train.eval_every": 10, "train.sample_every": 10}
    for config, key in (("gpt/tiny.yaml", "parallel.context"), ("llama/tiny.yaml", "parallel.tensor")):
        name = key.split(".")[1]
        one = lab.train(f"{name}-1", config, overrides)
        expect_clipping(one, COMMON["optimizer.clip"])
        two = lab.train(f"{name}-2", config, {**overrides, key: 2}, 2)
        runs.expect_close(f"{key}=2 and 1 rank", one, two, tolerance)
        expect_same_text(lab, f"{name}-1", f"{name}-2")
        four = lab.train(f"{name}-4", config, {**overrides, key: 2, "parallel.zero": 1}, 4)
        runs.expect_equal(lab, f"{key}=2 with 2 data ranks and zero 1, and without", two, four)
        expect_hidden_share(lab, {f"{name}-1": False, f"{name}-2": False, f"{name}-4": True})
        back = lab.fork(two, f"{name}-2-1", 10)
        train_on(lab, f"{name}-2-1", config, overrides, 1, [key])
        runs.expect_close(f"{key}=2, then 1 rank from step 10 on", one, back, tolerance, after=10)
        on = lab.fork(one, f"{name}-1-4", 10)
        train_on(lab, f"{name}-1-4", config, {**overrides, "parallel.context": 2, "parallel.tensor": 2}, 4,
                 ["parallel.context", "parallel.tensor"])
        runs.expect_close("1 rank, then context 2 x tensor 2 from step 10 on", one, on, tolerance, after=10)
        expect_same_text(lab, f"{name}-1", f"{name}-1-4", after=10)
        same = lab.fork(two, f"{name}-2-4", 10)
        train_on(lab, f"{name}-2-4", config, {**overrides, key: 2, "parallel.zero": 1}, 4, [])
        runs.expect_equal(lab, f"{key}=2, then 2 data ranks and zero 1 beside it from step 10 on", two, same, after=10)
        mutant = lab.train(f"{name}-mutant", config, {**overrides, key: 2, "train.lanes": 3}, 2)
        runs.expect_different(lab, "one lane less", two, mutant)


def all_axes(lab, options):
    """Eight ranks, two on each of three axes, share a vocabulary of 257 that two do not divide."""
    overrides = {**COMMON, "train.steps": 20, "train.eval_every": 10, "train.sample_every": 20, "data.sequence_length": 64}
    divided = {"parallel.tensor": 2, "parallel.pipeline": 2, "parallel.data": 2, "parallel.zero": 1}
    one = lab.train("axes-1", "gpt/tiny.yaml", overrides)
    expect_clipping(one, COMMON["optimizer.clip"])
    expect_buckets(lab, "gpt/tiny.yaml", overrides, 5)
    two = lab.train("axes-2", "gpt/tiny.yaml", {**overrides, "parallel.tensor": 2}, 2)
    eight = lab.train("axes-8", "gpt/tiny.yaml", {**overrides, **divided}, 8)
    runs.expect_close("2 tensor ranks and 1 rank", one, two, 1e-6)
    runs.expect_equal(lab, "2 tensor ranks, and data 2 x pipeline 2 beside them", two, eight)
    mutant = lab.train("axes-mutant", "gpt/tiny.yaml", {**overrides, **divided, "train.lanes": 3}, 8)
    runs.expect_different(lab, "one lane less", two, mutant)


if __name__ == "__main__":
    runs.main({**{name: functools.partial(over_ranks, name=name) for name in CASES},
               "zero": over_zero, "threads": over_threads, "recompute": recompute,
               "shared_tokens": shared_tokens, "all_axes": all_axes, "pipeline": pipeline, "pipeline_resume": pipeline_resume})
