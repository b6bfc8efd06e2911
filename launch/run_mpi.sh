#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# mpirun for a run that must be stoppable.
#   launch/run_mpi.sh -n 4 [mpirun's options] build/release/plinth pretrain configs/gpt/tiny.yaml
#
# mpirun's own answer to SIGTERM and SIGINT is to kill the ranks about a second later: too soon for a checkpoint. SIGUSR1 it
# hands on, and to the program that means: finish the step, write a checkpoint, exit with the documented code
# (docs/operations.md). So the first SIGTERM, SIGINT (Ctrl-C) or SIGHUP becomes SIGUSR1; a second one ends mpirun at once.
# The exit code is mpirun's, which is that of the first rank that did not exit with 0; 130 or 143 after a second signal.
# mpirun reports every such rank as a failure; that notice is left out where the code is that of a stop with a checkpoint, 160 or 161.
set -uo pipefail

if [ $# -eq 0 ]; then
    sed -n '4p' "$0" | sed 's/^# */usage: /' >&2
    exit 2
fi

flags=(--bind-to none)  # one rank has several threads; binding would put them all on one core
ranks=
hosts=${SLURM_JOB_ID:-}${OMPI_MCA_orte_default_hostfile:-}
previous=
for word in "$@"; do
    case "$previous" in -n | -np | --np | -c) ranks=${ranks:-$word} ;; esac
    case "$word" in --hostfile | -hostfile | --machinefile | -machinefile | --host | -host | -H) hosts=$word ;; esac
    previous=$word
done
# More ranks than cores on this one machine: share, and give the core away while waiting for a peer.
if [ -z "$hosts" ] && [[ $ranks =~ ^[0-9]+$ ]] && [ "$ranks" -gt "$(nproc)" ]; then
    flags+=(--oversubscribe --mca mpi_yield_when_idle 1)
fi
if [ "$(id -u)" = 0 ]; then  # containers
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

requests=0
last=
interrupted=no
stop() {
    interrupted=yes
    requests=$((requests + 1)) last=$1
    if [ $requests -eq 1 ]; then
        echo "run_mpi: SIG$1: the ranks finish the step and write a checkpoint; once more to stop at once" >&2
        kill -USR1 "$child" 2>/dev/null
    else
        echo "run_mpi: SIG$1 again: stopping at once" >&2
        kill -TERM "$child" 2>/dev/null
    fi
}

# The lines of mpirun's notice, as patterns. A line that does not fit its place brings back all that was held: nothing but the
# whole notice, with one of the two codes in it, is left out.
rule=$(printf -- '-%.0s' {1..74})
notice=("$rule" 'Primary job  terminated normally, but * process* returned' 'a non-zero exit code. Per user-direction, the job has been aborted.'
    "$rule" "$rule" '* detected that one or more processes exited with non-zero status, thus causing'
    'the job to be terminated. The first process to do so was:' '' '  Process name: *' '  Exit code:    16[01]' "$rule")

without_stop_notice() {
    trap '' INT TERM HUP USR1 USR2  # it ends when mpirun has closed its side
    local held=() line
    while IFS= read -r line || [ -n "$line" ]; do
        # shellcheck disable=SC2053
        if [[ $line != ${notice[${#held[@]}]} ]]; then
            [ ${#held[@]} -eq 0 ] || printf '%s\n' "${held[@]}"
            held=()
        fi
        # shellcheck disable=SC2053
        if [[ $line == ${notice[${#held[@]}]} ]]; then
            held+=("$line")
            [ ${#held[@]} -lt ${#notice[@]} ] || held=()
        else
            printf '%s\n' "$line"
        fi
    done
    [ ${#held[@]} -eq 0 ] || printf '%s\n' "${held[@]}"
}

exec {said}> >(without_stop_notice >&2)
filter=$!
# A session of its own, so that a terminal's Ctrl-C reaches mpirun through us only.
setsid mpirun "${flags[@]}" "$@" <&0 2>&"$said" {said}>&- &
child=$!
exec {said}>&-
trap 'stop TERM' TERM
trap 'stop INT' INT
trap 'stop HUP' HUP
trap 'interrupted=yes; kill -USR1 "$child" 2>/dev/null' USR1
trap 'interrupted=yes; kill -USR2 "$child" 2>/dev/null' USR2

# A trapped signal ends `wait` early; go on until it was mpirun that ended.
while true; do
    interrupted=no
    wait "$child"
    code=$?
    [ $interrupted = yes ] && continue
    # mpirun's own code for ranks that it was told to kill is that of a program that failed.
    [ $requests -lt 2 ] || [ $code -ne 1 ] || code=$((128 + $(kill -l "$last")))
    # What mpirun said last is still on its way.
    for _ in {1..50}; do
        kill -0 "$filter" 2>/dev/null || break
        sleep 0.1
    done
    exit $code
done
