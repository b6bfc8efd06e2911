# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launch/supervise.sh and the Slurm template: how far a run has come, and how many failures in a row came no further than
# an earlier one. `furthest` (a step) and `count` may be kept over several starts of the script.
furthest=-1 count=0

# last_step RUN.FOLDER: the newest step that the run has logged, 0 for none.
last_step() {
    { tail -n 200 "$1/metrics.jsonl" 2>/dev/null || true; } |
        sed -nE 's/^\{"kind": ?"step","step": ?([0-9]+).*/\1/p' | tail -n 1 | grep . || echo 0
}

# count_failure STEP: one more failure, of a run that has reached STEP.
count_failure() {
    if [ "$1" -gt "$furthest" ]; then
        furthest=$1 count=1
    else
        count=$((count + 1))
    fi
}
