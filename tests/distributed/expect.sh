#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# expect.sh CODE REGEX SECONDS COMMAND...: the command must end within SECONDS with exit code CODE and print a line
# that REGEX matches (an empty one matches all). A hung mpirun ignores SIGTERM: it is killed.
set -u
code=$1 regex=$2 seconds=$3
shift 3
output=$(timeout -s KILL "$seconds" "$@" 2>&1)
got=$?
printf '%s\n' "$output"
if [ "$got" -ne "$code" ]; then
    echo "expect.sh: exit code $got, expected $code (137: ran out of its $seconds s)"
    exit 1
fi
if [ -n "$regex" ] && ! grep -Eq -- "$regex" <<<"$output"; then
    echo "expect.sh: no line matches: $regex"
    exit 1
fi
