/*
 * NEON with the dot product of Armv8.2: scores by sdot, on a query's two digits
 * if wide. Weights keep 16 bits: in sdot's signed 8 they would have only 7.
 */
#if defined(__aarch64__)
#if defined(__clang__)
#define TARGET __attribute__((target("dotprod")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define HAS_PACKED_QUERY
#include "attend/arm/neon.h"

/* Upper digits, then lower ones. */
TARGET static void pack_query(const tile_plan *p, const int16_t *query, uint8_t *packed)
{
    for (unsigned i = 0; i < p->head_dim; i++) {
        int upper = upper_digit(query[i]);
        packed[i] = (uint8_t)upper;
        packed[p->head_dim + i] = (uint8_t)(query[i] - 128 * upper);
    }
}

/* 4 tokens, each sum in a lane. */
TARGET static inline int32x4_t dot_4(const int8_t *level, unsigned dim, const int8_t *query)
{
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (unsigned i = 0; i < dim; i += 16) {
        int8x16_t q = vld1q_s8(query + i);
        for (unsigned j = 0; j < 4; j++)
            sum[j] = vdotq_s32(sum[j], vld1q_s8(level + j * dim + i), q);
    }
    return vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
}

TARGET static void scores(const tile_plan *p, const int8_t *tile, const uint8_t *packed,
                          unsigned n, int wide, int32_t (*score)[TILE])
{
    unsigned dim = p->head_dim;
    for (unsigned r = 0; r < n; r++, packed += packed_query_bytes(dim)) {
        const int8_t *upper = (const int8_t *)packed, *lower = upper + dim;
        for (unsigned t = 0; t < TILE; t += 4) {
            int32x4_t s = vshlq_n_s32(dot_4(tile + t * dim, dim, upper), 7);
            if (wide)
                s = vaddq_s32(s, dot_4(tile + t * dim, dim, lower));
            vst1q_s32(score[r] + t, s);
        }
    }
}

const attend_kernels attend_neon_dotprod = {
    .name = "neon-dotprod",
    .narrow = NARROW_SCORES,
    .scores = scores,
    NEON_ATTEND_KERNELS,
};
#else
typedef int not_for_this_processor;
#endif
