#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh clone to a trained model: installs what is missing, builds, and runs the main job on real text.
#   launch/quickstart.sh [options]
#     --input PATH     train on this file, folder or pattern instead of text found on the machine (may be repeated)
#     --folder FOLDER  where everything is written (default: the clone's runs/quickstart; what an earlier quickstart left there is removed)
#     --program FILE   use this program (a plain name: in the caller's folder, else in PATH): nothing is installed or built
#     --quick          a rehearsal in seconds: less text, a tenth of the steps; the model is not asked to be any good
#     --help
# Relative paths that are given are relative to the folder that it is called from. Asks nothing. Exit 1 when a step fails: among them a resumed
# run whose losses differ in one bit from those of the run that was killed, and a model that predicts held-out text no better
# than a table of byte pairs does.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."

# from_caller PATH: a relative one as it is from here; a pattern stays one.
from_caller() {
    case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "${caller%/}" "$1" ;; esac
}

inputs=()
folder=runs/quickstart
program=
quick=no
while [ $# -gt 0 ]; do
    case "$1" in
        --input | --folder | --program) [ -n "${2:-}" ] || { echo "quickstart: $1 needs a value" >&2; exit 2; } ;;&
        --input) inputs+=("$(from_caller "$2")"); shift 2 ;;
        --folder) folder=$(from_caller "$2"); shift 2 ;;
        --program)
            program=$2
            if [[ $2 == */* || -f $caller/$2 ]]; then program=$(from_caller "$2"); fi
            shift 2 ;;
        --quick) quick=yes; shift ;;
        --help | -h) sed -n '3,13s/^# \{0,1\}//p' launch/quickstart.sh; exit 0 ;;
        *) echo "quickstart: unknown option '$1' (--help lists them)" >&2; exit 2 ;;
    esac
done

config=configs/gpt/quickstart.yaml
steps=$(awk '$1 == "steps:" { print $2 }' $config)
every=50        # steps between checkpoints
kill_at=220     # the run is killed when it has logged this step
text_mb=20
least_bytes=5000000
held_out_one_in=50
if [ $quick = yes ]; then
    steps=40 every=10 kill_at=17 text_mb=3 least_bytes=200000 held_out_one_in=20
fi

# Hyperthreads count as cores, and a machine with one core shares it.
export OMPI_MCA_rmaps_base_oversubscribe=1

step_number=0
# step TITLE: the headline of what comes next.
step() {
    step_number=$((step_number + 1))
    printf '\n==== %d. %s\n' $step_number "$1"
}

# print_command COMMAND...: as one can repeat it.
print_command() {
    local word
    printf '$'
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./=:,+-]+$ ]]; then printf ' %s' "$word"; else printf " '%s'" "$word"; fi
    done
    printf '\n'
}

show() {
    print_command "$@"
    "$@"
}

fail() {
    echo "quickstart: $1" >&2
    exit 1
}

# ranks_below PID: process ids of the program's processes that mpirun, a child of PID, started. (procps may be missing.)
ranks_below() {
    local mpirun
    mpirun=$(children_of "$1" mpirun)
    [ -n "$mpirun" ] || return 0
    children_of "$mpirun" "$(basename "$program" | cut -c 1-15)"
}

# children_of PID NAME
children_of() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v parent="$1" -v name="($2)" '$2 == name && $4 == parent { print $1 }' || true
}

# losses FILE: "step loss-in-hex" of each training step in a metrics file.
losses() {
    sed -nE '/"kind": ?"step"/s/.*"step": ?([0-9]+).*"loss_hex": ?"([^"]*)".*/\1 \2/p' "$1"
}

last_step() {
    [ -f "$1" ] || { echo 0; return; }
    losses "$1" | awk 'END { print $1 + 0 }'
}

build() {
    step "install what is missing"
    show launch/install_packages.sh build
    step "build the program (preset release)"
    show cmake --preset release
    show cmake --build --preset release -j "$(nproc)" --target plinth
    program=build/release/plinth
}

# The folder is this script's own, or new: nothing else is ever removed.
clear_folder() {
    if [ -e "$folder" ] && [ ! -f "$folder/.quickstart" ] && [ -n "$(ls -A "$folder")" ]; then
        fail "$folder holds something that no quickstart wrote; choose another --folder"
    fi
    rm -rf "$folder"
    mkdir -p "$folder"
    touch "$folder/.quickstart"
}

collect() {
    step "find text to learn from"
    if [ ${#inputs[@]} -eq 0 ]; then
        launch/collect_text.sh --limit-mb $text_mb >"$folder/files.txt"
    else
        printf '%s\n' "${inputs[@]}" >"$folder/files.txt"
        printf '  %s\n' "${inputs[@]}"
    fi
    [ -s "$folder/files.txt" ] || fail "no text found on this machine; name some with --input PATH"
    {
        echo "prepare:"
        echo "  inputs:"
        sed -e 's/[\\"]/\\&/g' -e 's/.*/    - "&"/' "$folder/files.txt"
    } >"$folder/prepare.yaml"
    echo "the list: $folder/files.txt"
}

prepare() {
    step "clean, tokenise and shard it; one document in $held_out_one_in is held out"
    show "$program" data prepare "$folder/prepare.yaml" "prepare.output=$folder/data" "prepare.held_out=$(awk "BEGIN { print 1 / $held_out_one_in }")" |
        tee "$folder/prepare.log"
    local bytes
    bytes=$(sed -nE 's/^(train|heldout): .* ([0-9]+) bytes of text$/\2/p' "$folder/prepare.log" | awk '{ s += $1 } END { print s + 0 }')
    [ "$bytes" -ge $least_bytes ] ||
        fail "only $bytes bytes of text, and less than $least_bytes teach little; add some with --input PATH"
    show "$program" data inspect "$folder/data" | tee "$folder/inspect.log"
    bigram=$(sed -nE '/^split heldout/,/^split train/s/.*byte-bigram entropy +([0-9.]+) .*/\1/p' "$folder/inspect.log")
    [ -n "$bigram" ] || fail "data inspect printed no byte-bigram entropy"
}

# The same command starts the run and goes on with it.
train_command() {
    train=(launch/run_mpi.sh -n 2 "$program" pretrain "$config" "data.sources=[{path: \"$folder/data\"}]"
           "run.folder=$folder/run" "train.steps=$steps" "checkpoint.every=$every")
}

# The run is killed, not asked to stop: nothing of it gets the chance to tidy up.
train_and_kill() {
    step "pretrain on two MPI ranks, and kill one of them with SIGKILL after step $kill_at"
    local job rank code=0
    metrics=$folder/run/metrics.jsonl
    print_command "${train[@]}"
    echo "(its output follows when it is killed; until then it grows in $folder/killed.log)"
    "${train[@]}" >"$folder/killed.log" 2>&1 &
    job=$!
    trap 'kill -KILL $(ranks_below "$job") 2>/dev/null || true' EXIT
    while [ "$(last_step "$metrics")" -lt $kill_at ] && kill -0 $job 2>/dev/null; do sleep 0.2; done
    rank=$(ranks_below $job | tail -n 1)
    if [ -n "$rank" ]; then
        kill -KILL "$rank"
        echo "kill -KILL $rank, at step $(last_step "$metrics")"
    else
        kill -TERM $job 2>/dev/null || true
    fi
    wait $job || code=$?
    trap - EXIT
    cat "$folder/killed.log"
    if [ -z "$rank" ] || [ $code -eq 0 ]; then
        fail "the run ended before it could be killed ($folder/killed.log)"
    fi
    echo "the job ended with exit code $code"
    cp "$metrics" "$folder/metrics_before_kill.jsonl"
}

resume() {
    step "the same command again: it resumes from the newest sound checkpoint"
    show "${train[@]}" 2>&1 | tee "$folder/resumed.log"
    local resumed killed
    resumed=$(sed -nE 's/^resumed from .* at step ([0-9]+) .*/\1/p' "$folder/resumed.log" | head -n 1)
    killed=$(last_step "$folder/metrics_before_kill.jsonl")
    [ -n "$resumed" ] || fail "the run did not resume ($folder/resumed.log)"
    echo
    echo "steps $((resumed + 1)) to $killed ran twice; their losses, before the kill and after it:"
    losses "$metrics" >"$folder/losses.txt"
    losses "$folder/metrics_before_kill.jsonl" | awk -v from="$resumed" '
        NR == FNR { again[$1] = $2; next }
        $1 > from {
            ++twice
            same = again[$1] == $2
            differing += !same
            printf "  step %4d  %-24s %-24s %s\n", $1, $2, again[$1], same ? "equal" : "DIFFERENT"
        }
        END {
            printf "%d steps ran twice, %d of them with another loss\n", twice, differing
            exit twice == 0 || differing > 0
        }' "$folder/losses.txt" - || fail "the resumed run is not the run that was killed"
}

evaluate() {
    step "evaluate on the held-out text"
    show "$program" evaluate "evaluate.checkpoint=$folder/run" "evaluate.data=[\"$folder/data\"]" \
        "evaluate.output=$folder/evaluation.json"
    local bits
    bits=$(sed -nE 's/.*"bits_per_byte": ?([0-9.]+).*/\1/p' "$folder/evaluation.json" | head -n 1)
    [ -n "$bits" ] || fail "no bits_per_byte in $folder/evaluation.json"
    echo
    echo "the model's bits per byte of the held-out text  $bits"
    echo "its byte-bigram entropy                         $bigram   (what the best table of byte pairs could reach)"
    if awk -v bits="$bits" -v bigram="$bigram" 'BEGIN { exit !(bits < bigram) }'; then
        echo "the model is better than any table of byte pairs"
    elif [ $quick = yes ]; then
        echo "not below it, which $steps steps need not reach"
    else
        fail "$bits bits per byte are not below $bigram"
    fi
}

generate_and_plot() {
    step "continue a prompt"
    show "$program" generate "generate.checkpoint=$folder/run" 'generate.prompts=["The "]' \
        generate.max_tokens=200 generate.temperature=0.8 generate.top_p=0.9
    step "draw the loss curve"
    show "$program" plot "$metrics" "svg=$folder/loss.svg" "title=quickstart: training loss"
}

if [ -z "$program" ]; then
    build
elif ! command -v "$program" >/dev/null; then
    fail "$program is no program; without --program one is built"
fi
started=$SECONDS
clear_folder
collect
prepare
train_command
train_and_kill
resume
evaluate
generate_and_plot

cat <<SUMMARY

==== done in $((SECONDS - started)) s
  $folder/data              the data set: token shards, manifest
  $folder/run/checkpoints   the checkpoints
  $folder/run/metrics.jsonl, tensorboard/   what each step measured
  $folder/evaluation.json   the evaluation
  $folder/loss.svg          the loss curve
SUMMARY
