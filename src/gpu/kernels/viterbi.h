#pragma once
/* The search for the codes of a row (src/codec/scalar/scalar.c says how). Each
 * item of a team has pairs of nodes, whose survivors of up to 4 bits share a byte. */
enum { BLOCKED = 1 << 21, NARROW = 10, COST_MAX = 0x7FFFFFFF };

INLINE void team_tables(const team *t, const format_params *f, uint item, uint n_items)
{
    for (uint i = item; i < 32; i += n_items)
        t->tables[i] = i & 16 ? TRELLIS_B[f->bits - 2][i & 15] : TRELLIS_A[f->bits - 2][i & 15];
}

/* A window of three taps has the symbols of its value and, below, of those before. */
INLINE int team_level(const team *t, const format_params *f, uint window)
{
    if (has_taps(f))
        return t->tables[window >> 6] + t->tables[8 + (window >> 3 & 7)] +
               t->tables[16 + (window & 7)];
    return t->tables[window >> 4] + t->tables[16 + (window & 15)];
}

INLINE uint viterbi_pairs(const format_params *f)
{
    return viterbi_nodes(f) / 2;
}

INLINE uint viterbi_lead(const format_params *f)
{
    return f->bits < 4 ? 16 : 8;
}

/* Of a pair. */
INLINE uint survivor_bytes(const format_params *f)
{
    return f->bits > 4 ? 2 : 1;
}

/* The least cost of the paths to a node, and the branch by which it comes. */
INLINE int best_branch(const team *t, const format_params *f, LOCAL const int *cost, int target,
                       uint node, uint *winner)
{
    uint first = node << f->bits, before = viterbi_nodes(f) - 1;
    int least = COST_MAX;
    for (uint j = 0; j < 1u << f->bits; j++) {
        int error = target - 2 * team_level(t, f, first | j);
        int total = cost[(first | j) & before] + error * error;
        if (total < least) {
            least = total;
            *winner = j;
        }
    }
    return least;
}

/* At 4 bits, only from the nodes that the target before allows. */
INLINE uint first_node(const team *t, int target)
{
    uint first = 0;
    for (uint i = NARROW / 2; i < 16 - NARROW / 2; i++)
        first += target > 2 * t->tables[i];
    return first;
}

INLINE int best_narrow(const team *t, LOCAL const int *cost, int target, uint node, uint from,
                       uint *winner)
{
    int rest = target - 2 * t->tables[node], least = COST_MAX;
    UNROLL for (uint j = 0; j < NARROW; j++)
    {
        int error = rest - 2 * t->tables[16 + from + j];
        int total = cost[from + j] + error * error;
        if (total < least) {
            least = total;
            *winner = from + j;
        }
    }
    return least;
}

/* Position i, as step `at`: costs of one buffer to those of the other. */
INLINE void viterbi_step(const team *t, const format_params *f, uint i, uint at,
                         LOCAL const int *cost, LOCAL int *next)
{
    uint pairs = viterbi_pairs(f);
    uint from = f->bits == 4 ? first_node(t, t->targets[(i ? i : t->dim) - 1]) : 0;
    LOCAL uchar *survivors = t->survivors + at * pairs * survivor_bytes(f);
    for (uint q = t->lane; q < pairs; q += t->lanes) {
        uint even = 0, odd = 0;
        int target = t->targets[i];
        if (f->bits == 4) {
            next[2 * q] = best_narrow(t, cost, target, 2 * q, from, &even);
            next[2 * q + 1] = best_narrow(t, cost, target, 2 * q + 1, from, &odd);
        } else {
            next[2 * q] = best_branch(t, f, cost, target, 2 * q, &even);
            next[2 * q + 1] = best_branch(t, f, cost, target, 2 * q + 1, &odd);
        }
        if (f->bits > 4) {
            survivors[2 * q] = (uchar)even;
            survivors[2 * q + 1] = (uchar)odd;
        } else {
            survivors[q] = (uchar)(even | odd << 4);
        }
    }
    BARRIER(t->n_items);
}

/* An even number of steps from `first`, around the end of the row. */
INLINE void viterbi_run(const team *t, const format_params *f, uint first, uint count)
{
    uint nodes = viterbi_nodes(f);
    for (uint s = 0; s < count; s += 2) {
        uint i = (first + s) % t->dim;
        viterbi_step(t, f, i, s, t->costs, t->costs + nodes);
        viterbi_step(t, f, i + 1, s + 1, t->costs + nodes, t->costs);
    }
}

/* From the node behind the last of `count` positions back to that before position
 * 0, by the survivors of the steps from `at` on. */
INLINE uint viterbi_trace(const team *t, const format_params *f, uint at, uint count, uint node)
{
    uint pairs = viterbi_pairs(f);
    for (uint s = count; s-- > 0;) {
        LOCAL const uchar *survivors = t->survivors + (at + s) * pairs * survivor_bytes(f);
        uint branch =
            f->bits > 4 ? survivors[node] : survivors[node / 2] >> node % 2 * 4 & 15u;
        uint window = node << f->bits | branch;
        t->windows[s] = (uchar)(has_taps(f) ? window >> 6 : window);
        node = window & (viterbi_nodes(f) - 1);
    }
    return node;
}

/* The lead-in runs over the seam of the row with both ends free; the row starts
 * and ends in the node found there. 8 bits have no trellis: nothing happens, but the
 * barriers are passed. */
INLINE void viterbi(const team *t, const format_params *f)
{
    bool is_trellis = f->bits < 8;
    uint nodes = is_trellis ? viterbi_nodes(f) : 0, lead = is_trellis ? viterbi_lead(f) : 0;
    uint dim = is_trellis ? t->dim : 0;
    LOCAL uint *seam = (LOCAL uint *)t->sums;
    for (uint n = t->lane; n < nodes; n += t->lanes)
        t->costs[n] = 0;
    BARRIER(t->n_items);
    viterbi_run(t, f, t->dim - lead, 2 * lead);
    if (t->lane == 0 && is_trellis) {
        uint first = 0, end = nodes;
        if (f->bits == 4) {
            first = first_node(t, t->targets[lead - 1]);
            end = first + NARROW;
        }
        uint best = first;
        for (uint n = first; n < end; n++)
            best = t->costs[n] < t->costs[best] ? n : best;
        *seam = viterbi_trace(t, f, lead, lead, best);
    }
    BARRIER(t->n_items);
    for (uint n = t->lane; n < nodes; n += t->lanes)
        t->costs[n] = n == *seam ? 0 : BLOCKED;
    BARRIER(t->n_items);
    viterbi_run(t, f, 0, dim);
    if (t->lane == 0)
        viterbi_trace(t, f, 0, dim, *seam);
    BARRIER(t->n_items);
}
