# SPDX-License-Identifier: Apache-2.0
"""The warning of overfitting: of every evaluation whose held-out loss rose while the training loss fell, and of no other."""

import json
import random
import string

import plinth_runs as runs

OVERRIDES = {"train.steps": 80, "train.eval_every": 10, "optimizer.lr": "2e-3", "optimizer.schedule": "constant",
             "data.sequence_length": 32, "checkpoint.every": 0}


def learn_by_heart(lab):
    """A data set of letters at random: what is learned of its training split is of no use for the other."""
    rng = random.Random(2)
    with open(lab.folder / "letters.jsonl", "w") as out:
        for _ in range(12):
            out.write(json.dumps({"text": "".join(rng.choices(string.ascii_lowercase, k=90))}) + "\n")
    lab.call([lab.plinth, "data", "prepare", f"prepare.inputs=[{lab.folder}/letters.jsonl]", f"prepare.output={lab.folder}/letters",
              "prepare.held_out=0.5"])
    return {"data.sources.0.path": lab.folder / "letters"}


def rises(run):
    """What the run must warn of, by the losses in its metrics."""
    expected, held_out, training, losses = [], [], None, []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "step":
            losses.append(row["loss"])
            continue
        last, training, losses = training, sum(losses) / len(losses), []
        if last is not None and training < last and row["held_out_loss"] > held_out[-1]:
            expected.append(f"warning: overfitting: training loss fell from {last:.4f} to {training:.4f} while held-out loss rose "
                            f"from {held_out[-1]:.4f} to {row['held_out_loss']:.4f} (best {min(held_out):.4f})")
        held_out.append(row["held_out_loss"])
    return expected


def overfitting(lab, options):
    for name, keys, is_overfitting in (("letters", learn_by_heart(lab), True), ("text", {}, False)):
        run = lab.train(name, "gpt/tiny.yaml", {**OVERRIDES, **keys})
        expected = rises(run)
        said = [line for line in lab.printed[name] if "overfitting" in line]
        if said != expected or bool(said) != is_overfitting:
            runs.fail(f"{name}: warnings {said}, expected {expected}", lab.printed[name])
        print(f"{name}: {len(said)} warnings", *said, sep="\n    ", flush=True)


if __name__ == "__main__":
    runs.main({"overfitting": overfitting})
