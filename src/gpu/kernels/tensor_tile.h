#pragma once
/* One tile of a head, by a warp: scores, weights, and their sums with the values. */
#include "tensor_scores.h"

/* ---- values ---- */

/* Four tokens' words of 8 nibbles (or 4 bytes) to selectors (levels) of one coordinate each:
 * word i has nibbles i and i + 4 (byte i). */
template <int FORM> INLINE void tokens_transpose(const uint *w, uint *selectors)
{
    if (FORM == BYTES) {
        uint a = prmt(w[0], w[1], 0x5140), b = prmt(w[0], w[1], 0x7362);
        uint c = prmt(w[2], w[3], 0x5140), d = prmt(w[2], w[3], 0x7362);
        selectors[0] = prmt(a, c, 0x5410), selectors[1] = prmt(a, c, 0x7632);
        selectors[2] = prmt(b, d, 0x5410), selectors[3] = prmt(b, d, 0x7632);
        return;
    }
    uint even01 = select(0x0F0F0F0F, w[0], w[1] << 4), odd01 = select(0x0F0F0F0F, w[0] >> 4, w[1]);
    uint even23 = select(0x0F0F0F0F, w[2], w[3] << 4), odd23 = select(0x0F0F0F0F, w[2] >> 4, w[3]);
    selectors[0] = prmt(even01, even23, 0x6240), selectors[1] = prmt(odd01, odd23, 0x6240);
    selectors[2] = prmt(even01, even23, 0x7351), selectors[3] = prmt(odd01, odd23, 0x7351);
}

typedef uint selector_words[values_case::NIBBLE_WORDS][4];

/* Selectors of 16 tokens: the lane's are 4 c and following, in the order of the weights. start:
 * bit of the row, or unit. */
INLINE void values_read(bytes rows, uint start, uint r, uint c, selector_words &selectors)
{
    typedef values_case F;
    uint words[4][F::NIBBLE_WORDS], y = c % 2;
    uint order[4] = {y, y ^ 1, 3 - y, 2 + y};
    UNROLL for (int t = 0; t < 4; t++)
        if (F::FORM == TAPS)
            unit_read(rows + (4 * c + order[t]) * F::ROW, start, words[t]);
        else
            nibbles_read<F, VALUE_BITS>(rows + (4 * c + order[t]) * F::ROW, start, words[t]);
    UNROLL for (int i = 0; i < F::NIBBLE_WORDS; i++)
    {
        uint four[4] = {words[0][i], words[1][i], words[2][i], words[3][i]};
        tokens_transpose<F::FORM>(four, selectors[i]);
    }
}

/* And of a group of 32. */
INLINE void group_read(bytes stage, int group, int chunk, uint r, uint c, selector_words *selectors)
{
    uint start = values_case::FORM == TAPS ? chunk * 8 + r
                                           : chunk * (CHUNK * VALUE_BITS) + r * values_case::PIECE;
    UNROLL for (int m = 0; m < 2; m++)
        values_read(stage + VALUES_AT + (32 * group + 16 * m) * values_case::ROW, start, r, c,
                    selectors[m]);
}

enum { IS_EARLY = CHUNKS == 1 && ROWS <= 8 && values_case::FORM != WINDOWS };

enum { CHUNK_TILES = values_case::OCTETS * 4, TILES = CHUNKS * CHUNK_TILES,
       EXTRA_OF_CHUNK = values_case::FORM == TAPS ? 2 : 1,
       EXTRA = values_case::IS_SHIFTED ? EXTRA_OF_CHUNK * CHUNKS : 0, SUMS = TILES + EXTRA };

/* The levels of four tokens at one nibble of a word. */
INLINE uint value_levels(const tensor_params *p, const selector_words &selectors, int word,
                         int nibble, int summand, int table)
{
    return look_up(SAME_FORMAT ? &p->keys.tables : &p->values.tables, summand, table,
                   selectors[word][nibble % 4], nibble / 4, p->minus_one);
}

/* The A fragment of M's rows (word, nibble) and (word8, nibble8), by a table; no word: 0. */
INLINE void value_fragment(const tensor_params *p, const selector_words *selectors, int word,
                           int nibble, int word8, int nibble8, int summand, int table, uint *a)
{
    UNROLL for (int m = 0; m < 2; m++)
    {
        a[2 * m] = value_levels(p, selectors[m], word, nibble, summand, table);
        a[2 * m + 1] = word8 < 0 ? 0
                                 : value_levels(p, selectors[m], word8 < 0 ? 0 : word8, nibble8,
                                                summand, table);
    }
}

INLINE void weights_multiply(int (*sums)[SUMS][4], int tile, const uint *a,
                             const uint (*weights)[2])
{
    UNROLL for (int n = 0; n < SETS; n++) mma_unsigned(sums[n][tile], a, weights[n]);
}

/* 32 tokens' values of a chunk of coordinates, times the weights. */
INLINE void values_multiply(const tensor_params *p, const selector_words *selectors, int chunk,
                            const uint (*weights)[2], int (*sums)[SUMS][4])
{
    typedef values_case F;
    enum { CHAIN = F::FORM == PAIRS ? 2 : 1 }; /* from a word to the next of its stream */
    if (F::FORM == BYTES) {
        UNROLL for (int tile = 0; tile < CHUNK_TILES; tile++)
        {
            uint a[4];
            UNROLL for (int m = 0; m < 2; m++)
            {
                a[2 * m] = selectors[m][tile / 4 * 2][tile % 4];
                a[2 * m + 1] = selectors[m][(tile / 4 * 2 + 1) % F::NIBBLE_WORDS][tile % 4];
            }
            weights_multiply(sums, chunk * CHUNK_TILES + tile, a, weights);
        }
        return;
    }
    if (F::FORM == TAPS) {
        /* Symbol t of 8 takes part in the sums of coordinates t to t + 2. */
        UNROLL for (int tap = 0; tap < 3; tap++)
            UNROLL for (int t = 0; t < CHUNK_TILES; t++)
            {
                uint a[4];
                int at = t + tap;
                value_fragment(p, selectors, t % 2, t / 2, t % 2, t / 2 + 4, tap % F::SUMMANDS, 0, a);
                weights_multiply(sums, at < CHUNK_TILES
                                           ? chunk * CHUNK_TILES + at
                                           : (TILES + EXTRA_OF_CHUNK * chunk + at - CHUNK_TILES) % SUMS,
                                 a, weights);
            }
        return;
    }
    /* The second summands' multiplications follow a tile behind, so that none waits for the
     * sum before it. */
    UNROLL for (int table = 0; table < 2; table++)
        UNROLL for (int t = 0; t <= CHUNK_TILES; t++)
        {
            uint a[4];
            if (t < CHUNK_TILES) {
                int word = F::FORM == WINDOWS ? t / 4 * 2 : t / 4;
                value_fragment(p, selectors, word, t % 4, word, t % 4 + 4, 0, table, a);
                weights_multiply(sums, chunk * CHUNK_TILES + t, a, weights);
            }
            if (F::SUMMANDS == 2 && t > 0) {
                int i = (t - 1) / 4, k = (t - 1) % 4,
                    word = F::FORM == WINDOWS ? (2 * i + 1) % F::NIBBLE_WORDS : i;
                if (!F::IS_SHIFTED)
                    value_fragment(p, selectors, word, k, word, k + 4, 1, table, a);
                else if (k < 3)
                    value_fragment(p, selectors, i, k + 1, i, k + 5, 1, table, a);
                else
                    value_fragment(p, selectors, i, 4, i + CHAIN < F::OCTETS ? i + CHAIN : -1, 0, 1,
                                   table, a);
                weights_multiply(sums, chunk * CHUNK_TILES + t - 1, a, weights);
            } else if (F::IS_SHIFTED) {
                value_fragment(p, selectors, 0, 0, CHAIN == 2 ? 1 % F::OCTETS : -1, 0, 1, table, a);
                weights_multiply(sums, (TILES + chunk) % SUMS, a, weights);
            }
        }
}

/* ---- weights ---- */

#define REF_BEGIN (-1e30f)
#define WEIGHT_BITS 14.0f
#define ROUNDING 8388608.0f /* 2^23: added, it leaves an integer in the low bits */
#define GOLDEN 0.61803399f
#define LARGEST_WEIGHT 0x4B00FFFFu

/* Sums in the original domain: PEERS lanes have the same query rows, and share their
 * coordinates by words of four. */
enum { PEERS = SETS == 1 ? 16 : 8, LANE_WORDS = (D / 4 + PEERS - 1) / PEERS };

/* Word j of a lane, of a row's D / 4; D / 4 or more for none. */
INLINE uint lane_word(int j, uint lane)
{
    return (SETS == 1 ? lane / 4 * 2 + lane % 4 / 2 : lane / 4) + PEERS * j;
}

INLINE bool has_word(int j, uint lane)
{
    return D / 4 % PEERS == 0 || lane_word(j, lane) < D / 4;
}

/* What a warp knows of a head: sums are int32, of levels times digits of weights; those in the
 * original domain are of means, and of staged values, times weights. */
struct progress {
    int sums[SETS][SUMS][4];
    float ref[LANE_ROWS], sum[LANE_ROWS], largest[LANE_ROWS];
    float original[ORIGINAL ? LANE_ROWS : 1][4 * LANE_WORDS];
};

/* A lane's rows, in registers. */
struct lane_terms {
    float row_scale[LANE_ROWS], mean_scale[LANE_ROWS];
};

INLINE lane_terms terms_load(const workplace *b, uint n_rows, uint c)
{
    lane_terms t;
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        uint row = row_number(k, c);
        t.row_scale[k] = row < n_rows ? b->row_scale[row] : 0;
        t.mean_scale[k] = MEANS && row < n_rows ? b->mean_scale[row] : 0;
    }
    return t;
}

/* Where scores are, of which a lane has 16-bit pairs for each token. */
INLINE uint score_token(int g, int score, uint r, uint c)
{
    return 32 * g + pair_token(token_pair(score), r, c) + (score / 2 % 2 ^ exchanged(r));
}

INLINE float softcapped(const tensor_params *p, float y)
{
    return tanhf(y * (1.0f / LOG2_E) / p->softcap) * (p->softcap * LOG2_E);
}

/* Element of a row's mask at a token, or 0 beyond the last. */
INLINE float mask_read(const workplace *b, const uchar *mask, uint row, uint token, uint length)
{
    ulong at = b->mask_at[row] + token;
    return token >= length ? 0
           : MASK == 1     ? ((const float *)mask)[at]
                           : f16_to_float(((const ushort *)mask)[at]);
}

/* What a mask and slopes add to a base-2 logit. */
INLINE float logit_add(const workplace *b, uint row, uint token, float mask, float y)
{
    if (SLOPES)
        y += b->slope[row] * (float)((int)token - b->position[row]);
    if (MASK)
        y += mask > -INFINITY ? mask * b->mask_slope[row] : -INFINITY; /* NaN hides, too */
    return y;
}

/* Base-2 logits, from integer scores. */
INLINE void logits_make(const tensor_params *p, bytes stage, const lane_terms *t, const float *products,
                        uint r, uint c, int group, float *y)
{
    UNROLL for (int pair = 0; pair < TOKEN_PAIRS; pair++)
    {
        uint token = 32 * group + pair_token(pair, r, c);
        float2 scales = two_scales<keys_case>(stage + SCALES_AT, token, exchanged(r));
        UNROLL for (int i = 0; i < SCORES; i++)
            if (token_pair(i) == pair) {
                float scale = i / 2 % 2 ? scales.y : scales.x;
                y[i] *= fabsf(scale) * t->row_scale[lane_row(i)];
                if (MEANS)
                    y[i] += is_chosen(scale) ? products[lane_row(i)] : 0;
                if (SOFTCAP)
                    y[i] = softcapped(p, y[i]);
            }
    }
}

/* Tokens that a row does not see. */
INLINE void logits_mask(const workplace *b, uint first_token, uint r, uint c, float (*y)[SCORES])
{
    UNROLL for (int g = 0; g < GROUPS; g++)
        UNROLL for (int i = 0; i < SCORES; i++)
        {
            uint row = row_number(lane_row(i), c), at = first_token + score_token(g, i, r, c);
            bool is_seen = at >= b->low[row] && at < b->high[row];
            y[g][i] = is_seen ? y[g][i] : -INFINITY;
        }
}

/* What lanes have of their rows, once all lanes that share them have the same, for all rows. */
INLINE void rows_gather(const float *of_lane, float *of_rows)
{
    UNROLL for (int row = 0; row < ROWS; row++)
        of_rows[row] = __shfl_sync(~0u, of_lane[SETS == 1 ? row % 2 : row / 8 * 2 + row % 2],
                                   SETS == 1 ? row / 2 : row % 8 / 2);
}

/* A bit for each of a lane's rows that has a weight of more than 16 bits. */
INLINE uint rows_over(const uint (*weights)[SCORES])
{
    uint over = 0;
    UNROLL for (int g = 0; g < GROUPS; g++)
        UNROLL for (int i = 0; i < SCORES; i++)
            over |= weights[g][i] > LARGEST_WEIGHT ? 1u << lane_row(i) : 0;
    UNROLL for (int o = SETS == 1 ? 2 : 4; o < 32; o *= 2) over |= __shfl_xor_sync(~0u, over, o);
    return over;
}

/* Moves the rows' refs, and their sums with them. */
INLINE void refs_set(const float *ref, progress *w)
{
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        int shift = (int)fminf(ref[k] - w->ref[k], 30), half = (1 << shift) >> 1;
        UNROLL for (int n = 0; n < SETS; n++)
            if (SETS == 1 || n % HIGH_SETS == k / 2)
                UNROLL for (int j = 0; j < SUMS; j++)
                {
                    w->sums[n][j][k % 2] = (w->sums[n][j][k % 2] + half) >> shift;
                    w->sums[n][j][k % 2 + 2] = (w->sums[n][j][k % 2 + 2] + half) >> shift;
                }
        float factor = power2(w->ref[k] - ref[k]);
        w->sum[k] *= factor;
        if (ORIGINAL)
            UNROLL for (int i = 0; i < 4 * LANE_WORDS; i++) w->original[ORIGINAL ? k : 0][i] *= factor;
        w->ref[k] = ref[k];
    }
}

/* A weight needs more than 16 bits: moves the row's ref. Only that row's, so that a query's
 * result does not depend on those beside it. */
INLINE void refs_move(const float (*y)[SCORES], const float (*scales)[TOKEN_PAIRS][2],
                      uint over, progress *w)
{
    float ref[LANE_ROWS];
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        float most = -1e30f;
        UNROLL for (int g = 0; g < GROUPS; g++)
            UNROLL for (int i = 0; i < SCORES; i++)
                if (lane_row(i) == k)
                    most = fmaxf(most, y[g][i] + logarithm2(fmaxf(fabsf(scales[g][token_pair(i)][i / 2 % 2]),
                                                                  2.98e-8f)));
        UNROLL for (int o = SETS == 1 ? 2 : 4; o < 32; o *= 2) most = fmaxf(most, shuffle_xor(most, o));
        ref[k] = over >> k & 1 ? fmaxf(w->ref[k], ceilf(most)) : w->ref[k];
    }
    refs_set(ref, w);
}

/* Weights are rounded down after a part of 1 is added that differs from token to token (multiples
 * of the golden ratio lie evenly): thousands of tokens that weigh less than 1/2 each then
 * count as what they weigh together. */
INLINE void dithers_make(uint r, uint c, float (*dithers)[TOKEN_PAIRS][2])
{
    UNROLL for (int g = 0; g < GROUPS; g++)
        UNROLL for (int pair = 0; pair < TOKEN_PAIRS; pair++)
            UNROLL for (int i = 0; i < 2; i++)
            {
                float at = (float)(32 * g + pair_token(pair, r, c) + i) * GOLDEN;
                dithers[g][pair][i] = at - floorf(at);
            }
}

/* Whether some weight is too large. */
INLINE bool weights_make(const float (*y)[SCORES], const float (*scales)[TOKEN_PAIRS][2],
                         const float (*dithers)[TOKEN_PAIRS][2], const progress *w,
                         float (*e)[SCORES], uint (*weights)[SCORES])
{
    uint any = 0;
    UNROLL for (int g = 0; g < GROUPS; g++)
        UNROLL for (int i = 0; i < SCORES; i++)
        {
            e[g][i] = power2(y[g][i] + (WEIGHT_BITS - w->ref[lane_row(i)]));
            float weight = fmaf(e[g][i], fabsf(scales[g][token_pair(i)][i / 2 % 2]),
                                dithers[g][token_pair(i)][i / 2 % 2]);
            weights[g][i] = as_uint(__fadd_rz(weight, ROUNDING));
            any |= weights[g][i];
        }
    return __any_sync(~0u, any > LARGEST_WEIGHT);
}

/* 32 tokens' weights as B fragments. */
INLINE void weights_arrange(const uint *w, uint r, uint (*b)[2])
{
    if (SETS == 1) {
        bool is_high_lane = r < 4;
        uint x0 = prmt(w[0], w[2], 0x5140), x1 = prmt(w[1], w[3], 0x5140);
        uint low = transposed(prmt(x0, x1, 0x5410)), high = transposed(prmt(x0, x1, 0x7632));
        /* Lanes r < 4 have both digits of tokens 0-15, the others of 16-31; wanted are the
         * high digits of all 32 in r < 4, and the low ones in the others. */
        uint taken = __shfl_xor_sync(~0u, is_high_lane ? low : high, 16);
        b[0][0] = is_high_lane ? high : taken;
        b[0][1] = is_high_lane ? taken : low;
        return;
    }
    UNROLL for (int n = 0; n < HIGH_SETS; n++)
        UNROLL for (int m = 0; m < 2; m++)
        {
            const uint *four = w + (8 * n + 4 * m) % SCORES;
            uint x0 = prmt(four[0], four[2], 0x5140), x1 = prmt(four[1], four[3], 0x5140);
            b[n][m] = transposed(prmt(x0, x1, 0x7632));
            b[(n + HIGH_SETS) % SETS][m] = transposed(prmt(x0, x1, 0x5410));
        }
}

/* The weights of tokens whose values have chosen the page's mean, times the mean. */
INLINE void means_add(const float (*e)[SCORES], const float (*scales)[TOKEN_PAIRS][2], bytes mean,
                      uint lane, progress *w)
{
    float chosen[LANE_ROWS], factor = mean_factor(mean);
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        chosen[k] = 0;
        UNROLL for (int g = 0; g < GROUPS; g++)
            UNROLL for (int i = 0; i < SCORES; i++)
                if (lane_row(i) == k)
                    chosen[k] += is_chosen(scales[g][token_pair(i)][i / 2 % 2]) ? e[g][i] : 0;
        UNROLL for (int o = SETS == 1 ? 2 : 4; o < 32; o *= 2) chosen[k] += shuffle_xor(chosen[k], o);
        chosen[k] *= factor;
    }
    UNROLL for (int j = 0; j < LANE_WORDS; j++)
    {
        uint word = has_word(j, lane) ? *(const uint *)(mean + 4 * lane_word(j, lane)) : 0;
        UNROLL for (int i = 0; i < 4; i++)
        {
            float level = (float)(signed char)(word >> 8 * i);
            UNROLL for (int k = 0; k < LANE_ROWS; k++)
                w->original[ORIGINAL ? k : 0][4 * j + i] =
                    fmaf(chosen[k], level, w->original[ORIGINAL ? k : 0][4 * j + i]);
        }
    }
}

/* One tile: scores, weights, and their sums with the values. */
INLINE void tile_attend(const tensor_params *p, const workplace *b, bytes stage, bool is_edge,
                        uint first_token, uint length, const uchar *mask, const lane_terms *t,
                        uint lane, progress *w)
{
    uint r = lane / 4, c = lane % 4, x = exchanged(r);
    float y[GROUPS][SCORES], scales[GROUPS][TOKEN_PAIRS][2], e[GROUPS][SCORES];
    float products[LANE_ROWS] = {}, masks[MASK ? GROUPS : 1][SCORES];
    uint weights[GROUPS][SCORES];
    if (MASK) /* they come from memory: first */
        UNROLL for (int g = 0; g < GROUPS; g++)
            UNROLL for (int i = 0; i < SCORES; i++)
                masks[MASK ? g : 0][i] =
                    MASK == 3 ? f16_to_float(((const ushort *)(stage + MASK_AT))[score_token(g, i, r, c)])
                              : mask_read(b, mask, row_number(lane_row(i), c),
                                          first_token + score_token(g, i, r, c), length);
    if (MEANS)
        means_multiply(b, stage + MEAN_AT, t->mean_scale, c, lane, products);
    UNROLL for (int g = 0; g < GROUPS; g++)
    {
        int sums[2][SETS][4];
        keys_multiply(p, stage + 32 * g * keys_case::ROW, r, c, b->fragments, lane, sums);
        scores_take(sums, c, y[g]);
        logits_make(p, stage, t, products, r, c, g, y[g]);
        UNROLL for (int pair = 0; pair < TOKEN_PAIRS; pair++)
        {
            float2 two = two_scales<values_case>(stage + VALUE_SCALES_AT,
                                                 32 * g + pair_token(pair, r, c), x);
            scales[g][pair][0] = two.x, scales[g][pair][1] = two.y;
        }
        if (SLOPES || MASK)
            UNROLL for (int i = 0; i < SCORES; i++)
                y[g][i] = logit_add(b, row_number(lane_row(i), c),
                                    first_token + score_token(g, i, r, c), masks[MASK ? g : 0][i], y[g][i]);
    }
    if (is_edge)
        logits_mask(b, first_token, r, c, y);
    /* Selectors do not wait for the weights: where registers allow it, they come before. */
    selector_words selectors[IS_EARLY ? GROUPS : 1][2];
    if (IS_EARLY)
        UNROLL for (int g = 0; g < GROUPS; g++) group_read(stage, g, 0, r, c, selectors[g]);
    /* Moved once, they all fit. */
    float dithers[GROUPS][TOKEN_PAIRS][2];
    dithers_make(r, c, dithers);
    if (weights_make(y, scales, dithers, w, e, weights)) {
        refs_move(y, scales, rows_over(weights), w);
        weights_make(y, scales, dithers, w, e, weights);
    }
    if (MEANS)
        means_add(e, scales, stage + VALUE_MEAN_AT, lane, w);
    UNROLL for (int g = 0; g < GROUPS; g++)
    {
        UNROLL for (int i = 0; i < SCORES; i++)
        {
            w->sum[lane_row(i)] += e[g][i];
            if (STATE)
                w->largest[lane_row(i)] = fmaxf(w->largest[lane_row(i)], y[g][i]);
        }
        uint fragments[SETS][2];
        weights_arrange(weights[g], r, fragments);
        UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++)
        {
            if (!IS_EARLY)
                group_read(stage, g, chunk, r, c, selectors[0]);
            values_multiply(p, selectors[IS_EARLY ? g : 0], chunk, fragments, w->sums);
        }
    }
}
