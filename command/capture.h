/* Queries, keys and values of the same tokens, as f32. */
#ifndef TQKV_COMMAND_CAPTURE_H
#define TQKV_COMMAND_CAPTURE_H

#include "npy.h"

typedef struct capture {
    npy q, k, v; /* shapes; the files are closed */
    float *queries, *keys, *values;
    uint64_t n_layers, n_tokens;
    uint32_t n_heads, n_kv_heads, group; /* query heads for each KV head */
    uint32_t head_dim, v_head_dim;
} capture;

/* From a folder with q.npy, k.npy and v.npy (n_paths 1) or from three files;
 * 0 with a message. capture_free in any case. */
int capture_load(capture *c, char **paths, int n_paths, int bf16);
void capture_free(capture *c);

#endif
