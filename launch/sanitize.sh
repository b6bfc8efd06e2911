#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The unit tests under the sanitizers, and `plinth verify` under the first pair (gcc's own; nothing to install beyond
# launch/install_packages.sh). Only these programs are built and run; the other tests of whole programs (labels mpi and slow)
# are not. On two busy cores asan-ubsan took 27 minutes to build and 16 to run.
#   launch/sanitize.sh                     both
#   launch/sanitize.sh asan-ubsan [ctest arguments]
#   launch/sanitize.sh tsan [ctest arguments]      by default all unit tests
set -euo pipefail
cd "$(dirname "$0")/.."

sanitize() {
    local preset=$1
    shift
    cmake --preset "$preset" >/dev/null
    NINJA_STATUS="[$preset %f/%t %es] " cmake --build --preset "$preset" -j "$(nproc)" --target unit_tests plinth
    ctest --preset "$preset" -j "$(nproc)" "$@"
}

address() {
    export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    [ $# -gt 0 ] || set -- -L cpu -LE slow
    sanitize asan-ubsan "$@"
}

threads() {
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
    [ $# -gt 0 ] || set -- -L cpu -LE slow -R '^unit_'
    sanitize tsan "$@"
}

case "${1:-both}" in
    both) address; threads ;;
    asan-ubsan) shift; address "$@" ;;
    tsan) shift; threads "$@" ;;
    *) echo "sanitize: unknown preset '$1' (asan-ubsan or tsan)" >&2; exit 2 ;;
esac
