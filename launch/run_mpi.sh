#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# mpirun for a run that must be stoppable.
#   launch/run_mpi.sh -n 4 [mpirun's options] build/release/plinth pretrain configs/gpt/tiny.yaml
#
# mpirun's own answer to SIGTERM and SIGINT is to kill the ranks about a second later: too soon for a checkpoint. SIGUSR1 it
# hands on, and to the program that means: finish the step, write a checkpoint, exit with the documented code
# (docs/operations.md). So the first SIGTERM, SIGINT (Ctrl-C) or SIGHUP becomes SIGUSR1; a second one ends mpirun at once.
# The exit code is mpirun's, which is that of the first rank that did not exit with 0; 130 or 143 after a second signal.
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

# A session of its own, so that a terminal's Ctrl-C reaches mpirun through us only.
setsid mpirun "${flags[@]}" "$@" <&0 &
child=$!
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
    exit $code
done
