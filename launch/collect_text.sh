#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lists text that most Linux systems have: documentation, manual pages, the Python library, C and C++ headers.
#   launch/collect_text.sh [--limit-mb N] > files.txt       default: 20 MB, at most a fifth of it from one source
# One path a line, sorted within each source, files of equal content once; what was found goes to standard error. Folders that
# are not there are passed over. `.gz` files are listed as they are (`plinth data prepare` unpacks them) and count threefold.
set -euo pipefail
export LC_ALL=C

limit_mb=20
case "${1:-}" in
    --limit-mb) limit_mb=$2 ;;
    "") ;;
    *) sed -n '3,6s/^# *//p' "$0" >&2; exit 2 ;;
esac

list=$(mktemp)
trap 'rm -f "$list" "$list".*' EXIT

# add NAME FOLDER [find's conditions]: appends the folder's files, sorted, up to the source's share, as NAME, bytes and path.
add() {
    local name=$1 folder=$2
    shift 2
    [ -d "$folder" ] || return 0
    find "$folder" -type f -readable -size +0 ! -name $'*\n*' "$@" -printf '%p\t%s\n' | sort |
        awk -F '\t' -v name="$name" -v share=$((limit_mb * 200000)) '{
            text = $1 ~ /\.gz$/ ? 3 * $2 : $2
            if (sum + text > share) next
            sum += text
            printf "%s\t%d\t%s\n", name, text, $1 }' >>"$list"
}

add "licences" /usr/share/common-licenses
for folder in /usr/share/cmake*/Help; do add "CMake's manual" "$folder" -name '*.rst'; done
add "Git's release notes" /usr/share/doc/git/RelNotes
for folder in /usr/share/vim/vim*/doc; do add "Vim's manual" "$folder" -name '*.txt'; done
add "manual pages (7)" /usr/share/man/man7 -name '*.gz'
for folder in /usr/lib/python3.[0-9]*; do
    add "Python's library" "$folder" -name '*.py' ! -path '*/test/*' ! -path '*/*-packages/*'
done
for folder in /usr/include/c++/[0-9]*; do add "C++ headers" "$folder"; done
add "Linux headers" /usr/include/linux -name '*.h'
for section in 2 5 8; do add "manual pages ($section)" /usr/share/man/man$section -name '*.gz'; done
for folder in /usr/share/perl/[0-9]*; do add "Perl's library" "$folder" -name '*.p[lmo]*'; done
add "package notes" /usr/share/doc \( -name '*.md' -o -name '*.txt' -o -name 'README*' -o -name 'changelog*.gz' \)

# Content decides what is the same: the first path of each stays.
cut -f 3 "$list" | tr '\n' '\0' | xargs -0 -r sha256sum -z | tr '\0' '\n' | awk '{ print $1 }' >"$list.hashes"
paste "$list.hashes" "$list" | awk -F '\t' -v limit=$((limit_mb * 1000000)) -v summary="$list.summary" '
    seen[$1]++ || sum + $3 > limit { next }
    {
        sum += $3
        if (!($2 in files)) order[++sources] = $2
        files[$2]++
        bytes[$2] += $3
        print $4
    }
    END {
        for (i = 1; i <= sources; i++)
            printf "  %6.2f MB  %5d files  %s\n", bytes[order[i]] / 1e6, files[order[i]], order[i] >summary
        printf "  %6.2f MB in all\n", sum / 1e6 >summary
    }'
cat "$list.summary" >&2
