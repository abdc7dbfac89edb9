/* Rows and attention on a device, from arrays in host memory to others. All return
 * 1, or 0 with the failure reported. */
#ifndef TQKV_COMMAND_DEVICE_ROWS_H
#define TQKV_COMMAND_DEVICE_ROWS_H

#include "device.h"
#include "tqkv_attention.h"

/* src[n_tokens][n_heads][head_dim] to rows[n_tokens][n_heads], each head by its
 * profile of that layer if profile is not null; and back. *taken, if not null, gets
 * the seconds that the device took. */
int device_encode(const device *d, const tqkv_format *f, const tqkv_profile *profile,
                  uint32_t layer, uint32_t n_heads, const void *src, tqkv_type type,
                  size_t n_tokens, uint8_t *rows, double *taken);
int device_decode(const device *d, const tqkv_format *f, const tqkv_profile *profile,
                  uint32_t layer, uint32_t n_heads, const uint8_t *rows, size_t n_tokens,
                  float *dst, double *taken);

/* Causal attention of n_sequences x n_queries queries on keys and values in host
 * memory: queries and out [sequence][i][head][.] f32. Every sequence has the same
 * tokens, sequence b the first lengths[b] of them (null: all). */
typedef struct device_attention {
    uint32_t n_sequences, n_queries, n_heads, n_kv_heads;
    uint64_t position; /* of the first query, without lengths */
    const uint32_t *lengths;
    size_t n_tokens;
    tqkv_operand keys, values; /* as tqkv_attention.h has them, codes before scales */
    const tqkv_profile *profile;
    uint32_t layer;
    const float *queries;
    float scale, *out;
} device_attention;

int device_attend(const device *d, const device_attention *a);

#endif
