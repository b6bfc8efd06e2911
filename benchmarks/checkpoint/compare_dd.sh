#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# compare_dd.sh BENCH_CHECKPOINT [FOLDER]: rates of checkpoint save and load next to dd on the same disk, with the same
# block size (8 MiB) and the same number of bytes, fsync included, the page cache emptied before reads.
# dd runs before and after the benchmark; its faster run counts.
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
best() { sort -n | tail -1; }
ours() { # best rate in MB/s of the benchmarks whose name holds $1
    TMPDIR=$folder "$program" --benchmark_filter="$1" --benchmark_format=csv 2>/dev/null |
        awk -F, '/^"/ { if ($6 > best) best = $6 } END { printf "%.0f\n", best / 1e6 }'
}

write=$(for _ in 1 2 3; do dd_write; done)
read=$(for _ in 1 2 3; do dd_read; done)
cached=$(for _ in 1 2 3; do dd_cached; done)
our_write=$(ours '^save/')
our_async=$(ours 'save_asynchronous')
our_read=$(ours 'cached:0')
our_cached=$(ours 'cached:1')
write=$( (echo "$write"; for _ in 1 2 3; do dd_write; done) | best)
read=$( (echo "$read"; for _ in 1 2 3; do dd_read; done) | best)
cached=$( (echo "$cached"; for _ in 1 2 3; do dd_cached; done) | best)

report() { printf '%-28s %6s MB/s   dd %6s MB/s   %3d %%\n' "$1" "$2" "$3" $((100 * $2 / $3)); }
report 'save, fsync included' "$our_write" "$write"
report 'asynchronous save' "$our_async" "$write"
report 'load, page cache emptied' "$our_read" "$read"
report 'load from the page cache' "$our_cached" "$cached"
