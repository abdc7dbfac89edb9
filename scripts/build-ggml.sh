#!/bin/sh
# Builds ggml's shared libraries, to measure beside, from the source of PyPI's
# llama-cpp-python: build-ggml.sh FOLDER [CMAKE_OPTION]...
set -eu
folder=$1
shift
if [ -e "$folder/build/bin/libggml-cpu.so" ]; then
    exit 0
fi
"$(dirname "$0")/get-llama.sh" "$folder"
cmake -S "$folder/source" -B "$folder/build" \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_COMMON=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
    "$@"
cmake --build "$folder/build" --parallel --target ggml-base ggml-cpu
