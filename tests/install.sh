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

# the same against the static library alone, with all that --static names
flags=$(pkg-config --define-variable=prefix="$prefix" --static --cflags --libs tqkv)
for library in m dl pthread gomp; do
    case " $flags " in
    *" -l$library "* | *" -$library "*) ;;
    *)
        echo "pkg-config --static does not name $library: $flags"
        exit 1
        ;;
    esac
done
# shellcheck disable=SC2046,SC2086
cc -std=c11 "$source/examples/attend.c" $(echo $flags | sed 's/-ltqkv/-l:libtqkv.a/') \
    -o "$dir/pkg_static"
if readelf -d "$dir/pkg_static" | grep -q libtqkv; then
    echo "linked to the shared library, not to libtqkv.a"
    exit 1
fi
"$dir/pkg_static"

# a project that has no C
mkdir "$dir/cxx"
cat > "$dir/cxx/main.cpp" <<'END'
#include <cstdio>
#include <tqkv.h>

int main()
{
    tqkv_format format;
    tqkv_status status = tqkv_format_parse("tq4", 128, &format);
    std::printf("%s\n", tqkv_status_string(status));
    return status != TQKV_OK;
}
END
cat > "$dir/cxx/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES CXX)
find_package(tqkv 0.1 REQUIRED)
foreach(library tqkv tqkv_static)
  add_executable(with_${library} main.cpp)
  target_link_libraries(with_${library} PRIVATE tqkv::${library})
endforeach()
END
cmake -S "$dir/cxx" -B "$dir/cxx/build" -DCMAKE_PREFIX_PATH="$prefix" > /dev/null
cmake --build "$dir/cxx/build" > /dev/null
"$dir/cxx/build/with_tqkv"
"$dir/cxx/build/with_tqkv_static"

"$prefix/bin/tqkv" --version
"$prefix/bin/tqkv" llama --print llama-cli | grep -q "$prefix/.*libggml-tqkv.so"
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
