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

/* Checks format, balance (or null) and rows of a call over n_rows rows and fills the
 * codec. */
tqkv_status row_codec_init(row_codec *codec, const tqkv_format *format, const float *balance,
                           const tqkv_rows *rows, size_t n_rows);

/* A row_codec that encodes. */
typedef struct row_encoder {
    row_codec codec;
    trellis_plan trellis; /* for tq */
    uint8_t survivors[SURVIVOR_BYTES];
} row_encoder;

tqkv_status row_encoder_init(row_encoder *encoder, const tqkv_format *format,
                             const float *balance, const tqkv_rows *rows, size_t n_rows);

/* One row's codes and scale (a half, or norms); x is finite, with this sum of squares as
 * row_clean gives it, and is overwritten. */
void row_encode(row_encoder *encoder, float *x, float square, uint8_t *codes, uint8_t *scale);

/* Sum of squares of x, made finite first if it has to be: with no NaN and no
 * magnitude beyond the limit, the sum says so. */
float row_clean(const codec_kernels *k, unsigned n, float *x);

/* One row from codes and scale, in the original or rotated domain. */
void row_decode(const row_codec *codec, const uint8_t *codes, const uint8_t *scale,
                tqkv_domain domain, float *x);

/* x times a row's balance, and divided by it; nothing where there is none. */
void balance_row(const float *balance, unsigned n, float *x);
void unbalance_row(const float *balance, unsigned n, float *x);

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
