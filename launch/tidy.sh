#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The short clang-tidy list of .clang-tidy.
#   launch/tidy.sh            sources that differ from main, committed or not
#   launch/tidy.sh --all      every source
#   launch/tidy.sh FILE...    these
# Needs a configured build/dev (compile_commands.json). Exit 1 when clang-tidy finds something.
set -euo pipefail
cd "$(dirname "$0")/.."

database=build/dev
[ -f $database/compile_commands.json ] || cmake --preset dev >/dev/null
command -v clang-tidy >/dev/null || { echo "tidy: clang-tidy is not installed (apt-get install clang-tidy)" >&2; exit 1; }

case "${1:-}" in
    --all) mapfile -t files < <(git ls-files -- '*.cpp') ;;
    "")
        base=$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)
        mapfile -t files < <({ git diff --name-only --diff-filter=d "$base" -- '*.cpp'
                               git ls-files --others --exclude-standard -- '*.cpp'; } | sort -u) ;;
    *) files=("$@") ;;
esac
# Only what the build compiles has flags in the database.
checked=()
for file in "${files[@]}"; do
    if grep -q "\"file\": \"$PWD/$file\"" $database/compile_commands.json; then
        checked+=("$file")
    else
        echo "tidy: $file is not compiled by this build: left out"
    fi
done
[ ${#checked[@]} -gt 0 ] || { echo "tidy: nothing to check"; exit 0; }

echo "tidy: ${#checked[@]} files"
# gcc's flags that clang does not know are no finding.
printf '%s\0' "${checked[@]}" | xargs -0 -n 1 -P "$(nproc)" \
    clang-tidy -p $database --quiet --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument
