#!/bin/sh
# Installs, builds the example in each documented way, runs it, uninstalls:
# install.sh BUILD SOURCE
set -eu
build=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
prefix=$dir/prefix
cmake --install "$build" --prefix "$prefix" > /dev/null
export LD_LIBRARY_PATH="$prefix/lib:$prefix/lib/x86_64-linux-gnu:$prefix/lib/aarch64-linux-gnu"
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig:$prefix/lib/x86_64-linux-gnu/pkgconfig:$prefix/lib/aarch64-linux-gnu/pkgconfig"

# the CMake package: shared and static
cmake -S "$source/examples" -B "$dir/cmake" -DCMAKE_PREFIX_PATH="$prefix" > /dev/null
cmake --build "$dir/cmake" > /dev/null
for example in round_trip attend gpu; do
    "$dir/cmake/${example}_shared"
    "$dir/cmake/${example}_static"
done

# pkg-config, relocated as Debian's tools do
flags=$(pkg-config --define-variable=prefix="$prefix" --cflags --libs tqkv)
# shellcheck disable=SC2086
cc -std=c11 "$source/examples/attend.c" $flags -lm -o "$dir/pkg"
"$dir/pkg"

"$prefix/bin/tqkv" --version
"$prefix/bin/tqkv" llama --print --no-profile llama-cli | grep -q "$prefix/.*libggml-tqkv.so"
test -s "$prefix/share/tqkv/profile.txt"
test -s "$prefix/share/man/man1/tqkv.1"
test -s "$prefix/share/bash-completion/completions/tqkv"
readlink "$(find "$prefix" -name libtqkv.so.0)" | grep -q 'libtqkv.so.0.1.0'
cmake -P "$build/uninstall.cmake" > /dev/null 2>&1
left=$(find "$prefix" -type f -o -type l)
[ -z "$left" ] || {
    echo "left behind: $left"
    exit 1
}
