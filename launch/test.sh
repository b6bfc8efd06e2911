#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What CI runs: installs what is missing, builds the preset `dev`, runs every test. No GPU, no questions. Where the CUDA
# toolkit is (nvcc in PATH or in CUDA_HOME) the CUDA backend is built, too, and what can be tested of it without a GPU.
#   launch/test.sh [--no-install] [--jobs N] [arguments for ctest, e.g. -L cpu -R unit_io]
# Closes with the duration of each part, what failed with its output, and ctest's summary.
set -uo pipefail
cd "$(dirname "$0")/.."

install=yes
jobs=$(nproc)
while [ $# -gt 0 ]; do
    case "$1" in
        --no-install) install=no; shift ;;
        --jobs) jobs=$2; shift 2 ;;
        *) break ;;
    esac
done

# mpirun refuses to run as root unless told twice; tests start more ranks than a small machine has cores.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe=1

log=build/dev/test.log
results=build/dev/test.xml
mkdir -p build/dev
parts=()

# part NAME COMMAND...: runs it and remembers how long it took; ends the script when it fails.
part() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '\n==== %s ====\n' "$name"
    "$@" || status=$?
    parts+=("$(printf '%-34s %6d s' "$name" $((SECONDS - start)))")
    if [ $status -ne 0 ]; then
        durations
        echo "test.sh: $name failed (exit $status)"
        exit $status
    fi
}

durations() {
    printf '\n==== durations ====\n'
    printf '%s\n' "${parts[@]}"
    printf '%-34s %6d s\n' total "$SECONDS"
}

# Every test in one run; its own log keeps the "Start" lines.
run_tests() {
    ctest --test-dir build/dev -j "$jobs" --output-junit test.xml "$@" 2>&1 | tee $log | grep -vE '^ +Start +[0-9]+:'
    return "${PIPESTATUS[0]}"
}

# The output of each failing test, at most 100 lines of each.
print_failures() {
    python3 - $results <<'PYTHON'
import sys
import xml.etree.ElementTree as tree
for case in tree.parse(sys.argv[1]).getroot().iter("testcase"):
    if case.get("status") == "fail":
        lines = (case.findtext("system-out") or "(no output)").strip().splitlines()
        left_out = [f"... {len(lines) - 100} lines left out ..."] if len(lines) > 100 else []
        print(f"\n---- {case.get('name')} ----", *left_out, *lines[-100:], sep="\n")
PYTHON
}

nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
backend=OFF
if [ -n "$nvcc" ]; then
    backend=ON
    export CUDACXX=$nvcc
else
    echo "test.sh: no nvcc in PATH or in ${CUDA_HOME:-/usr/local/cuda}/bin: the CUDA backend is not built"
fi

[ $install = yes ] && part install launch/install_packages.sh test
if [ $install = yes ] && [ $backend = ON ] && ! launch/install_packages.sh cuda; then
    backend=OFF
    echo "test.sh: the headers of the CUDA backend could not be fetched (above): it is not built"
fi
part configure cmake --preset dev -DPLINTH_CUDA=$backend
part build env NINJA_STATUS='[%f/%t %es] ' cmake --build --preset dev -j "$jobs"

rm -f $results
printf '\n==== tests ====\n'
start=$SECONDS
run_tests "$@"
status=$?
parts+=("$(printf '%-34s %6d s' tests $((SECONDS - start)))")
# ctest adds up the tests of a label, whatever ran side by side.
while read -r label seconds; do
    parts+=("$(printf '  label %-26s %6.0f s of tests' "$label" "$seconds")")
done < <(sed -nE 's/^([a-z_]+) +=  *([0-9.]+) sec\*proc.*/\1 \2/p' $log)
durations
if [ $status -ne 0 ] && [ -f $results ]; then
    printf '\n==== output of the tests that failed ====\n'
    print_failures
fi
# ctest's own summary closes the run.
echo
if grep -qE '^[0-9]+% tests passed' $log; then
    sed -nE '/^[0-9]+% tests passed/,$p' $log
else
    tail -n 20 $log
fi
exit $status
