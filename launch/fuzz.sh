#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the libFuzzer targets (clang) and runs each for a while.
#   launch/fuzz.sh [SECONDS] [TARGET...]      default: 60 s each, every target of tests/fuzz
# What a target found lies in build/fuzz/found/TARGET-*, its corpus in build/fuzz/corpus/TARGET. Exit 1 when one found something.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=60
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
command -v clang++ >/dev/null || { echo "fuzz: needs clang (launch/install_packages.sh all)" >&2; exit 1; }

cmake --preset fuzz >/dev/null
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd tests/fuzz && ls -- *.cpp | sed 's/\.cpp$//')
cmake --build --preset fuzz -j "$(nproc)" --target "${targets[@]/#/fuzz_}"

mkdir -p build/fuzz/found
failed=0
for target in "${targets[@]}"; do
    corpus=build/fuzz/corpus/$target
    mkdir -p "$corpus"
    seeds=()
    [ -d "tests/fuzz/seeds/$target" ] && seeds=("tests/fuzz/seeds/$target")
    [ "$target" = config ] && seeds+=(configs)  # what users start from
    echo "==== fuzz_$target: $seconds s"
    if ! build/fuzz/tests/fuzz/"fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/found/$target-" "$corpus" "${seeds[@]}"; then
        failed=1
        echo "fuzz: fuzz_$target found something: build/fuzz/found/$target-*"
    fi
done
exit $failed
