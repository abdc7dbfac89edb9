/* What encoding and decoding share: a checked call, ready to run. */
#ifndef TQKV_CODEC_ROW_H
#define TQKV_CODEC_ROW_H

#include "codec/kernels.h"
#include "tqkv.h"

typedef struct row_codec {
    tqkv_format format;
    size_t code_bytes, scale_bytes;
    const codec_kernels *kernels;
    rotation rotation;
    stream_plan stream;        /* not for mlx */
    const lloyd_code *lloyd;   /* for lm, else null */
    const float *mlx_codebook; /* for mlx, else null */
} row_codec;

/* Checks format, profile and rows of a call over n_rows rows and fills the
 * codec. */
tqkv_status row_codec_init(row_codec *codec, const tqkv_format *format,
                           const tqkv_key_profile *profile,
                           const tqkv_rows *rows, size_t n_rows);

/* Stride in bytes (0 elements meaning head_dim) of an array of rows, whose
 * whole size is checked too. */
tqkv_status row_extent(const tqkv_format *format, size_t stride_elements,
                       size_t n_rows, size_t element, size_t *stride);

/* x = H x / sqrt(head_dim), signs first; nothing if r is not active. */
void rotate_row(const codec_kernels *k, const rotation *r, float *x);

/* Undoes an active rotation but for its 1 / sqrt(head_dim); x *= factor on the
 * way. */
void unrotate_row(const codec_kernels *k, const rotation *r, float factor, float *x);

void flip_signs(const rotation *r, float *x);

#endif
