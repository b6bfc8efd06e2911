#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/quickstart.sh with the program named by $1: a rehearsal passes and leaves what it promises. And with a stand-in for the
# program whose resumed run has another loss in one step, or that predicts badly: the script must end with exit 1.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "FAILED: $1"
    tail -n 60 "$folder/log"
    exit 1
}

launch/quickstart.sh --quick --program "$program" --folder "$folder/real" >"$folder/log" 2>&1 || fail "the rehearsal"
grep -q ' steps ran twice, 0 of them with another loss' "$folder/log" || fail "no losses of steps that ran twice"
for file in data/manifest.json run/metrics.jsonl evaluation.json loss.svg; do
    [ -s "$folder/real/$file" ] || fail "$file was not written"
done

mkdir "$folder/other"
touch "$folder/other/precious"
launch/quickstart.sh --quick --program "$program" --folder "$folder/other" >"$folder/log" 2>&1 && fail "a foreign folder was taken"
[ -f "$folder/other/precious" ] || fail "a foreign file was removed"

# The stand-in: one line a step, "saved" after a quarter of the run, waiting to be killed after three; its resumed run has the loss
# of $folder/second_loss in one of the steps that ran before.
cat >"$folder/plinth" <<'PROGRAM'
#!/bin/bash
here=$(dirname "$0")
value() { for word in "${words[@]}"; do case $word in "$1"=*) echo "${word#*=}" ;; esac; done; }
words=("$@")
case "$1 ${2:-}" in
    "data prepare") echo "train: 9 documents, 9 tokens, 9000000 bytes of text" ;;
    "data inspect") printf 'split heldout\n  byte-bigram entropy  3.5 bits per byte\n\nsplit train\n' ;;
    pretrain*)
        if [ "${OMPI_COMM_WORLD_RANK:-0}" != 0 ]; then
            [ -f "$(value run.folder)/metrics.jsonl" ] && exit 0
            while true; do sleep 0.1; done
        fi
        run=$(value run.folder)
        mkdir -p "$run"
        steps=$(value train.steps)
        saved=$((steps / 4)) first=1 loss=0x1p+1
        if [ -f "$run/metrics.jsonl" ]; then
            first=$((saved + 1)) loss=$(cat "$here/second_loss")
            echo "resumed from $run/checkpoints/$saved at step $saved (80 samples)"
            sed -i "$first,\$d" "$run/metrics.jsonl"
        fi
        for step in $(seq $first "$steps"); do
            hex=0x1p+1
            [ "$step" = $((saved + 3)) ] && hex=$loss
            echo "{\"kind\":\"step\",\"step\":$step,\"loss\":2,\"loss_hex\":\"$hex\"}" >>"$run/metrics.jsonl"
            [ $first = 1 ] && [ "$step" -ge $((3 * steps / 4)) ] && { while true; do sleep 0.1; done; }
        done
        exit 0 ;;
    evaluate*) echo "{\"bits_per_byte\": $(cat "$here/bits")}" >"$(value evaluate.output)" ;;
    *) echo ;;
esac
PROGRAM
chmod +x "$folder/plinth"
stand_in() {
    echo "$1" >"$folder/second_loss"
    echo "$2" >"$folder/bits"
    launch/quickstart.sh "${@:3}" --program "$folder/plinth" --folder "$folder/double" >"$folder/log" 2>&1
}
stand_in 0x1p+1 3.0 --quick || fail "the honest stand-in"
stand_in 0x1.0000000000001p+1 3.0 --quick && fail "a loss that differs in one bit after the resume went unnoticed"
grep -q DIFFERENT "$folder/log" || fail "the differing step is not marked"
stand_in 0x1p+1 3.6 --quick || fail "a rehearsal, of which no good model is asked"
stand_in 0x1p+1 3.4 || fail "a whole run with a good model"
stand_in 0x1p+1 3.6 && fail "a model that is worse than a table of byte pairs went unnoticed"
grep -q '3.6 bits per byte are not below 3.5' "$folder/log" || fail "the bad model has no message"

# Called from another folder: relative paths are that folder's, patterns stay patterns, and nothing is written anywhere else.
root=$PWD
mkdir -p "$folder/caller/texts"
touch "$folder/caller/texts/one.txt" "$folder/caller/texts/two.txt"
echo 0x1p+1 >"$folder/second_loss"
echo 3.0 >"$folder/bits"
(cd "$folder/caller" && "$root/launch/quickstart.sh" --quick --program ../plinth --folder out --input texts/one.txt --input 'texts/*.txt') \
    >"$folder/log" 2>&1 || fail "relative paths from another folder"
printf '%s\n' "$folder/caller/texts/one.txt" "$folder/caller/texts/*.txt" | cmp -s - "$folder/caller/out/files.txt" ||
    fail "the inputs are not those of the caller: $(cat "$folder/caller/out/files.txt")"
[ -s "$folder/caller/out/run/metrics.jsonl" ] || fail "the run is not in the caller's folder"
grep -qx "\$ $folder/caller/../plinth data prepare .*" "$folder/log" || fail "the program is not the caller's"
(cd "$folder/caller" && "$root/launch/quickstart.sh" --help) | grep -q -- '--input PATH' || fail "no help from another folder"

echo "passed"
