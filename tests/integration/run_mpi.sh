#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/run_mpi.sh: the exit code comes through; SIGTERM becomes SIGUSR1 and leaves the ranks their time; a second one does not.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "FAILED: $1"
    cat "$folder"/log 2>/dev/null
    exit 1
}

# A stand-in for a rank: on SIGUSR1 it "saves" for two seconds, longer than mpirun's own patience with SIGTERM.
cat > "$folder/rank" <<'RANK'
#!/usr/bin/env bash
trap 'sleep 2; touch "$1/saved.$OMPI_COMM_WORLD_RANK"; exit 0' USR1
touch "$1/ready.$OMPI_COMM_WORLD_RANK"
for _ in $(seq 300); do sleep 0.1; done
exit 7
RANK
chmod +x "$folder/rank"

# start SIGNALS...: three ranks (more than a small machine has cores), then the signals; sets `code`.
run_and_signal() {
    rm -f "$folder"/ready.* "$folder"/saved.*
    launch/run_mpi.sh -n 3 "$folder/rank" "$folder" >"$folder/log" 2>&1 &
    local wrapper=$!
    for _ in $(seq 200); do
        [ "$(find "$folder" -name 'ready.*' | wc -l)" = 3 ] && break
        sleep 0.1
    done
    for signal in "$@"; do
        kill -"$signal" $wrapper
        sleep 0.5
    done
    wait $wrapper
    code=$?
    saved=$(find "$folder" -name 'saved.*' | wc -l)
}

launch/run_mpi.sh -n 1 bash -c 'exit 9' >"$folder/log" 2>&1
[ $? = 9 ] || fail "the exit code 9 of a rank did not come through"

[ "$(echo words | launch/run_mpi.sh -n 1 cat 2>"$folder/log")" = words ] || fail "standard input did not reach rank 0"

run_and_signal TERM
[ $saved = 3 ] || fail "after SIGTERM only $saved of 3 ranks had the time to save"
[ $code = 0 ] || fail "after SIGTERM the exit code was $code, the ranks' is 0"

run_and_signal TERM TERM
[ $saved = 0 ] || fail "a second SIGTERM waited for the ranks"
[ $code = 143 ] || fail "a second SIGTERM ended with exit code $code, not 143"

echo "passed"
