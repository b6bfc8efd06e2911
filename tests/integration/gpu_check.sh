#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/gpu_check.sh with stand-ins for the test program and for compute-sanitizer: what it runs, and what it makes of it.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
lab=$(mktemp -d "${TMPDIR:-/tmp}/plinth-gpu-check-XXXXXX")
trap 'rm -rf "$lab"' EXIT

cat >"$lab/gpu_kernels" <<'PROGRAM'
#!/usr/bin/env bash
case "$1" in
    --gtest_list_tests) printf 'AddTest.\n  Sums\nCards/CastTest.\n  Rounds/0  # GetParam() = 4\nTyped/0.  # TypeParam = float\n  Works\n' ;;
    *)
        case "${KERNELS:-pass}" in
            pass) echo '[       OK ] One.Test (1 ms)' ;;
            skip) printf 'no CUDA device: none here\n[  SKIPPED ] One.Test (0 ms)\n[  SKIPPED ] 1 test, listed below:\n' ;;
            fail) echo '[  FAILED  ] One.Test (1 ms)'; exit 1 ;;
            hang) sleep 60 ;;
        esac ;;
esac
PROGRAM
mkdir "$lab/bin"
cat >"$lab/bin/compute-sanitizer" <<'TOOL'
#!/usr/bin/env bash
echo "$*" >>"$CALLS"
[[ $* == *"${FINDS:-nothing}"* ]] && { echo '========= Invalid __global__ read of size 4 bytes'; exit 99; }
while [ "$1" != "$PROGRAM" ]; do shift; done
exec "$@"
TOOL
chmod +x "$lab/gpu_kernels" "$lab/bin/compute-sanitizer"
export PATH="$lab/bin:$PATH" CALLS=$lab/calls PROGRAM=$lab/gpu_kernels

# expect CODE TEXT ARGUMENT...: the exit code, and a text in what it says.
expect() {
    local code=$1 text=$2 got=0
    shift 2
    : >"$CALLS"
    "$root/launch/gpu_check.sh" --program "$lab/gpu_kernels" --results "$lab/results" "$@" >"$lab/out" 2>&1 || got=$?
    if [ $got != "$code" ] || ! grep -qF -- "$text" "$lab/out"; then
        echo "gpu_check $*: exit code $got instead of $code, or no '$text' in:" >&2
        cat "$lab/out" >&2
        exit 1
    fi
}

expect 0 'gpu_check: 12 tests, nothing found'
for tool in memcheck racecheck initcheck synccheck; do
    for suite in AddTest. Cards/CastTest. Typed/0.; do
        grep -qF -- "--tool $tool --error-exitcode 99 --target-processes all $PROGRAM --gtest_color=no --gtest_filter=$suite*" "$CALLS" ||
            { echo "no $tool over $suite" >&2; exit 1; }
    done
done
[ "$(wc -l <"$CALLS")" = 12 ]
expect 0 'racecheck: 3 suites, 0 failed' racecheck
[ "$(wc -l <"$CALLS")" = 3 ]
FINDS='initcheck --error-exitcode 99 --target-processes all '$PROGRAM' --gtest_color=no --gtest_filter=Cards' \
    expect 1 'gpu_check: initcheck Cards/CastTest: the tool found something'
grep -qF 'Invalid __global__ read' "$lab/out"
[ "$(grep -c '^gpu_check: ' "$lab/out")" = 1 ]
KERNELS=fail expect 1 'gpu_check: memcheck AddTest: exit code 1' memcheck
KERNELS=hang expect 1 'Typed/0: no end within 1 s' --limit 1 synccheck
KERNELS=skip expect 77 'all 12 tests were skipped (no CUDA device: none here): nothing was checked'
expect 2 'TOOL' leakcheck
expect 2 'TOOL' --jobs
expect 2 'no program' --program "$lab/missing"
PATH=/usr/bin:/bin expect 77 'no compute-sanitizer'
echo "gpu_check: as it should"
