#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/run_mpi.sh: the exit code comes through; SIGTERM becomes SIGUSR1 and leaves the ranks their time; a second one does not.
# Of what mpirun says only the notice of a stop with a checkpoint is left out.
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

# mpirun, as far as its words go: says what is in `words`, then ends with the code.
mkdir "$folder/bin"
cat > "$folder/bin/mpirun" <<'MPIRUN'
#!/usr/bin/env bash
cat "$WORDS" >&2
exit "$CODE"
MPIRUN
chmod +x "$folder/bin/mpirun"

rule=$(printf -- '-%.0s' {1..74})
notice() {
    printf '%s\n' "$rule" 'Primary job  terminated normally, but 1 process returned' \
        'a non-zero exit code. Per user-direction, the job has been aborted.' "$rule" "$rule" \
        'mpirun detected that one or more processes exited with non-zero status, thus causing' \
        'the job to be terminated. The first process to do so was:' '' '  Process name: [[2593,1],0]' "  Exit code:    $1" "$rule"
}

# says WHAT CODE EXPECTED: with `words` from mpirun, standard error is the file EXPECTED.
says() {
    WORDS=$folder/words CODE=$2 PATH=$folder/bin:$PATH launch/run_mpi.sh -n 1 true 2>"$folder/log"
    [ $? = "$2" ] || fail "$1: the exit code $2 did not come through"
    cmp -s "$folder/log" "$3" || fail "$1: standard error is not as it should be"
}

for code in 160 161; do
    { echo before; notice $code; echo after; } >"$folder/words"
    printf 'before\nafter\n' >"$folder/expected"
    says "the notice of a stop" $code "$folder/expected"
done
for code in 1 5 16 60 162 1601; do
    { echo before; notice $code; echo after; } >"$folder/words"
    says "the notice of an error" $((code % 256)) "$folder/words"
done
for lines in 1 4 5 8 10; do
    notice 160 | head -n $lines >"$folder/words"
    says "a notice that is not whole" 160 "$folder/words"
    { notice 160 | head -n $lines; echo "plinth: rank 1: error"; notice 160 | tail -n +$((lines + 1)); } >"$folder/words"
    says "a notice with a line of a rank in it" 160 "$folder/words"
done
{ echo "$rule"; notice 160; printf '%s\n\n%s' "$rule" "no line feed at the end"; } >"$folder/words"
printf '%s\n%s\n\n%s\n' "$rule" "$rule" "no line feed at the end" >"$folder/expected"
says "rules around the notice" 160 "$folder/expected"

echo "passed"
