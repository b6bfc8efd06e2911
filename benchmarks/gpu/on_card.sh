#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All that is worth knowing of a build on a GPU machine, in one go and from a bundle (launch/bundle.sh --with gpu_kernels ...).
#   benchmarks/gpu/on_card.sh BUNDLE RESULTS [STAGE[=DETAIL]]...
#     BUNDLE          its folder, or the .tar.xz that --pack made
#     RESULTS         folder for logs
#     tests[=FILTER]  gpu_kernels, each suite in a process of its own: one bad kernel spoils no other's test (default)
#     sanitize[=SUITE|all]  the same under compute-sanitizer (launch/gpu_check.sh): memcheck; of SUITE or of all, its four tools
#     train[=KEYS]    the tiny models on CPU and GPU, losses side by side; KEYS are more configuration words
#     kernels[=NAME]  the table of gpu_benchmarks
#     compare=SHAPE[,OPTION...]  compare_pytorch.py, such as compare=gpt2-124m,--seconds,20,--how,blocks
# Exit 1 if a stage failed. What failed is printed last, so that the end of the output says it all.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -ge 2 ] || { sed -n '3,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
bundle=$1
mkdir -p "$2"
results=$(cd "$2" && pwd)
shift 2
[ $# -gt 0 ] || set -- tests
failures=$results/failures.txt
: >"$failures"

if [ -f "$bundle" ]; then
    unpacked=${TMPDIR:-/tmp}/plinth-bundle-$(cksum <"$bundle" | cut -d ' ' -f 1)
    if [ ! -d "$unpacked" ]; then
        mkdir -p "$unpacked.part"
        tar -C "$unpacked.part" -xJf "$bundle" || exit 1
        mv "$unpacked.part" "$unpacked"
    fi
    bundle=$(echo "$unpacked"/*)
fi
[ -x "$bundle/plinth" ] || { echo "on_card: $bundle holds no plinth" >&2; exit 2; }

title() {
    printf '\n==== %s  (%d s)\n' "$1" $SECONDS
}

fail() {
    echo "$1" >>"$failures"
    echo "FAILED: $1"
}

# messages LOG MOST: what the failed tests of a GoogleTest log said, a few lines each.
messages() {
    awk -v most="$2" '
        /^\[ RUN      \]/ { held = ""; lines = 0; inside = 1; name = $4; next }
        /^\[       OK \]|^\[  SKIPPED \]/ { inside = 0 }
        /^\[  FAILED  \]/ && inside { printf "  %s\n%s", $0, held; inside = 0 }
        inside && lines < most { held = held "      " substr($0, 1, 300) "\n"; ++lines }
        END { if (inside) printf "  the process ended in %s:\n%s", name, held }' "$1"
}

suites() {
    "$bundle/gpu_kernels" --gtest_list_tests "--gtest_filter=${1:-*}" | awk '/^[^ ].*\.$/ { print $1 }'
}

# run_suites LOGS SECONDS FILTER COMMAND...: each suite by COMMAND "$bundle/gpu_kernels", several at a time.
run_suites() {
    local logs=$1 limit=$2 filter=$3 suite one pids=() names=() i code
    shift 3
    rm -rf "$logs"
    mkdir -p "$logs"
    for suite in $(suites "$filter"); do
        while [ "$(jobs -rp | wc -l)" -ge 6 ]; do sleep 0.05; done
        case "$filter" in '*' | '') one="$suite*" ;; *) one=$filter ;; esac
        [[ $one == "$suite"* ]] || one="$suite*"
        suite=${suite%.}
        names+=("${suite//\//_}")
        timeout -k 5 "$limit" "$@" "$bundle/gpu_kernels" --gtest_color=no "--gtest_filter=$one" >"$logs/${names[-1]}.log" 2>&1 &
        pids+=($!)
    done
    for i in "${!pids[@]}"; do
        wait "${pids[$i]}"
        code=$?
        [ $code = 0 ] || echo "${names[$i]} $code"
    done >"$logs/failed.txt"
}

tests() {
    local logs=$results/tests suite code passed skipped
    run_suites "$logs" 150 "$1"
    passed=$(cat "$logs"/*.log | grep -c '^\[       OK \]')
    skipped=$(cat "$logs"/*.log | grep -c '^\[  SKIPPED \].*ms)')
    echo "passed $passed, skipped $skipped, suites failed $(wc -l <"$logs/failed.txt")"
    grep -h -o 'no CUDA device.*' "$logs"/*.log | sort | uniq -c | head -3
    while read -r suite code; do
        fail "tests: $suite (exit $code): $(grep -E '^\[  FAILED  \] .* ms\)' "$logs/$suite.log" | cut -c 14- | sed 's/[, ].*//' | tr '\n' ' ')"
        messages "$logs/$suite.log" 8 | head -60
    done <"$logs/failed.txt"
}

sanitize() {
    local filter='*' tools=(memcheck)
    [ -z "$1" ] || tools=()  # all of them
    case "$1" in '' | all) ;; *) filter="$1.*" ;; esac
    "$root/launch/gpu_check.sh" --program "$bundle/gpu_kernels" --results "$results" --jobs 6 --limit 400 \
        --suites "$filter" "${tools[@]}" || fail "sanitize: see the lines of gpu_check above"
}

# losses FILE: one a line.
losses() {
    sed -nE '/"kind": ?"step"/s/.*"loss": ?([0-9.eE+-]+).*/\1/p' "$1"
}

train() {
    local family dtype device folder=$results/train words
    read -ra words <<<"$1"
    mkdir -p "$folder"
    rm -rf "$folder/data"
    "$bundle/plinth" data prepare "prepare.inputs=[\"$root/docs\"]" "prepare.output=$folder/data" >"$folder/prepare.log" 2>&1 ||
        { fail "train: data prepare: $(tail -n 2 "$folder/prepare.log")"; return; }
    for family in gpt llama bloom; do
        for dtype in fp32 bf16; do
            for device in cpu cuda; do
                rm -rf "$folder/run.$device"
                timeout -k 5 120 "$bundle/plinth" pretrain "$bundle/configs/$family/tiny.yaml" "data.sources=[{path: \"$folder/data\"}]" \
                    "run.folder=$folder/run.$device" "run.device=$device" "train.dtype=$dtype" train.steps=20 run.threads=4 \
                    checkpoint.every=0 "${words[@]}" >"$folder/$family-$dtype-$device.log" 2>&1 ||
                    { fail "train: $family $dtype on $device: $(tail -n 3 "$folder/$family-$dtype-$device.log")"; continue 2; }
                losses "$folder/run.$device/metrics.jsonl" >"$folder/losses.$device"
            done
            paste "$folder/losses.cpu" "$folder/losses.cuda" | awk -v name="$family $dtype" '
                { d = $1 - $2; d = d < 0 ? -d : d; if (d > worst) worst = d; last = $0 }
                END { printf "%-12s %d steps, largest difference of a loss %.2e, last (CPU, GPU) %s\n", name, NR, worst, last }'
        done
    done
}

kernels() {
    timeout -k 5 300 "$bundle/gpu_benchmarks" "$@" 2>&1 | tee "$results/kernels.txt"
    [ "${PIPESTATUS[0]}" = 0 ] || fail "kernels: see the lines with FAILED above"
}

compare() {
    local words
    IFS=, read -ra words <<<"$1"
    timeout -k 5 570 python3 "$root/benchmarks/gpu/compare_pytorch.py" --plinth "$bundle/plinth" --work "$results/compare" \
        --shape "${words[@]}" 2>&1 | tee -a "$results/compare.txt"
    [ "${PIPESTATUS[0]}" = 0 ] || fail "compare $1"
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,power.limit,temperature.gpu --format=csv,noheader || echo "no nvidia-smi"
echo "bundle $("$bundle/plinth" --version 2>&1 | head -n 1)"
for stage; do
    detail=
    [[ $stage == *=* ]] && detail=${stage#*=}
    title "$stage"
    case "${stage%%=*}" in
        tests) tests "${detail:-*}" ;;
        sanitize) sanitize "$detail" ;;
        train) train "$detail" ;;
        kernels) kernels ${detail:+"$detail"} ;;
        compare) compare "$detail" ;;
        *) fail "unknown stage '$stage'" ;;
    esac
done

title "done"
if [ -s "$failures" ]; then
    echo "$(wc -l <"$failures") failed:"
    cut -c 1-300 "$failures"
    exit 1
fi
echo "nothing failed"
