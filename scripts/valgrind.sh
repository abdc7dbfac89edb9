#!/bin/sh
# The unit tests and a round trip of the command under valgrind.
set -eu
cd "$(dirname "$0")/.."
cmake --preset check >/dev/null
cmake --build build/check --parallel >/dev/null
run="valgrind --quiet --error-exitcode=1 --leak-check=full"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for test in format codec mlx profile page container container_pages cache cache_memory; do
    $run build/check/test_$test
done
$run build/check/harness --rounds 1
$run build/check/tqkv encode -f tq4 data/smollm2-135m/v.npy "$dir/v.tqkv"
$run build/check/tqkv verify "$dir/v.tqkv"
$run build/check/tqkv fit -t 32 data/smollm2-135m "$dir/p"
$run build/check/tqkv encode -p "$dir/p" data/smollm2-135m/k.npy "$dir/k.tqkv"
$run build/check/tqkv decode "$dir/k.tqkv" "$dir/k.npy"
$run build/check/tqkv encode --pages data/smollm2-135m/k.npy "$dir/k.tqkv"
$run build/check/tqkv verify "$dir/k.tqkv"
echo "valgrind found nothing"
