#!/bin/sh
# The source of llama.cpp, from PyPI's llama-cpp-python, to FOLDER/source:
# get-llama.sh FOLDER
set -eu
folder=$1
version=0.3.36
[ -e "$folder/source/CMakeLists.txt" ] && exit 0
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
ln -sfn "llama_cpp_python-$version/vendor/llama.cpp" "$folder/source"
