#!/bin/sh
# Tests: check.sh for what a newcomer runs, check.sh all for everything.
#
# Without `all`: gcc, every test but the slow ones; llama.cpp's if it has been built.
# With it: builds llama.cpp first, then all tests with gcc, with clang under sanitizers
# and with the fuzz targets for a short time, and the kernels for aarch64 under qemu.
# Stops at the first failure.
set -eu
cd "$(dirname "$0")/.."
jobs=$(nproc)
all=${1:-}

unset MAKEFLAGS # of the make that may have called

configure_and_build()
{
    mkdir -p build
    if ! { cmake --preset "$1" && cmake --build "build/$1" --parallel "$jobs"; } \
        > "build/$1.log" 2>&1; then
        cat "build/$1.log"
        exit 1
    fi
}

TQKV_LLAMA_DIR=${TQKV_LLAMA_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/tqkv/llama}
export TQKV_LLAMA_DIR
if [ "$all" = all ]; then
    echo "== llama.cpp, built once and kept"
    scripts/build-llama.sh "$TQKV_LLAMA_DIR" libraries
elif [ ! -e "$TQKV_LLAMA_DIR/loadable/done-libraries-asserting" ]; then
    echo "== llama.cpp is not built: its tests are left to 'make check-all'"
    TQKV_LLAMA_DIR=
fi

echo "== gcc, warnings as errors"
configure_and_build check
if [ "$all" != all ]; then
    ctest --test-dir build/check --output-on-failure --parallel "$jobs" --label-exclude slow
    exit
fi
ctest --test-dir build/check --output-on-failure --parallel "$jobs"

echo "== clang, AddressSanitizer and UndefinedBehaviorSanitizer"
configure_and_build sanitize
ctest --test-dir build/sanitize --output-on-failure --parallel "$jobs"

echo "== aarch64 under qemu"
configure_and_build arm
ctest --test-dir build/arm --output-on-failure
