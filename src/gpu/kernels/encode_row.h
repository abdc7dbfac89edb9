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

/* The row as it will be encoded, in t->x: finite, balanced, less its centre. */
INLINE void row_load(const team *t, PARAM const rows_params *p, GLOBAL const uchar *src,
                     GLOBAL const float *profile, GLOBAL uchar *centres)
{
    uint dim = t->dim, nearest = 0;
    for (uint i = t->lane; i < dim; i += t->lanes) {
        float x = finite_input(number_load(src, p->value_type, i));
        t->x[i] = p->n_centres ? x * profile[i] : x;
    }
    BARRIER(t->n_items);
    float least = INFINITY;
    uint n_centres = p->n_centres > 1 ? p->n_centres : 0;
    for (uint c = 0; c < n_centres; c++) {
        for (uint j = t->lane; j < 16; j += t->lanes) {
            float sum = 0;
            for (uint i = j; i < dim; i += 16) {
                float difference = t->x[i] - profile[dim * (1 + c) + i];
                sum += difference * difference;
            }
            t->sums[j] = sum;
        }
        BARRIER(t->n_items);
        float distance = lanes_sum(t->sums);
        if (distance < least) {
            least = distance;
            nearest = c;
        }
        BARRIER(t->n_items);
    }
    for (uint i = t->lane; i < dim; i += t->lanes)
        if (p->n_centres)
            t->x[i] = finite_input(t->x[i] - profile[dim * (1 + nearest) + i]);
    if (p->n_centres > 1 && t->lane == 0 && t->is_active)
        centres[t->row * p->centre_stride] = (uchar)nearest;
    BARRIER(t->n_items);
}

/* Rotates; gives the sum of squares, root mean square and unit of the row. */
INLINE void row_rotate(const team *t, PARAM const rows_params *p, float *square, float *root,
                       float *unit)
{
    float peak;
    team_moments(t, square, &peak);
    *unit = p->rotation.active ? p->rotation.inverse_root : 1;
    *root = sqrtf(p->rotation.active ? *square : *square / (float)t->dim);
    for (uint i = t->lane; i < t->dim; i += t->lanes)
        t->x[i] = flipped(&p->rotation, i, t->x[i]);
    BARRIER(t->n_items);
    hadamard(t->x, t->y, t->dim, &p->rotation, t->lane, t->lanes, t->n_items);
}

/* t->windows to the stream of codes: byte j has the bits of every value that
 * begin or go on in it. */
INLINE void codes_store(const team *t, const format_params *f, GLOBAL uchar *codes, bool is_zero)
{
    for (uint j = t->lane; j < f->code_bytes && t->is_active; j += t->lanes) {
        uint byte = 0;
        for (uint i = 8 * j * 16 / f->rate; i < t->dim && stream_offset(f->rate, i) < 8 * j + 8;
             i++) {
            uint at = stream_offset(f->rate, i), bits = stream_offset(f->rate, i + 1) - at;
            uint value = t->windows[i] & ((1u << bits) - 1);
            byte |= at >= 8 * j ? value << (at - 8 * j) : value >> (8 * j - at);
        }
        codes[j] = is_zero ? 0 : (uchar)byte;
    }
}

INLINE void scale_store(const team *t, GLOBAL uchar *at, ushort scale16)
{
    if (t->lane == 0 && t->is_active) {
        at[0] = (uchar)scale16;
        at[1] = (uchar)(scale16 >> 8);
    }
}
