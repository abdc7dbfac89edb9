#pragma once
/* Items of a group that work on one row together, while the group's other teams
 * do the same, in step, on theirs. Everything points into local memory. */
typedef struct team {
    LOCAL float *x, *y;      /* [dim]; y is free once the row is rotated, */
    LOCAL short *targets;    /* [dim] and then holds these */
    LOCAL uchar *windows;    /* [dim]; symbols for three taps */
    LOCAL float *sums;       /* [64] */
    LOCAL int *costs;        /* [2][nodes] */
    LOCAL uchar *survivors;  /* [steps][pairs of nodes], one or two bytes each */
    LOCAL int *tables;       /* of the group: a and b, or three of 8 */
    ulong row;
    uint dim, lane, lanes, n_items;
    bool is_active; /* the row exists; others are computed in vain */
} team;

/* What two neighbouring windows share. */
INLINE uint viterbi_nodes(const format_params *f)
{
    return (has_taps(f) ? 512u : 256u) >> f->bits;
}

/* first_row: of the group's; items belong to the teams in order. */
INLINE team team_of(const format_params *f, uint lanes, uint team_floats, ulong first_row,
                    ulong n_rows, uint item, uint n_items, LOCAL uchar *local_memory)
{
    team t;
    uint nodes = f->kind == KIND_TRELLIS && f->bits < 8 ? viterbi_nodes(f) : 0;
    t.lanes = lanes;
    t.lane = item % t.lanes;
    t.dim = f->head_dim;
    t.n_items = n_items;
    t.tables = (LOCAL int *)local_memory;
    LOCAL float *memory = (LOCAL float *)(t.tables + 32) + item / t.lanes * team_floats;
    t.x = memory;
    t.y = t.x + t.dim;
    t.targets = (LOCAL short *)t.y;
    t.windows = (LOCAL uchar *)(t.targets + t.dim);
    t.sums = t.y + t.dim;
    t.costs = (LOCAL int *)(t.sums + 64);
    t.survivors = (LOCAL uchar *)(t.costs + 2 * nodes);
    ulong row = first_row + item / t.lanes;
    t.is_active = row < n_rows;
    t.row = t.is_active ? row : n_rows - 1;
    return t;
}

/* Sum of squares and largest magnitude of x. */
INLINE void team_moments(const team *t, float *square, float *peak)
{
    for (uint j = t->lane; j < 16; j += t->lanes) {
        float sum = 0, largest = 0;
        for (uint i = j; i < t->dim; i += 16) {
            float magnitude = fabsf(t->x[i]);
            sum += t->x[i] * t->x[i];
            largest = magnitude > largest ? magnitude : largest;
        }
        t->sums[j] = sum;
        t->sums[16 + j] = largest;
    }
    BARRIER(t->n_items);
    *square = lanes_sum(t->sums);
    *peak = 0;
    for (uint j = 16; j < 32; j++)
        *peak = t->sums[j] > *peak ? t->sums[j] : *peak;
    BARRIER(t->n_items);
}
