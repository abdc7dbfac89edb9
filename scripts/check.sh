#!/bin/sh
# All tests: gcc, then clang with sanitizers and the fuzz targets for a short
# time, then the kernels for aarch64 under qemu. Stops at the first failure.
set -eu
cd "$(dirname "$0")/.."
jobs=$(nproc)

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

echo "== llama.cpp, built once and kept"
TQKV_LLAMA_DIR=${TQKV_LLAMA_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/tqkv/llama}
export TQKV_LLAMA_DIR
scripts/build-llama.sh "$TQKV_LLAMA_DIR" libraries

echo "== gcc, warnings as errors"
configure_and_build check
ctest --test-dir build/check --output-on-failure --parallel "$jobs"

echo "== clang, AddressSanitizer and UndefinedBehaviorSanitizer"
configure_and_build sanitize
ctest --test-dir build/sanitize --output-on-failure --parallel "$jobs"

echo "== aarch64 under qemu"
configure_and_build arm
ctest --test-dir build/arm --output-on-failure
