/* Attention on codes for NVIDIA GPUs, sm_80 and later, by the tensor cores' 8-bit integers.
 *
 * What there is to do. Decoding reads every row once: at 4 bits and head_dim 128, 132 bytes
 * a token and KV head for 256 values. On an H100 a copy moves 3 TB/s, so that 5.8 values
 * pass a nanosecond; 132 multiprocessors of 64 integer lanes at 1.75 GHz do 15 integer
 * operations in that time: 2.5 a value, for everything. Decoding in floating point, or
 * with a shift and a mask a code, is over that alone. So:
 *
 * Look-up. `prmt` picks for each of four selector nibbles one of 8 bytes or, where the
 * nibble's bit 3 is set, 0 or -1, the sign of the byte. A table f of 16 levels becomes
 * two of 8 bytes, T1 looked up with the code n and T2 with its complement, so that
 *     f(n) = T1[n] + sign(T2[7 - n]),    f(n + 8) = T2[7 - n] + sign(T1[n]),   n < 8;
 * such bytes exist for all levels up to 126 (tables_make in dispatch_tensor.c). The sum
 * is the tensor core's: one mma for T1, one for T2. 4 prmt, a shift (integer lanes) and 2
 * complements (as multiply-adds, on other lanes) look up 8 codes in one table.
 *
 * The trellis adds a[high nibble of the window] and b[low nibble]. At 4 bits the window's
 * high nibble is the next value's low one: sum(q_i * level_i) = sum(n_i's b * q_i + n_i's a *
 * q_(i-1)), so that the codes are selectors as they are, b's with the query and a's with
 * the query shifted by one. At 2 bits the same holds for each of the two streams of nibbles
 * that begin at bit 0 and bit 2, with a shift of two. For other rates nibbles are brought
 * in place by shifts. Lloyd-Max and mlx levels have two digits of 8 bits: the same two
 * look-ups, the second digit times the query's first in the column of its second.
 * 8-bit codes are levels.
 *
 * Keys. Tokens on M, query rows on N, coordinates on K of m16n8k32. A lane's piece of a
 * row is its A fragment if the query is permuted alike, so keys are not rearranged. Queries
 * have 16 bits, in two digits: up to 4 rows these are the columns 0-3 and 4-7, which N = 8
 * would leave empty; beyond, sets of columns of their own.
 *
 * Weights are 16-bit integers P = 2^(logit - ref) * (the value's scale), against an integer
 * ref per query row and warp. The largest is 2^14 when ref is set, and may grow fourfold
 * before ref moves and the sums are shifted. No maximum is worked out otherwise: a weight
 * that is too large shows in the bits of the rounded one. movmatrix transposes weights from
 * accumulators to B fragments.
 *
 * Values. Coordinates on M, tokens on K: four tokens' words of 8 nibbles are transposed (12
 * operations for 32) into selectors of four tokens of one coordinate. The shift of a trellis
 * is one of rows of A: the fragment of nibble i + 1 multiplies into the sum of coordinate i;
 * what belongs to the coordinate before a lane's first has an accumulator of its own, and
 * is added at the end.
 *
 * Work. The tiles of all heads of all sequences form one list; each block takes an equal
 * share, each warp of it tiles in turn, through a ring of its own that the copy engine
 * fills. Warps meet where a head ends; the last block that is done with a head adds up
 * what the blocks have, in order, so that results are the same every time.
 *
 * Integer operations a value, counted in the machine code, are in doc/gpu.md. */
#include "params.h"
#include "tensor_params.h"
#include "number.h"
#include "hadamard.h"
#include "tensor_instructions.h"

/* The case that this is compiled for. HEAD_DIM, ROWS (4, 8, 16), WARPS, TILE (32, 64 tokens),
 * STAGES; KEY_KIND, KEY_RATE, VALUE_KIND, VALUE_RATE; SOFTCAP, STATE (0 or 1); CENTRES: 0, 1, or
 * 2 for more than one, of which rows then have a number. */
enum { KIND_TRELLIS = 1, KIND_LLOYD = 2, KIND_MLX = 3 };
enum { D = HEAD_DIM, SETS = ROWS <= 4 ? 1 : ROWS / 4, HIGH_SETS = (SETS + 1) / 2,
       THREADS = WARPS * 32, GROUPS = TILE / 32 /* of 32 tokens */, SCORES = ROWS };

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

/* ---- formats ---- */

/* How nibbles, or bytes, come out of a row; see "The trellis" above. */
enum { NIBBLES, PAIRS, WINDOWS, BYTES };

/* width: coordinates of a lane's piece. */
__host__ __device__ constexpr int form_of(int kind, int rate, int width)
{
    return kind != KIND_TRELLIS || rate == 64      ? NIBBLES
           : rate == 128                           ? BYTES
           : rate == 32 && width % 16 == 0         ? PAIRS
                                                   : WINDOWS;
}

/* Where value i's window begins, and whether its table is that of the higher rate. */
INLINE constexpr int window_offset(int rate, int i)
{
    return i * rate >> 4;
}

INLINE constexpr bool is_high(int rate, int i)
{
    return window_offset(rate, i % 16 + 16) - window_offset(rate, i % 16 + 15) > rate / 16;
}

/* The coordinate in its unit (8, with PAIRS 16 for two words) of a nibble of a word. */
INLINE constexpr int coordinate_of(int form, int word, int nibble)
{
    return form == PAIRS     ? word / 2 * 16 + 2 * nibble + word % 2
           : form == WINDOWS ? word * 8 + nibble % 2 * 4 + nibble / 2
                             : word * 8 + nibble;
}

/* What is compiled for keys, or for values: pieces of WIDTH coordinates of rows of RATE. */
template <int KIND, int RATE, int WIDTH> struct format_case {
    enum {
        FORM = form_of(KIND, RATE, WIDTH),
        ROW = D / 16 * RATE / 8, /* bytes */
        ROW_WORDS = ROW / 4,
        PIECE = WIDTH * RATE / 16,           /* bits */
        BEYOND = FORM == PAIRS ? 2 : FORM == WINDOWS && RATE < 128 ? 8 : 0, /* bits behind it */
        WORDS = (PIECE + BEYOND + 31) / 32,
        IS_ALIGNED = PIECE % 32 == 0,
        OCTETS = WIDTH / 8,
        /* words of 8 nibbles (WINDOWS: low nibbles, then high ones, by turns), of 4 bytes */
        NIBBLE_WORDS = FORM == WINDOWS || FORM == BYTES ? 2 * OCTETS : OCTETS,
        SUMMANDS = FORM == BYTES ? 1 : 2,
        IS_SHIFTED = (FORM == NIBBLES && KIND == KIND_TRELLIS) || FORM == PAIRS,
        SHIFT = FORM == PAIRS ? 2 : 1,
        HAS_DIGITS = KIND != KIND_TRELLIS,
        IS_MIXED = KIND == KIND_TRELLIS && RATE % 16 != 0,
        SCALE = KIND == KIND_MLX ? 4 : 2 /* bytes */
    };
};

enum { KEY_WIDTH = D % 64 ? 8 : D / 4, KEY_PIECES = D % 64 ? (D + 31) / 32 : 1,
       CHUNK = D == 64 && !(VALUE_KIND == KIND_TRELLIS && VALUE_RATE % 16) ? 64 : 128,
       CHUNKS = (D + CHUNK - 1) / CHUNK, VALUE_WIDTH = CHUNK / 8, PADDED = CHUNKS * CHUNK };
typedef format_case<KEY_KIND, KEY_RATE, KEY_WIDTH> keys_case;
typedef format_case<VALUE_KIND, VALUE_RATE, VALUE_WIDTH> values_case;

/* Steps of 32 coordinates by one table: each has a B fragment of the query. */
enum { PIECE_STEPS = keys_case::OCTETS * keys_case::SUMMANDS, STEPS = KEY_PIECES * PIECE_STEPS };

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
template <class F, int RATE> INLINE uint four_windows(const uint *w, int i)
{
    int first = window_offset(RATE, i), d1 = window_offset(RATE, i + 1) - first,
        d2 = window_offset(RATE, i + 2) - first, d3 = window_offset(RATE, i + 3) - first;
    uint x = bits_at<F::WORDS>(w, first);
    x = select(0x0000FFFF, x, x << (16 - d2));
    if (d1 == d3 - d2)
        return select(0x00FF00FF, x, x << (8 - d1));
    return select(0x00FF00FF, x, select(0x0000FFFF, x << (8 - d1), x << (8 - (d3 - d2))));
}

/* A piece as words of nibbles or bytes. */
template <class F, int RATE> INLINE void nibbles_read(bytes row, uint start, uint *nibbles)
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
            uint low = four_windows<F, RATE>(w, 8 * i), high = four_windows<F, RATE>(w, 8 * i + 4);
            nibbles[2 * i] = select(0x0F0F0F0F, low, high << 4);
            nibbles[(2 * i + 1) % F::NIBBLE_WORDS] = select(0x0F0F0F0F, low >> 4, high);
        }
    }
}

/* Four levels' summand from table 0 (T1) or 1 (T2): the nibbles of the lower or upper half. */
INLINE uint look_up(const level_tables *t, int high, int summand, int table, uint nibbles,
                    int half, uint minus_one)
{
    uint selector = half ? nibbles >> 16 : nibbles;
    if (table)
        selector = complement(selector, minus_one);
    const uint *w = t->words[high][summand][table];
    return prmt(w[0], w[1], selector);
}

/* ---- queries ---- */

/* What a block has in shared memory, behind the rings. */
struct workplace {
    ulong barriers[WARPS * STAGES + 2]; /* rings, then queries */
    uint fragments[STEPS * SETS * 64];  /* [step][set][lane][2] */
    float ref[WARPS][ROWS], sum[WARPS][ROWS], largest[WARPS][ROWS];
    float total_ref[ROWS], total[ROWS], total_largest[ROWS];
    float row_scale[ROWS]; /* of integer scores, to base-2 logits */
    uint low[ROWS], high[ROWS]; /* tokens that a row sees */
    uint is_last;
};
enum { MERGE_STRIDE = PADDED + 4,
       MERGE_WARPS = WARPS * ROWS * MERGE_STRIDE * 4 <= 36864 ? WARPS
                     : WARPS * ROWS * MERGE_STRIDE * 4 <= 73728 ? (WARPS + 1) / 2
                                                               : (WARPS + 3) / 4 };
enum { NUMBER = CENTRES > 1, /* bytes of a token */
       CODE_TILE = TILE * (keys_case::ROW + values_case::ROW),
       SCALES_AT = CODE_TILE, VALUE_SCALES_AT = SCALES_AT + TILE * keys_case::SCALE,
       CENTRES_AT = VALUE_SCALES_AT + TILE * values_case::SCALE,
       STAGE = CENTRES_AT + NUMBER * TILE, VALUES_AT = TILE * keys_case::ROW };

/* One head's share of the list, as all threads know it. */
struct segment {
    uint sequence, head, block; /* block of rows */
    uint first_tile, n_tiles, begin; /* begin: number of the first in the list */
    uint length;
};

INLINE uint min_of(uint a, uint b)
{
    return a < b ? a : b;
}

INLINE uint length_of(const tensor_params *p, const uint *lengths, uint sequence)
{
    return p->has_lengths ? min_of(lengths[sequence], p->n_tokens) : p->n_tokens;
}

/* The tokens that query i of a sequence sees. */
INLINE void sight(const tensor_params *p, uint length, uint i, uint *low, uint *high)
{
    ulong position = p->has_lengths ? p->first_position + length - min_of(length, p->n_queries)
                                    : p->position;
    ulong at = position + i;
    *low = 0;
    *high = length;
    if (p->causal)
        *high = at < p->first_position ? 0
                : at - p->first_position < length ? (uint)(at - p->first_position) + 1
                                                  : length;
    if (p->window && at >= p->window && at - p->window >= p->first_position) {
        ulong first = at - p->window - p->first_position + 1;
        *low = first < length ? (uint)first : length;
    }
}

INLINE void tiles_of(const tensor_params *p, uint length, uint *first, uint *n)
{
    uint low, high, unused;
    sight(p, length, 0, &low, &unused);
    sight(p, length, p->n_queries - 1, &unused, &high);
    *first = (p->skipped + low) / TILE;
    uint end = (uint)(((ulong)p->skipped + high + TILE - 1) / TILE);
    *n = end > *first ? end - *first : 1;
}

/* Tiles of all sequences, or of those before the one that has tile `index`. */
INLINE uint tiles_before(const tensor_params *p, const uint *lengths, uint index,
                         uint *sequence, uint lane)
{
    uint heads = p->n_kv_heads * p->n_blocks, first, n, before = 0;
    if (!p->has_lengths) {
        tiles_of(p, p->n_tokens, &first, &n);
        *sequence = min_of(index / (n * heads), p->n_sequences);
        return *sequence * n * heads;
    }
    for (uint s = 0; s < p->n_sequences; s += 32) {
        n = 0;
        if (s + lane < p->n_sequences)
            tiles_of(p, length_of(p, lengths, s + lane), &first, &n);
        uint sum = n * heads;
        UNROLL for (int o = 1; o < 32; o *= 2)
        {
            uint other = __shfl_up_sync(~0u, sum, o);
            sum += lane >= o ? other : 0;
        }
        uint found = __ballot_sync(~0u, index < before + sum);
        if (found) {
            uint k = __ffs(found) - 1;
            *sequence = s + k;
            return before + (k ? __shfl_sync(~0u, sum, k - 1) : 0);
        }
        before += __shfl_sync(~0u, sum, 31);
    }
    *sequence = p->n_sequences;
    return before;
}

INLINE segment segment_at(const tensor_params *p, const uint *lengths, uint index, uint lane)
{
    segment s;
    uint before = tiles_before(p, lengths, index, &s.sequence, lane);
    s.length = length_of(p, lengths, s.sequence);
    tiles_of(p, s.length, &s.first_tile, &s.n_tiles);
    uint head = (index - before) / s.n_tiles;
    s.begin = before + head * s.n_tiles;
    s.head = head / p->n_blocks;
    s.block = head % p->n_blocks;
    return s;
}

INLINE void segment_next(const tensor_params *p, const uint *lengths, segment *s)
{
    s->begin += s->n_tiles;
    if (++s->block < p->n_blocks)
        return;
    s->block = 0;
    if (++s->head < p->n_kv_heads)
        return;
    s->head = 0;
    s->sequence++;
    if (s->sequence < p->n_sequences) {
        s->length = length_of(p, lengths, s->sequence);
        tiles_of(p, s->length, &s->first_tile, &s->n_tiles);
    }
}

INLINE uint rows_of(const tensor_params *p, uint block)
{
    return min_of(p->n_queries * p->group - block * ROWS, ROWS);
}

/* Row `r` of a block among all [sequence][query][head]. */
INLINE ulong query_row(const tensor_params *p, const segment *s, uint r)
{
    uint n = s->block * ROWS + r;
    return ((ulong)s->sequence * p->n_queries + n / p->group) * p->n_heads +
           s->head * p->group + n % p->group;
}

INLINE uint query_bytes(const tensor_params *p)
{
    return D * (p->query_type == TYPE_F32 ? 4 : 2);
}

/* Warp 0 fetches a segment's queries. They come by the copy engine, too: ordinary loads
 * would wait behind the rows, 5 us and more. */
INLINE void queries_fetch(const tensor_params *p, const segment *s, bytes queries, uchar *to,
                          ulong *barrier, uint lane)
{
    uint n = rows_of(p, s->block), size = query_bytes(p);
    if (!HAS_ENGINE)
        return;
    if (lane == 0)
        barrier_expect(barrier, n * size);
    __syncwarp();
    if (lane < n)
        engine_copy(to + lane * size, queries + query_row(p, s, lane) * size, size, barrier);
}

INLINE float warp_max(float x)
{
    UNROLL for (int o = 1; o < 32; o *= 2) x = fmaxf(x, shuffle_xor(x, o));
    return x;
}

INLINE float warp_sum(float x)
{
    UNROLL for (int o = 1; o < 32; o *= 2) x += shuffle_xor(x, o);
    return x;
}

/* A row, as its warp has it: to the rows' domain, then to 16 bits. x: [2 D] floats, where the
 * digits are left as D high bytes and D low ones. */
INLINE void query_prepare(const tensor_params *p, const segment *s, uint r, bytes raw,
                          const float *profiles, float *products, float *x, workplace *b,
                          uint lane)
{
    float largest = 0;
    const float *profile = profiles + (ulong)s->head * (1 + p->n_centres) * D;
    for (uint d = lane; d < D; d += 32) {
        float value = finite_input(number_load(raw, p->query_type, d));
        x[d] = CENTRES ? value / profile[d] : value;
    }
    __syncwarp();
    if (CENTRES) {
        for (uint c = 0; c < p->n_centres; c++) {
            float sum = 0;
            for (uint d = lane; d < D; d += 32)
                sum = fmaf(x[d], profile[D * (1 + c) + d], sum);
            sum = warp_sum(sum);
            if (lane == 0)
                products[c * ROWS + r] = sum * p->scale * 1.44269504f;
        }
    }
    for (uint d = lane; d < D; d += 32)
        x[d] = flipped(&p->query_rotation, d, x[d]);
    __syncwarp();
    hadamard(x, x + D, D, &p->query_rotation, lane, 32, 32);
    for (uint d = lane; d < D; d += 32)
        largest = fmaxf(largest, fabsf(x[d]));
    largest = warp_max(largest);
    float inverse = largest > 0 ? 32512 / largest : 0;
    int digits[(D + 31) / 32];
    UNROLL for (int k = 0; k < (D + 31) / 32; k++)
        digits[k] = 32 * k + lane < D ? __float2int_rn(x[32 * k + lane] * inverse) : 0;
    __syncwarp();
    UNROLL for (int k = 0; k < (D + 31) / 32; k++)
        if (32 * k + lane < D) {
            ((uchar *)x)[32 * k + lane] = (uchar)((digits[k] + 128) >> 8);
            ((uchar *)x)[D + 32 * k + lane] = (uchar)digits[k];
        }
    if (lane == 0) {
        float factor = p->query_rotation.active ? p->query_rotation.inverse_root : 1;
        b->row_scale[r] = largest / 32512 * factor * p->key_unit * p->scale * 1.44269504f;
        sight(p, s->length, (s->block * ROWS + r) / p->group, &b->low[r], &b->high[r]);
    }
}

/* The coordinate whose query value meets a nibble of a lane's piece; -1: none. */
INLINE int query_coordinate(uint step, uint nibble, uint c)
{
    typedef keys_case F;
    uint piece = step / PIECE_STEPS, inner = step % PIECE_STEPS;
    uint word = F::FORM == BYTES || F::SUMMANDS == 1 ? inner : inner / 2;
    int first = D % 64 ? 8 * (4 * piece + c) : D / 4 * c;
    int at = first + coordinate_of(F::FORM, word, nibble);
    if (at >= D)
        return -1;
    if (F::IS_SHIFTED && step % 2)
        at -= F::SHIFT;
    return at < 0 ? at + D : at;
}

/* Digits to B fragments: entry (step, set, lane) is two words. Column n of a set is the
 * lane's r: with one set, columns 0-3 have the rows' high digits, 4-7 the low ones. */
INLINE void fragments_make(const float *digits, workplace *b, uint n_rows, uint thread)
{
    typedef keys_case F;
    for (uint i = thread; i < STEPS * SETS * 32; i += THREADS) {
        uint lane = i % 32, set = i / 32 % SETS, step = i / 32 / SETS, r = lane / 4, c = lane % 4;
        bool is_low = SETS == 1 ? r >= 4 : set >= HIGH_SETS;
        uint row = SETS == 1 ? r % 4 : set % HIGH_SETS * 8 + r;
        bool is_second = F::HAS_DIGITS && step % 2; /* levels' second digits */
        bool is_used = row < n_rows && (!is_second || is_low);
        const uchar *from = (const uchar *)(digits + 2 * D * row) + (is_low && !is_second ? D : 0);
        for (uint half = 0; half < 2; half++) {
            uint word = 0;
            for (uint k = 0; k < 4; k++) {
                int at = query_coordinate(step, 4 * half + k, c);
                if (is_used && at >= 0)
                    word |= (uint)from[at] << 8 * k;
            }
            b->fragments[2 * i + half] = word;
        }
    }
}

/* ---- tiles ---- */

/* Which copies a lane starts: codes of keys, of values, scales of keys, of values; with centres,
 * those too. */
struct feed {
    bytes base;
    ulong head, group;
    uint row, to;
};

INLINE feed feed_of(const tensor_params *p, bytes key_codes, bytes key_scales, bytes key_centres,
                    bytes value_codes, bytes value_scales, uint part)
{
    feed f;
    const tensor_operand *o = part == 1 || part == 3 ? &p->values : &p->keys;
    f.head = part < 2 ? o->code_head : part < 4 ? o->scale_head : o->centre_head;
    f.group = part < 2 ? o->code_group : part < 4 ? o->scale_group : o->centre_group;
    f.base = part == 0 ? key_codes : part == 1 ? value_codes : part == 2 ? key_scales
             : part == 3 ? value_scales : key_centres;
    f.row = part == 0 ? keys_case::ROW : part == 1 ? values_case::ROW : part == 2 ? keys_case::SCALE
            : part == 3 ? values_case::SCALE : 1;
    f.to = part == 0 ? 0 : part == 1 ? VALUES_AT : part == 2 ? SCALES_AT
           : part == 3 ? VALUE_SCALES_AT : CENTRES_AT;
    return f;
}

enum { PARTS = NUMBER ? 8 : 4, /* 5, but lanes are shared out by powers of two */
       TOKEN_BYTES = keys_case::ROW + values_case::ROW + keys_case::SCALE + values_case::SCALE + NUMBER };

/* What a warp fetches next. */
struct fetcher {
    segment at;
    uint index; /* of the tile, in the list */
    uint page;  /* of this lane's unit of that tile */
};

/* The first slot of a lane's unit, and whether the tile has it. */
INLINE bool unit_slot(const tensor_params *p, const fetcher *f, uint unit, uint *slot)
{
    uint begin = (f->at.first_tile + (f->index - f->at.begin)) * TILE + unit * p->unit;
    *slot = p->first_slot + begin;
    if (p->capacity && *slot >= p->capacity)
        *slot -= p->capacity;
    return begin < p->skipped + f->at.length && begin + p->unit > p->skipped;
}

/* Page numbers are read a tile ahead of their use. */
INLINE void page_read(const tensor_params *p, fetcher *f, const uint *pages, uint end, uint lane)
{
    uint slot;
    if (p->page_size && f->index < end && lane / PARTS * p->unit < TILE &&
        unit_slot(p, f, lane / PARTS, &slot))
        f->page = pages[(ulong)f->at.sequence * p->pages_stride + slot / p->page_size];
}

INLINE void fetcher_next(const tensor_params *p, const uint *lengths, const uint *pages,
                         fetcher *f, uint end, uint lane)
{
    f->index += WARPS;
    while (f->index < end && f->index >= f->at.begin + f->at.n_tiles)
        segment_next(p, lengths, &f->at);
    page_read(p, f, pages, end, lane);
}

/* Starts the copies of the fetcher's tile into a stage. */
INLINE void tile_fetch(const tensor_params *p, const fetcher *f, const feed *parts, uint end,
                       uchar *stage, ulong *barrier, uint lane)
{
    uint unit = lane / PARTS, slot, units = TILE / p->unit;
    if (f->index >= end)
        return;
    bool has = unit < units && unit_slot(p, f, unit, &slot);
    ulong group = f->at.sequence;
    if (p->page_size && has) {
        group = min_of(f->page, p->n_pages - 1);
        slot %= p->page_size;
    }
    uint behind = f->at.length + p->skipped - (f->at.first_tile + (f->index - f->at.begin)) * TILE -
                  unit * p->unit; /* tokens from the unit's first slot on */
    uint valid = p->reads_on || !has ? p->unit : min_of(p->unit, behind);
    uint whole = p->reads_on ? p->unit : valid & ~15u;
    bytes from = parts->base + group * parts->group + f->at.head * parts->head +
                 (ulong)slot * parts->row;
    uchar *to = stage + parts->to + unit * p->unit * parts->row;
    uint n = whole * parts->row;
    has = has && lane % PARTS < 4 + NUMBER;
    if (HAS_ENGINE) {
        uint tokens = __reduce_add_sync(~0u, has && lane % PARTS == 0 ? whole : 0);
        if (lane == 0)
            barrier_expect(barrier, tokens * TOKEN_BYTES);
        __syncwarp();
        if (has && n)
            engine_copy(to, from, n, barrier);
        if (p->reads_on)
            return;
    }
    for (uint k = 0; k < units * PARTS; k++)
        if (__shfl_sync(~0u, has, k)) {
            uchar *there = stage + __shfl_sync(~0u, (uint)(to - stage), k);
            bytes here = (bytes)__shfl_sync(~0u, (ulong)from, k);
            uint size = __shfl_sync(~0u, n, k);
            if (!HAS_ENGINE)
                warp_copy(there, here, size, lane);
            uint all = __shfl_sync(~0u, valid * parts->row, k);
            for (uint i = size + lane; i < all; i += 32) /* up to 15 tokens */
                there[i] = here[i];
        }
    __syncwarp();
}

/* M's rows r and r + 8 are tokens 2r and 2r + 1 of 16, exchanged where this is 1: rows of 64
 * bytes then meet no bank twice for keys, and twice (not four times) for values. */
INLINE uint exchanged(uint r)
{
    return (r ^ r >> 1) & 1;
}

/* Two tokens' scales, in the order of M's rows; what no encoder writes counts as 0. */
template <class F> INLINE float2 two_scales(bytes scales, uint token, uint is_exchanged)
{
    float2 x;
    if (F::SCALE == 4) {
        x = *(const float2 *)(scales + 4 * token);
        x.x = x.x > 0 && x.x < INFINITY ? x.x : 0;
        x.y = x.y > 0 && x.y < INFINITY ? x.y : 0;
    } else {
        uint w = *(const uint *)(scales + 2 * token);
        x.x = f16_to_float((ushort)(w & 0xFFFF));
        x.y = f16_to_float((ushort)(w >> 16));
        x.x = (w & 0xFFFF) < 0x7C00 ? x.x : 0;
        x.y = w < 0x7C000000u ? x.y : 0;
    }
    if (is_exchanged) {
        float t = x.x;
        x.x = x.y;
        x.y = t;
    }
    return x;
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

/* Bytes of a fragment word that have the table of the higher rate. */
template <class F, int RATE> INLINE constexpr uint high_mask(int word, int half)
{
    return (is_high(RATE, coordinate_of(WINDOWS, word, 4 * half)) ? 0xFFu : 0) |
           (is_high(RATE, coordinate_of(WINDOWS, word, 4 * half + 1)) ? 0xFF00u : 0) |
           (is_high(RATE, coordinate_of(WINDOWS, word, 4 * half + 2)) ? 0xFF0000u : 0) |
           (is_high(RATE, coordinate_of(WINDOWS, word, 4 * half + 3)) ? 0xFF000000u : 0);
}

/* A key's word for a step by a table. */
INLINE uint key_levels(const tensor_params *p, const uint *nibbles, int inner, int table, int half)
{
    typedef keys_case F;
    uint word = nibbles[F::FORM == WINDOWS ? inner : inner / 2], m = p->minus_one;
    uint low = look_up(&p->keys.tables, 0, inner % 2, table, word, half, m);
    if (!F::IS_MIXED)
        return low;
    uint mask = high_mask<F, KEY_RATE>(inner / 2, half);
    if (mask == 0)
        return low;
    return select(mask, look_up(&p->keys.tables, 1, inner % 2, table, word, half, m), low);
}

/* Integer scores of 16 tokens: rows of codes for M's rows r and r + 8. */
INLINE void keys_multiply(const tensor_params *p, bytes row, bytes row8, uint c,
                          const uint *fragments, uint lane, int (*sums)[4])
{
    typedef keys_case F;
    UNROLL for (int piece = 0; piece < KEY_PIECES; piece++)
    {
        uint a[F::NIBBLE_WORDS], b[F::NIBBLE_WORDS];
        uint start = D % 64 ? (4 * piece + c) * F::PIECE : c * F::PIECE;
        nibbles_read<F, KEY_RATE>(row, start, a);
        nibbles_read<F, KEY_RATE>(row8, start, b);
        UNROLL for (int inner = 0; inner < PIECE_STEPS; inner++)
        {
            uint q[SETS][2];
            UNROLL for (int n = 0; n < SETS; n++)
            {
                uint2 two = *(const uint2 *)(fragments +
                                             2 * (((piece * PIECE_STEPS + inner) * SETS + n) * 32 + lane));
                q[n][0] = two.x, q[n][1] = two.y;
            }
            UNROLL for (int table = 0; table < F::SUMMANDS; table++)
            {
                uint levels[4];
                UNROLL for (int half = 0; half < 2; half++)
                {
                    if (F::FORM == BYTES) {
                        levels[2 * half] = a[2 * inner + half];
                        levels[2 * half + 1] = b[2 * inner + half];
                    } else {
                        levels[2 * half] = key_levels(p, a, inner, table, half);
                        levels[2 * half + 1] = key_levels(p, b, inner, table, half);
                    }
                }
                UNROLL for (int n = 0; n < SETS; n++)
                    if (SETS == 1 || !F::HAS_DIGITS || inner % 2 == 0 || n >= HIGH_SETS)
                        mma_signed(sums[n], levels, q[n]);
            }
        }
    }
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

/* Selectors of 16 tokens: the lane's are 4 c and following, in the order of the weights. */
INLINE void values_read(bytes rows, uint start, uint r, uint c, selector_words &selectors)
{
    typedef values_case F;
    uint words[4][F::NIBBLE_WORDS], y = c % 2;
    uint order[4] = {y, y ^ 1, 3 - y, 2 + y};
    UNROLL for (int t = 0; t < 4; t++)
        nibbles_read<F, VALUE_RATE>(rows + (4 * c + order[t]) * F::ROW, start, words[t]);
    UNROLL for (int i = 0; i < F::NIBBLE_WORDS; i++)
    {
        uint four[4] = {words[0][i], words[1][i], words[2][i], words[3][i]};
        tokens_transpose<F::FORM>(four, selectors[i]);
    }
}

enum { CHUNK_TILES = values_case::OCTETS * 4, TILES = CHUNKS * CHUNK_TILES,
       EXTRA = values_case::IS_SHIFTED ? CHUNKS : 0, SUMS = TILES + EXTRA };

/* The levels of four tokens at one nibble of a word. */
INLINE uint value_levels(const tensor_params *p, const selector_words &selectors, int word,
                         int nibble, int summand, int table)
{
    typedef values_case F;
    int high = F::IS_MIXED && is_high(VALUE_RATE, coordinate_of(WINDOWS, word / 2, nibble));
    return look_up(&p->values.tables, high, summand, table, selectors[word][nibble % 4],
                   nibble / 4, p->minus_one);
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
                             const uint (*weights)[2], const uint *second, bool is_second)
{
    UNROLL for (int n = 0; n < SETS; n++)
    {
        if (!is_second)
            mma_unsigned(sums[n][tile], a, weights[n]);
        else if (SETS == 1)
            mma_unsigned(sums[n][tile], a, second);
        else if (n >= HIGH_SETS)
            mma_unsigned(sums[n][tile], a, weights[n % HIGH_SETS]);
    }
}

/* 32 tokens' values of a chunk of coordinates, times the weights. */
INLINE void values_multiply(const tensor_params *p, const selector_words *selectors, int chunk,
                            const uint (*weights)[2], const uint *second, int (*sums)[SUMS][4])
{
    typedef values_case F;
    enum { CHAIN = F::FORM == PAIRS ? 2 : 1 }; /* from a word to the next of its stream */
    UNROLL for (int i = 0; i < F::OCTETS; i++)
        UNROLL for (int k = 0; k < 4; k++)
        {
            int tile = chunk * CHUNK_TILES + i * 4 + k;
            uint a[4];
            if (F::FORM == BYTES) {
                UNROLL for (int m = 0; m < 2; m++)
                {
                    a[2 * m] = selectors[m][2 * i][k];
                    a[2 * m + 1] = selectors[m][(2 * i + 1) % F::NIBBLE_WORDS][k];
                }
                weights_multiply(sums, tile, a, weights, second, false);
                continue;
            }
            UNROLL for (int table = 0; table < 2; table++)
            {
                int word = F::FORM == WINDOWS ? 2 * i : i;
                value_fragment(p, selectors, word, k, word, k + 4, 0, table, a);
                weights_multiply(sums, tile, a, weights, second, false);
                if (F::FORM == WINDOWS)
                    word = (2 * i + 1) % F::NIBBLE_WORDS;
                if (!F::IS_SHIFTED)
                    value_fragment(p, selectors, word, k, word, k + 4, 1, table, a);
                else if (k < 3)
                    value_fragment(p, selectors, i, k + 1, i, k + 5, 1, table, a);
                else
                    value_fragment(p, selectors, i, 4, i + CHAIN < F::OCTETS ? i + CHAIN : -1, 0, 1,
                                   table, a);
                weights_multiply(sums, tile, a, weights, second, F::HAS_DIGITS);
            }
        }
    if (F::IS_SHIFTED)
        UNROLL for (int table = 0; table < 2; table++)
        {
            uint a[4];
            value_fragment(p, selectors, 0, 0, CHAIN == 2 ? 1 % F::OCTETS : -1, 0, 1, table, a);
            weights_multiply(sums, (TILES + chunk) % SUMS, a, weights, second, false);
        }
}

/* ---- weights ---- */

#define REF_BEGIN (-1e5f)
#define WEIGHT_BITS 14.0f
#define ROUNDING 8388608.0f /* 2^23: added, it leaves an integer in the low bits */
#define LARGEST_WEIGHT 0x4B00FFFFu

/* What a warp knows of a head: sums are int32, of levels times digits of weights. */
struct progress {
    int sums[SETS][SUMS][4];
    float ref[LANE_ROWS], sum[LANE_ROWS], largest[LANE_ROWS];
};

/* Base-2 logits, from integer scores. */
INLINE void logits_make(const tensor_params *p, const workplace *b, const float *products,
                        bytes stage, bool is_edge, uint first_token, const float *row_scale,
                        uint r, uint c, int group, float *y)
{
    UNROLL for (int pair = 0; pair < TOKEN_PAIRS; pair++)
    {
        uint token = 32 * group + pair_token(pair, r, c);
        float2 scales = two_scales<keys_case>(stage + SCALES_AT, token, exchanged(r));
        UNROLL for (int i = 0; i < SCORES; i++)
            if (token_pair(i) == pair) {
                uint second = i / 2 % 2;
                y[i] *= (second ? scales.y : scales.x) * row_scale[lane_row(i)];
                uint t = token + (second ^ exchanged(r)), row = row_number(lane_row(i), c);
                if (CENTRES) {
                    uint id = NUMBER ? stage[CENTRES_AT + t] : 0;
                    y[i] += products[min_of(id, p->n_centres - 1) * ROWS + row];
                }
                if (SOFTCAP) {
                    float z = y[i] * (1.0f / 1.44269504f) / p->softcap;
                    y[i] = tanhf(z) * (p->softcap * 1.44269504f);
                }
                if (is_edge) {
                    uint at = first_token + t;
                    bool is_seen = at >= b->low[row] && at < b->high[row];
                    y[i] = is_seen ? y[i] : -INFINITY;
                }
            }
    }
}

/* A weight needs more than 16 bits: moves the refs, and all sums with them. */
INLINE void refs_move(const float (*y)[SCORES], const float (*scales)[TOKEN_PAIRS][2], progress *w)
{
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        float most = -1e30f;
        UNROLL for (int g = 0; g < GROUPS; g++)
            UNROLL for (int i = 0; i < SCORES; i++)
                if (lane_row(i) == k)
                    most = fmaxf(most, y[g][i] + logarithm2(fmaxf(scales[g][token_pair(i)][i / 2 % 2],
                                                                  2.98e-8f)));
        UNROLL for (int o = SETS == 1 ? 2 : 4; o < 32; o *= 2) most = fmaxf(most, shuffle_xor(most, o));
        float ref = fmaxf(w->ref[k], ceilf(most));
        int shift = (int)fminf(ref - w->ref[k], 30), half = (1 << shift) >> 1;
        UNROLL for (int n = 0; n < SETS; n++)
            if (SETS == 1 || n % HIGH_SETS == k / 2)
                UNROLL for (int j = 0; j < SUMS; j++)
                {
                    w->sums[n][j][k % 2] = (w->sums[n][j][k % 2] + half) >> shift;
                    w->sums[n][j][k % 2 + 2] = (w->sums[n][j][k % 2 + 2] + half) >> shift;
                }
        w->sum[k] *= power2(w->ref[k] - ref);
        w->ref[k] = ref;
    }
}

/* Whether some weight is too large. */
INLINE bool weights_make(const float (*y)[SCORES], const float (*scales)[TOKEN_PAIRS][2],
                         const progress *w, float (*e)[SCORES], uint (*weights)[SCORES])
{
    uint any = 0;
    UNROLL for (int g = 0; g < GROUPS; g++)
        UNROLL for (int i = 0; i < SCORES; i++)
        {
            e[g][i] = power2(y[g][i] + (WEIGHT_BITS - w->ref[lane_row(i)]));
            weights[g][i] = as_uint(fmaf(e[g][i], scales[g][token_pair(i)][i / 2 % 2], ROUNDING));
            any |= weights[g][i];
        }
    return __any_sync(~0u, any > LARGEST_WEIGHT);
}

/* 32 tokens' weights as B fragments. second: the high digits in the low ones' columns. */
INLINE void weights_arrange(const uint *w, uint r, uint (*b)[2], uint *second)
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
        if (values_case::HAS_DIGITS)
            UNROLL for (int i = 0; i < 2; i++)
            {
                uint other = __shfl_xor_sync(~0u, b[0][i], 16);
                second[i] = is_high_lane ? 0 : other;
            }
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

/* One tile: scores, weights, and their sums with the values. */
INLINE void tile_attend(const tensor_params *p, const workplace *b, const float *products,
                        bytes stage, bool is_edge, uint first_token, const float *row_scale,
                        uint lane, progress *w)
{
    uint r = lane / 4, c = lane % 4, x = exchanged(r);
    float y[GROUPS][SCORES], scales[GROUPS][TOKEN_PAIRS][2], e[GROUPS][SCORES];
    uint weights[GROUPS][SCORES];
    UNROLL for (int g = 0; g < GROUPS; g++)
    {
        int sums[2][SETS][4] = {};
        UNROLL for (int m = 0; m < 2; m++)
        {
            bytes row = stage + (32 * g + 16 * m + 2 * r) * keys_case::ROW;
            keys_multiply(p, row + x * keys_case::ROW, row + (x ^ 1) * keys_case::ROW, c,
                          b->fragments, lane, sums[m]);
        }
        scores_take(sums, c, y[g]);
        logits_make(p, b, products, stage, is_edge, first_token, row_scale, r, c, g, y[g]);
        UNROLL for (int pair = 0; pair < TOKEN_PAIRS; pair++)
        {
            float2 two = two_scales<values_case>(stage + VALUE_SCALES_AT,
                                                 32 * g + pair_token(pair, r, c), x);
            scales[g][pair][0] = two.x, scales[g][pair][1] = two.y;
        }
    }
    /* Moved once, they all fit. */
    if (weights_make(y, scales, w, e, weights)) {
        refs_move(y, scales, w);
        weights_make(y, scales, w, e, weights);
    }
    UNROLL for (int g = 0; g < GROUPS; g++)
    {
        UNROLL for (int i = 0; i < SCORES; i++)
        {
            w->sum[lane_row(i)] += e[g][i];
            if (STATE)
                w->largest[lane_row(i)] = fmaxf(w->largest[lane_row(i)], y[g][i]);
        }
        uint fragments[SETS][2], second[2];
        weights_arrange(weights[g], r, fragments, second);
        UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++)
        {
            selector_words selectors[2];
            uint start = chunk * (CHUNK / 16 * VALUE_RATE) + r * values_case::PIECE;
            UNROLL for (int m = 0; m < 2; m++)
                values_read(stage + VALUES_AT + (32 * g + 16 * m) * values_case::ROW, start, r, c,
                            selectors[m]);
            values_multiply(p, selectors, chunk, fragments, second, w->sums);
        }
    }
}

/* ---- where a head ends ---- */

/* Where coordinate d stands in a row of the merge buffer: lanes r side by side. */
INLINE uint merge_place(uint d)
{
    return d / CHUNK * CHUNK + d % CHUNK % VALUE_WIDTH * 8 + d % CHUNK / VALUE_WIDTH;
}

/* A lane's coordinates of a tile, of M's rows r and r + 8: where they begin, and where the
 * one that an extra sum is for stands. */
INLINE uint tile_coordinate(int tile, int is_8, uint r)
{
    typedef values_case F;
    int chunk = tile / CHUNK_TILES, i = tile % CHUNK_TILES;
    return chunk * CHUNK + r * VALUE_WIDTH + coordinate_of(F::FORM, i / 4, i % 4 + 4 * is_8);
}

INLINE uint extra_coordinate(int chunk, int is_8, uint r)
{
    uint at = chunk * CHUNK + r * VALUE_WIDTH;
    return at >= D ? D : (at + D - values_case::SHIFT + is_8) % D;
}

/* A warp's sums, scaled to the block's ref, to its row of the buffer. */
INLINE void sums_store(const progress *w, const workplace *b, float *merge, bool adds, uint lane)
{
    uint r = lane / 4, c = lane % 4;
    UNROLL for (int j = 0; j < SUMS; j++)
    {
        if (j == TILES)
            __syncwarp();
        UNROLL for (int k = 0; k < LANE_ROWS; k++)
        {
            uint row = row_number(k, c);
            float factor = power2(w->ref[k] - b->total_ref[row]);
            UNROLL for (int is_8 = 0; is_8 < 2; is_8++)
            {
                float x = (float)w->sums[SETS == 1 ? 0 : k / 2][j][2 * is_8 + k % 2];
                float low = SETS == 1 ? shuffle_xor(x, 2)
                                      : (float)w->sums[(k / 2 + HIGH_SETS) % SETS][j][2 * is_8 + k % 2];
                uint d = j < TILES ? tile_coordinate(j, is_8, r) : extra_coordinate(j - TILES, is_8, r);
                bool is_mine = (SETS > 1 || c < 2) && (j < TILES || (d < D && (!is_8 || values_case::FORM == PAIRS)));
                if (!is_mine)
                    continue;
                float *to = merge + row * MERGE_STRIDE + merge_place(d);
                x = fmaf(x, 256, low) * factor;
                *to = adds || j >= TILES ? *to + x : x;
            }
        }
    }
}

/* The block's sums of a head: in its merge buffers, and the rows' refs and totals in b. */
INLINE void warps_merge(const tensor_params *p, progress *w, workplace *b, float *merge, uint warp,
                        uint lane)
{
    uint c = lane % 4;
    UNROLL for (int k = 0; k < LANE_ROWS; k++)
    {
        UNROLL for (int o = SETS == 1 ? 2 : 4; o < 32; o *= 2)
        {
            w->sum[k] += shuffle_xor(w->sum[k], o);
            if (STATE)
                w->largest[k] = fmaxf(w->largest[k], shuffle_xor(w->largest[k], o));
        }
        if (lane < (SETS == 1 ? 2 : 4)) {
            b->ref[warp][row_number(k, c)] = w->ref[k];
            b->sum[warp][row_number(k, c)] = w->sum[k];
            b->largest[warp][row_number(k, c)] = w->largest[k];
        }
    }
    __syncthreads();
    if (warp == 0 && lane < ROWS) {
        float ref = REF_BEGIN, sum = 0, largest = -INFINITY;
        UNROLL for (int k = 0; k < WARPS; k++) ref = fmaxf(ref, b->ref[k][lane]);
        UNROLL for (int k = 0; k < WARPS; k++)
        {
            sum += b->sum[k][lane] * power2(b->ref[k][lane] - ref);
            largest = fmaxf(largest, b->largest[k][lane]);
        }
        b->total_ref[lane] = ref, b->total[lane] = sum, b->total_largest[lane] = largest;
    }
    __syncthreads();
    for (uint first = 0; first < WARPS; first += MERGE_WARPS) {
        if (warp >= first && warp < first + MERGE_WARPS)
            sums_store(w, b, merge + (warp - first) * ROWS * MERGE_STRIDE, first > 0, lane);
        __syncthreads();
    }
}

/* A block's part of a head in memory: rows of sums, and behind each its ref, total and
 * largest logit. */
enum { PART_ROW = PADDED + 4, PART = ROWS * PART_ROW };

INLINE float2 merged_pair(const float *merge, uint row, uint place)
{
    float2 sum = make_float2(0, 0);
    UNROLL for (int k = 0; k < MERGE_WARPS; k++)
    {
        float2 x = *(const float2 *)(merge + (k * ROWS + row) * MERGE_STRIDE + place);
        sum.x += x.x, sum.y += x.y;
    }
    return sum;
}

INLINE uint place_coordinate(uint place)
{
    return place / CHUNK * CHUNK + place % 8 * VALUE_WIDTH + place % CHUNK / 8;
}

INLINE void pair_place(float *x, uint row, uint place, float2 sum)
{
    uint d = place_coordinate(place), next = place_coordinate(place + 1);
    if (d < D)
        x[2 * D * row + d] = sum.x;
    if (next < D)
        x[2 * D * row + next] = sum.y;
}

/* Adds up the parts of blocks first to first + n - 1, 16 at a time in flight. */
INLINE void parts_merge(const float *partials, uint first, uint n, uint n_rows, workplace *b,
                        float *x, uint thread)
{
    enum { AT_ONCE = 16 };
    for (uint i = thread; i < n_rows * (PADDED / 2); i += THREADS) {
        uint row = i / (PADDED / 2), place = i % (PADDED / 2) * 2;
        const float *from = partials + (ulong)2 * first * PART + row * PART_ROW;
        float2 sum = make_float2(0, 0);
        float ref = REF_BEGIN, total = 0, largest = -INFINITY;
        for (uint k0 = 0; k0 < n; k0 += AT_ONCE) {
            float2 v[AT_ONCE];
            float4 s[AT_ONCE];
            UNROLL for (int k = 0; k < AT_ONCE; k++)
            {
                /* the first block's part is its last, the others' their first */
                const float *part = from + ((ulong)2 * (k0 + k) + (k0 + k == 0)) * PART;
                bool has = k0 + k < n;
                v[k] = has ? __ldcg((const float2 *)(part + place)) : make_float2(0, 0);
                s[k] = has ? __ldcg((const float4 *)(part + PADDED))
                           : make_float4(REF_BEGIN, 0, -INFINITY, 0);
            }
            float old = ref;
            UNROLL for (int k = 0; k < AT_ONCE; k++) ref = fmaxf(ref, s[k].x);
            float factor = power2(old - ref);
            sum.x *= factor, sum.y *= factor, total *= factor;
            UNROLL for (int k = 0; k < AT_ONCE; k++)
            {
                factor = power2(s[k].x - ref);
                sum.x = fmaf(v[k].x, factor, sum.x), sum.y = fmaf(v[k].y, factor, sum.y);
                total = fmaf(s[k].y, factor, total);
                largest = fmaxf(largest, s[k].z);
            }
        }
        pair_place(x, row, place, sum);
        if (place == 0)
            b->total_ref[row] = ref, b->total[row] = total, b->total_largest[row] = largest;
    }
}

/* A row of the result, by a warp: divided, out of the values' domain, stored. */
INLINE void row_finish(const tensor_params *p, const segment *s, uint r, const workplace *b,
                       const float *sinks, float *x, uchar *out, float *state, uint lane)
{
    ulong row = query_row(p, s, r);
    float ref = b->total_ref[r], sum = b->total[r] * (1.0f / 16384), rescale = 1;
    float sink = p->has_sinks ? sinks[row % p->n_heads] * 1.44269504f : -INFINITY;
    if (sink > ref) {
        rescale = power2(ref - sink);
        sum *= rescale;
        ref = sink;
    }
    if (sink > -INFINITY)
        sum += power2(sink - ref);
    hadamard(x, x + D, D, &p->out_rotation, lane, 32, 32);
    float factor = p->out_rotation.active ? p->out_rotation.inverse_root : 1;
    factor = sum > 0 ? factor * p->value_unit * rescale * (1.0f / 16384) / sum : 0;
    uchar *to = out + row * (D * (p->out_type == TYPE_F32 ? 4 : 2));
    for (uint d = lane; d < D; d += 32)
        number_store(to, p->out_type, d, flipped(&p->out_rotation, d, x[d] * factor));
    if (STATE && lane == 0) {
        float largest = fmaxf(b->total_largest[r], sink);
        state[2 * row] = largest * 0.69314718f;
        state[2 * row + 1] = sum > 0 ? sum * power2(ref - largest) : 0;
    }
}

/* The block that has a tile of the list, of which every block has `base` and the first
 * `rest` one more. */
INLINE uint owner_of(uint tile, uint base, uint rest)
{
    uint longer = rest * (base + 1);
    return tile < longer ? tile / (base + 1) : rest + (tile - longer) / (base ? base : 1);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attend_tensor(const uchar *queries, const float *profiles, const uchar *key_codes,
                  const uchar *key_scales, const uchar *key_centres, const uchar *value_codes,
                  const uchar *value_scales, const uint *pages, const uint *lengths,
                  const float *sinks, uchar *out, float *state, float *partials, uint *counters,
                  const __grid_constant__ tensor_params params)
{
    const tensor_params *p = &params;
    uchar *shared = (uchar *)shared_memory;
    uchar *raw_queries = shared + WARPS * STAGES * STAGE; /* [2][ROWS][D] of up to 4 bytes */
    float *x = (float *)(raw_queries + 2 * ROWS * D * 4);  /* [ROWS][2 D] */
    float *merge = x + ROWS * 2 * D;
    workplace *b = (workplace *)(merge + MERGE_WARPS * ROWS * MERGE_STRIDE);
    float *products = (float *)(b + 1); /* [n_centres][ROWS] */
    uint thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    uint unused, total = tiles_before(p, lengths, ~0u, &unused, lane);
    uint base = total / gridDim.x, rest = total % gridDim.x;
    uint begin = blockIdx.x * base + min_of(blockIdx.x, rest);
    uint end = begin + base + (blockIdx.x < rest);
    if (begin >= end)
        return;

    ulong *ring_barriers = b->barriers + warp * STAGES, *query_barriers = b->barriers + WARPS * STAGES;
    uchar *ring = shared + warp * STAGES * STAGE;
    if (lane == 0) {
        for (uint i = 0; i < STAGES; i++)
            barrier_init(ring_barriers + i);
        if (warp == 0)
            barrier_init(query_barriers), barrier_init(query_barriers + 1);
        barriers_publish();
    }
    __syncwarp();
    feed parts = feed_of(p, key_codes, key_scales, key_centres, value_codes, value_scales, lane % PARTS);
    segment s = segment_at(p, lengths, begin, lane), ahead = s;
    fetcher f;
    f.at = segment_at(p, lengths, min_of(begin + warp, end - 1), lane);
    f.index = begin + warp;
    f.page = 0;
    page_read(p, &f, pages, end, lane);

    /* Queries first; then not the whole ring yet: a tile or two a warp keep memory busy, and
     * the deeper the queue, the later the first tile. */
    enum { EARLY = 64 / TILE };
    uint n_fetched = 0; /* segments whose queries are asked for */
    uint filled = 0;
    auto fetch_queries = [&]() {
        if (warp == 0 && ahead.begin < end && ahead.sequence < p->n_sequences)
            queries_fetch(p, &ahead, queries, raw_queries + n_fetched % 2 * ROWS * D * 4,
                          query_barriers + n_fetched % 2, lane);
        n_fetched++;
        segment_next(p, lengths, &ahead);
    };
    auto fetch_tile = [&](uint stage) {
        tile_fetch(p, &f, &parts, end, ring + stage * STAGE, ring_barriers + stage, lane);
        warp_copies_mark();
        fetcher_next(p, lengths, pages, &f, end, lane);
    };
    if (!p->overlaps)
        fetch_queries(), fetch_queries();
    for (; filled < (p->overlaps ? STAGES : min_of(EARLY, STAGES)); filled++)
        fetch_tile(filled);
    await_launch_before();
    if (p->overlaps)
        fetch_queries(), fetch_queries();
    __syncthreads();

    uint stage = 0, phase = 0, index = begin + warp;
    for (uint n = 0; s.begin < end; n++, segment_next(p, lengths, &s)) {
        uint n_rows = rows_of(p, s.block), stop = min_of(end, s.begin + s.n_tiles);
        barrier_wait(query_barriers + n % 2, n / 2 % 2);
        for (uint r = warp; r < n_rows; r += WARPS)
            query_prepare(p, &s, r,
                          HAS_ENGINE ? raw_queries + n % 2 * ROWS * D * 4 + r * query_bytes(p)
                                     : queries + query_row(p, &s, r) * query_bytes(p),
                          profiles, products, x + r * 2 * D, b, lane);
        __syncthreads();
        fragments_make(x, b, n_rows, thread);
        __syncthreads();
        for (; filled < STAGES; filled++)
            fetch_tile(filled);
        progress w = {};
        float row_scale[LANE_ROWS];
        UNROLL for (int k = 0; k < LANE_ROWS; k++)
        {
            w.ref[k] = REF_BEGIN;
            w.largest[k] = -INFINITY;
            row_scale[k] = row_number(k, lane % 4) < n_rows ? b->row_scale[row_number(k, lane % 4)] : 0;
        }
        uint low_most = b->low[n_rows - 1], high_least = b->high[0];

        for (; index < stop; index += WARPS) {
            uint first = (s.first_tile + (index - s.begin)) * TILE - p->skipped;
            bool is_edge = first > 0x7FFFFFFF || first < low_most || first + TILE > high_least;
            if (HAS_ENGINE) {
                barrier_wait(ring_barriers + stage, phase);
            } else {
                warp_copies_wait();
                __syncwarp();
            }
            tile_attend(p, b, products, ring + stage * STAGE, is_edge, first, row_scale, lane, &w);
            __syncwarp();
            fetch_tile(stage);
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
        }

        warps_merge(p, &w, b, merge, warp, lane);
        fetch_queries();
        uint first_block = owner_of(s.begin, base, rest);
        uint n_parts = owner_of(s.begin + s.n_tiles - 1, base, rest) - first_block + 1;
        float *part = partials + ((ulong)2 * blockIdx.x + (blockIdx.x == first_block)) * PART;
        for (uint i = thread; i < n_rows * (PADDED / 2); i += THREADS) {
            uint row = i / (PADDED / 2), place = i % (PADDED / 2) * 2;
            float2 sum = merged_pair(merge, row, place);
            if (n_parts == 1) {
                pair_place(x, row, place, sum);
                continue;
            }
            *(float2 *)(part + row * PART_ROW + place) = sum;
            if (place == 0)
                *(float4 *)(part + row * PART_ROW + PADDED) =
                    make_float4(b->total_ref[row], b->total[row], b->total_largest[row], 0);
        }
        __syncthreads();
        if (n_parts > 1) {
            if (thread == 0) {
                uint before = counter_add(counters + first_block);
                b->is_last = before == n_parts - 1;
                if (b->is_last)
                    counters[first_block] = 0;
            }
            __syncthreads();
            if (!b->is_last)
                continue;
            parts_merge(partials, first_block, n_parts, n_rows, b, x, thread);
            __syncthreads();
        }
        for (uint r = warp; r < n_rows; r += WARPS)
            row_finish(p, &s, r, b, sinks, x + r * 2 * D, out, state, lane);
        __syncthreads();
    }
}
