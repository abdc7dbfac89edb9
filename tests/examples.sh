#!/bin/sh
# Each example ends with a message and status 1 where any of the library's calls fails,
# without going on: examples.sh SOURCE LIBRARY, the last libtqkv.a. Calls are replaced by
# the linker, one after the other.
set -eu
source=$1 library=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

for example in round_trip attend gpu; do
    cc -std=c11 -I"$source/include" -c "$source/examples/$example.c" -o "$dir/$example.o"
    # what returns a status; a call after one that failed would find no output
    for call in $(nm -u "$dir/$example.o" | grep -o 'tqkv_.*' |
        grep -v '_free$\|_string$\|_version$\|_length$\|_token_bytes$\|_encoder_message$'); do
        cat > "$dir/stub.c" <<STUB
#include <stdio.h>
#include <stdlib.h>
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
int __wrap_$call(void);
static int has_failed;
int __wrap_$call(void)
{
    has_failed = 1;
    return 1; /* TQKV_ERROR_ARGUMENT */
}
void *__wrap_malloc(size_t size)
{
    if (has_failed) {
        fprintf(stderr, "went on\n");
        _Exit(3);
    }
    return __real_malloc(size);
}
STUB
        cc -std=c11 -c "$dir/stub.c" -o "$dir/stub.o"
        # only the example's own malloc is replaced
        ld -r --wrap="$call" --wrap=malloc "$dir/$example.o" "$dir/stub.o" -o "$dir/all.o"
        objcopy --redefine-sym __real_malloc=malloc "$dir/all.o"
        cc "$dir/all.o" "$library" -fopenmp -lm -ldl -o "$dir/program"
        status=0
        "$dir/program" > "$dir/out" 2> "$dir/err" || status=$?
        if [ "$status" != 1 ] || [ -s "$dir/out" ] || ! grep -q 'an argument is null' "$dir/err"; then
            echo "$example: $call fails: ends with $status: $(cat "$dir/out" "$dir/err")"
            failed=1
        fi
    done
done
exit $failed
