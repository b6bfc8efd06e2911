#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# compute-sanitizer over the GPU tests, on a machine with a GPU: each tool over each suite, each in a process of its own.
#   launch/gpu_check.sh [--program FILE] [--results FOLDER] [--suites FILTER] [--jobs N] [--limit SECONDS] [TOOL...]
#     --program   gpu_kernels (default build/cuda/tests/gpu_kernels, which the preset `cuda` builds with -DPLINTH_TESTS=ON)
#     --results   folder for logs, one a tool and suite (default gpu_check beside the program)
#     --suites    a GoogleTest filter: the suites with a test that it names (default all)
#     --jobs      suites at a time (default 4)
#     --limit     seconds that a suite may take (default 1200: racecheck is slow)
#     TOOL        memcheck, racecheck, initcheck, synccheck (default all four, in this order)
# Exit 0: no tool found anything. 1: one did, a suite failed, or ran out of time; each is named at the end. 2: a wrong
# command. 77: no compute-sanitizer or no GPU here, so that nothing was checked.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n '3,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }

program=$root/build/cuda/tests/gpu_kernels results='' filter='*' jobs=4 limit=1200 tools=()
while [ $# -gt 0 ]; do
    case "$1" in
        --program | --results | --suites | --jobs | --limit) [ $# -ge 2 ] || usage ;;&
        --program) program=$2; shift 2 ;;
        --results) results=$2; shift 2 ;;
        --suites) filter=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --limit) limit=$2; shift 2 ;;
        memcheck | racecheck | initcheck | synccheck) tools+=("$1"); shift ;;
        *) usage ;;
    esac
done
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck synccheck)
[ -x "$program" ] || { echo "gpu_check: no program $program (--program)" >&2; exit 2; }
[ -n "$results" ] || results=$(dirname "$program")/gpu_check
if ! command -v compute-sanitizer >/dev/null; then
    echo "gpu_check: no compute-sanitizer in PATH (it is in the CUDA toolkit's bin): nothing was checked"
    exit 77
fi

# Names of suites, each with its dot.
mapfile -t suites < <("$program" --gtest_list_tests "--gtest_filter=$filter" | awk '/^[^ ].*\.$|^[^ ].*\.  #/ { print $1 }')
[ ${#suites[@]} -gt 0 ] || { echo "gpu_check: $program has no suite for the filter '$filter'" >&2; exit 2; }

# check TOOL SUITE LOG: one suite under one tool.
check() {
    timeout -k 10 "$limit" compute-sanitizer --tool "$1" --error-exitcode 99 --target-processes all "$program" \
        --gtest_color=no "--gtest_filter=$2*" >"$3" 2>&1
}

# why CODE: in words.
why() {
    case "$1" in
        99) echo "the tool found something" ;;
        124 | 137) echo "no end within $limit s" ;;
        *) echo "exit code $1" ;;
    esac
}

failures=() ran=0 skipped=0
for tool in "${tools[@]}"; do
    started=$SECONDS
    folder=$results/$tool
    rm -rf "$folder"
    mkdir -p "$folder" || exit 2
    pids=() bad=0
    for suite in "${suites[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 0.05; done
        check "$tool" "$suite" "$folder/$(tr / _ <<<"${suite%.}").log" &
        pids+=($!)
    done
    for i in "${!pids[@]}"; do
        code=0
        wait "${pids[$i]}" || code=$?
        log=$folder/$(tr / _ <<<"${suites[$i]%.}").log
        # A line for each test, and not the summary's, which has no time.
        ran=$((ran + $(grep -c '^\[       OK \].*ms)' "$log")))
        skipped=$((skipped + $(grep -c '^\[  SKIPPED \].*ms)' "$log")))
        [ $code = 0 ] && continue
        bad=$((bad + 1))
        failures+=("$tool ${suites[$i]%.}: $(why $code); $log")
        grep -m 12 -E '^=========|^\[  FAILED  \].*ms\)' "$log" | sed 's/^/    /'
    done
    echo "$tool: ${#suites[@]} suites, $bad failed, $((SECONDS - started)) s"
done
if [ ${#failures[@]} -gt 0 ]; then
    printf 'gpu_check: %s\n' "${failures[@]}"
    exit 1
fi
if [ "$ran" = 0 ]; then
    echo "gpu_check: all $skipped tests were skipped ($(grep -h -o -m 1 'no CUDA device.*' "$results"/*/*.log | head -n 1)): nothing was checked"
    exit 77
fi
echo "gpu_check: $ran tests, nothing found"
