/* NumPy's .npy files, streamed. */
#ifndef TQKV_COMMAND_NPY_H
#define TQKV_COMMAND_NPY_H

#include <stdio.h>

#include "tqkv.h"

/* An array of [tokens, heads, head_dim] or [layers, tokens, heads, head_dim]. */
typedef struct npy {
    FILE *file;
    const char *path; /* "-" is stdin */
    tqkv_type type;
    int has_layer_axis;
    uint64_t n_layers, n_tokens, n_heads;
    uint32_t head_dim;
    uint64_t n_rows; /* n_layers * n_tokens * n_heads */
} npy;

/* Opens and reads the header; says what is wrong and returns 0 otherwise.
 * uint16 is taken as bfloat16 if bf16 is not 0. npy_close in any case. */
int npy_open(npy *array, const char *path, int bf16);
/* The same on an open stream, which the array then owns. */
int npy_read_header(npy *array, FILE *file, const char *path, int bf16);
/* Reads the next n_rows rows whole, or says what is wrong and returns 0. */
int npy_read_rows(npy *array, void *rows, size_t n_rows);
/* Nothing may follow the last row. */
int npy_check_end(npy *array);
void npy_close(npy *array);

/* All of the array as f32, to be freed by the caller; null with a message. */
float *npy_load(npy *array);

/* Writes the header of an array of the same shape. 0: the stream failed. */
int npy_write_header(FILE *file, const npy *shape, tqkv_type type);

size_t npy_element_size(tqkv_type type);

#endif
