#pragma once
/* New rows into staged pages. */
#include "params.h"
#include "number.h"
#include "pages.h"

/* Numbers as tqkv_to_f32 and tqkv_from_f32 convert them, NaN with its sign and upper bits. */
INLINE float stage_load(GLOBAL const uchar *from, uint type, uint i)
{
    float x = number_load(from, type, i);
    uint scale16 = type == TYPE_F16 ? ((GLOBAL const ushort *)from)[i] : 0;
    if ((scale16 & 0x7FFFu) > 0x7C00u)
        x = as_float((scale16 & 0x8000u) << 16 | 0x7F800000u | (scale16 & 0x3FFu) << 13);
    return x;
}

INLINE void stage_store(GLOBAL uchar *to, uint type, uint i, float x)
{
    if (type == TYPE_F16 && x != x)
        ((GLOBAL ushort *)to)[i] = (ushort)((as_uint(x) >> 16 & 0x8000u) | 0x7E00u);
    else
        number_store(to, type, i, x);
}

/* Eight numbers an item; pieces, heads, sides, rows, layers, the first of them fastest. */
KERNEL8(stage_rows, stage_params, const uchar, keys, const uchar, values, uchar, staged_keys,
        uchar, staged_values, const uint, places, uchar, unused_5, uchar, unused_6, uchar,
        unused_7)
{
    ulong n = ((ulong)group_y * 65535 + group_x) * n_items + item;
    uint piece = (uint)(n % p->pieces);
    n /= p->pieces;
    uint head = (uint)(n % p->n_kv_heads);
    n /= p->n_kv_heads;
    uint side = (uint)(n & 1), row = (uint)((n >> 1) % p->n_rows);
    n = (n >> 1) / p->n_rows;
    if (n >= p->n_layers || 8 * piece >= p->dim[side])
        return;
    uint at = places[row], page = at / PAGE_TOKENS;
    if (at == NO_PLACE || page >= p->n_staged)
        return;
    GLOBAL const uchar *from = (side ? values : keys) + n * p->from_layer[side] +
                               (ulong)row * p->from_row[side] + (ulong)head * p->from_head[side];
    GLOBAL uchar *to = (side ? staged_values : staged_keys) +
                       (n + p->first_layer) * p->to_layer[side] +
                       (ulong)page * p->to_page[side] + (ulong)head * p->to_head[side] +
                       (ulong)(at % PAGE_TOKENS) * p->to_row[side];
    uint type = p->to_type[side], size = type == TYPE_F32 ? 4 : 2;
    if (type != p->from_type) {
        for (uint j = 0; j < 8; j++)
            stage_store(to, type, 8 * piece + j, stage_load(from, p->from_type, 8 * piece + j));
    } else if (p->is_wide[side]) {
        for (uint i = 8 * piece * size; i < (8 * piece + 8) * size; i += 16) {
            uint w[4];
            words_load(from + i, w);
            words_store(to + i, w[0], w[1], w[2], w[3]);
        }
    } else {
        for (uint j = 0; j < 8; j++) {
            if (size == 4)
                ((GLOBAL uint *)to)[8 * piece + j] = ((GLOBAL const uint *)from)[8 * piece + j];
            else
                ((GLOBAL ushort *)to)[8 * piece + j] = ((GLOBAL const ushort *)from)[8 * piece + j];
        }
    }
}
