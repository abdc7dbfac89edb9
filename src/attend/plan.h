/* How rows become tiles, worked out once a call. */
#ifndef TQKV_ATTEND_PLAN_H
#define TQKV_ATTEND_PLAN_H

#include "codec/kernels.h"
#include "tqkv_attention.h"

typedef enum tile_source {
    /* A bit stream whose windows a stream_plan turns into levels: tq and lm,
     * and mlx4, whose nibbles are such a stream. */
    TILE_STREAM,
    /* Bytes that number levels: mlx5 and mlx6. */
    TILE_BYTES,
    /* Floats: mlx8, and mlx with several norms a row, neither of which 8-bit levels with
     * one scale can express. */
    TILE_FLOAT,
    /* Numbers as they are (plain.c). */
    TILE_PLAIN
} tile_source;

/* Where AVX-512 finds the windows of 16 values in a row that it holds in chunks
 * of 16 bytes: bytes of one chunk shuffled into two groups of 8, joined with
 * some of another, from which windows are cut at bits. */
typedef struct window_16 {
    uint16_t chunk[2];
    uint16_t has_second;
    uint8_t shuffle[2][16];
    uint8_t bits[16];
} window_16;

typedef struct tile_plan {
    unsigned head_dim;
    tile_source source;
    size_t code_bytes, scale_bytes; /* of a row */
    float unit;      /* value of one level, at a scale of 1 */
    float level_rms; /* of an encoder's rows, about */
    /* Root mean square, in levels, of what rounding centroids to levels loses;
     * 0 for the trellis, whose levels are integers. */
    float level_error;
    int is_fine;     /* 8-bit levels: queries and weights have to be wide */
    const codec_kernels *codec;
    stream_plan stream;        /* TILE_STREAM */
    int8_t byte_levels[64];    /* TILE_BYTES; repeated if shorter */
    const float *mlx_codebook; /* TILE_FLOAT */
    unsigned mlx_bits;
    /* For AVX-512: */
    int has_windows;           /* the following are set */
    unsigned n_chunks;
    window_16 windows[MAX_DIM / 16];
} tile_plan;

/* format may have codebook 0: numbers of the given type. */
void tile_plan_init(tile_plan *p, const tqkv_format *format, tqkv_type type);

/* For keys whose plan has a level_error: a plan like it, whose levels are what
 * rounding lost, in units of 1 / REST_UNIT. */
enum { REST_UNIT = 128 };
void tile_plan_init_rest(tile_plan *rest, const tile_plan *p, const tqkv_format *format);

/* One row's levels in natural order, by the codec's kernels. */
static inline void tile_row_levels(const tile_plan *p, const uint8_t *row, int8_t *out)
{
    if (p->source == TILE_STREAM) {
        p->codec->levels(row, &p->stream, out);
        return;
    }
    for (unsigned i = 0; i < p->head_dim; i++)
        out[i] = p->byte_levels[row[i] & 63];
}

#endif
