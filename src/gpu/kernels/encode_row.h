#pragma once
/* What the encoders of rows share: tqkv_encode's steps, bit for bit (doc/format.md,
 * section 8). */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "hadamard.h"
#include "mlx_table.h"
#include "stream.h"
#include "format_constants.h"
#include "team.h"

/* As in src/codec/encode.c. */
#define SMALLEST_SQUARE 8.67361737988403547e-19f /* 2^-60 */
#define F16_MAX_SCALE 65504.0f

INLINE ushort scale_of(float xl, float ll, float unit)
{
    if (!(ll > 0) || !(xl > 0))
        return 0;
    float scale = xl / ll * unit;
    return f16_from_float(scale > F16_MAX_SCALE ? F16_MAX_SCALE : scale);
}

/* One row to encode: the numbers, and where what it becomes goes. */
typedef struct row_task {
    GLOBAL const uchar *src;
    GLOBAL uchar *codes, *scales;
    GLOBAL const float *balance;
    uint value_type, has_balance;
    uint sign; /* of the scale: the row's choice, in a page */
} row_task;

INLINE team rows_team(PARAM const rows_params *p, const format_params *f, uint group_x,
                      uint group_y, uint item, uint n_items, LOCAL uchar *local_memory)
{
    ulong first = ((ulong)group_y * 65535 + group_x) * (n_items / p->lanes);
    return team_of(f, p->lanes, p->team_floats, first, p->n_rows, item, n_items, local_memory);
}

/* A row of those that stand one after the other. */
INLINE row_task task_of(const team *t, PARAM const rows_params *p, GLOBAL const uchar *src,
                        GLOBAL uchar *codes, GLOBAL uchar *scales,
                        GLOBAL const float *balance)
{
    row_task k;
    k.src = src + t->row * p->value_stride;
    k.codes = codes + t->row * p->code_stride;
    k.scales = scales + t->row * p->scale_stride;
    k.balance = balance;
    k.value_type = p->value_type;
    k.has_balance = p->has_balance;
    k.sign = 0;
    return k;
}

/* The row as it will be encoded, in t->x: finite and balanced. */
INLINE void row_load(const team *t, const row_task *k)
{
    for (uint i = t->lane; i < t->dim; i += t->lanes) {
        float x = finite_input(number_load(k->src, k->value_type, i));
        t->x[i] = k->has_balance ? finite_input(x * k->balance[i]) : x;
    }
    BARRIER(t->n_items);
}

/* Rotates; gives the sum of squares, root mean square and unit of the row. */
INLINE void row_rotate(const team *t, PARAM const rotation_params *r, float *square, float *root,
                       float *unit)
{
    float peak;
    team_moments(t, square, &peak);
    *unit = r->active ? r->inverse_root : 1;
    *root = sqrtf(r->active ? *square : *square / (float)t->dim);
    for (uint i = t->lane; i < t->dim; i += t->lanes)
        t->x[i] = flipped(r, i, t->x[i]);
    BARRIER(t->n_items);
    hadamard(t->x, t->y, t->dim, r, t->lane, t->lanes, t->n_items);
}

/* Byte j of the planes of three taps: of the low one, or of the high one with the
 * symbols of two bytes of the low one. */
INLINE uint plane_byte(const team *t, uint j)
{
    uint part = t->dim / 8, byte = 0;
    for (uint k = 0; k < 4; k++) {
        if (j < 2 * part) {
            byte |= (t->windows[4 * j + k] & 3u) << 2 * k;
        } else {
            uint i = 4 * (j - 2 * part) + k, bit = k < 2 ? k : k + 2;
            byte |= (t->windows[i] >> 2 & 1u) << bit;
            byte |= (t->windows[t->dim / 2 + i] >> 2 & 1u) << (bit + 2);
        }
    }
    return byte;
}

/* t->windows to the stream of codes: byte j has the bits of every value that
 * begin or go on in it. */
INLINE void codes_store(const team *t, const format_params *f, GLOBAL uchar *codes, bool is_zero)
{
    for (uint j = t->lane; j < f->code_bytes && t->is_active; j += t->lanes) {
        uint byte = has_taps(f) ? plane_byte(t, j) : 0;
        for (uint i = 8 * j / f->code_bits; !has_taps(f) && i < t->dim && i * f->code_bits < 8 * j + 8; i++) {
            uint at = i * f->code_bits;
            uint value = t->windows[i] & ((1u << f->code_bits) - 1);
            byte |= at >= 8 * j ? value << (at - 8 * j) : value >> (8 * j - at);
        }
        codes[j] = is_zero ? 0 : (uchar)byte;
    }
}

/* What the row became: its windows as codes, and its scale; a scale of 0 has codes of 0. */
INLINE void row_store(const team *t, const format_params *f, const row_task *k, ushort scale16)
{
    codes_store(t, f, k->codes, scale16 == 0);
    if (t->lane == 0 && t->is_active) {
        k->scales[0] = (uchar)scale16;
        k->scales[1] = (uchar)(scale16 >> 8 | k->sign << 7);
    }
}
