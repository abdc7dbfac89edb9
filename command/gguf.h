/* What a GGUF file says of a model's attention: its metadata, no tensor.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
#ifndef TQKV_COMMAND_GGUF_H
#define TQKV_COMMAND_GGUF_H

#include <stdint.h>

enum { MODEL_LAYERS = 4096 };

typedef struct model_layer {
    uint32_t n_kv_heads, key_dim, value_dim;
    uint64_t window; /* 0: sees all */
} model_layer;

typedef struct model_shape {
    char name[64];
    uint32_t n_layers;
    model_layer layers[MODEL_LAYERS];
} model_shape;

/* 0 with a message. */
int gguf_read_shape(const char *path, model_shape *m);

#endif
