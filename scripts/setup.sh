#!/bin/sh
# Installs what is missing on Debian: setup.sh build|check
set -eu
packages="gcc libc6-dev make cmake libxxhash-dev libcjson-dev gnuplot-nox"
if [ "${1:-}" = check ]; then
    packages="$packages g++ pkg-config clang libclang-rt-14-dev libomp-14-dev
        libcmocka-dev qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross
        pocl-opencl-icd ocl-icd-libopencl1 python3 python3-pip python3-numpy python3-xxhash valgrind gcovr mandoc"
elif [ "${1:-}" != build ]; then
    echo "usage: setup.sh build|check" >&2
    exit 2
fi
missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "Installing:$missing"
root=
[ "$(id -u)" = 0 ] || root=sudo
$root apt-get update -q
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends $missing
