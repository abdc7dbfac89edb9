#pragma once
/* Integer scores of a tile, by a warp: queries with keys, and with a page's mean. */
#include "tensor_query.h"

/* M's rows r and r + 8 are tokens 2r and 2r + 1 of 16, exchanged where this is 1: rows of 64
 * bytes then meet no bank twice for keys, and twice (not four times) for values. */
INLINE uint exchanged(uint r)
{
    return (r ^ r >> 1) & 1;
}

/* A scale of 16 bits; what no encoder writes counts as 0. With means, the sign is kept: it is
 * the row's choice. */
INLINE float half_scale(uint half)
{
    float x = f16_to_float((ushort)half);
    if (MEANS)
        return fabsf(x) < INFINITY ? x : as_float(as_uint(x) & 0x80000000u);
    return half < 0x7C00 ? x : 0;
}

INLINE float float_scale(float x)
{
    if (MEANS)
        return fabsf(x) < INFINITY ? x : as_float(as_uint(x) & 0x80000000u);
    return x > 0 && x < INFINITY ? x : 0;
}

/* Two tokens' scales, in the order of M's rows. */
template <class F> INLINE float2 two_scales(bytes scales, uint token, uint is_exchanged)
{
    float2 x;
    if (F::SCALE == 4) {
        x = *(const float2 *)(scales + 4 * token);
        x.x = float_scale(x.x);
        x.y = float_scale(x.y);
    } else {
        uint w = *(const uint *)(scales + 2 * token);
        x.x = half_scale(w & 0xFFFF);
        x.y = half_scale(w >> 16);
    }
    if (is_exchanged) {
        float t = x.x;
        x.x = x.y;
        x.y = t;
    }
    return x;
}

/* Rows whose scales have a sign are coded relative to their page's mean. */
INLINE bool is_chosen(float scale)
{
    return MEANS && (int)as_uint(scale) < 0;
}

/* ---- scores ----
 * Of 32 tokens a lane has SCORES scores. With one set: of rows 2 (c % 2) and the next, of
 * tokens 16 (c / 2) + 2 r and the next. Otherwise score 8 n + 4 m + j is of row 8 n + 2 c + j % 2
 * and token 16 m + 2 r + j / 2. */
enum { LANE_ROWS = SETS == 1 ? 2 : 2 * HIGH_SETS, TOKEN_PAIRS = SETS == 1 ? 1 : 2 };

INLINE constexpr int lane_row(int score)
{
    return SETS == 1 ? score % 2 : score / 8 * 2 + score % 2;
}

INLINE constexpr int token_pair(int score)
{
    return SETS == 1 ? 0 : score / 4 % 2;
}

INLINE uint row_number(int lane_row, uint c)
{
    return SETS == 1 ? 2 * (c % 2) + lane_row : 8 * (lane_row / 2) + 2 * c + lane_row % 2;
}

INLINE uint pair_token(int pair, uint r, uint c)
{
    return 16 * (SETS == 1 ? c / 2 : pair) + 2 * r;
}

/* A key's word for a step by a table. */
INLINE uint key_levels(const tensor_params *p, const uint *nibbles, int inner, int table, int half)
{
    typedef keys_case F;
    uint word = nibbles[F::FORM == WINDOWS ? inner : inner / F::SUMMANDS];
    return look_up(&p->keys.tables, inner % F::SUMMANDS, table, word, half, p->minus_one);
}

/* Integer scores of two times 16 tokens, from their rows of codes. Sums by the two tables
 * (or every second step's) are kept apart: four chains of multiplications, none of which waits for the one before. */
INLINE void keys_multiply(const tensor_params *p, bytes rows, uint r, uint c,
                          const uint *fragments, uint lane, int (*sums)[SETS][4])
{
    typedef keys_case F;
    enum { CHAINS = F::TABLES == 2 || F::FORM == TAPS ? 2 : 1 };
    int parts[2][2][SETS][4];
    uint x = exchanged(r);
    UNROLL for (int piece = 0; piece < KEY_PIECES; piece++)
    {
        uint words[2][2][F::NIBBLE_WORDS]; /* of M's rows r and r + 8 */
        uint start = D % 64 ? (4 * piece + c) * F::PIECE : c * F::PIECE;
        UNROLL for (int m = 0; m < 2; m++)
            UNROLL for (int i = 0; i < 2; i++)
            {
                bytes row = rows + (16 * m + 2 * r + (x ^ i)) * F::ROW;
                if (F::FORM == TAPS)
                    key_units_read(row, (4 * piece + c) * LANE_UNITS, words[m][i]);
                else
                    nibbles_read<F, KEY_BITS>(row, start, words[m][i]);
            }
        UNROLL for (int inner = 0; inner < PIECE_STEPS; inner++)
        {
            uint q[SETS][2];
            UNROLL for (int n = 0; n < SETS; n++)
            {
                uint2 two = *(const uint2 *)(fragments +
                                             2 * (((piece * PIECE_STEPS + inner) * SETS + n) * 32 + lane));
                q[n][0] = two.x, q[n][1] = two.y;
            }
            UNROLL for (int table = 0; table < F::TABLES; table++)
                UNROLL for (int m = 0; m < 2; m++)
                {
                    uint levels[4];
                    UNROLL for (int i = 0; i < 4; i++)
                        levels[i] = F::FORM == BYTES
                                        ? words[m][i % 2][(2 * inner + i / 2) % F::NIBBLE_WORDS]
                                        : key_levels(p, words[m][i % 2], inner, table, i / 2);
                    int chain = F::FORM == TAPS ? inner % 2 : table;
                    UNROLL for (int n = 0; n < SETS; n++)
                        if (piece == 0 && inner < (F::FORM == TAPS ? 2 : 1))
                            mma_signed_first(parts[chain][m][n], levels, q[n]);
                        else
                            mma_signed(parts[chain][m][n], levels, q[n]);
                }
        }
    }
    UNROLL for (int m = 0; m < 2; m++)
        UNROLL for (int n = 0; n < SETS; n++)
            UNROLL for (int j = 0; j < 4; j++)
                sums[m][n][j] = parts[0][m][n][j] + (CHAINS == 2 ? parts[1][m][n][j] : 0);
}

/* From the digits' sums of two times 16 tokens to a lane's scores. */
INLINE void scores_take(const int (*sums)[SETS][4], uint c, float *scores)
{
    if (SETS == 1) {
        /* Lanes c < 2 have the high digits' sums, the others the low ones': they trade, so
         * that each has both for one of the two 16 tokens. */
        bool is_first = c < 2;
        int own_factor = is_first ? 256 : 1, other_factor = is_first ? 1 : 256;
        UNROLL for (int j = 0; j < 4; j++)
        {
            int give = is_first ? sums[1][0][j] : sums[0][0][j];
            int keep = is_first ? sums[0][0][j] : sums[1][0][j];
            int taken = __shfl_xor_sync(~0u, give, 2);
            scores[j] = (float)(keep * own_factor + taken * other_factor);
        }
        return;
    }
    UNROLL for (int i = 0; i < SCORES; i++)
        scores[i] = (float)(sums[i / 4 % 2][i / 8][i % 4] * 256 +
                            sums[i / 4 % 2][(i / 8 + HIGH_SETS) % SETS][i % 4]);
}

/* ---- means ---- */

/* A mean's factor, behind its levels. */
INLINE float mean_factor(bytes mean)
{
    uint half = *(const ushort *)(mean + D);
    return half < 0x7C00 ? f16_to_float((ushort)half) : 0;
}

/* Query . mean for each of a lane's rows. All rows of M are the mean, so that every lane has
 * what it needs of it. */
INLINE void means_multiply(const workplace *b, bytes mean, const float *mean_scale, uint c, uint lane,
                           float *products)
{
    int sums[SETS][4] = {};
    UNROLL for (int piece = 0; piece < MEAN_PIECES; piece++)
    {
        uint words[mean_case::NIBBLE_WORDS];
        nibbles_read<mean_case, 8>(mean, (D % 64 ? 4 * piece + c : c) * mean_case::PIECE, words);
        UNROLL for (int inner = 0; inner < mean_case::OCTETS; inner++)
        {
            uint low = words[2 * inner], high = words[(2 * inner + 1) % mean_case::NIBBLE_WORDS];
            uint a[4] = {low, low, high, high};
            UNROLL for (int n = 0; n < SETS; n++)
            {
                uint step = KEY_STEPS + piece * mean_case::OCTETS + inner;
                uint2 two = *(const uint2 *)(b->fragments + 2 * ((step * SETS + n) * 32 + lane));
                uint q[2] = {two.x, two.y};
                mma_signed(sums[n], a, q);
            }
        }
    }
    float factor = mean_factor(mean);
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        int high = sums[k / 2][k % 2], low = sums[(k / 2 + HIGH_SETS) % SETS][k % 2];
        if (SETS == 1) { /* lanes c < 2 have the high digits' sums, the others the low ones' */
            int taken = __shfl_xor_sync(~0u, high, 2);
            low = c < 2 ? taken : high;
            high = c < 2 ? high : taken;
        }
        products[k] = fmaf((float)high, 256, (float)low) * mean_scale[k] * factor;
    }
}
