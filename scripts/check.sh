#!/bin/sh
# All tests: gcc, then clang with sanitizers and the fuzz targets for a short
# time, then the kernels for aarch64 under qemu. Stops at the first failure.
set -eu
cd "$(dirname "$0")/.."
jobs=$(nproc)

configure_and_build()
{
    cmake --preset "$1" >/dev/null
    cmake --build "build/$1" --parallel "$jobs" | grep -v '^\[' || true
    cmake --build "build/$1" --parallel "$jobs" >/dev/null
}

echo "== gcc, warnings as errors"
configure_and_build check
ctest --test-dir build/check --output-on-failure --parallel "$jobs"

echo "== clang, AddressSanitizer and UndefinedBehaviorSanitizer"
configure_and_build sanitize
ctest --test-dir build/sanitize --output-on-failure --parallel "$jobs"

echo "== aarch64 under qemu"
configure_and_build arm
ctest --test-dir build/arm --output-on-failure
