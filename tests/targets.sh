#!/bin/sh
# A processor may lack any one feature, as under a hypervisor that hides it. So every
# feature that a kernel's target attribute names is asked for in src/codec/cpu.c, and on an
# emulated processor without f16c no kernel runs into an instruction that there is not.
# usage: targets.sh SOURCE_FOLDER [HARNESS]
set -eu
status=0
features=$(grep -rh -A1 'target(' "$1/src/codec/x86" "$1/src/attend/x86" |
    grep -o '"[a-z0-9,]*"' | tr -d '"' | tr , '\n' | sort -u)
[ -n "$features" ]
for feature in $features; do
    grep -q "supports(\"$feature\")\|has_$feature()" "$1/src/codec/cpu.c" || {
        echo "$feature is used but not asked for"
        status=1
    }
done
[ "$#" -gt 1 ] && command -v qemu-x86_64 > /dev/null || exit $status
qemu-x86_64 -cpu Haswell,-f16c "$2" --rounds 1 --kernel halves 2> /dev/null || {
    echo "without f16c the kernels fail"
    status=1
}
exit $status
