# SPDX-License-Identifier: Apache-2.0
"""A run that resumes from any of its checkpoints ends with the bits of the run that was never interrupted, on the same or
another number of ranks. Mutants are checkpoints with one part of the state altered, as if the program had forgotten it."""

import plinth_runs as runs

CONFIG = "gpt/tiny.yaml"
STEPS = 12
# Dropout, warm-up, four micro-batches a step, a batch that grows on the way, clipping.
OVERRIDES = {"train.steps": STEPS, "model.dropout": 0.1, "optimizer.warmup_steps": 5, "optimizer.clip": 0.5,
             "train.global_batch": 12, "train.lanes": 4,
             "train.batch_ramp": "[{samples: 0, global_batch: 8}, {samples: 40, global_batch: 12}]",
             "data.sequence_length": 32, "checkpoint.every": 1, "checkpoint.keep": 0, "train.eval_every": 4}
BF16_CONFIG = "llama/tiny.yaml"
BF16 = {"train.dtype": "bf16", "parallel.wire_dtype": "bf16"}


def every_step(lab, options, config=CONFIG, more={},
               layouts=(("true", 1, (1, 2)), ("false", 2, (2, 3)), ("true", 3, (1,)))):
    """Each checkpoint of each run, on the number of ranks that goes on with it."""
    family = config.split("/")[0]
    reference = lab.train(f"{family}-whole", config, {**OVERRIDES, **more, "checkpoint.every": 0})
    for asynchronous, ranks, others in layouts:
        overrides = {**OVERRIDES, **more, "checkpoint.async": asynchronous}
        saved = lab.train(f"{family}-saved-{ranks}", config, overrides, ranks)
        runs.expect_equal(lab, f"{ranks} ranks that save every step, async {asynchronous}", reference, saved)
        for other in others:
            for step in range(1, STEPS):
                name = f"{family}-from-{ranks}-on-{other}-step-{step}"
                lab.fork(saved, name, step)
                run = lab.train(name, config, overrides, other)
                runs.expect_equal(lab, f"{ranks} ranks stopped after step {step}, {other} went on", reference, run, step)


MUTANTS = {
    "optimizer's update count one short": ("counter", "updates", "-1"),
    "optimizer's update count lost": ("counter", "updates", "-6"),
    "step count, so schedule and dropout, one short": ("counter", "steps", "-1"),
    "one sample read again": ("consumed", "-1"),
    "a step's samples left out": ("consumed", "8"),
    "consumed tokens lost": ("counter", "consumed_tokens", "-32"),
    "another seed of dropout": ("counter", "seed", "1"),
    "master weights rounded to bf16": ("bf16", "model."),
    "first moments lost": ("zero", "optimizer.m."),
    "second moments lost": ("zero", "optimizer.v."),
}


def mutants(lab, options, config=CONFIG, more={}):
    family = config.split("/")[0]
    overrides = {**OVERRIDES, **more}
    reference = lab.train(f"{family}-unaltered", config, overrides)
    lab.fork(reference, f"{family}-copied", 6, edit=["none"])
    copied = lab.train(f"{family}-copied", config, overrides)
    runs.expect_equal(lab, "a checkpoint written again unaltered", reference, copied, 6)
    for number, (what, edit) in enumerate(MUTANTS.items()):
        name = f"{family}-mutant-{number}"
        lab.fork(reference, name, 6, edit=edit)
        runs.expect_different(lab, what, reference, lab.train(name, config, overrides), 6)
    # The same steps under another schedule: a longer run's learning rate at the same step.
    lab.fork(reference, f"{family}-schedule", 6)
    run = lab.train(f"{family}-schedule", config, {**overrides, "optimizer.schedule": "linear"})
    runs.expect_different(lab, "another schedule", reference, run, 6)


def every_step_bf16(lab, options):
    every_step(lab, options, BF16_CONFIG, BF16, layouts=(("true", 2, (1,)),))


def mutants_bf16(lab, options):
    """Weights rounded to bf16 among them: those of a program that saves what it computes with, not the masters."""
    mutants(lab, options, BF16_CONFIG, BF16)


def zero(lab, options):
    """A run goes on with another stage of sharding on another number of ranks."""
    plain = {**OVERRIDES, "train.global_batch": 8, "train.batch_ramp": "[]"}
    reference = lab.train("whole", CONFIG, plain)
    for (stage, ranks), (other, on) in (((1, 2), (0, 1)), ((0, 3), (3, 2)), ((3, 4), (2, 3)), ((2, 2), (1, 4))):
        saved = lab.train(f"zero-{stage}-{ranks}", CONFIG, {**plain, "parallel.zero": stage}, ranks)
        runs.expect_equal(lab, f"zero {stage} on {ranks} ranks and zero 0 on 1", reference, saved)
        name = f"from-{stage}-to-{other}"
        lab.fork(saved, name, 5)
        run = lab.train(name, CONFIG, {**plain, "parallel.zero": other}, on)
        runs.expect_equal(lab, f"zero {stage} on {ranks} ranks stopped after step 5, zero {other} on {on} went on",
                          reference, run, 5)
    saved = lab.folder / "zero-1-2"
    lab.fork(saved, "mutant", 5, edit=("zero", "optimizer.v."))
    run = lab.train("mutant", CONFIG, {**plain, "parallel.zero": 3}, 2)
    runs.expect_different(lab, "zero 1, then 3 without the second moments", reference, run, 5)


def skip_list(lab, options):
    """Skipped samples lie ahead of step 5: a run that learns of them there equals one that always knew."""
    plain = {**OVERRIDES, "train.global_batch": 8, "train.batch_ramp": "[]"}
    skipping = {**plain, "data.skip": "[{begin: 48, end: 60}, {begin: 75, end: 76}]"}
    without = lab.train("without", CONFIG, plain)
    fresh = lab.train("fresh", CONFIG, skipping)
    runs.expect_different(lab, "with and without a skip list", without, fresh)
    lab.fork(without, "told-later", 5)
    runs.expect_equal(lab, "skip list given at step 5", fresh, lab.train("told-later", CONFIG, skipping, 2), 5)
    lab.fork(fresh, "inside", 7)
    runs.expect_equal(lab, "resumed between skipped samples", fresh, lab.train("inside", CONFIG, skipping, 3), 7)


def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "a flipped bit in the data": ("data-00000.bin", lambda path: flip_byte(path, 4096), "checksum"),
    "a short data file": ("data-00000.bin", lambda path: truncate(path, 5000), "bytes"),
    "a flipped bit in the index": ("data-00000.index", lambda path: flip_byte(path, 100), "index"),
    "a flipped bit in the manifest": ("manifest", lambda path: flip_byte(path, 200), "hash"),
    "a short COMMIT": ("COMMIT", lambda path: truncate(path, 20), "COMMIT"),
    "a missing manifest": ("manifest", lambda path: path.unlink(), "manifest"),
}


def damaged(lab, options):
    """The newest checkpoint is damaged: a warning names the file and the cause, the older one goes on to the same bits."""
    reference = lab.train("whole", CONFIG, OVERRIDES)
    for number, (what, (file, damage, cause)) in enumerate(DAMAGES.items()):
        name = f"damaged-{number}"
        folder = lab.fork(reference, name, 7)
        newest = lab.fork(reference, name, 8) / "checkpoints" / runs.checkpoint_of_step(reference, 8).name
        damage(newest / file)
        run = lab.start(name, CONFIG, OVERRIDES, 2)
        code = run.wait()
        warnings = [line for line in run.lines if line.startswith("warning: ") and newest.name in line]
        if code != 0 or len(warnings) != 1 or file not in warnings[0] or cause not in warnings[0]:
            runs.fail(f"{what}: exit code {code}; expected 0 and one warning that names {file} and '{cause}'", run.lines)
        if not any("resumed from" in line and "at step 7 " in line for line in run.lines):
            runs.fail(f"{what}: did not go on from step 7", run.lines)
        print(f"warned: {warnings[0]}")
        runs.expect_equal(lab, what, reference, folder, 7)


def replicas(lab, options):
    """The comparison of the replicas' parameters after every step finds them equal."""
    overrides = {**OVERRIDES, "run.hash_check_every": 1, "run.name": "a name"}
    command = lab.start("checked", CONFIG, overrides, 3)
    if command.wait() != 0 or not any(line.startswith("run a name (") for line in command.lines):
        runs.fail("the run's name is not in its log", command.lines)
    runs.expect_equal(lab, "checked after each step, on 3 ranks, and unchecked on 1",
                      lab.train("unchecked", CONFIG, OVERRIDES), lab.folder / "checked")


def offload(lab, options):
    """Master weights and moments in host memory: no bit changes, and checkpoints go from one to the other, beside other ranks too."""
    for config, more in ((CONFIG, {}), (BF16_CONFIG, BF16)):
        family = config.split("/")[0]
        here = {**OVERRIDES, **more}
        there = {**here, "optimizer.offload": "states"}
        reference = lab.train(f"{family}-here", config, here)
        offloaded = lab.train(f"{family}-there", config, {**there, "run.hash_check_every": 1}, 2)
        runs.expect_equal(lab, f"{family}: offloaded states", reference, offloaded)
        for name, source, overrides, ranks in (("to-there", reference, there, 1), ("to-here", offloaded, here, 2),
                                               ("to-zero", offloaded, {**there, "parallel.zero": 1}, 3)):
            lab.fork(source, f"{family}-{name}", 6)
            run = lab.train(f"{family}-{name}", config, overrides, ranks)
            runs.expect_equal(lab, f"{family}: {name} on {ranks} ranks", reference, run, 6)
        lab.fork(offloaded, f"{family}-mutant", 6, edit=("zero", "optimizer.v."))
        mutant = lab.train(f"{family}-mutant", config, there)
        runs.expect_different(lab, f"{family}: second moments lost", reference, mutant, 6)


def moments(lab, options):
    """Moments in bf16: a resume equals no interruption on any layout, and one with the other type converts them and says so."""
    wide = {**OVERRIDES, "train.global_batch": 8, "train.batch_ramp": "[]", "optimizer.beta2": 0.999}
    rounded = {**wide, "optimizer.moments": "bf16"}
    layouts = ((2, {}), (2, {"parallel.zero": 1}), (2, {"parallel.pipeline": 2}), (1, {"optimizer.offload": "states"}))
    reference = lab.train("whole", CONFIG, rounded)
    unlike = lab.train("wide", CONFIG, wide)
    runs.expect_different(lab, "moments in fp32", reference, unlike)
    for number, (ranks, layout) in enumerate(layouts):
        saved = lab.train(f"saved-{number}", CONFIG, {**rounded, **layout}, ranks)
        runs.expect_equal(lab, f"{ranks} ranks {layout}", reference, saved)
        name, (other, on) = f"from-{number}", layouts[number - 1]
        lab.fork(saved, name, 3 + number)
        runs.expect_equal(lab, f"{ranks} ranks {layout} stopped after step {3 + number}, {other} {on} went on", reference,
                          lab.train(name, CONFIG, {**rounded, **on}, other), after=3 + number)
    for number, edit in enumerate((("zero", "optimizer.v."), ("counter", "updates", "-1"))):
        lab.fork(reference, f"mutant-{number}", 6, edit=edit)
        runs.expect_different(lab, " ".join(edit), reference, lab.train(f"mutant-{number}", CONFIG, rounded), 6)
    listed = lab.call([lab.plinth, "checkpoint", "inspect", runs.newest_checkpoint(reference)])
    for line in listed.splitlines():
        if line.strip().startswith(("model.", "optimizer.")) and ("  bf16  " in line) != line.strip().startswith("optimizer."):
            runs.fail("inspect shows a tensor in a type that it has not", [line])
    for source, to, line in ((unlike, rounded, "moments: those of the checkpoint are rounded from fp32 to bf16"),
                             (reference, wide, "moments: those of the checkpoint go from bf16 to fp32, which is exact")):
        for ranks, layout in ((1, {}), (2, {"parallel.zero": 1})):
            name = f"{source.name}-other-{ranks}"
            lab.fork(source, name, 6)
            lab.train(name, CONFIG, {**to, **layout}, ranks)
            if not any(line in said for said in lab.printed[name]):
                runs.fail(f"a resume with the other type of moments does not say '{line}'", lab.printed[name])
        runs.expect_equal(lab, f"{line}; 1 and 2 ranks", lab.folder / f"{source.name}-other-1", lab.folder / name, 6)
        runs.expect_different(lab, "the type of before", source, lab.folder / name, 6)


def offload_activations(lab, options):
    """Inputs of blocks in host memory: no bit changes, alone and in a pipeline with several micro-batches under way (1F1B), and
    checkpoints go from one to the other."""
    for config, more in ((CONFIG, {}), (BF16_CONFIG, BF16)):
        family = config.split("/")[0]
        here = {**OVERRIDES, **more, "model.layers": 4}
        alone = {**here, "train.recompute": "full", "train.offload_activations": "true"}
        stages = {**alone, "parallel.pipeline": 2, "parallel.schedule": "1f1b", "optimizer.offload": "states"}
        reference = lab.train(f"{family}-here", config, here)
        pipeline = lab.train(f"{family}-stages", config, stages, 2)
        runs.expect_equal(lab, f"{family}: offloaded activations of a pipeline", reference, pipeline)
        for name, source, overrides, ranks in (("stages-to-alone", pipeline, alone, 1), ("here-to-stages", reference, stages, 2),
                                               ("stages-to-here", pipeline, here, 1)):
            lab.fork(source, f"{family}-{name}", 6)
            run = lab.train(f"{family}-{name}", config, overrides, ranks)
            runs.expect_equal(lab, f"{family}: {name} on {ranks} ranks", reference, run, 6)
        mutant = lab.train(f"{family}-mutant", config, {**alone, "optimizer.clip": 0.4})
        runs.expect_different(lab, f"{family}: offloaded activations, another clip", reference, mutant)


def tensor_bytes(run, step):
    """Of the data file of a run on one rank, but for its ends, which name the run."""
    data = (runs.checkpoint_of_step(run, step) / "data-00000.bin").read_bytes()
    return data[64:-64]


def vocabulary(lab, options):
    """Rows up to model.vocab_multiple are memory alone: no bit of a run or of its checkpoints depends on them, a resume may change
    them, and checkpoints of programs that saved them go on."""
    layouts = (("zero-1", 2, {"parallel.zero": 1}), ("zero-2", 2, {"parallel.zero": 2}), ("zero-3", 3, {"parallel.zero": 3}),
               ("stages", 2, {"parallel.pipeline": 2}), ("offload", 1, {"optimizer.offload": "states"}))
    for config, more, rows in ((CONFIG, {}, 384), (BF16_CONFIG, BF16, 384)):
        family = config.split("/")[0]
        plain = {**OVERRIDES, **more, "train.global_batch": 8, "train.batch_ramp": "[]", "model.vocab_multiple": 1}
        padded = {**plain, "model.vocab_multiple": 128}
        one = lab.train(f"{family}-1", config, plain)
        many = lab.train(f"{family}-128", config, padded)
        runs.expect_equal(lab, f"{family}: 1 and 128", one, many)
        if tensor_bytes(one, 6) != tensor_bytes(many, 6):
            runs.fail(f"{family}: the padding of a vocabulary changes the bytes of a checkpoint")
        if tensor_bytes(one, 6) == tensor_bytes(one, 7):
            runs.fail("the bytes of two steps are the same")
        print(f"equal: {family}: {len(tensor_bytes(one, 6))} bytes of tensors")
        lab.fork(one, f"{family}-1-128", 4)
        there = lab.train(f"{family}-1-128", config, padded)
        runs.expect_equal(lab, f"{family}: from 1 to 128", one, there, 4)
        lab.fork(there, f"{family}-1-128-1", 8)
        runs.expect_equal(lab, f"{family}: from 1 to 128 to 1", one, lab.train(f"{family}-1-128-1", config, plain), 8)
        for name, ranks, layout in layouts:
            lab.fork(one, f"{family}-{name}", 4)
            run = lab.train(f"{family}-{name}", config, {**padded, **layout}, ranks)
            runs.expect_equal(lab, f"{family}: to 128, {name} on {ranks} ranks", one, run, 4)
        for number, multiple in enumerate((1, 128)):
            name = f"{family}-tensor-{number}"
            lab.fork(one, name, 4)
            lab.train(name, config, {**plain, "parallel.tensor": 2, "model.vocab_multiple": multiple}, 2)
        runs.expect_equal(lab, f"{family}: 1 and 128 on 2 tensor ranks", lab.folder / f"{family}-tensor-0",
                          lab.folder / f"{family}-tensor-1", 4)
        for name, ranks, layout in (("alone", 1, {}), ("to-1", 1, {"model.vocab_multiple": 1}), *layouts):
            lab.fork(one, f"{family}-old-{name}", 6, edit=("pad", str(rows), "128"))
            run = lab.train(f"{family}-old-{name}", config, {**padded, **layout}, ranks)
            runs.expect_equal(lab, f"{family}: a checkpoint with {rows} rows, {name}", one, run, 6)
        lab.fork(one, f"{family}-lost", 6, edit=("zero", "model.embedding.tokens"))
        runs.expect_different(lab, "a table of zeros", one, lab.train(f"{family}-lost", config, padded), 6)
        # Rows that the configuration in the checkpoint does not explain are another model's.
        lab.fork(one, f"{family}-other", 6, edit=("pad", str(rows), "64"))
        lab.train(f"{family}-other", config, padded, code=4)
        if not any("embedding.tokens.weight" in line and f"[{rows}, " in line for line in lab.printed[f"{family}-other"]):
            runs.fail("a table of other rows is refused without a word of them", lab.printed[f"{family}-other"])


if __name__ == "__main__":
    runs.main({"every_step": every_step, "mutants": mutants, "every_step_bf16": every_step_bf16,
               "mutants_bf16": mutants_bf16, "skip_list": skip_list, "damaged": damaged,
               "replicas": replicas, "zero": zero, "offload": offload, "moments": moments,
               "offload_activations": offload_activations, "vocabulary": vocabulary})
