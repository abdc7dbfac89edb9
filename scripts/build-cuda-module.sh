#!/bin/sh
# All kernels as a CUDA fat binary, for machines without NVRTC:
# build-cuda-module.sh TQKV OUT.fatbin [ARCH...]    (default: 80 90)
set -eu
tqkv=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- 80 90
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
"$tqkv" devices --source cuda > "$folder/tqkv.cu"
targets=
for arch; do
    targets="$targets -gencode arch=compute_$arch,code=sm_$arch"
done
# shellcheck disable=SC2086
nvcc -fatbin --fmad=false $targets -o "$out" "$folder/tqkv.cu"
