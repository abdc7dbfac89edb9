#pragma once
/* Formats as attend_tensor.cu has them: rows as words of nibbles, and the levels that those
 * stand for. */
#include "number.h"
#include "tensor_sizes.h"
#include "tensor_instructions.h"

/* The case that this is compiled for: HEAD_DIM; ROWS of queries (4, 8, 16); WARPS; TILE (32, 64
 * tokens); STAGES of a ring; MERGE_WARPS, that merge at once; KEY_KIND, KEY_BITS, VALUE_KIND,
 * VALUE_BITS; LAYOUT and BLOCKS, see tensor_fetch.h; 0 or 1, BALANCES, SOFTCAP, STATE, MEANS, STARTS
 * (of queries), SLOPES; STAGED pages: 0 none, 1 read where they lie, 2 by way of shared memory; MASK: 0
 * none, 1 f32, 2 f16, 3 f16, the same for all rows, by the rings. */
enum { KIND_TRELLIS = 1, KIND_LLOYD = 2, KIND_MLX = 3 };
enum { D = HEAD_DIM, SETS = ROWS <= 4 ? 1 : ROWS / 4, HIGH_SETS = (SETS + 1) / 2,
       THREADS = WARPS * 32, GROUPS = TILE / 32 /* of 32 tokens */, SCORES = ROWS,
       ORIGINAL = MEANS || STAGED > 0 /* sums in the original domain, too */ };

typedef const uchar *bytes;

/* a where mask is set, else b. */
INLINE uint select(uint mask, uint a, uint b)
{
    return (a & mask) | (b & ~mask);
}

INLINE float shuffle_xor(float x, int mask)
{
    return __shfl_xor_sync(~0u, x, mask);
}

/* How nibbles, or bytes, come out of a row; see "The trellis" above. */
enum { NIBBLES, PAIRS, WINDOWS, BYTES, TAPS };

/* width: coordinates of a lane's piece. */
__host__ __device__ constexpr int form_of(int kind, int bits, int width)
{
    return kind != KIND_TRELLIS || bits == 4      ? NIBBLES
           : bits == 8                            ? BYTES
           : bits == 3                            ? TAPS
           : bits == 2 && width % 16 == 0         ? PAIRS
                                                  : WINDOWS;
}

/* The coordinate in its unit (8, with PAIRS 16 for two words) of a nibble of a word. */
INLINE constexpr int coordinate_of(int form, int word, int nibble)
{
    return form == PAIRS     ? word / 2 * 16 + 2 * nibble + word % 2
           : form == WINDOWS ? word * 8 + nibble % 2 * 4 + nibble / 2
           : form == TAPS    ? nibble / 4 * 8 + 2 * (nibble % 4) + word % 2
                             : word * 8 + nibble;
}

/* What is compiled for keys, or for values: pieces of WIDTH coordinates of rows of BITS. */
template <int KIND, int BITS, int WIDTH> struct format_case {
    enum {
        FORM = form_of(KIND, BITS, WIDTH),
        ROW = D * BITS / 8, /* bytes */
        ROW_WORDS = ROW / 4,
        PIECE = WIDTH * BITS,                /* bits */
        BEYOND = FORM == PAIRS ? 2 : FORM == WINDOWS ? 8 : 0, /* bits behind it */
        WORDS = (PIECE + BEYOND + 31) / 32,
        IS_ALIGNED = PIECE % 32 == 0,
        OCTETS = WIDTH / 8,
        /* words of 8 nibbles (WINDOWS: low nibbles, then high ones, by turns), of 4 bytes */
        NIBBLE_WORDS = FORM == WINDOWS || FORM == BYTES ? 2 * OCTETS : OCTETS,
        SUMMANDS = FORM == TAPS ? 3 : KIND == KIND_TRELLIS && BITS < 8 ? 2 : 1, /* of a level */
        TABLES = FORM == BYTES || FORM == TAPS ? 1 : 2,                        /* of a summand */
        IS_SHIFTED = (FORM == NIBBLES && KIND == KIND_TRELLIS) || FORM == PAIRS || FORM == TAPS,
        SHIFT = FORM == PAIRS ? 2 : 1,
        SCALE = KIND == KIND_MLX ? 4 : 2 /* bytes */
    };
};

enum { KEY_TAPS = KEY_KIND == KIND_TRELLIS && KEY_BITS == 3,
       KEY_WIDTH = D % 64 ? KEY_TAPS ? 16 : 8 : D / 4,
       KEY_PIECES = D % 64 ? (D + 4 * KEY_WIDTH - 1) / (4 * KEY_WIDTH) : 1,
       CHUNK = D == 64 && !(VALUE_KIND == KIND_TRELLIS && VALUE_BITS == 3) ? 64 : 128,
       CHUNKS = (D + CHUNK - 1) / CHUNK, VALUE_WIDTH = CHUNK / 8, PADDED = CHUNKS * CHUNK };
enum { SAME_FORMAT = KEY_KIND == VALUE_KIND && KEY_BITS == VALUE_BITS };
typedef format_case<KEY_KIND, KEY_BITS, KEY_WIDTH> keys_case;
typedef format_case<VALUE_KIND, VALUE_BITS, VALUE_WIDTH> values_case;

/* A mean is bytes. */
enum { MEAN_WIDTH = D % 64 ? 8 : D / 4, MEAN_PIECES = D % 64 ? (D + 31) / 32 : 1 };
typedef format_case<KIND_TRELLIS, 8, MEAN_WIDTH> mean_case;

/* Steps of 32 coordinates by one table: each has a B fragment of the query. Those for keys come
 * first, then those for means, of the query in the original domain. */
enum { PIECE_STEPS = keys_case::OCTETS * keys_case::SUMMANDS, KEY_STEPS = KEY_PIECES * PIECE_STEPS,
       MEAN_STEPS = MEANS ? MEAN_PIECES * mean_case::OCTETS : 0, STEPS = KEY_STEPS + MEAN_STEPS };

constexpr tensor_case CASE = {HEAD_DIM, ROWS, WARPS, TILE, STAGES, MERGE_WARPS, keys_case::ROW,
                              values_case::ROW, keys_case::SCALE, values_case::SCALE, MEANS, ORIGINAL,
                              keys_case::FORM == TAPS, values_case::FORM == TAPS,
                              STAGED == 2 ? 4 * TILE * D : 0, MASK == 3 ? 2 * TILE : 0};
static_assert(PADDED == tensor_padded_dim(&CASE), "tensor_sizes.h counts the same");

/* The stream of a row from bit `start` on; behind its last word comes the first. */
template <class F> INLINE void words_read(bytes row, uint start, uint *w)
{
    enum { BODY = F::PIECE / 32, VECTOR = F::ROW % 16 == 0 && F::PIECE % 128 == 0  ? 4
                                          : F::ROW % 8 == 0 && F::PIECE % 64 == 0 ? 2
                                                                                  : 1 };
    const uint *at = (const uint *)row + start / 32;
    if (F::IS_ALIGNED) {
        UNROLL for (int i = 0; i < BODY; i += VECTOR)
        {
            if (VECTOR == 4) {
                uint4 x = *(const uint4 *)(at + i);
                w[i] = x.x, w[i + 1 < F::WORDS ? i + 1 : 0] = x.y;
                w[i + 2 < F::WORDS ? i + 2 : 0] = x.z, w[i + 3 < F::WORDS ? i + 3 : 0] = x.w;
            } else if (VECTOR == 2) {
                uint2 x = *(const uint2 *)(at + i);
                w[i] = x.x, w[i + 1 < F::WORDS ? i + 1 : 0] = x.y;
            } else {
                w[i] = at[i];
            }
        }
        UNROLL for (int i = BODY; i < F::WORDS; i++)
            w[i] = at[start / 32 + i < F::ROW_WORDS ? i : i - (int)F::ROW_WORDS];
        return;
    }
    uint x[F::WORDS + 1];
    UNROLL for (int i = 0; i <= F::WORDS; i++)
    {
        bool may_wrap = i >= (F::PIECE + 31) / 32;
        x[i] = at[may_wrap && start / 32 + i >= F::ROW_WORDS ? i - (int)F::ROW_WORDS : i];
    }
    UNROLL for (int i = 0; i < F::WORDS; i++)
        w[i] = __funnelshift_r(x[i], x[i + 1], start % 32);
}

/* 32 bits from bit `offset` on. */
template <int WORDS> INLINE uint bits_at(const uint *w, int offset)
{
    int i = offset / 32;
    return offset % 32 == 0   ? w[i]
           : i + 1 < WORDS ? __funnelshift_r(w[i], w[i + 1 < WORDS ? i + 1 : i], offset % 32)
                           : w[i] >> offset % 32;
}

/* The windows of values i to i + 3 as bytes: the upper two move to the upper half, then
 * the second of each half to its upper byte. */
template <class F, int BITS> INLINE uint four_windows(const uint *w, int i)
{
    uint x = bits_at<F::WORDS>(w, i * BITS);
    x = select(0x0000FFFF, x, x << (16 - 2 * BITS));
    return select(0x00FF00FF, x, x << (8 - BITS));
}

/* A piece as words of nibbles or bytes. */
template <class F, int BITS> INLINE void nibbles_read(bytes row, uint start, uint *nibbles)
{
    uint w[F::WORDS];
    words_read<F>(row, start, w);
    if (F::FORM == NIBBLES || F::FORM == BYTES) {
        UNROLL for (int i = 0; i < F::NIBBLE_WORDS; i++)
            nibbles[i] = w[i < F::WORDS ? i : 0];
    } else if (F::FORM == PAIRS) {
        UNROLL for (int i = 0; i < F::NIBBLE_WORDS / 2; i++)
        {
            nibbles[2 * i] = w[i < F::WORDS ? i : 0];
            nibbles[(2 * i + 1) % F::NIBBLE_WORDS] = bits_at<F::WORDS>(w, 32 * i + 2);
        }
    } else {
        UNROLL for (int i = 0; i < F::NIBBLE_WORDS / 2; i++)
        {
            uint low = four_windows<F, BITS>(w, 8 * i), high = four_windows<F, BITS>(w, 8 * i + 4);
            nibbles[2 * i] = select(0x0F0F0F0F, low, high << 4);
            nibbles[(2 * i + 1) % F::NIBBLE_WORDS] = select(0x0F0F0F0F, low >> 4, high);
        }
    }
}

/* ---- three taps ----
 * A row lies in planes (doc/format.md): two low bits a symbol, then third bits, whose byte c
 * serves bytes c of both halves of the low plane. A unit is 8 symbols of each half, 2 bytes of
 * each of those three places; its words of nibbles are the even symbols of the lower half and
 * of the upper, then the odd ones. */
enum { PLANE_HALF = D / 8 /* bytes */, PLANE_UNITS = D / 16 };

INLINE uint taps_word(uint low, uint third)
{
    return (low & 0x33333333) | (third & 0x44444444);
}

INLINE void unit_read(bytes row, uint unit, uint *nibbles)
{
    const ushort *at = (const ushort *)row + unit;
    uint low = at[0] | (uint)at[PLANE_HALF / 2] << 16, third = at[PLANE_HALF];
    third = third << 2 | third << 16; /* of the upper half they stand right */
    nibbles[0] = taps_word(low, third);
    nibbles[1] = taps_word(low >> 2, third >> 1);
}

/* Units 2 i and 2 i + 1, where words of the row begin at multiples of 4 bytes: even symbols of
 * the lower half, odd ones, and the same of the upper half. */
INLINE void two_units_read(bytes row, uint i, uint *nibbles)
{
    const uint *at = (const uint *)row + i;
    uint low = at[0], upper = at[PLANE_HALF / 4], third = at[PLANE_HALF / 2];
    nibbles[0] = taps_word(low, third << 2);
    nibbles[1] = taps_word(low >> 2, third << 1);
    nibbles[2] = taps_word(upper, third);
    nibbles[3] = taps_word(upper >> 2, third >> 1);
}

/* Keys: a lane's units, two at a time where that is possible. */
enum { LANE_UNITS = KEY_WIDTH / 16 /* of a piece */, HAS_TWO_UNITS = LANE_UNITS % 2 == 0 && D % 64 == 0 };

INLINE void key_units_read(bytes row, uint first, uint *nibbles)
{
    UNROLL for (uint i = 0; i < LANE_UNITS; i += HAS_TWO_UNITS ? 2 : 1)
        if (HAS_TWO_UNITS)
            two_units_read(row, (first + i) / 2, nibbles + 2 * i);
        else
            unit_read(row, first + i, nibbles + 2 * i);
}

/* The coordinate of a nibble of a word of key_units_read's; D or more for none. */
INLINE uint key_symbol(uint first_unit, uint word, uint nibble)
{
    uint unit = first_unit + (HAS_TWO_UNITS ? word / 4 * 2 + nibble / 4 : word / 2);
    uint is_upper = HAS_TWO_UNITS ? word / 2 % 2 : nibble / 4;
    return unit < PLANE_UNITS ? is_upper * (D / 2) + 8 * unit + 2 * (nibble % 4) + word % 2 : D;
}

/* Four levels' summand from table 0 (T1) or 1 (T2): the nibbles of the lower or upper half. */
INLINE uint look_up(const level_tables *t, int summand, int table, uint nibbles, int half,
                    uint minus_one)
{
    uint selector = half ? nibbles >> 16 : nibbles;
    if (table)
        selector = complement(selector, minus_one);
    const uint *w = t->words[summand][table];
    return prmt(w[0], w[1], selector);
}
