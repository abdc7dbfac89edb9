#pragma once
/* tq: each row by a search through the trellis. A group encodes a few rows at a time,
 * with a team of items for each. */
#include "encode_row.h"
#include "viterbi.h"

/* As in src/codec/encode.c. */
#define RMS_GAIN 37.0f
#define PEAK_GAIN 127.0f
enum { LAST_RMS_BITS = 5 };

/* Sums of x * level and level * level, in lanes. */
INLINE void team_project(const team *t, const format_params *f, float *xl, float *ll)
{
    for (uint j = t->lane; j < 16; j += t->lanes) {
        float sum = 0;
        int squares = 0;
        for (uint i = j; i < t->dim; i += 16) {
            uint window = t->windows[i];
            if (has_taps(f))
                window = window << 6 | t->windows[(i ? i : t->dim) - 1] << 3 |
                         t->windows[(i + t->dim - 2) % t->dim];
            int level = team_level(t, f, window);
            sum += t->x[i] * (float)level;
            squares += level * level;
        }
        t->sums[j] = sum;
        ((LOCAL int *)t->sums)[16 + j] = squares;
    }
    BARRIER(t->n_items);
    int squares = 0;
    for (uint j = 0; j < 16; j++)
        squares += ((LOCAL int *)t->sums)[16 + j];
    *xl = lanes_sum(t->sums);
    *ll = (float)squares;
    BARRIER(t->n_items);
}

/* The row that is in t->x. */
INLINE void trellis_team_encode(team *t, const format_params *f, const row_task *k,
                                PARAM const rotation_params *r, uint item)
{
    team_tables(t, f, item, t->n_items);
    float square, root, unit, again, peak;
    row_rotate(t, r, &square, &root, &unit);
    float gain = 2 * RMS_GAIN / root;
    team_moments(t, &again, &peak);
    if (f->bits > LAST_RMS_BITS)
        gain = 2 * PEAK_GAIN / peak;
    bool is_zero = !(square >= SMALLEST_SQUARE);
    int limit = f->bits == 8 ? 127 : 288;
    if (f->bits == 8)
        gain = gain / 2;
    for (uint i = t->lane; i < t->dim; i += t->lanes) {
        int target = is_zero ? 0 : (int)rintf(t->x[i] * gain);
        target = target > limit ? limit : target < -limit ? -limit : target;
        t->targets[i] = (short)target;
        t->windows[i] = (uchar)target;
    }
    BARRIER(t->n_items);
    viterbi(t, f);
    float xl, ll;
    team_project(t, f, &xl, &ll);
    ushort scale16 = is_zero ? 0 : scale_of(xl, ll, unit);
    row_store(t, f, k, scale16);
}

INLINE void trellis_row_encode(team *t, const format_params *f, const row_task *k,
                               PARAM const rotation_params *r, uint item)
{
    row_load(t, k);
    trellis_team_encode(t, f, k, r, item);
}

KERNEL4(encode_trellis, rows_params, const uchar, src, uchar, codes, uchar, scales, const float,
        balance)
{
    format_params f = rows_format(p);
    team t = rows_team(p, &f, group_x, group_y, item, n_items, local_memory);
    row_task k = task_of(&t, p, src, codes, scales, balance);
    trellis_row_encode(&t, &f, &k, &p->rotation, item);
}
