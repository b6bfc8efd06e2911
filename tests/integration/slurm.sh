#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/slurm/pretrain.sbatch among stand-ins for Slurm's commands: which signals and exit codes put the job back into the queue.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The ranks: they end with $CODE, at once or, if a signal is to come, when it does.
cat > "$folder/srun" <<'RANKS'
#!/usr/bin/env bash
trap 'exit $CODE' USR1
echo $$ > "$FOLDER/ranks"
for _ in $(seq $((WAIT * 100))); do sleep 0.1; done
exit $CODE
RANKS
printf '#!/usr/bin/env bash\nkill -USR1 "$(cat "$FOLDER/ranks")"\n' > "$folder/scancel"
printf '#!/usr/bin/env bash\ntouch "$FOLDER/requeued"\n' > "$folder/scontrol"
chmod +x "$folder"/srun "$folder"/scancel "$folder"/scontrol

# expect yes|no CODE [SIGNAL]: the job's exit code is CODE, and it is queued again or not.
expect() {
    rm -f "$folder"/ranks "$folder"/requeued
    PATH="$folder:$PATH" FOLDER=$folder CODE=$2 WAIT=$(($# - 2)) SLURM_JOB_ID=1 bash launch/slurm/pretrain.sbatch >"$folder/log" 2>&1 &
    local job=$! requeued=no
    if [ $# = 3 ]; then
        for _ in $(seq 100); do [ -s "$folder/ranks" ] && break; sleep 0.1; done
        kill -"$3" $job
    fi
    wait $job
    local code=$?
    [ -e "$folder/requeued" ] && requeued=yes
    if [ $code != "$2" ] || [ $requeued != "$1" ]; then
        echo "FAILED: expect $*: exit code $code, queued again: $requeued"
        cat "$folder/log"
        exit 1
    fi
}

expect yes 160 USR1
expect yes 161 USR1
expect yes 161
for code in 0 1 2 3 4 5 6 7 137; do expect no $code USR1; done
for code in 0 5 160; do expect no $code; done
expect no 160 TERM
echo passed
