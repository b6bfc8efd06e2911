#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-format over every tracked source. Exit 77 (ctest: skipped) where clang-format 14, whose output is the reference, is
# absent. `tests/lint/check_format.sh --fix` rewrites the files instead.
set -euo pipefail
cd "$(dirname "$0")/../.."

formatter=$(command -v clang-format-14 || command -v clang-format || true)
if [ -z "$formatter" ]; then
    echo "skipped: no clang-format here (launch/install_packages.sh installs it)"
    exit 77
fi
version=$("$formatter" --version | sed -E 's/.*version ([0-9]+).*/\1/')
if [ "$version" != 14 ]; then
    echo "skipped: $formatter is version $version, and versions differ in what they write; 14 is the reference"
    exit 77
fi
if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    echo "skipped: not a git work tree, so no list of tracked sources"
    exit 77
fi

mode=(--dry-run -Werror)
[ "${1:-}" = --fix ] && mode=(-i)
git ls-files -z -- '*.h' '*.cpp' '*.cu' '*.cuh' '*.proto' | xargs -0 --no-run-if-empty "$formatter" --style=file "${mode[@]}"
echo "$(git ls-files -- '*.h' '*.cpp' '*.cu' '*.cuh' '*.proto' | wc -l) files are formatted"
