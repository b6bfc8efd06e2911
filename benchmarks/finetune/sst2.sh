#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What pretraining brings on a labelled task: a small model pretrained on raw text and fine-tuned, beside the same model trained
# on the task alone (finetune.fresh_weights), over several seeds, beside naive Bayes.
#
#     benchmarks/finetune/sst2.sh TASK CORPUS...       TASK holds train.tsv, dev.tsv and test.tsv: LABEL <tab> TEXT
#
# Environment: PLINTH (build/release/plinth), WORK (a temporary folder; one that exists goes on where it was stopped),
# SEEDS ("1 2 3 4 5"), THREADS (1), TOKENS of pretraining (7400000).
set -euo pipefail
[ $# -ge 2 ] || { sed -n '6p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
task=$1
shift
corpus=$(IFS=,; echo "$*")
plinth=${PLINTH:-$root/build/release/plinth}
work=${WORK:-$(mktemp -d)}
seeds=${SEEDS:-1 2 3 4 5}
threads=${THREADS:-1}
mkdir -p "$work"
echo "working in $work"

if [ ! -d "$work/text" ]; then
    [ -d "$work/tokenizer" ] ||
        "$plinth" tokenizer train "tokenizer.inputs=[$corpus]" tokenizer.output="$work/tokenizer" tokenizer.vocab_size=4096
    "$plinth" data prepare "prepare.inputs=[$corpus]" prepare.output="$work/text" prepare.tokenizer="$work/tokenizer" \
        prepare.threads="$threads"
fi
"$plinth" pretrain model.vocab_size=4096 model.layers=4 model.width=128 model.heads=4 model.max_positions=64 \
    "data.sources=[{path: $work/text}]" data.sequence_length=64 train.tokens="${TOKENS:-7400000}" train.global_batch=64 \
    train.micro_batch=32 train.eval_every=300 optimizer.lr=2e-3 optimizer.min_lr=1e-4 optimizer.warmup_steps=50 \
    checkpoint.every=300 run.folder="$work/pre" run.threads="$threads" run.log_every=100

# tune NAME FRESH SEED: three passes over the task, then the scores of dev and test as NAME.SEED.json
tune() {
    "$plinth" finetune checkpoint.init="$work/pre" finetune.mode=classification "finetune.files=[$task/train.tsv]" \
        "finetune.held_out=[$task/dev.tsv]" finetune.sequence_length=48 finetune.epochs=3 finetune.dropout=0.1 \
        finetune.fresh_weights="$2" finetune.seed="$3" train.seed="$3" train.global_batch=32 train.micro_batch=32 \
        train.eval_every=217 optimizer.lr=5e-4 optimizer.warmup_steps=30 run.threads="$threads" run.log_every=100 \
        run.folder="$work/$1.$3"
    "$plinth" evaluate evaluate.checkpoint="$work/$1.$3" evaluate.format=classification \
        "evaluate.data=[$task/dev.tsv,$task/test.tsv]" evaluate.micro_batch=32 evaluate.threads="$threads" \
        evaluate.output="$work/$1.$3.json"
}
for seed in $seeds; do
    tune pretrained false "$seed"
    tune scratch true "$seed"
done

python3 "$root/benchmarks/finetune/naive_bayes.py" "$task"
python3 - "$work" "$seeds" <<'PYTHON'
import json
import statistics
import sys

work, seeds = sys.argv[1], sys.argv[2].split()
for name in ("pretrained", "scratch"):
    results = [json.load(open(f"{work}/{name}.{seed}.json"))["results"] for seed in seeds]
    for split, column in (("dev", 0), ("test", 1)):
        percent = [100 * result[column]["accuracy"] for result in results]
        f1 = [100 * result[column]["macro_f1"] for result in results]
        spread = statistics.stdev(percent) if len(percent) > 1 else 0.0
        each = " ".join(f"{value:.1f}" for value in percent)
        print(f"{name:10} {split:4}  accuracy {statistics.mean(percent):.1f} % (standard deviation {spread:.1f}; {each})"
              f"   macro F1 {statistics.mean(f1):.1f} %")
PYTHON
