#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Seconds from the start of the process (of mpirun, where it says so) until the end of the first training step of
# configs/gpt/tiny.yaml. Each row is the median of several starts; the run ends by itself after one step, and what it takes to
# write the checkpoint of that step is not counted.
#   benchmarks/start/start_time.sh [build/release/plinth [key=value ...]]     e.g. run.hang_seconds=0
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "${1:-$root/build/release/plinth}")
more=("${@:2}")
starts=7
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$program" data prepare "prepare.inputs=[$root/docs]" "prepare.output=$work/text" prepare.held_out=0 >"$work/prepare.log"

# A line of metrics.jsonl carries the wall time of the step's end.
one_start() {
    rm -rf "$work/run"
    local begin end
    begin=$(date +%s.%N)
    "${@}" "$program" pretrain "$root/configs/gpt/tiny.yaml" \
        "data.sources=[{path: $work/text}]" "run.folder=$work/run" train.steps=1 optimizer.warmup_steps=0 \
        train.lanes=8 train.micro_batch=1 run.threads=1 "${more[@]}" >"$work/run.log" 2>&1
    end=$(sed -n 's/.*"time": *\([0-9.]*\).*/\1/p' "$work/run/metrics.jsonl" | head -1)
    awk -v begin="$begin" -v end="$end" 'BEGIN { printf "%.3f\n", end - begin }'
}

printf '%-16s %-8s %-8s %-8s\n' ranks median best target
# row NAME TARGET [LAUNCHER ...]
row() {
    local name=$1 target=$2
    shift 2
    for _ in $(seq $starts); do one_start "$@"; done | sort -n >"$work/seconds"
    printf '%-16s %-8s %-8s %-8s\n' "$name" "$(sed -n "$((starts / 2 + 1))p" "$work/seconds")" \
        "$(head -1 "$work/seconds")" "$target"
}
row "1" 0.5 env
row "1 under mpirun" - "$root/launch/run_mpi.sh" -n 1
row "8 under mpirun" 1.5 "$root/launch/run_mpi.sh" -n 8
