#!/bin/sh
# Builds ggml's shared libraries, to measure beside, from the source of PyPI's
# llama-cpp-python: build-ggml.sh FOLDER [CMAKE_OPTION]...
set -eu
folder=$1
shift
version=0.3.36
if [ -e "$folder/build/bin/libggml-cpu.so" ]; then
    exit 0
fi
command -v g++ >/dev/null && python3 -m pip --version >/dev/null 2>&1 || {
    root=
    [ "$(id -u)" = 0 ] || root=sudo
    $root apt-get update -q
    $root apt-get install -q -y --no-install-recommends g++ python3-pip
}
mkdir -p "$folder"
python3 -m pip download -q --no-deps --no-binary :all: -d "$folder" \
    "llama-cpp-python==$version"
tar -xzf "$folder"/llama_cpp_python-*.tar.gz -C "$folder"
cmake -S "$folder"/llama_cpp_python-*/vendor/llama.cpp -B "$folder/build" \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_COMMON=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
    "$@"
cmake --build "$folder/build" --parallel --target ggml-base ggml-cpu
