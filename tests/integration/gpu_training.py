# SPDX-License-Identifier: Apache-2.0
"""Training on a GPU beside the CPU's: the same losses within rounding, a resume with the same bits, checkpoints that go from
one to the other. Needs a CUDA device; without one the cases are skipped with the reason."""

import json
import pathlib
import subprocess
import sys

import fp8 as eight_bits
import plinth_runs as runs

COMMON = {"train.steps": 30, "train.global_batch": 8, "train.lanes": 4, "optimizer.clip": 1.0, "data.sequence_length": 64,
          "checkpoint.every": 10, "train.eval_every": 15, "run.hash_check_every": 10, "run.reproducible": "true",
          "run.peak_flops": 1e15}  # else measured, which takes an emulated device minutes
# What is else for the emulated device (docs/gpu.md, "Without a GPU"), which takes a second or more for a step of the above: the
# cases, layouts and bounds stay.
EMULATED = {"train.steps": 6, "checkpoint.every": 3, "train.eval_every": 4, "train.eval_batches": 2, "run.hash_check_every": 3,
            "data.sequence_length": 32,
            "run.hang_seconds": 0}  # a wait may compute for long
MODELS = ("gpt/tiny.yaml", "llama/tiny.yaml", "bloom/tiny.yaml")
SKIPPED = 77


def need_device(lab):
    """The settings of all runs; without a device the test ends here."""
    text = subprocess.run([lab.plinth, "doctor"], text=True, capture_output=True).stdout
    gpus = [line for line in text.splitlines() if line.startswith("GPUs")]
    if not gpus or gpus[0].startswith("GPUs: none"):
        print(f"SKIPPED: {gpus[0] if gpus else 'plinth doctor names no GPUs'}")
        sys.exit(SKIPPED)
    if "emulated device" not in text:
        return COMMON
    runs.run_seconds = 900
    return {**COMMON, **EMULATED}


def stop_of(common):
    """The step from whose checkpoint runs are resumed."""
    return common["checkpoint.every"]


def losses(run, kind="step"):
    return [float.fromhex(row[2]) for row in runs.metrics_of(run) if row[0] == kind]


def norms(run):
    return [float.fromhex(row[3]) for row in runs.metrics_of(run) if row[0] == "step"]


def worst_difference(expected, actual):
    """The largest, as a share of the expected value."""
    return max(abs(a - b) / max(abs(a), 1e-30) for a, b in zip(expected, actual))


def expect_close(what, expected, actual, tolerance):
    if len(expected) != len(actual) or not expected:
        runs.fail(f"{what}: {len(actual)} values, expected {len(expected)}")
    worst = worst_difference(expected, actual)
    if not worst <= tolerance:
        runs.fail(f"{what}: relative difference {worst:.2e}, allowed {tolerance:.0e}",
                  [f"step {i + 1}: {a} and {b}" for i, (a, b) in enumerate(zip(expected, actual))])
    print(f"close: {what}: {worst:.2e} of {tolerance:.0e}", flush=True)


def equals_cpu(lab, options):
    """Every style of model, with dropout: 30 steps."""
    common = need_device(lab)
    for config in MODELS:
        for dtype, loss_tolerance, norm_tolerance in (("fp32", 2e-5, 5e-4), ("bf16", 5e-3, 5e-2)):
            name = f"{config.split('/')[0]}-{dtype}"
            overrides = {**common, "train.dtype": dtype, "model.dropout": 0.1}
            cpu = lab.train(f"{name}-cpu", config, {**overrides, "run.device": "cpu"})
            gpu = lab.train(f"{name}-gpu", config, {**overrides, "run.device": "cuda"})
            expect_close(f"{name}: losses", losses(cpu), losses(gpu), loss_tolerance)
            expect_close(f"{name}: gradient norms", norms(cpu), norms(gpu), norm_tolerance)
            expect_close(f"{name}: held-out losses", losses(cpu, "evaluation"), losses(gpu, "evaluation"), loss_tolerance)
            other = lab.train(f"{name}-mutant", config, {**overrides, "run.device": "cuda", "train.seed": 5})
            if not worst_difference(losses(cpu), losses(other)) > loss_tolerance:
                runs.fail(f"{name}: other initial weights give the same losses: the comparison sees nothing")


# What a configuration may ask for beside the styles above, each with kernels or ways through them of its own.
VARIANTS = {
    "documents": ("gpt/tiny.yaml", {"data.document_mask": "true"}),
    "documents_alibi": ("bloom/tiny.yaml", {"data.document_mask": "true", "model.dropout": 0}),
    "window": ("llama/tiny.yaml", {"model.sliding_window": 7, "model.dropout": 0.1}),
    "qk_norm": ("llama/tiny.yaml", {"model.qk_norm": "true", "optimizer.z_loss": 0.01}),
    "odd_widths": ("gpt/tiny.yaml", {"model.width": 36, "model.head_width": 12, "model.heads": 3, "model.ffn_width": 70}),
    "no_positions": ("gpt/tiny.yaml", {"model.positions": "none", "model.activation": "gelu_erf", "model.tied_head": "false",
                                       "model.vocab_multiple": 128}),
    "moments": ("gpt/tiny.yaml", {"optimizer.moments": "bf16"}),
    "ragged_lanes": ("gpt/tiny.yaml", {"train.global_batch": 6, "train.lanes": 4, "train.micro_batch": 1}),
}


def variants(lab, options):
    """Each against the CPU's run, in both types; a resume with the same bits."""
    common = need_device(lab)
    stop = stop_of(common)
    for variant, (config, keys) in VARIANTS.items():
        for dtype, loss_tolerance, norm_tolerance in (("fp32", 2e-5, 5e-4), ("bf16", 5e-3, 5e-2)):
            name = f"{variant}-{dtype}"
            overrides = {**common, "train.dtype": dtype, **keys}
            cpu = lab.train(f"{name}-cpu", config, {**overrides, "run.device": "cpu"})
            gpu = lab.train(f"{name}-gpu", config, {**overrides, "run.device": "cuda"})
            expect_close(f"{name}: losses", losses(cpu), losses(gpu), loss_tolerance)
            expect_close(f"{name}: gradient norms", norms(cpu), norms(gpu), norm_tolerance)
            lab.fork(gpu, f"{name}-resumed", stop)
            resumed = lab.train(f"{name}-resumed", config, {**overrides, "run.device": "cuda"})
            runs.expect_equal(lab, f"{name}: resumed at step {stop}", gpu, resumed, after=stop)


def resumes(lab, options):
    """Reproducible mode: a run repeats bit for bit, a resumed one goes on as if it had not stopped, and recompute changes
    nothing."""
    common = need_device(lab)
    stop = stop_of(common)
    # Without dropout bf16 attention is cuDNN's.
    for dtype, dropout in (("fp32", 0.1), ("bf16", 0.1), ("bf16", 0.0)):
        overrides = {**common, "train.dtype": dtype, "model.dropout": dropout, "run.device": "cuda"}
        dtype = f"{dtype}-dropout-{dropout}"
        whole = lab.train(f"whole-{dtype}", "gpt/tiny.yaml", overrides)
        again = lab.train(f"again-{dtype}", "gpt/tiny.yaml", overrides)
        runs.expect_equal(lab, f"{dtype}: the same run twice", whole, again)
        lab.fork(whole, f"resumed-{dtype}", stop)
        resumed = lab.train(f"resumed-{dtype}", "gpt/tiny.yaml", overrides)
        runs.expect_equal(lab, f"{dtype}: resumed at step {stop}", whole, resumed, after=stop)
        for mode in ("none", "selective", "full"):
            other = lab.train(f"recompute-{mode}-{dtype}", "gpt/tiny.yaml", {**overrides, "train.recompute": mode})
            runs.expect_equal(lab, f"{dtype}: recompute {mode}", whole, other)


def crosses_devices(lab, options):
    """A checkpoint of the GPU resumes on the CPU and the other way round."""
    common = need_device(lab)
    stop = stop_of(common)
    whole = {device: lab.train(f"cross-{device}", "gpt/tiny.yaml", {**common, "run.device": device}) for device in ("cpu", "cuda")}
    for source, target in (("cpu", "cuda"), ("cuda", "cpu")):
        name = f"from-{source}-on-{target}"
        lab.fork(whole[source], name, stop)
        moved = lab.train(name, "gpt/tiny.yaml", {**common, "run.device": target})
        expect_close(name, losses(whole[source])[stop:], losses(moved), 2e-5)


LAYOUTS = {
    "data": (4, {"parallel.data": 4}),
    "zero1": (2, {"parallel.zero": 1}),
    "zero2": (4, {"parallel.zero": 2}),
    "zero3": (2, {"parallel.zero": 3}),
    "pipeline": (2, {"parallel.pipeline": 2}),
    "pipeline_data_zero1": (4, {"parallel.pipeline": 2, "parallel.data": 2, "parallel.zero": 1,
                                "parallel.schedule": "zero_bubble"}),
}


def layouts(lab, options):
    """Several ranks share the GPU, their collectives staged through the host: in the reproducible mode the same bits as one
    rank; tensor parallel ranks within rounding."""
    common = need_device(lab)
    for dtype in ("fp32", "bf16"):
        overrides = {**common, "train.lanes": 8, "train.micro_batch": 1, "train.dtype": dtype, "model.dropout": 0.1,
                     "model.layers": 4, "model.vocab_multiple": 4, "run.device": "cuda"}
        one = lab.train(f"one-{dtype}", "gpt/tiny.yaml", overrides)
        for name, (ranks, layout) in LAYOUTS.items():
            run = lab.train(f"{name}-{dtype}", "gpt/tiny.yaml", {**overrides, **layout}, ranks)
            runs.expect_equal(lab, f"{dtype}: {name} on {ranks} ranks and one rank", one, run)
        tensor = lab.train(f"tensor-{dtype}", "gpt/tiny.yaml", {**overrides, "parallel.tensor": 2}, 2)
        expect_close(f"{dtype}: tensor", losses(one), losses(tensor), 2e-5 if dtype == "fp32" else 5e-3)
        mutant = lab.train(f"mutant-{dtype}", "gpt/tiny.yaml", {**overrides, "train.lanes": 7})
        runs.expect_different(lab, f"{dtype}: one lane less", one, mutant)


def memory_of(run):
    """The most that a rank's tensors took on the device."""
    rows = [json.loads(line) for line in pathlib.Path(run, "metrics.jsonl").read_text().splitlines()]
    return max(row["memory_bytes"] for row in rows if row["kind"] == "step")


def offload(lab, options):
    """Master weights and moments in the host's memory, updated by the CPU: the bits of the GPU's updates, in less of its memory,
    alone and beside other ranks; checkpoints go from one to the other."""
    common = need_device(lab)
    stop = stop_of(common)
    for dtype in ("fp32", "bf16"):
        # Wide enough that states, and not activations, are most of the memory.
        overrides = {**common, "train.lanes": 8, "train.micro_batch": 1, "train.dtype": dtype, "model.dropout": 0.1,
                     "model.layers": 4, "model.width": 256, "run.device": "cuda"}
        there = {**overrides, "optimizer.offload": "states"}
        gpu = lab.train(f"gpu-{dtype}", "gpt/tiny.yaml", overrides)
        host = lab.train(f"host-{dtype}", "gpt/tiny.yaml", there)
        runs.expect_equal(lab, f"{dtype}: offloaded states", gpu, host)
        if not memory_of(host) < 0.8 * memory_of(gpu):
            runs.fail(f"{dtype}: {memory_of(host)} bytes on the device with offloaded states, {memory_of(gpu)} without")
        for source, name, keys in ((gpu, "to-host", there), (host, "to-gpu", overrides), (host, "host-to-host", there)):
            lab.fork(source, f"{name}-{dtype}", stop)
            resumed = lab.train(f"{name}-{dtype}", "gpt/tiny.yaml", keys)
            runs.expect_equal(lab, f"{dtype}: {name}, resumed at step {stop}", gpu, resumed, after=stop)
        for name, (ranks, layout) in LAYOUTS.items():
            run = lab.train(f"{name}-{dtype}", "gpt/tiny.yaml", {**there, **layout}, ranks)
            runs.expect_equal(lab, f"{dtype}: offloaded states, {name} on {ranks} ranks", gpu, run)
        inputs = {**there, "train.recompute": "full", "train.offload_activations": "true"}
        for name, layout, ranks in (("one", {}, 1), ("pipeline", {"parallel.pipeline": 2}, 2)):
            run = lab.train(f"activations-{name}-{dtype}", "gpt/tiny.yaml", {**inputs, **layout}, ranks)
            runs.expect_equal(lab, f"{dtype}: offloaded states and activations, {name}", gpu, run)
        mutant = lab.train(f"mutant-{dtype}", "gpt/tiny.yaml", {**there, "optimizer.clip": 0.5})
        runs.expect_different(lab, f"{dtype}: offloaded states, another clip", gpu, mutant)


def moments(lab, options):
    """Moments in bf16: a run, its resume, offloaded states and other ranks have the same bits."""
    common = need_device(lab)
    stop = stop_of(common)
    overrides = {**common, "train.lanes": 8, "train.micro_batch": 1, "train.dtype": "bf16", "model.dropout": 0.1,
                 "run.device": "cuda"}
    rounded = {**overrides, "optimizer.moments": "bf16"}
    gpu = lab.train("rounded", "gpt/tiny.yaml", rounded)
    runs.expect_different(lab, "moments in fp32", gpu, lab.train("wide", "gpt/tiny.yaml", overrides))
    lab.fork(gpu, "resumed", stop)
    runs.expect_equal(lab, f"resumed at step {stop}", gpu, lab.train("resumed", "gpt/tiny.yaml", rounded), after=stop)
    host = lab.train("offloaded", "gpt/tiny.yaml", {**rounded, "optimizer.offload": "states"})
    runs.expect_equal(lab, "rounded by the host", gpu, host)
    for name, (ranks, layout) in LAYOUTS.items():
        runs.expect_equal(lab, f"{name} on {ranks} ranks", gpu, lab.train(name, "gpt/tiny.yaml", {**rounded, **layout}, ranks))


def context(lab, options):
    """Ranks that share sequences, and the GPU: losses of one rank within rounding, for every style of model. The same bits in a
    run that repeats, resumes or recomputes, and whatever is divided beside the sequences."""
    common = need_device(lab)
    stop = stop_of(common)
    for config in MODELS:
        for dtype, loss_tolerance, norm_tolerance in (("fp32", 2e-5, 5e-4), ("bf16", 5e-3, 5e-2)):
            name = f"{config.split('/')[0]}-{dtype}"
            overrides = {**common, "train.dtype": dtype, "model.dropout": 0.1, "run.device": "cuda"}
            one = lab.train(f"{name}-1", config, overrides)
            for ranks in (2, 4):
                run = lab.train(f"{name}-{ranks}", config, {**overrides, "parallel.context": ranks}, ranks)
                expect_close(f"{name}: losses, context {ranks}", losses(one), losses(run), loss_tolerance)
                expect_close(f"{name}: gradient norms, context {ranks}", norms(one), norms(run), norm_tolerance)
                expect_close(f"{name}: held-out losses, context {ranks}", losses(one, "evaluation"), losses(run, "evaluation"),
                             loss_tolerance)
    for dtype in ("fp32", "bf16"):
        overrides = {**common, "train.dtype": dtype, "model.dropout": 0.1, "run.device": "cuda", "parallel.context": 2}
        two = lab.folder / f"gpt-{dtype}-2"
        beside = lab.train(f"data-{dtype}", "gpt/tiny.yaml", {**overrides, "parallel.zero": 1}, 4)
        runs.expect_equal(lab, f"{dtype}: context 2, and with 2 data ranks and zero 1 beside it", two, beside)
        other = lab.train(f"recompute-{dtype}", "gpt/tiny.yaml", {**overrides, "train.recompute": "full"}, 2)
        runs.expect_equal(lab, f"{dtype}: context 2, recompute full", two, other)
        lab.fork(two, f"resumed-{dtype}", stop)
        resumed = lab.train(f"resumed-{dtype}", "gpt/tiny.yaml", overrides, 2)
        runs.expect_equal(lab, f"{dtype}: context 2, resumed at step {stop}", two, resumed, after=stop)
        mutant = lab.train(f"mutant-{dtype}", "gpt/tiny.yaml", {**overrides, "train.lanes": 3}, 2)
        runs.expect_different(lab, f"{dtype}: one lane less", two, mutant)


def fp8(lab, options):
    """8-bit products: the losses of the CPU's emulation within what another order of bf16 sums makes of the roundings to 8
    bits; a run that repeats, resumes or recomputes has the same bits, on two ranks too."""
    common = need_device(lab)
    stop = stop_of(common)
    for scaling in ("current", "delayed"):
        overrides = {**common, "train.dtype": "bf16", "train.fp8": scaling, "model.width": 128, "run.device": "cuda"}
        cpu = lab.train(f"{scaling}-cpu", "gpt/tiny.yaml", {**overrides, "run.device": "cpu"})
        whole = lab.train(f"{scaling}-gpu", "gpt/tiny.yaml", overrides)
        expect_close(f"{scaling}: losses", losses(cpu), losses(whole), 2e-2)
        expect_close(f"{scaling}: gradient norms", norms(cpu), norms(whole), 2e-1)
        runs.expect_equal(lab, f"{scaling}: the same run twice", whole,
                          lab.train(f"{scaling}-again", "gpt/tiny.yaml", overrides))
        lab.fork(whole, f"{scaling}-resumed", stop)
        runs.expect_equal(lab, f"{scaling}: resumed at step {stop}", whole,
                          lab.train(f"{scaling}-resumed", "gpt/tiny.yaml", overrides), after=stop)
        for what, ranks, layout in (("recompute full", 1, {"train.recompute": "full"}), ("zero 1", 2, {"parallel.zero": 1})):
            other = lab.train(f"{scaling}-{what}", "gpt/tiny.yaml", {**overrides, **layout}, ranks)
            runs.expect_equal(lab, f"{scaling}: {what}", whole, other)
        bf16 = lab.train(f"{scaling}-none", "gpt/tiny.yaml", {**overrides, "train.fp8": "none"})
        runs.expect_different(lab, f"{scaling} and bf16 alone", whole, bf16)


def skips(lab, options):
    """An absurd learning rate: a rank alone and two ranks, whose devices decide, skip the steps that a rank skips whose host decides,
    with the same bits and counts; a run that diverges ends after the same step, and saves nothing of it."""
    common = need_device(lab)
    absurd = {**common, "train.steps": 12, "optimizer.lr": "1e30", "optimizer.min_lr": "1e30", "optimizer.warmup_steps": 0,
              "train.eval_every": 0, "checkpoint.every": 1, "checkpoint.keep": 1, "run.device": "cuda"}
    for most in (0, 1, 2, 4):
        overrides = {**absurd, "train.max_skipped_steps": most}
        ways = {f"skips-{most}-1": (1, {}), f"skips-{most}-2": (2, {}), f"skips-{most}-host": (1, {"optimizer.offload": "states"})}
        codes = [lab.start(name, "gpt/tiny.yaml", {**overrides, **more}, ranks).wait() for name, (ranks, more) in ways.items()]
        if len(set(codes)) != 1 or (codes[0] == 0) != (most == 0):
            runs.fail(f"at most {most} skipped steps: exit codes {codes}")
        # The sign of a NaN is the processor's.
        folders = [lab.folder / name for name in ways]
        rows = [[tuple(str(word).lstrip("-") for word in row[:4]) for row in runs.metrics_of(run)] for run in folders]
        kept = [sorted(path.name.split(".")[0] for path in runs.checkpoints_of(run)) for run in folders]
        if any(each != rows[0] for each in rows) or any(each != kept[0] for each in kept):
            runs.fail(f"at most {most} skipped steps: devices decide otherwise than the host", [*map(str, rows), str(kept)])
        print(f"equal: at most {most} skipped steps in a row: {len(rows[0])} steps, exit code {codes[0]}", flush=True)


def graphs(lab, options):
    """Captured micro-batches and updates: in the reproducible mode the bits of a run without, for the styles that they hold and all
    recompute modes, also from a checkpoint on, with lanes of several slots, and on two data ranks. With dropout, ALiBi,
    moments in bf16 and 8-bit scales, too."""
    common = need_device(lab)
    stop = stop_of(common)
    styles = {"gpt": {"model.dropout": 0.1}, "llama": {"optimizer.moments": "bf16"}, "bloom": {"model.dropout": 0.1},
              "gpt-fp8": {"model.dropout": 0, "model.width": 128, "train.fp8": "current"},
              "gpt-fp8-delayed": {"model.dropout": 0, "model.width": 128, "train.fp8": "delayed"}}
    for style, more in styles.items():
        for dtype in ("bf16",) if "train.fp8" in more else ("fp32", "bf16"):
            name, config = f"{style}-{dtype}", f"{style.split('-')[0]}/tiny.yaml"
            overrides = {**common, "train.lanes": 3, "train.micro_batch": 1, "train.dtype": dtype, "run.device": "cuda", **more}
            captured = {**overrides, "run.graphs": "true"}
            plain = lab.train(f"{name}-plain", config, overrides)
            runs.expect_equal(lab, f"{name}: captured", plain, lab.train(f"{name}-captured", config, captured))
            lab.fork(plain, f"{name}-resumed", stop)
            resumed = lab.train(f"{name}-resumed", config, captured)
            runs.expect_equal(lab, f"{name}: captured from step {stop} on", plain, resumed, after=stop)
            for mode in ("none", "selective", "full"):
                other = lab.train(f"{name}-{mode}", config, {**captured, "train.recompute": mode})
                runs.expect_equal(lab, f"{name}: captured, recompute {mode}", plain, other)
            ranks = lab.train(f"{name}-ranks", config, {**captured, "parallel.zero": 1}, 2)
            runs.expect_equal(lab, f"{name}: captured on 2 ranks, zero 1", plain, ranks)
            mutant = lab.train(f"{name}-mutant", config, {**captured, "train.lanes": 4})
            runs.expect_different(lab, f"{name}: captured, one lane more", plain, mutant)


def fp8_curve(lab, options):
    """The curves of docs/numerics.md, on the device."""
    need_device(lab)
    eight_bits.curve(lab, options, **{"run.device": "cuda", "run.peak_flops": 1e15})


if __name__ == "__main__":
    runs.main({"equals_cpu": equals_cpu, "variants": variants, "resumes": resumes, "crosses_devices": crosses_devices,
               "layouts": layouts, "offload": offload, "moments": moments, "context": context,
               "fp8": fp8, "fp8_curve": fp8_curve, "skips": skips, "graphs": graphs}, steps=500, seeds=3)
