/*
 * The codec's inner loops, one table of them for each instruction set. A
 * table starts as the scalar one and is overwritten upward; all entries are
 * exact: every instruction set gives the same bytes, because each kernel
 * fixes the order of its float operations (sums run in 16 lanes that are then
 * added pairwise) or works on integers. tests/harness.c holds them to it.
 *
 * Float arrays have head_dim elements, a multiple of 16; none of the pointers
 * need alignment.
 */
#ifndef TQKV_CODEC_KERNELS_H
#define TQKV_CODEC_KERNELS_H

#include "codec/plan.h"

/* Bytes of survivors that viterbi needs at most: one a position and node. */
enum { SURVIVOR_BYTES = (MAX_DIM + 2 * MAX_LEAD) * 64 };

typedef struct codec_kernels {
    const char *name;

    /* x = factor * H x, or with the transpose of H; ignores signs. Butterflies
     * of distance 1, 2, 4 ..., then rows of the outer matrix left to right,
     * then one multiplication. */
    void (*hadamard)(float *x, const rotation *r, int transposed, float factor);

    /* Sum of squares and largest magnitude. If x holds a NaN, so is the sum, and
     * the magnitude is any number. */
    void (*moments)(const float *x, unsigned n, float *sum_of_squares,
                    float *peak);

    /* t = x * gain, to nearest even, clamped to +-limit (below 2^15); x * gain
     * is below 2^31 in magnitude. */
    void (*quantize)(const float *x, unsigned n, float gain, int limit,
                     int16_t *t);

    /* The symbols, each value's own bits, of the tail-biting path nearest to the
     * targets t, which are in half levels, |t| <= TARGET_LIMIT. survivors:
     * SURVIVOR_BYTES. */
    void (*viterbi)(const trellis_plan *p, const int16_t *t, uint8_t *symbols,
                    uint8_t *survivors);

    /* Levels from a row's codes, of which it reads no byte too many. */
    void (*levels)(const uint8_t *codes, const stream_plan *p, int8_t *levels);

    /* dst = level * scale. */
    void (*scale_levels)(const int8_t *levels, unsigned n, float scale,
                         float *dst);

    /* *xl = sum of x * level, *ll = sum of level^2. */
    void (*project_levels)(const float *x, const int8_t *levels, unsigned n,
                           float *xl, int32_t *ll);

    /* index = number of the nearest of code's values to x * gain, where t =
     * x * gain is rounded to nearest even and saturated to 16 bits: the count
     * of thresholds below |t|, mirrored for t < 0. *tv = sum of t * v, *vv = sum
     * of v * v, for the values v in small integers. gain makes the root mean
     * square LLOYD_UNIT, so that |*tv| < 2^30. */
    void (*lloyd_index)(const float *x, unsigned n, float gain,
                        const lloyd_code *code, uint8_t *index, int32_t *tv,
                        int32_t *vv);

    /* Two indices a byte, the first in the low nibble; the upper nibbles of
     * index do not count. */
    void (*pack_nibbles)(const uint8_t *index, unsigned n, uint8_t *codes);

    /* dst = value of index * scale; index as from levels, below 2^bits. */
    void (*lloyd_values)(const int8_t *index, unsigned n,
                         const lloyd_code *code, float scale, float *dst);

    /* One row in the reference's layout, in double precision inside: rotate,
     * norms, nearest centroid (above a midpoint goes up), pack. */
    void (*mlx_encode)(const float *x, unsigned n, unsigned bits,
                       const float *codebook, uint8_t *packed, float *norms);

    /* One row, rotated domain: centroid * scale of its norm's block. */
    void (*mlx_decode)(const uint8_t *packed, const float *norms, unsigned n,
                       unsigned bits, const float *codebook,
                       float scale_factor, float *dst);
} codec_kernels;

enum { TARGET_LIMIT = 288 };

/* The tables of this architecture, scalar first and upward. */
typedef struct codec_isa {
    uint32_t needs; /* TQKV_CPU_ bits, 0 for scalar */
    const codec_kernels *kernels;
} codec_isa;
extern const codec_isa codec_isas[];
extern const unsigned codec_n_isas;

extern const codec_kernels codec_scalar;

/* The best table for the processor and tqkv_cpu_mask. */
const codec_kernels *codec_kernels_get(void);

/* ---- shared by all tables: too short or too rare to differ ---- */

/* Codes from symbols, of which only the low bits count; nibbles by the kernel. */
void codes_pack(const codec_kernels *k, const uint8_t *symbols,
                const stream_plan *p, uint8_t *codes);

/* Copies a row's codes to padded[code bytes + CODE_PADDING] and puts the first
 * 8 bits of the stream behind its last, so that no window wraps. */
void codes_pad(const uint8_t *codes, const stream_plan *p, uint8_t *padded);

#endif
