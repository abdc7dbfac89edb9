#pragma once
/* tq4's search, a row an item (src/codec/scalar/scalar.c, narrow_run, says what it finds).
 *
 * The search goes on only from the NARROW nodes, neighbours of each other, that the last target
 * allows: its *window*. So of the nodes behind a position no others need a cost, and with nodes
 * numbered from their window's first, costs and branches stay in registers and never move:
 * node k behind a position is branch k of the next. What is looked up by the window is all that
 * depends on it.
 *
 * In units of half levels, with u = target - 2 a[node],
 *
 *   16 (target - 2 (a[node] + b[old]))^2 = 16 u^2 - 64 u b[old] + 64 b[old]^2.
 *
 * 16 target^2, the same for all paths, is left out, and 64 b[old]^2 is added when the old node
 * gets its cost. A total has its branch in its low 4 bits, so that one minimum keeps both and
 * takes the first of equals. A position adds less than 3.2 million either way, which 32 bits
 * hold for 512 of them, and BLOCKED besides.
 *
 * An item's memory is a column: element i is n_items elements behind element i - 1. */
#include "encode_row.h"
#include "viterbi.h"

#define NARROW_GAIN 37.0f /* RMS_GAIN of src/codec/encode.c */
enum {
    NARROW_LEAD = 8,
    LARGEST_TARGET = 288,
    WINDOWS = 16 - NARROW + 1,
    /* Of a window: 2 a and 64 (a^2 + b^2) of its nodes, 64 b from WINDOW_B on, and the mask of
     * what is above a branch: from memory, since compilers make two operations of one when they
     * know it. Rows are padded so that different ones lie in different banks. */
    WINDOW_B = 20,
    WINDOW_MASK = 35,
    WINDOW_INTS = 36,
    NARROW_TABLES = WINDOWS * WINDOW_INTS * 4 + 32 * 4 + 580, /* bytes */
    NARROW_COLUMN = 9 /* bytes a value */
};

/* What an item works with. */
typedef struct narrow {
    LOCAL int *windows; /* [WINDOWS][WINDOW_INTS] */
    LOCAL int *levels;  /* a[16], b[16] */
    LOCAL uchar *first; /* [target + LARGEST_TARGET]: the window */
    LOCAL float *x;     /* columns: the row, */
    LOCAL uint *low;    /* branches of nodes 0 to 7, 4 bits each; at 8 c in the end the codes */
    LOCAL uchar *high;  /* of 8 c to 8 c + 7; of nodes 8 and 9 */
    uint dim, stride;
    float gain;
} narrow;

INLINE narrow narrow_of(uint dim, uint item, uint n_items, LOCAL uchar *local_memory)
{
    narrow m;
    m.dim = dim;
    m.stride = n_items;
    m.windows = (LOCAL int *)local_memory;
    m.levels = m.windows + WINDOWS * WINDOW_INTS;
    m.first = (LOCAL uchar *)(m.levels + 32);
    LOCAL float *columns = (LOCAL float *)(local_memory + NARROW_TABLES);
    m.x = columns + item;
    m.low = (LOCAL uint *)(columns + dim * n_items) + item;
    m.high = (LOCAL uchar *)(columns + 2 * dim * n_items) + item;
    m.gain = 0;
    return m;
}

/* By all items together; a barrier has to follow. */
INLINE void narrow_tables(const narrow *m, uint item, uint n_items)
{
    for (uint i = item; i < WINDOWS * WINDOW_INTS; i += n_items) {
        uint at = i % WINDOW_INTS;
        uint node = (i / WINDOW_INTS + at % NARROW) & 15;
        int a = TRELLIS_A[2][node], b = TRELLIS_B[2][node];
        m->windows[i] = at < NARROW ? 2 * a : at < WINDOW_B ? 64 * (a * a + b * b) : 64 * b;
        if (at == WINDOW_MASK)
            m->windows[i] = ~15;
    }
    for (uint i = item; i < 32; i += n_items)
        m->levels[i] = i & 16 ? TRELLIS_B[2][i & 15] : TRELLIS_A[2][i & 15];
    for (uint i = item; i <= 2 * LARGEST_TARGET; i += n_items) {
        uint first = 0;
        for (uint k = NARROW / 2; k < 16 - NARROW / 2; k++)
            first += (int)i - LARGEST_TARGET > 2 * TRELLIS_A[2][k];
        m->first[i] = (uchar)first;
    }
}

/* ---- a row in a column ---- */

/* As moments sums. */
INLINE float sixteen_sum(const float *lane)
{
    float four[4];
    UNROLL for (uint i = 0; i < 4; i++)
        four[i] = (lane[i] + lane[i + 8]) + (lane[i + 4] + lane[i + 12]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* Butterflies of distances h, 2 h and 4 h of the elements i + k h. */
INLINE void column_eight(LOCAL float *x, uint step)
{
    float v[8];
    UNROLL for (uint k = 0; k < 8; k++)
        v[k] = x[k * step];
    UNROLL for (uint d = 1; d < 8; d *= 2)
    {
        UNROLL for (uint k = 0; k < 4; k++)
        {
            uint i = (k & ~(d - 1)) * 2 + (k & (d - 1));
            float low = v[i], high = v[i + d];
            v[i] = low + high;
            v[i + d] = low - high;
        }
    }
    UNROLL for (uint k = 0; k < 8; k++)
        x[k * step] = v[k];
}

/* As hadamard, without the factor; branches' memory is its second row. */
INLINE void column_hadamard(const narrow *m, PARAM const rotation_params *r)
{
    uint dim = m->dim, stride = m->stride, block = r->active ? dim / r->order : 1, h = 1;
    LOCAL float *x = m->x, *y = (LOCAL float *)m->low;
    for (; 8 * h <= block; h *= 8)
        for (uint k = 0; k < dim / 8; k++)
            column_eight(x + ((k & ~(h - 1)) * 8 + (k & (h - 1))) * stride, h * stride);
    for (; h < block; h *= 2)
        for (uint k = 0; k < dim / 2; k++) {
            uint i = (k & ~(h - 1)) * 2 + (k & (h - 1));
            float low = x[i * stride], high = x[(i + h) * stride];
            x[i * stride] = low + high;
            x[(i + h) * stride] = low - high;
        }
    uint outer = r->active && r->order > 1 ? dim : 0;
    for (uint k = 0; k < outer; k++) {
        ulong row = r->outer[k / block];
        uint column = k % block;
        float sum = row & 1 ? -x[column * stride] : x[column * stride];
        for (uint j = 1; j < r->order; j++) {
            float next = x[(j * block + column) * stride];
            sum = row >> j & 1 ? sum - next : sum + next;
        }
        y[k * stride] = sum;
    }
    for (uint k = 0; k < outer; k++)
        x[k * stride] = y[k * stride];
}

/* ---- the search ---- */

/* To the nearest integer, as it is under 2^22. */
INLINE int narrow_target(const narrow *m, uint i)
{
    int target = (int)as_uint(m->x[i * m->stride] * m->gain + 12582912.0f) - 0x4B400000;
    target = target < LARGEST_TARGET ? target : LARGEST_TARGET;
    return target > -LARGEST_TARGET ? target : -LARGEST_TARGET;
}

INLINE uint narrow_window(const narrow *m, int target)
{
    return m->first[target + LARGEST_TARGET];
}

/* What a step looks up: of the window that its target gives, and of the one before. */
typedef struct narrow_step_tables {
    int a[WINDOW_B]; /* 2 a, and from NARROW on 64 (a^2 + b^2) */
    int b[12];
} narrow_step_tables;

INLINE void narrow_look_up(const narrow *m, int before, int target, narrow_step_tables *t)
{
    ints_load(m->windows + narrow_window(m, target) * WINDOW_INTS, 5, t->a);
    ints_load(m->windows + narrow_window(m, before) * WINDOW_INTS + WINDOW_B, 3, t->b);
}

INLINE int least_of(int a, int b)
{
    return a < b ? a : b;
}

INLINE void narrow_step(const narrow *m, uint i, int target, int mask,
                        const narrow_step_tables *t, int *cost)
{
    int path[NARROW], least[NARROW], minus = -target;
    uint low = 0, high = 0;
    UNROLL for (uint j = 0; j < NARROW; j++)
        path[j] = minus * t->b[j] + ((cost[j] & mask) | (int)j);
    UNROLL for (uint k = 0; k < NARROW; k++)
        least[k] = least_of(path[0] + t->a[k] * t->b[0], path[1] + t->a[k] * t->b[1]);
    UNROLL for (uint j = 2; j < NARROW; j += 2)
    {
        UNROLL for (uint k = 0; k < NARROW; k++)
        {
            int one = path[j] + t->a[k] * t->b[j], two = path[j + 1] + t->a[k] * t->b[j + 1];
            least[k] = least_of(least_of(least[k], one), two);
        }
    }
    UNROLL for (uint k = 0; k < NARROW; k++)
    {
        cost[k] = least[k] + (t->a[NARROW + k] + 32 * minus * t->a[k]);
        if (k < 8)
            low = low >> 4 | (uint)least[k] << 28;
        else
            high = high >> 4 | (uint)least[k] << 28;
    }
    m->low[i * m->stride] = low;
    m->high[i * m->stride] = (uchar)(high >> 24);
}

/* An even number of positions from `first`, around the end of the row. */
INLINE void narrow_run(const narrow *m, uint first, uint count, int *cost)
{
    narrow_step_tables even, odd;
    uint i = first;
    int mask = m->windows[WINDOW_MASK];
    int before = narrow_target(m, (i ? i : m->dim) - 1), target = narrow_target(m, i);
    narrow_look_up(m, before, target, &even);
    for (uint s = 0; s < count; s += 2) {
        int next = narrow_target(m, i + 1);
        narrow_look_up(m, target, next, &odd);
        narrow_step(m, i, target, mask, &even, cost);
        uint then = i + 2 < m->dim ? i + 2 : 0;
        target = narrow_target(m, then);
        narrow_look_up(m, next, target, &even);
        narrow_step(m, i + 1, next, mask, &odd, cost);
        i = then;
    }
}

/* From node k of the last of `count` positions back to that before position 0; leaves their
 * codes. */
INLINE uint narrow_trace(const narrow *m, uint count, uint k)
{
    uint word = 0;
    for (uint i = count; i-- > 0;) {
        uint low = m->low[i * m->stride], high = m->high[i * m->stride];
        uint window = narrow_window(m, narrow_target(m, (i ? i : m->dim) - 1));
        k = (k < 8 ? low : high) >> (k & 7) * 4 & 15;
        word = word << 4 | (window + k);
        if (i % 8 == 0)
            m->low[i * m->stride] = word;
    }
    return k;
}

/* The cheapest node of the window of position NARROW_LEAD - 1: the lowest of equals. */
INLINE uint narrow_cheapest(const narrow *m, const int *cost)
{
    LOCAL const int *b = m->windows + WINDOW_B +
                         narrow_window(m, narrow_target(m, NARROW_LEAD - 1)) * WINDOW_INTS;
    int least = COST_MAX;
    uint best = 0;
    UNROLL for (uint k = 0; k < NARROW; k++)
    {
        int c = (cost[k] & ~15) - b[k] / 64 * b[k];
        best = c < least ? k : best;
        least = c < least ? c : least;
    }
    return best;
}

/* Costs in front of position `first`: 0 for node `seam`, or all of them. */
INLINE void narrow_start(const narrow *m, uint first, uint seam, int *cost)
{
    LOCAL const int *b = m->windows + WINDOW_B +
                         narrow_window(m, narrow_target(m, (first ? first : m->dim) - 1)) *
                             WINDOW_INTS;
    UNROLL for (uint k = 0; k < NARROW; k++)
        cost[k] = b[k] / 64 * b[k] + (k == seam || seam >= NARROW ? 0 : 16 * BLOCKED);
}

INLINE void narrow_search(const narrow *m)
{
    int cost[NARROW];
    narrow_start(m, m->dim - NARROW_LEAD, NARROW, cost);
    narrow_run(m, m->dim - NARROW_LEAD, 2 * NARROW_LEAD, cost);
    uint seam = narrow_trace(m, NARROW_LEAD, narrow_cheapest(m, cost));
    narrow_start(m, 0, seam, cost);
    narrow_run(m, 0, m->dim, cost);
    narrow_trace(m, m->dim, seam);
}

/* ---- the row ---- */

/* Sums of x * level and level * level. */
INLINE void narrow_project(const narrow *m, float *xl, float *ll)
{
    float lane[16];
    int squares = 0;
    UNROLL for (uint j = 0; j < 16; j++)
        lane[j] = 0;
    for (uint i = 0; i < m->dim; i += 16) {
        uint next = m->low[(i + 16 < m->dim ? i + 16 : 0) * m->stride];
        ulong codes = m->low[i * m->stride] | (ulong)m->low[(i + 8) * m->stride] << 32;
        UNROLL for (uint j = 0; j < 16; j++)
        {
            uint old = (uint)(codes >> 4 * j) & 15;
            uint node = (j < 15 ? (uint)(codes >> 4 * ((j + 1) & 15)) : next) & 15;
            int level = m->levels[node] + m->levels[16 + old];
            lane[j] += m->x[(i + j) * m->stride] * (float)level;
            squares += level * level;
        }
    }
    *xl = sixteen_sum(lane);
    *ll = (float)squares;
}

/* Makes codes and scale, with `sign` above it, of the row in m->x, whose sum of squares this is. */
INLINE void narrow_row_encode(narrow *m, PARAM const rotation_params *r, float square, uint sign,
                              GLOBAL uchar *codes, GLOBAL uchar *scale, uint has_words)
{
    uint scale16 = 0;
    if (square >= SMALLEST_SQUARE) {
        float root = sqrtf(r->active ? square : square / (float)m->dim), xl, ll;
        for (uint i = 0; r->has_signs && i < m->dim; i++)
            m->x[i * m->stride] = flipped(r, i, m->x[i * m->stride]);
        column_hadamard(m, r);
        m->gain = 2 * NARROW_GAIN / root;
        narrow_search(m);
        narrow_project(m, &xl, &ll);
        scale16 = scale_of(xl, ll, r->active ? r->inverse_root : 1);
    }
    for (uint c = 0; c < m->dim / 8; c++) {
        uint word = scale16 ? m->low[8 * c * m->stride] : 0;
        if (has_words)
            ((GLOBAL uint *)codes)[c] = word;
        for (uint j = 0; !has_words && j < 4; j++)
            codes[4 * c + j] = (uchar)(word >> 8 * j);
    }
    scale16 |= sign << 15;
    scale[0] = (uchar)scale16;
    scale[1] = (uchar)(scale16 >> 8);
}
