#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts a run again when it dies: it goes on from its newest sound checkpoint.
#   launch/supervise.sh --run FOLDER [options] COMMAND...
#     --run FOLDER       the run's run.folder: its metrics.jsonl shows how far it came
#     --failures N       give up after N failures in a row that came no further than an earlier one (default 3)
#     --stall SECONDS    a run that logs no step for so long is ended and started again (default 0: never); longer than the first
#                        step, an evaluation and a save together
#     --wait SECONDS     pause before a start that follows a failure (default 10)
#     --hopeless FILE    write the exit code of a run that no repetition can help to FILE, and start nothing while FILE is there: for
#                        a controller that starts this command again whatever it ended with
# e.g.  launch/supervise.sh --run runs/gpt launch/run_mpi.sh -n 8 build/release/plinth pretrain CONFIG run.folder=runs/gpt
# Started again: after a crash, a kill, a lost or hung rank (162), a full disk, a folder that another job holds, the time limit of the
# run (161). Not started again: a run that is
# done (0), that was asked to stop (160), or that no repetition can help: configuration, data, checkpoint (2, 3, 4), diverged (7).
# SIGTERM, SIGINT (Ctrl-C), SIGHUP (the terminal is gone) and SIGUSR1 ask the run to stop, and end the supervision with it. The exit
# code is that of the last run.
set -uo pipefail

run= failures=3 stall=0 pause=10 hopeless=
while [ $# -gt 0 ]; do
    case "$1" in
        --run | --failures | --stall | --wait | --hopeless)
            [ $# -ge 2 ] || { echo "supervise: $1 needs a value (--help)" >&2; exit 2; } ;;
    esac
    case "$1" in
        --run) run=$2; shift 2 ;;
        --failures) failures=$2; shift 2 ;;
        --stall) stall=$2; shift 2 ;;
        --wait) pause=$2; shift 2 ;;
        --hopeless) hopeless=$2; shift 2 ;;
        --help | -h) sed -n '3,17s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "supervise: unknown option '$1' (--help lists them)" >&2; exit 2 ;;
        *) break ;;
    esac
done
if [ -z "$run" ] || [ $# -eq 0 ]; then
    echo "supervise: --run FOLDER and a command are needed (--help)" >&2
    exit 2
fi
for number in "$failures" "$stall" "$pause"; do
    [[ $number =~ ^[0-9]+$ ]] || { echo "supervise: '$number' is no whole number" >&2; exit 2; }
done

# A folder that is not the run's would show no progress, and a healthy run would be ended for it.
for word in "$@"; do
    [[ $word == run.folder=* ]] || continue
    named=${word#run.folder=}
    if [ "$(realpath -m "$named")" != "$(realpath -m "$run")" ]; then
        echo "supervise: --run is $run, but the command says run.folder=$named: name the same folder" >&2
        exit 2
    fi
done

say() { echo "supervise: $(date '+%F %T') $1" >&2; }

if [ -n "$hopeless" ] && [ -e "$hopeless" ]; then
    read -r code <"$hopeless"
    [[ $code =~ ^[0-9]+$ ]] || code=2
    say "nothing is started: by $hopeless the run ended with exit code $code, which no repetition helps; mend the cause and remove the file"
    exit "$code"
fi

# shellcheck source=launch/failures.sh
. "$(dirname "$0")/failures.sh"

child= asked=no
pass_on() {
    asked=yes
    [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
# A shell starts what runs beside it with SIGINT ignored, so that one goes on as SIGTERM.
trap 'pass_on TERM' TERM INT
# A terminal that closes sends HUP twice, which is one wish: a second TERM would end the run without a save.
trap 'trap "" HUP; pass_on TERM' HUP
trap 'pass_on USR1' USR1

# "pid starttime" of the run's process and all that descend from it. (procps may be missing.)
family() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v root="$child" '
        { pid = $1; sub(/^.*\) /, ""); parent[pid] = $2; began[pid] = $20 }
        function descends(p) { while (p > 1) { if (p == root) return 1; p = parent[p] } return 0 }
        END { for (p in parent) if (descends(p)) print p, began[p] }'
}

# Ends every process of the run that is left, mpirun and ranks whose parent has died among them.
members=
end_job() {
    local pid began
    while read -r pid began; do
        [ -n "$pid" ] && [ "$(sed -E 's/^.*\) //' "/proc/$pid/stat" 2>/dev/null | awk '{ print $20 }')" = "$began" ] &&
            kill -s KILL "$pid" 2>/dev/null
    done <<<"$members"
    return 0
}

# Waits for the run's end; a run that stands still is ended. Sets `code` and `stalled`.
watch() {
    local seen step since=$SECONDS
    seen=$(last_step "$run") stalled=no members=
    while kill -0 "$child" 2>/dev/null; do
        members=$(family)
        sleep 1 &
        wait $! 2>/dev/null
        [ "$stall" -gt 0 ] || continue
        step=$(last_step "$run")
        if [ "$step" != "$seen" ]; then
            seen=$step since=$SECONDS
        elif [ $((SECONDS - since)) -ge "$stall" ]; then
            say "no step was logged for $stall s (step $seen): the run is ended"
            stalled=yes
            end_job
        fi
    done
    wait "$child" 2>/dev/null
    code=$?
    end_job
}

start=0
while true; do
    start=$((start + 1))
    setsid "$@" &
    child=$!
    [ $asked = no ] || kill -s TERM "$child" 2>/dev/null  # asked between two starts
    watch
    reached=$(last_step "$run")
    if [ $stalled = no ]; then
        case $code in
            0 | 2 | 3 | 4 | 7 | 160)
                case $code in
                    2 | 3 | 4 | 7)
                        if [ -n "$hopeless" ]; then
                            mkdir -p "$(dirname "$hopeless")"
                            echo "$code" >"$hopeless"
                        fi ;;
                esac
                [ "$code" = 0 ] || say "start $start ended with exit code $code at step $reached: not started again"
                exit "$code" ;;
        esac
    fi
    if [ $asked = yes ]; then
        say "start $start ended with exit code $code at step $reached, as asked"
        exit "$code"
    fi
    if [ "$code" = 161 ]; then
        say "start $start reached its time limit at step $reached: goes on"
        continue
    fi
    count_failure "$reached"
    if [ "$count" -ge "$failures" ]; then
        say "start $start ended with exit code $code at step $reached; $count failures came no further than step $furthest: given up"
        exit "$code"
    fi
    say "start $start ended with exit code $code at step $reached: goes on from the newest sound checkpoint in $pause s"
    sleep "$pause" &
    wait $! 2>/dev/null
    if [ $asked = yes ]; then exit 160; fi
done
