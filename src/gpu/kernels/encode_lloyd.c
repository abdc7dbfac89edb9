#pragma once
/* lm: the nearest centroids, compared in integers. */
#include "encode_row.h"
#include "private_row.h"

/* The row that is in t->x. */
INLINE void lloyd_team_encode(team *t, const format_params *f, const row_task *k,
                              PARAM const rotation_params *r)
{
    float square, root, unit;
    row_rotate(t, r, &square, &root, &unit);
    bool is_zero = !(square >= SMALLEST_SQUARE);
    float gain = 1024.0f / root;
    int tv = 0, vv = 0;
    uint half_count = 1u << (f->bits - 1);
    for (uint i = t->lane; i < t->dim; i += t->lanes) {
        int target = is_zero ? 0 : (int)rintf(t->x[i] * gain);
        target = target > 32767 ? 32767 : target < -32768 ? -32768 : target;
        int magnitude = target < 0 ? -target : target;
        uint above = 0;
        for (uint n = 1; n < half_count; n++)
            above += magnitude > LLOYD_THRESHOLDS[f->bits - 2][n];
        t->windows[i] = (uchar)(target < 0 ? half_count - 1 - above : half_count + above);
        int v = LLOYD_UPPER[f->bits - 2][above];
        tv += magnitude * v;
        vv += v * v;
    }
    LOCAL int *sums = (LOCAL int *)t->sums;
    sums[2 * t->lane] = tv;
    sums[2 * t->lane + 1] = vv;
    BARRIER(t->n_items);
    tv = vv = 0;
    for (uint n = 0; n < t->lanes; n++) {
        tv += sums[2 * n];
        vv += sums[2 * n + 1];
    }
    ushort scale16 = is_zero ? 0 : scale_of((float)tv * 0.25f, (float)vv, root * unit);
    row_store(t, f, k, scale16);
}

INLINE void lloyd_row_encode(team *t, const format_params *f, const row_task *k,
                             PARAM const rotation_params *r)
{
    row_load(t, k);
    lloyd_team_encode(t, f, k, r);
}

KERNEL4(encode_lloyd, rows_params, const uchar, src, uchar, codes, uchar, scales, const float,
        balance)
{
    format_params f = rows_format(p);
    team t = rows_team(p, &f, group_x, group_y, item, n_items, local_memory);
    row_task k = task_of(&t, p, src, codes, scales, balance);
    lloyd_row_encode(&t, &f, &k, &p->rotation);
}

/* lm4 without a balance, a row an item. In local memory: for the upper bytes of
 * magnitudes, the number of thresholds below and the lower byte of the next; then
 * the upper values (src/format/lloyd_max.h). */
KERNEL4(encode_lloyd_private, rows_params, const uchar, src, uchar, codes, uchar, scales,
        const float, balance)
{
    format_params f = rows_format(p);
    LOCAL int *counts = (LOCAL int *)local_memory, *upper = counts + 16;
    for (uint i = item; i < 16; i += n_items) {
        int below = 0, edge = 256;
        for (uint k = 1; k < 8; k++) {
            int threshold = LLOYD_THRESHOLDS[2][k];
            below += threshold < (int)(256 * i);
            if (threshold >= (int)(256 * i) && threshold < (int)(256 * i) + 256)
                edge = threshold - (int)(256 * i);
        }
        counts[i] = below << 16 | edge;
        upper[i] = LLOYD_UPPER[2][i & 7];
    }
    BARRIER(n_items);
    ulong row = ((ulong)group_y * 65535 + group_x) * n_items + item;
    if (row >= p->n_rows)
        return;
    uint dim = private_dim(&f);
    float x[PRIVATE_DIM];
    UNROLL for (uint c = 0; c < PRIVATE_DIM / 8; c++)
        if (8 * c < dim)
            numbers_load(src + row * p->value_stride, p->value_type, 8 * c, p->wide, x + 8 * c);
    UNROLL for (uint i = 0; i < PRIVATE_DIM; i++)
        if (i < dim)
            x[i] = finite_input(x[i]);
    float square = private_square(x, dim);
    if (p->rotation.has_signs)
        UNROLL for (uint i = 0; i < PRIVATE_DIM; i++)
            if (i < dim)
                x[i] = flipped(&p->rotation, i, x[i]);
    private_hadamard(x, dim);
    bool is_zero = !(square >= SMALLEST_SQUARE);
    float root = sqrtf(square), gain = is_zero ? 0 : 1024.0f / root;
    int tv = 0, vv = 0;
    GLOBAL uchar *at = codes + row * p->code_stride;
    uint words[4];
    UNROLL for (uint c = 0; c < PRIVATE_DIM / 8; c++)
    {
        uint word = 0;
        UNROLL for (uint j = 0; j < 8; j++)
        {
            if (8 * c < dim) {
                /* to the nearest integer: they are under 2^22 */
                int target = (int)as_uint(x[8 * c + j] * gain + 12582912.0f) - 0x4B400000;
                int magnitude = target < 0 ? -target : target;
                int entry = counts[magnitude >> 8 < 15 ? magnitude >> 8 : 15];
                int above = (entry >> 16) + ((magnitude & 255) > (entry & 0xFFFF));
                int v = upper[above];
                tv += magnitude * v;
                vv += v * v;
                word |= (uint)(target < 0 ? 7 - above : 8 + above) << 4 * j;
            }
        }
        words[c % 4] = word;
        if (8 * c < dim && c % 4 == 3)
            words_store(at + 4 * (c - 3), words[0], words[1], words[2], words[3]);
    }
    ushort scale16 =
        is_zero ? 0 : scale_of((float)tv * 0.25f, (float)vv, root * p->rotation.inverse_root);
    if (scale16 == 0)
        for (uint c = 0; c < dim / 8; c += 4)
            words_store(at + 4 * c, 0, 0, 0, 0);
    scales[row * p->scale_stride] = (uchar)scale16;
    scales[row * p->scale_stride + 1] = (uchar)(scale16 >> 8);
}
