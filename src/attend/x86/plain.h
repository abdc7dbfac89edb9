/*
 * Attention on rows of plain numbers, floats or halves, the same text for vectors
 * of 16 and of 8 floats. The includer has included attend/generic.h and defines
 *
 *   INLINE                    how small functions are declared
 *   LANES, vec                the number of floats in a vector and its type
 *   most_vectors(n)           vectors of values to sum at a time for n rows
 *   vec_zero(), vec_all(x)
 *   vec_load(p), vec_store(p, v)       floats, any alignment
 *   vec_halves(p)             LANES half-precision numbers as floats
 *   vec_bytes(p)              LANES signed bytes as floats
 *   vec_add(a, b), vec_multiply_add(a, b, c)      a * b + c, rounded once
 *   vec_sums(v)               lane j: the sum of the lanes of v[j], j below LANES
 *   vec_has_nan(v)
 *
 * A score is LANES chains of fused operations, one for each position modulo LANES,
 * then the tree of vec_sums; a value's sum is one chain over the tokens. Both are
 * the same however many rows and tokens a block takes, so that blocks are free to
 * suit the registers.
 */

/* What rows are: floats one row after the other, halves at addresses, or the signed bytes
 * of means at addresses. */
typedef enum plain_kind { PLAIN_FLOATS, PLAIN_HALVES, PLAIN_BYTES } plain_kind;

/* Rows of a tile: of them only the first n are read. */
typedef struct plain_rows {
    const float *floats;
    const uint8_t *const *rows, *const *ahead;
    unsigned n, dim;
} plain_rows;

INLINE const uint8_t *plain_row(const plain_rows *s, unsigned t, const plain_kind kind)
{
    return kind != PLAIN_FLOATS ? s->rows[t] : (const uint8_t *)(s->floats + (size_t)t * s->dim);
}

INLINE vec plain_vector(const uint8_t *row, unsigned i, const plain_kind kind)
{
    return kind == PLAIN_BYTES    ? vec_bytes(row + i)
           : kind == PLAIN_HALVES ? vec_halves(row + 2 * (size_t)i)
                                  : vec_load((const float *)row + i);
}

/* The lines of a row of n halves, of which the last may straddle. */
INLINE void prefetch_halves(const uint8_t *row, size_t n)
{
    for (size_t i = 0; i < 2 * n; i += 64)
        __builtin_prefetch(row + i);
    __builtin_prefetch(row + 2 * n - 1);
}

/* NaN where one of the lanes so far was infinite or NaN, else 0. */
INLINE vec traced(vec trace, vec v)
{
    return vec_multiply_add(v, vec_zero(), trace);
}

/* ---- scores ---- */

/* Tokens that a block of n rows takes. */
INLINE unsigned block_tokens(const unsigned n)
{
    return n > 2 ? LANES / 4 : LANES / n;
}

/* Scores of n rows with as many tokens as make LANES of them: [row][token]. */
INLINE vec plain_score_block(const float *queries, const unsigned n, const uint8_t *const *row,
                       const plain_kind kind, unsigned dim)
{
    const unsigned tokens = block_tokens(n);
    vec sum[LANES];
    for (unsigned k = 0; k < LANES; k++)
        sum[k] = vec_zero();
    for (unsigned i = 0; i < dim; i += LANES) {
        vec query[4];
        for (unsigned r = 0; r < n; r++)
            query[r] = vec_load(queries + r * (size_t)dim + i);
        for (unsigned k = 0; k < tokens; k++) {
            vec key = plain_vector(row[k], i, kind);
            for (unsigned r = 0; r < n; r++)
                sum[r * tokens + k] = vec_multiply_add(key, query[r], sum[r * tokens + k]);
        }
    }
    /* vec_sums adds equal vectors once */
    for (unsigned k = n * tokens; k < LANES; k++)
        sum[k] = sum[k - tokens];
    return vec_sums(sum);
}

/* Scores of n rows with tokens [first, end). Behind the last of them it is taken
 * again, so that the trace of numbers that are not finite knows no others. */
INLINE vec plain_score_rows(const float *queries, const unsigned n, const plain_rows *s,
                      const plain_kind kind, unsigned first, unsigned end, float (*score)[TILE])
{
    const unsigned tokens = block_tokens(n);
    vec trace = vec_zero();
    for (unsigned t = first; t < end; t += tokens) {
        const uint8_t *row[LANES];
        float total[LANES];
        for (unsigned k = 0; k < tokens; k++) {
            row[k] = plain_row(s, t + k < end ? t + k : end - 1, kind);
            if (kind == PLAIN_HALVES && s->ahead)
                prefetch_halves(s->ahead[t + k], s->dim);
        }
        vec sums = plain_score_block(queries, n, row, kind, s->dim);
        trace = traced(trace, sums);
        vec_store(total, sums);
        for (unsigned r = 0; r < n; r++)
            memcpy(score[r] + t, total + r * tokens, tokens * sizeof *total);
    }
    return trace;
}

INLINE vec plain_score_few(const float *queries, unsigned n, const plain_rows *s,
                           const plain_kind kind,
                         unsigned first, unsigned end, float (*score)[TILE])
{
    switch (n) {
    case 1:
        return plain_score_rows(queries, 1, s, kind, first, end, score);
    case 2:
        return plain_score_rows(queries, 2, s, kind, first, end, score);
    case 3:
        return plain_score_rows(queries, 3, s, kind, first, end, score);
    default:
        return plain_score_rows(queries, 4, s, kind, first, end, score);
    }
}

/* Few keys for all queries before the next: both stay in the nearest cache. */
TARGET static void plain_scores(const float *queries, unsigned n_rows, const float *keys,
                                unsigned n, unsigned dim, float (*score)[TILE])
{
    plain_rows s = {.floats = keys, .n = n, .dim = dim};
    for (unsigned t = 0; t < n; t += LANES_16) {
        unsigned end = n - t < LANES_16 ? n : t + LANES_16;
        for (unsigned r = 0; r < n_rows; r += 4)
            plain_score_few(queries + r * (size_t)dim, n_rows - r, &s, PLAIN_FLOATS, t, end,
                            score + r);
    }
}

TARGET static int half_scores(const float *queries, unsigned n_rows, const uint8_t *const *rows,
                              const uint8_t *const *ahead, unsigned n, unsigned dim,
                              float (*score)[TILE])
{
    plain_rows s = {.rows = rows, .ahead = ahead, .n = n, .dim = dim};
    for (unsigned r = 0; r < n_rows; r += 4) {
        vec trace = plain_score_few(queries + r * (size_t)dim, n_rows - r, &s, PLAIN_HALVES, 0, n,
                                    score + r);
        if (vec_has_nan(trace))
            return 0;
        s.ahead = NULL;
    }
    for (unsigned t = n; t < TILE; t++)
        prefetch_halves(ahead[t], dim);
    return 1;
}

/* Up to 4 rows: lane r is row r's. Behind them are equal vectors, which vec_sums adds
 * once. */
INLINE vec mean_score_block(const float *queries, const unsigned n, const uint8_t *mean,
                            unsigned dim)
{
    vec sum[LANES];
    for (unsigned r = 0; r < n; r++)
        sum[r] = vec_zero();
    for (unsigned i = 0; i < dim; i += LANES) {
        vec level = vec_bytes(mean + i);
        for (unsigned r = 0; r < n; r++)
            sum[r] = vec_multiply_add(vec_load(queries + r * (size_t)dim + i), level, sum[r]);
    }
    for (unsigned r = n; r < LANES; r++)
        sum[r] = r < 4 ? sum[n - 1] : sum[r - 4];
    return vec_sums(sum);
}

INLINE vec mean_score_few(const float *queries, unsigned n, const uint8_t *mean, unsigned dim)
{
    switch (n) {
    case 1:
        return mean_score_block(queries, 1, mean, dim);
    case 2:
        return mean_score_block(queries, 2, mean, dim);
    case 3:
        return mean_score_block(queries, 3, mean, dim);
    default:
        return mean_score_block(queries, 4, mean, dim);
    }
}

TARGET static void mean_scores(const float *queries, unsigned n_rows, const uint8_t *mean,
                               unsigned dim, float *score)
{
    float scale = mean_scale(mean, dim), total[LANES];
    for (unsigned r = 0; r < n_rows; r += 4) {
        vec_store(total, mean_score_few(queries + r * (size_t)dim, n_rows - r, mean, dim));
        for (unsigned i = 0; i < 4 && r + i < n_rows; i++)
            score[r + i] = total[i] * scale;
    }
}

/* ---- accumulation ---- */

/* Sums of v vectors of values from `first` on, to be added to what is there, or to
 * replace it. */
INLINE vec plain_sum_block(const float (*weight)[TILE], const unsigned n, const plain_rows *s,
                            const plain_kind kind, const unsigned v, unsigned first, const int adds,
                            float *const *out)
{
    /* once a line */
    const uint8_t *const *ahead = kind == PLAIN_HALVES && first % 32 == 0 ? s->ahead : NULL;
    vec sum[4][4], trace = vec_zero();
    for (unsigned r = 0; r < n; r++)
        for (unsigned j = 0; j < v; j++)
            sum[r][j] = vec_zero();
    for (unsigned t = 0; t < s->n; t++) {
        const uint8_t *row = plain_row(s, t, kind);
        vec value[4];
        if (ahead)
            prefetch_halves(ahead[t] + 2 * (size_t)first, v * LANES);
        for (unsigned j = 0; j < v; j++)
            value[j] = plain_vector(row, first + j * LANES, kind);
        for (unsigned r = 0; r < n; r++) {
            vec w = vec_all(weight[r][t]);
            for (unsigned j = 0; j < v; j++)
                sum[r][j] = vec_multiply_add(w, value[j], sum[r][j]);
        }
    }
    for (unsigned j = 0; j < v; j++)
        trace = traced(trace, sum[0][j]);
    for (unsigned r = 0; r < n; r++)
        for (unsigned j = 0; j < v; j++) {
            float *o = out[r] + first + j * LANES;
            vec_store(o, adds ? vec_add(vec_load(o), sum[r][j]) : sum[r][j]);
        }
    return trace;
}

INLINE vec plain_sum_rows(const float (*weight)[TILE], const unsigned n, const plain_rows *s,
                           const plain_kind kind, const int adds, float *const *out)
{
    const unsigned most = most_vectors(n);
    vec trace = vec_zero();
    unsigned i = 0;
    for (; i + most * LANES <= s->dim; i += most * LANES)
        trace = vec_add(trace, plain_sum_block(weight, n, s, kind, most, i, adds, out));
    for (; i + 2 * LANES <= s->dim; i += 2 * LANES)
        trace = vec_add(trace, plain_sum_block(weight, n, s, kind, 2, i, adds, out));
    if (i < s->dim)
        trace = vec_add(trace, plain_sum_block(weight, n, s, kind, 1, i, adds, out));
    return trace;
}

INLINE vec plain_sum_few(const float (*weight)[TILE], unsigned n, const plain_rows *s,
                              const plain_kind kind, const int adds, float *const *out)
{
    switch (n) {
    case 1:
        return plain_sum_rows(weight, 1, s, kind, adds, out);
    case 2:
        return plain_sum_rows(weight, 2, s, kind, adds, out);
    case 3:
        return plain_sum_rows(weight, 3, s, kind, adds, out);
    default:
        return plain_sum_rows(weight, 4, s, kind, adds, out);
    }
}

TARGET static void plain_accumulate(const float (*weight)[TILE], unsigned n_rows,
                                    const float *values, unsigned n, unsigned dim,
                                    float *const *out)
{
    plain_rows s = {.floats = values, .n = n, .dim = dim};
    for (unsigned r = 0; r < n_rows; r += 4)
        plain_sum_few(weight + r, n_rows - r, &s, PLAIN_FLOATS, 1, out + r);
}

TARGET static void mean_accumulate(const float (*weight)[TILE], unsigned n_rows,
                                   const uint8_t *const *means, unsigned n, unsigned dim,
                                   float *const *out)
{
    plain_rows s = {.rows = means, .n = n, .dim = dim};
    for (unsigned r = 0; r < n_rows; r += 4)
        plain_sum_few(weight + r, n_rows - r, &s, PLAIN_BYTES, 1, out + r);
}

/* The first rows' sums wait until it is known that all values are finite; others
 * see the same values. */
TARGET static int half_accumulate(const float (*weight)[TILE], unsigned n_rows,
                                  const uint8_t *const *rows, const uint8_t *const *ahead,
                                  unsigned n, unsigned dim, float *const *out)
{
    float sums[4][MAX_DIM];
    float *sum_rows[4] = {sums[0], sums[1], sums[2], sums[3]};
    plain_rows s = {.rows = rows, .ahead = ahead, .n = n, .dim = dim};
    if (vec_has_nan(plain_sum_few(weight, n_rows, &s, PLAIN_HALVES, 0, sum_rows)))
        return 0;
    for (unsigned r = 0; r < n_rows && r < 4; r++)
        for (unsigned i = 0; i < dim; i += LANES)
            vec_store(out[r] + i, vec_add(vec_load(out[r] + i), vec_load(sums[r] + i)));
    s.ahead = NULL;
    for (unsigned r = 4; r < n_rows; r += 4)
        plain_sum_few(weight + r, n_rows - r, &s, PLAIN_HALVES, 1, out + r);
    for (unsigned t = n; t < TILE; t++)
        prefetch_halves(ahead[t], dim);
    return 1;
}
