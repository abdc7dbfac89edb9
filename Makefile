# A thin front for people; CMake does the work.

.PHONY: all demo check check-all install uninstall bench bench-ggml bench-cuda eval-model coverage tables valgrind clean

all: build/CMakeCache.txt
	cmake --build build --parallel

build/CMakeCache.txt:
	scripts/setup.sh build
	cmake --preset release

# The main job on real data that ships with the project.
demo: all
	build/tqkv eval --plot build/demo.svg data/smollm2-135m
	@echo "Error against bytes: build/demo.svg"

# What a newcomer runs: the tests with gcc, but for the slow ones.
check:
	scripts/setup.sh check
	scripts/check.sh

# Everything that CI runs: llama.cpp, sanitizers, fuzz targets, emulated Arm too.
check-all:
	scripts/setup.sh check
	scripts/check.sh all

install uninstall: all
	cmake --build build --target $@

# Speed, beside ggml's own functions with GGML=1 (downloads and builds them).
bench: all
	$(if $(GGML),scripts/build-ggml.sh build/ggml)
	build/tqkv bench $(if $(GGML),--ggml build/ggml/build/bin)

# Attention beside ggml's, in one table; takes about ten minutes once it is built.
bench-ggml: all
	scripts/build-ggml.sh build/ggml
	build/tqkv bench --attention --ggml build/ggml/build/bin $(BENCH)

# Decoding on an NVIDIA GPU beside torch's bf16 attention: the table of doc/gpu.md.
bench-cuda: all
	python3 scripts/bench_cuda.py build/tqkv doc/gpu.md

# Quality and speed in a real model, beside llama.cpp's own caches: some hours for
# everything, less with EVAL="--only quality --contexts 512". See doc/llama.md.
eval-model: all
	scripts/build-llama.sh build/llama tools
	python3 scripts/eval_model.py build/llama --tqkv build/tqkv $(EVAL)

coverage:
	scripts/setup.sh check
	scripts/coverage.sh

valgrind:
	scripts/setup.sh check
	scripts/valgrind.sh

# Trains the trellis tables again; takes about half an hour.
tables: all
	scripts/train-tables.sh

clean:
	rm -rf build
