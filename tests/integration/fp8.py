# SPDX-License-Identifier: Apache-2.0
"""Training with 8-bit products (train.fp8): its loss curve beside bf16's, and resumes from its checkpoints.

    tests/integration/fp8.py --plinth build/release/plinth --tool build/release/tests/integration/checkpoint_tool \\
        --steps 500 --seeds 4 curve        the curves of docs/numerics.md
"""

import plinth_runs as runs

CONFIG = "gpt/tiny.yaml"
MODEL = {"model.width": 128, "model.layers": 2, "train.micro_batch": 4, "train.global_batch": 8, "train.dtype": "bf16",
         "optimizer.lr": 2e-3, "optimizer.warmup_steps": 10, "checkpoint.every": 0, "train.eval_batches": 8}
SCALINGS = ("none", "current", "delayed")
# Of the mean loss of each tenth of the steps, as a share of bf16's.
ALLOWED = 0.02


def losses(run):
    return [float.fromhex(row[2]) for row in runs.metrics_of(run) if row[0] == "step"]


def tenths(values):
    size = max(1, len(values) // 10)
    return [sum(values[i:i + size]) / size for i in range(0, len(values) - size + 1, size)]


def distance(expected, found):
    return max(abs(b / a - 1) for a, b in zip(tenths(expected), tenths(found)))


def mean_curve(lab, name, overrides, seeds):
    """The mean loss of each step over several seeds of the weights."""
    runs_of = [losses(lab.train(f"{name}-{seed}", CONFIG, {**overrides, "train.seed": 1234 + seed})) for seed in range(seeds)]
    return [sum(values) / seeds for values in zip(*runs_of)]


def curve(lab, options, **more):
    """The mean losses of tenths of a run stay beside bf16's. Mutants: other rates and warm-ups."""
    overrides = {**MODEL, "train.steps": options.steps, "train.eval_every": options.steps, **more}
    curves = {scaling: mean_curve(lab, scaling, {**overrides, "train.fp8": scaling}, options.seeds) for scaling in SCALINGS}
    print("| steps | " + " | ".join(SCALINGS) + " |")
    size = max(1, options.steps // 10)
    for i in range(len(tenths(curves["none"]))):
        means = " | ".join(f"{tenths(curves[scaling])[i]:.4f}" for scaling in SCALINGS)
        print(f"| {i * size + 1} to {(i + 1) * size} | {means} |", flush=True)
    for scaling in SCALINGS:
        ends = [[float.fromhex(row[2]) for row in runs.metrics_of(lab.folder / f"{scaling}-{seed}") if row[0] == "evaluation"][-1]
                for seed in range(options.seeds)]
        print(f"held-out loss, {scaling}: {sum(ends) / len(ends):.4f} ({', '.join(f'{end:.4f}' for end in ends)})")
    start, end = curves["none"][0], tenths(curves["none"])[-1]
    if not end < 0.8 * start:
        runs.fail(f"bf16 goes from {start} to {end}: it has learned too little to compare with")
    for scaling in SCALINGS[1:]:
        found = distance(curves["none"], curves[scaling])
        if curves[scaling] == curves["none"]:
            runs.fail(f"{scaling} has the losses of bf16: it did nothing")
        if not found <= ALLOWED:
            runs.fail(f"{scaling}: a tenth of the steps is {found:.2%} from bf16, allowed are {ALLOWED:.0%}")
        print(f"close: {scaling} and bf16: each tenth of the steps within {found:.3%}", flush=True)
    for what, change in {"two thirds of the rate": {"optimizer.lr": 1.3e-3}, "a longer warm-up": {"optimizer.warmup_steps": 25}}.items():
        mutant = distance(curves["none"], mean_curve(lab, what, {**overrides, **change}, options.seeds))
        if mutant <= ALLOWED:
            runs.fail(f"{what}: only {mutant:.2%} from bf16: the comparison sees nothing")
        print(f"caught: {what}: {mutant:.2%}", flush=True)


def resume(lab, options):
    """Delayed scaling: the history is in the checkpoint, and any number of ranks goes on with it."""
    overrides = {**MODEL, "model.width": 64, "train.micro_batch": 1, "train.lanes": 4, "train.steps": 10, "checkpoint.every": 1,
                 "checkpoint.keep": 0, "train.fp8": "delayed", "model.dropout": 0.1}
    whole = lab.train("whole", CONFIG, overrides)
    layouts = ((1, {}), (2, {"parallel.zero": 1}), (2, {"parallel.pipeline": 2}))
    for step, (ranks, layout) in zip((1, 4, 7), layouts):
        name = f"from-{step}-on-{ranks}"
        lab.fork(whole, name, step)
        runs.expect_equal(lab, f"stopped after step {step}, {ranks} ranks {layout} went on", whole,
                          lab.train(name, CONFIG, {**overrides, **layout}, ranks), after=step)
    lab.fork(whole, "mutant", 4, edit=("forget", "fp8_history"))
    runs.expect_different(lab, "a history that was forgotten", whole, lab.train("mutant", CONFIG, overrides), after=4)
    lab.fork(whole, "current", 4)
    lab.train("current", CONFIG, {**overrides, "train.fp8": "current"})
    if not any("train.fp8" in line for line in lab.printed["current"]):
        runs.fail("a resume with another train.fp8 says nothing", lab.printed["current"])


if __name__ == "__main__":
    runs.main({"curve": curve, "resume": resume}, steps=60, seeds=3)
