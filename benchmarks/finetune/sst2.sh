#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What pretraining brings on a labelled task: a small model pretrained on raw text and fine-tuned, beside the same model trained
# on the task alone (finetune.fresh_weights) with the same settings, over several seeds, beside naive Bayes.
#
#     benchmarks/finetune/sst2.sh TASK CORPUS...       TASK holds train.tsv, dev.tsv and test.tsv: LABEL <tab> TEXT
#
# Environment: PLINTH (build/release/plinth), WORK (a temporary folder; one that exists goes on where it was stopped, and what is
# finished is not done again), SEEDS ("1 2 3 4 5"), THREADS (2; the two fine-tunings of a seed run side by side with half of them
# each), TOKENS of pretraining (8000000), LR and EPOCHS of both kinds of fine-tuning. The labels of the corpora, where they have
# any, are not read.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '6p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
task=$1
shift
corpus=$(IFS=,; echo "$*")
plinth=${PLINTH:-$here/../../build/release/plinth}
work=${WORK:-$(mktemp -d)}
seeds=${SEEDS:-1 2 3 4 5}
threads=${THREADS:-2}
half=$(((threads + 1) / 2))
lr=${LR:-1e-3}
epochs=${EPOCHS:-2}
mkdir -p "$work"
echo "working in $work"

# stage NAME COMMAND...: a stage with its time; its words go to NAME.log, which the script shows if the stage fails.
stage() {
    local name=$1 start=$SECONDS
    shift
    "$@" >"$work/$name.log" 2>&1 || { tail -n 20 "$work/$name.log" >&2; exit 1; }
    echo "$name: $((SECONDS - start)) s"
}

[ -d "$work/tokenizer" ] ||
    stage tokenizer "$plinth" tokenizer train "tokenizer.inputs=[$corpus]" tokenizer.output="$work/tokenizer" \
        tokenizer.vocab_size=4096
[ -d "$work/text" ] ||
    stage prepare "$plinth" data prepare "prepare.inputs=[$corpus]" prepare.output="$work/text" \
        prepare.tokenizer="$work/tokenizer" prepare.threads="$threads"
# A finished run is left alone by the stage itself.
stage pretrain "$plinth" pretrain model.vocab_size=4096 model.layers=3 model.width=128 model.heads=4 model.max_positions=128 \
    model.positions=rotary model.norm=rms "data.sources=[{path: $work/text}]" data.sequence_length=128 \
    train.tokens="${TOKENS:-8000000}" train.global_batch=16 train.micro_batch=16 train.eval_every=500 optimizer.lr=3e-3 \
    optimizer.min_lr=1e-4 optimizer.warmup_steps=100 checkpoint.every=500 run.folder="$work/pre" run.threads="$threads" \
    run.log_every=100

# tune KIND FRESH SEED: passes over the task, then the scores of dev and test as KIND.SEED.json
tune() {
    [ ! -f "$work/$1.$3.json" ] || return 0
    stage "$1.$3" "$plinth" finetune checkpoint.init="$work/pre" finetune.mode=classification \
        "finetune.files=[$task/train.tsv]" "finetune.held_out=[$task/dev.tsv]" finetune.sequence_length=48 \
        finetune.epochs="$epochs" finetune.dropout=0.1 finetune.fresh_weights="$2" finetune.seed="$3" train.seed="$3" \
        train.global_batch=32 train.micro_batch=32 optimizer.lr="$lr" optimizer.warmup_steps=30 \
        run.threads="$half" run.log_every=100 run.folder="$work/$1.$3"
    stage "$1.$3.scores" "$plinth" evaluate evaluate.checkpoint="$work/$1.$3" evaluate.format=classification \
        "evaluate.data=[$task/dev.tsv,$task/test.tsv]" evaluate.micro_batch=32 evaluate.threads="$half" \
        evaluate.output="$work/$1.$3.json"
}
for seed in $seeds; do
    tune pretrained false "$seed" &
    tune scratch true "$seed"
    wait $!
done

# shellcheck disable=SC2086  # one word a seed
python3 "$here/compare.py" "$task" "$work" $seeds
