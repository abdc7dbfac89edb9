/*
 * The inner loops of attention, one table of them for each instruction set.
 *
 * Attention runs over tiles of 64 tokens. expand_keys and expand_values turn
 * codes into a tile of 8-bit levels; scores and accumulate then work on tiles
 * without knowing a format. How a tile, or a packed query, lies in memory is
 * the table's own business: its kernels only have to agree with each other.
 *
 * Kernels on integers are exact: every table gives the same numbers as scalar.
 * Those on floats state a bound. tests/harness_attend.c and harness_plain.c hold
 * them to it.
 */
#ifndef TQKV_ATTEND_KERNELS_H
#define TQKV_ATTEND_KERNELS_H

#include "attend/plan.h"

enum {
    TILE = 64, /* tokens */
    /* Queries are integers up to this magnitude: 127 * 128, so that one in
     * units of 128 has 8 bits, and 2^31 is out of reach of head_dim products
     * with levels. */
    QUERY_LIMIT = 127 * 128,
    /* Weights are integers up to this one: 255 * 128, likewise. */
    WEIGHT_LIMIT = 255 * 128
};

/* Larger norms come from no encoder; products with them stay finite. */
#define LARGEST_NORM 0x1p60f

/* A query's or a weight's upper digit, rounded: the number is about 128 * it. */
static inline int upper_digit(int number)
{
    return (number + 64) >> 7;
}

enum { NARROW_SCORES = 1, NARROW_WEIGHTS = 2 };

/* Softmax over the tokens of the tiles so far. */
typedef struct softmax_state {
    float max;  /* largest logit; -inf before the first token */
    float sum;  /* of exp(logit - max) */
    float mass; /* of exp(logit - max) * value scale */
    float bias; /* of what rounding has added to mass */
} softmax_state;

typedef struct attend_kernels {
    const char *name;
    /* Which of scores and accumulate are faster if not wide: NARROW_ bits. The
     * others are only called wide. */
    unsigned narrow;

    /* rows[i] = base + i * stride for i below n. */
    void (*addresses)(const uint8_t *base, size_t stride, unsigned n,
                      const uint8_t **rows);

    /* Fills a tile of TILE * head_dim bytes (64-byte aligned) from 64 rows of
     * codes, reading no byte behind any row; asks memory for the rows ahead,
     * a few for each it expands, so that they come evenly. */
    void (*expand_keys)(const tile_plan *p, const uint8_t *const *rows,
                        const uint8_t *const *ahead, int8_t *tile);
    void (*expand_values)(const tile_plan *p, const uint8_t *const *rows,
                          const uint8_t *const *ahead, int8_t *tile);

    /* Packs a query of head_dim integers, |q| <= QUERY_LIMIT, to
     * packed_query_bytes(head_dim) bytes, 64-byte aligned. */
    void (*pack_query)(const tile_plan *p, const int16_t *query, uint8_t *packed);

    /* score[r][t] = sum of query r times level, exactly; if not wide, of 128
     * times the query's upper digit. packed: n queries, one after the other. */
    void (*scores)(const tile_plan *p, const int8_t *tile,
                   const uint8_t *packed, unsigned n, int wide,
                   int32_t (*score)[TILE]);

    /* out[r][i] += (float)(sum of weight[r][t] * level) * unit[r], where i runs
     * over the tile's own order of values; weights up to WEIGHT_LIMIT; if not
     * wide, 128 times their upper digits instead. out[r] is row r of out, out
     * has head_dim floats a row. */
    void (*accumulate)(const tile_plan *p, const int8_t *tile,
                       const uint16_t (*weight)[TILE], const float *unit,
                       unsigned n, int wide, float *const *out);

    /* Expansion and scores, or accumulate, in one, without a tile: few queries
     * do not earn back its way through memory. Where they return 0 they have
     * done nothing, since they have no such way for this format. Null if a table
     * has none at all. */
    int (*score_codes)(const tile_plan *p, const uint8_t *const *rows,
                       const uint8_t *const *ahead, const uint8_t *packed,
                       unsigned n, int wide, int32_t (*score)[TILE]);
    int (*accumulate_codes)(const tile_plan *p, const uint8_t *const *rows,
                            const uint8_t *const *ahead,
                            const uint16_t (*weight)[TILE], const float *unit,
                            unsigned n, int wide, float *const *out);

    /* A row of accumulate's in natural order. */
    void (*natural_order)(const tile_plan *p, const float *row, float *out);

    /* logit[t] = (float)score[t] * unit * scale[t], and `add` more where t's bit is set;
     * each operation exactly rounded. */
    void (*logits)(const int32_t *score, float unit, const float *scale,
                   uint64_t where, float add, float *logit);

    /* 64 half-precision scales, whose largest it returns; what is infinite or NaN becomes
     * 0. Bit t of *signs becomes the sign of scale t, which does not count; with signs null
     * a scale with a sign, which no encoder writes, becomes 0. Exact. */
    float (*scales)(const uint8_t *half, uint64_t *signs, float *scale);

    /* The same of 64 norms (floats); what is beyond LARGEST_NORM becomes 0, too. */
    float (*norms)(const uint8_t *norm, float *scale);

    /* Adds 64 tokens to the state: e[t] = exp(logit[t] - max) with the new max,
     * p[t] = e[t] * scale[t], *peak = max of p, *chosen = the bits that sum_where gives for
     * `where` and e. e may be null. Returns exp(old max - new max), by which
     * what was summed before has to be multiplied. Logits are finite or -inf
     * (then e is 0); scales are not negative.
     * Bound: exp(-x) to 2e-7 * (2 + x) relative for x to 80, and beyond any
     * number from 0 to exp(-80). */
    float (*softmax)(const float *logit, const float *scale, uint64_t where,
                     softmax_state *s, float *e, float *p, float *peak, float *chosen);

    /* logit[t] += add for the tokens whose bits are set; exact. */
    void (*add_where)(uint64_t where, float add, float *logit);

    /* The sum of x[t] over the tokens whose bits are set, to 64 * 2^-24 relative. x is not
     * negative. */
    float (*sum_where)(uint64_t where, const float *x);

    /* weight[t] = p[t] * gain to nearest even, 0 <= p * gain <= WEIGHT_LIMIT.
     * Returns the sum of 128 * upper digit - weight. Exact. */
    int32_t (*weights)(const float *p, float gain, uint16_t *weight);

    /* x[t] = cap * tanh(x[t] / cap), to 2e-6 relative; x finite or -inf. */
    void (*softcap)(float *x, float cap);

    /* score[r][t] = query r . keys[t] for r below n_rows, t below n (1 to TILE);
     * score[r][n..] becomes anything. Queries and keys are rows of dim floats, a
     * multiple of 16, one after the other and 64-byte aligned, up to 2^40 in
     * magnitude. The order of operations is the table's own, but neither r, t,
     * n_rows nor n matter to it: a score has the same bits in every call.
     * Bound: dim * 2^-24 times the sum of magnitudes of the products. */
    void (*plain_scores)(const float *queries, unsigned n_rows, const float *keys,
                         unsigned n, unsigned dim, float (*score)[TILE]);

    /* out[r] += sum of weight[r][t] * values[t] for t below n: from 0, in the
     * order of t, then added; so neither r nor n_rows matter to the bits, nor do
     * tokens of weight 0 at the end, but for a zero's sign. Weights are up to 2^40
     * in magnitude; values are as keys above, out[r] has dim floats.
     * Bound: (n + 1) * 2^-24 times the sum of magnitudes, out's among them. */
    void (*plain_accumulate)(const float (*weight)[TILE], unsigned n_rows,
                             const float *values, unsigned n, unsigned dim,
                             float *const *out);

    /* The same of half-precision rows, at any addresses, to the bits that the above
     * give for them as floats: few query rows do not earn back a conversion to
     * memory. Where they return 0, one of the n rows has a number that is not
     * finite, out is as it was, and scores are anything. They ask memory for the
     * TILE rows ahead, evenly. Null if a table has no such way. */
    int (*half_scores)(const float *queries, unsigned n_rows,
                       const uint8_t *const *rows, const uint8_t *const *ahead,
                       unsigned n, unsigned dim, float (*score)[TILE]);
    int (*half_accumulate)(const float (*weight)[TILE], unsigned n_rows,
                           const uint8_t *const *rows, const uint8_t *const *ahead,
                           unsigned n, unsigned dim, float *const *out);

    /* n half-precision numbers, a multiple of 16; exact. 0 if some number is infinite or
     * NaN. */
    int (*halves)(const uint8_t *half, unsigned n, float *x);

    /* score[r] = query r . mean, for n_rows queries of dim floats, one after the other; the
     * order of operations is the table's own, the same for any n_rows.
     * Bound: dim * 2^-23 times the sum of magnitudes of the products. */
    void (*mean_scores)(const float *queries, unsigned n_rows, const uint8_t *mean, unsigned dim,
                        float *score);

    /* As plain_accumulate, of n means' levels, without their scales. */
    void (*mean_accumulate)(const float (*weight)[TILE], unsigned n_rows,
                            const uint8_t *const *means, unsigned n, unsigned dim,
                            float *const *out);
} attend_kernels;

static inline size_t packed_query_bytes(unsigned head_dim)
{
    return (2 * (size_t)head_dim + 2 * sizeof(int32_t) + 63) / 64 * 64;
}

typedef struct attend_isa {
    uint32_t needs; /* TQKV_CPU_ bits, 0 for scalar */
    const attend_kernels *kernels;
} attend_isa;
extern const attend_isa attend_isas[];
extern const unsigned attend_n_isas;

extern const attend_kernels attend_scalar;

/* The best table for the processor and tqkv_cpu_mask. */
const attend_kernels *attend_kernels_get(void);

#endif
