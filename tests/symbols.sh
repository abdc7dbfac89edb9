#!/bin/sh
# The shared library exports the functions that the headers declare and no
# others: symbols.sh LIBRARY INCLUDE
set -eu
declared=$(cat "$2"/*.h | grep -v '^ \*' | grep -v '^typedef' | grep -o '\btqkv_[a-z0-9_]*(' |
    tr -d '(' | sort -u)
exported=$(nm -D --defined-only "$1" | awk '{ print $3 }' | sed 's/@.*//' | sort -u)
[ "$declared" = "$exported" ] || {
    echo "declared and exported symbols differ:"
    printf '%s\n' "$declared" > "${TMPDIR:-/tmp}/declared.$$"
    printf '%s\n' "$exported" | diff "${TMPDIR:-/tmp}/declared.$$" - || true
    rm -f "${TMPDIR:-/tmp}/declared.$$"
    exit 1
}
echo "$(printf '%s\n' "$exported" | wc -l) symbols, as declared"
