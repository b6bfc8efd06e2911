#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# compare_dd.sh BENCH_CHECKPOINT [FOLDER [ROUNDS]]: rates of checkpoint save and load next to dd on the same disk, with the same
# block size (8 MiB) and the same number of bytes, fsync included, the page cache emptied before reads.
# Both take turns (three rounds) and the best of each counts: on a shared disk single runs differ by a factor of three.
set -eu
program=$1
folder=${2:-${TMPDIR:-/tmp}}
megabytes=1424 # the state of GPT-2 124M
file=$folder/plinth-bench-dd.$$
trap 'rm -f "$file"' EXIT

rate() { awk '{ for (i = 2; i <= NF; ++i) if ($i ~ /^s,?$/) seconds = $(i - 1) } END { printf "%.0f\n", bytes / seconds / 1e6 }' \
    bytes=$((megabytes << 20)); }
dd_write() {
    rm -f "$file"
    sync
    LC_ALL=C dd if=/dev/zero of="$file" bs=8M count=$((megabytes / 8)) conv=fsync 2>&1 | tail -1 | rate
}
dd_read() { # without `iflag=nocache count=0` first, dd would read memory
    dd if="$file" iflag=nocache count=0 status=none
    LC_ALL=C dd if="$file" of=/dev/null bs=8M 2>&1 | tail -1 | rate
}
dd_cached() { LC_ALL=C dd if="$file" of=/dev/null bs=8M 2>&1 | tail -1 | rate; }
ours() { # best rate in MB/s of the benchmarks whose name holds $1
    TMPDIR=$folder "$program" --benchmark_filter="$1" --benchmark_format=csv 2>/dev/null |
        awk -F, '/^"/ { if ($6 > best) best = $6 } END { printf "%.0f\n", best / 1e6 }'
}

write= read= cached= our_write= our_async= our_read= our_cached=
for ((round = 0; round < ${3:-3}; ++round)); do
    write+=$'\n'$(dd_write) read+=$'\n'$(dd_read) cached+=$'\n'$(dd_cached)
    our_write+=$'\n'$(ours '^save/2') our_async+=$'\n'$(ours 'save_asynchronous')
    our_read+=$'\n'$(ours 'threads:2/cached:0') our_cached+=$'\n'$(ours 'threads:2/cached:1')
done
best() { sort -n | tail -1; }

report() {
    local mine theirs
    mine=$(best <<<"$2") theirs=$(best <<<"$3")
    printf '%-28s %6s MB/s   dd %6s MB/s   %3d %%\n' "$1" "$mine" "$theirs" $((100 * mine / theirs))
}
report 'save, fsync included' "$our_write" "$write"
report 'asynchronous save' "$our_async" "$write"
report 'load, page cache emptied' "$our_read" "$read"
report 'load from the page cache' "$our_cached" "$cached"
