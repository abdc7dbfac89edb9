#pragma once
/* Values from the codes of a row (doc/format.md). Every coded format but that of
 * three taps is a stream of windows here: mlx4 is one of 4 bits, the other mlx of 8. */
enum { KIND_PLAIN = 0, KIND_TRELLIS = 1, KIND_LLOYD = 2, KIND_MLX = 3 };

/* Floats of a format's table in local memory. */
enum { TABLE_FLOATS = 256 };

INLINE bool has_taps(const format_params *f)
{
    return f->kind == KIND_TRELLIS && f->bits == 3;
}

/* tq: its two halves, or its three tables of 8. */
INLINE void table_load(const format_params *f, LOCAL float *table, uint item, uint n_items)
{
    for (uint i = item; i < TABLE_FLOATS; i += n_items) {
        float value = 0;
        if (f->kind == KIND_TRELLIS && i < 32) {
            value = i & 16 ? TRELLIS_B[f->bits - 2][i & 15] : TRELLIS_A[f->bits - 2][i & 15];
        } else if (f->kind == KIND_LLOYD) {
            value = LLOYD_VALUES[f->bits - 2][i & ((1u << f->bits) - 1)];
        } else if (f->kind == KIND_MLX) {
            value = mlx_centroid(f->bits, i);
        }
        table[i] = value;
    }
}

INLINE float window_value(const format_params *f, LOCAL const float *table, uint window)
{
    if (f->kind == KIND_TRELLIS)
        return table[window >> 4 & 15] + table[16 + (window & 15)];
    return table[window & ((1u << f->bits) - 1)];
}

/* Byte j of the stream, which goes on with its first bits behind its last. */
INLINE uint stream_byte(const format_params *f, GLOBAL const uchar *codes, uint j)
{
    return codes[j < f->code_bytes ? j : j - f->code_bytes];
}

/* Word j of a row of whole words. */
INLINE uint stream_word(const format_params *f, GLOBAL const uchar *codes, uint j)
{
    uint words = f->code_bytes / 4;
    return ((GLOBAL const uint *)codes)[j < words ? j : j - words];
}

/* Bytes i and i + 1, i even. */
INLINE uint two_bytes(const format_params *f, GLOBAL const uchar *codes, uint i)
{
    if (f->words)
        return ((GLOBAL const ushort *)codes)[i / 2];
    return codes[i] | (uint)codes[i + 1] << 8;
}

/* Where the third bits of the symbols of byte b of the low plane are, and how far below
 * bits 2, 3, 6 and 7. */
INLINE uint third_bits_at(uint part, uint b, uint *shift)
{
    *shift = b < part ? 2 : 0;
    return b < part ? 2 * part + b : part + b;
}

/* Three taps: even and odd symbols of two bytes as nibbles, above the last of each of the
 * byte before. */
INLINE void plane_values(const format_params *f, GLOBAL const uchar *codes, uint chunk,
                         LOCAL const float *table, float *x)
{
    uint part = f->head_dim / 8, b = 2 * chunk, last = b ? b - 1 : 2 * part - 1, shift;
    uint at = third_bits_at(part, last, &shift);
    uint low = codes[last], high = (uint)codes[at] << shift;
    uint even = (low >> 4 & 3) | (high >> 4 & 4), odd = low >> 6 | (high >> 5 & 4);
    at = third_bits_at(part, b, &shift);
    low = two_bytes(f, codes, b);
    high = two_bytes(f, codes, at) << shift;
    even |= ((low & 0x3333u) | (high & 0x4444u)) << 4;
    odd |= ((low >> 2 & 0x3333u) | (high >> 1 & 0x4444u)) << 4;
    UNROLL for (uint j = 0; j < 8; j += 2)
    {
        uint e = even >> 2 * j, o = odd >> 2 * j; /* the symbols before, and above them */
        x[j] = table[e >> 4 & 7] + table[8 + (o & 7)] + table[16 + (e & 7)];
        x[j + 1] = table[o >> 4 & 7] + table[8 + (e >> 4 & 7)] + table[16 + (o & 7)];
    }
}

/* Values 8 * chunk to 8 * chunk + 7 of a row, without its scale. */
INLINE void values_load(const format_params *f, GLOBAL const uchar *codes, uint chunk,
                        LOCAL const float *table, float *x)
{
    if (f->kind == KIND_PLAIN) {
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] = finite_input(number_load(codes, f->type, chunk * 8 + j));
    } else if (has_taps(f)) {
        plane_values(f, codes, chunk, table, x);
    } else if (f->words && f->code_bits == 4) {
        uint word = stream_word(f, codes, chunk);
        uint next = f->kind == KIND_TRELLIS ? stream_word(f, codes, chunk + 1) : 0;
        UNROLL for (uint j = 0; j < 7; j++)
            x[j] = window_value(f, table, word >> 4 * j);
        x[7] = window_value(f, table, word >> 28 | next << 4);
    } else if (f->words && f->code_bits == 8) {
        uint low = stream_word(f, codes, 2 * chunk), high = stream_word(f, codes, 2 * chunk + 1);
        UNROLL for (uint j = 0; j < 4; j++)
        {
            x[j] = window_value(f, table, low >> 8 * j);
            x[j + 4] = window_value(f, table, high >> 8 * j);
        }
    } else if (f->words) {
        uint bits = f->code_bits, first = chunk * bits / 4, shift = chunk * bits % 4 * 8;
        ulong stream = stream_word(f, codes, first) |
                       (ulong)stream_word(f, codes, first + 1) << 32;
        stream >>= shift;
        if (shift + 8 * bits + 8 > 64)
            stream |= (ulong)stream_word(f, codes, first + 2) << (64 - shift);
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] = window_value(f, table, (uint)(stream >> bits * j));
    } else {
        for (uint j = 0; j < 8; j++) {
            uint bit = (chunk * 8 + j) * f->code_bits;
            uint pair = stream_byte(f, codes, bit / 8);
            if (f->code_bits < 8)
                pair |= stream_byte(f, codes, bit / 8 + 1) << 8;
            x[j] = window_value(f, table, pair >> bit % 8 & 255u);
        }
    }
}

/* The factor of a row's values, of the block of 256 that they lie in for mlx. */
INLINE float scale_load(const format_params *f, GLOBAL const uchar *scales, uint block)
{
    if (f->kind == KIND_PLAIN)
        return 1;
    if (f->kind != KIND_MLX)
        return f16_to_float((ushort)(scales[0] | scales[1] << 8));
    float norm = as_float((uint)scales[4 * block] | (uint)scales[4 * block + 1] << 8 |
                          (uint)scales[4 * block + 2] << 16 | (uint)scales[4 * block + 3] << 24);
    return f->head_dim > 256 ? norm / f->block_factor : norm * f->inverse_root;
}

/* A row's choice in a page with a mean is the sign of its scale (the first, for mlx). */
INLINE bool scale_has_choice(const format_params *f, GLOBAL const uchar *scales)
{
    return scales[f->kind == KIND_MLX ? 3 : 1] >> 7;
}
