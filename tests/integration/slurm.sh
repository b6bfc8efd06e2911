#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/slurm/pretrain.sbatch among stand-ins for Slurm's commands: which signals and exit codes put the job back into the queue.
set -uo pipefail
cd "$(dirname "$0")/../.."
source=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
ln -s "$source/launch" launch

# The ranks: they log $STEP in the folder that they are given and end with $CODE, at once or, if a signal is to come, when it does.
cat > srun <<'RANKS'
#!/usr/bin/env bash
trap 'exit $CODE' USR1
run=${*: -1}
if [ -n "$STEP" ]; then
    mkdir -p "${run#run.folder=}"
    echo "{\"kind\":\"step\",\"step\":$STEP,\"loss\":1}" >> "${run#run.folder=}/metrics.jsonl"
fi
echo $$ > "$FOLDER/ranks"
for _ in $(seq $((WAIT * 100))); do sleep 0.1; done
exit $CODE
RANKS
printf '#!/usr/bin/env bash\nkill -USR1 "$(cat "$FOLDER/ranks")"\n' > scancel
printf '#!/usr/bin/env bash\ntouch "$FOLDER/requeued"\n' > scontrol
chmod +x srun scancel scontrol

# expect yes|no CODE [SIGNAL]: the job's exit code is CODE, and it is queued again or not. Of $job, which has reached $step.
job=1 step=
expect() {
    rm -f ranks requeued
    PATH="$folder:$PATH" FOLDER=$folder CODE=$2 WAIT=$(($# - 2)) STEP=$step SLURM_JOB_ID=$job SLURM_JOB_NAME=plinth \
        bash launch/slurm/pretrain.sbatch configs/gpt/tiny.yaml ${run:+"run.folder=$run"} train.steps=5 >log 2>&1 &
    local script=$! requeued=no
    if [ $# = 3 ]; then
        for _ in $(seq 100); do [ -s ranks ] && break; sleep 0.1; done
        kill -"$3" $script
    fi
    wait $script
    local code=$?
    [ -e requeued ] && requeued=yes
    if [ $code != "$2" ] || [ $requeued != "$1" ]; then
        echo "FAILED: expect $* (job $job, step $step): exit code $code, queued again: $requeued"
        cat log
        exit 1
    fi
}

expect yes 160 USR1
expect yes 161 USR1
expect yes 161
for code in 0 1 2 3 4 5 6 7 137; do expect no $code USR1; done
for code in 0 5 160; do expect no $code; done
expect no 160 TERM

# A hung rank: again, until three in a row came no further; with a time limit between, and whatever the folder is called.
for run in "" "$folder/other runs/a b"; do
    step= job=$((job + 1))
    expect yes 162
    expect yes 162 USR1
    expect yes 161
    expect no 162
    grep -q "3 in a row came no further than step 0: given up" log || { echo "FAILED:"; cat log; exit 1; }
    # Somebody puts it back by hand: counted anew. Each hang comes further, then none.
    for step in 10 20 30 40; do expect yes 162; done
    step=35
    expect yes 162
    expect no 162
done
# Another job has its own count, one that is cancelled or ends otherwise forgets it.
step=40
for ends in "162 TERM" 0 5; do
    job=$((job + 1))
    expect yes 162
    # shellcheck disable=SC2086
    expect no $ends
    expect yes 162
    expect yes 162
done
echo passed
