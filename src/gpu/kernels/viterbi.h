#pragma once
/* The search for the codes of a row (src/codec/scalar/scalar.c says how). Each
 * item of a team has pairs of nodes, so that the two that coincide before a step
 * of one more bit compete inside an item. */
enum { BLOCKED = 1 << 21, ODD_NODE = 0x80, NARROW = 10, COST_MAX = 0x7FFFFFFF };

INLINE void team_tables(const team *t, const format_params *f, uint item, uint n_items)
{
    for (uint i = item; i < 64; i += n_items) {
        uint bits = f->low_bits + i / 32;
        bits = bits > 8 ? 8 : bits;
        t->tables[i] = i & 16 ? TRELLIS_B[bits - 2][i & 15] : TRELLIS_A[bits - 2][i & 15];
    }
}

INLINE int team_level(const team *t, uint high, uint window)
{
    return t->tables[32 * high + (window >> 4)] + t->tables[32 * high + 16 + (window & 15)];
}

INLINE uint viterbi_pairs(const format_params *f)
{
    return 128u >> f->low_bits;
}

INLINE uint viterbi_lead(const format_params *f)
{
    return f->low_bits < 4 ? 16 : 8;
}

/* Two survivors of up to 4 bits share a byte. */
INLINE uint survivor_bytes(const format_params *f)
{
    return f->low_bits > 4 ? 2 : 1;
}

/* The least cost of the paths to a node, and the branch by which it comes. */
INLINE int best_branch(const team *t, const format_params *f, LOCAL const int *cost, int target,
                       uint node, uint new_bits, uint *winner)
{
    uint first = node << f->low_bits, before = (256u >> new_bits) - 1;
    uint high = new_bits > f->low_bits;
    int least = COST_MAX;
    for (uint j = 0; j < 1u << f->low_bits; j++) {
        int error = target - 2 * team_level(t, high, first | j);
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
    uint new_bits = stream_bits(f->rate, i), pairs = viterbi_pairs(f);
    uint from = f->rate == 64 ? first_node(t, t->targets[(i ? i : t->dim) - 1]) : 0;
    bool is_long = stream_offset(f->rate, i + 1) - stream_offset(f->rate, i) > f->low_bits;
    LOCAL uchar *survivors = t->survivors + at * pairs * survivor_bytes(f);
    for (uint q = t->lane; q < pairs; q += t->lanes) {
        uint even = 0, odd = 0;
        int even_cost, odd_cost, target = t->targets[i];
        if (f->rate == 64) {
            even_cost = best_narrow(t, cost, target, 2 * q, from, &even);
            odd_cost = best_narrow(t, cost, target, 2 * q + 1, from, &odd);
        } else {
            even_cost = best_branch(t, f, cost, target, 2 * q, new_bits, &even);
            odd_cost = best_branch(t, f, cost, target, 2 * q + 1, new_bits, &odd);
        }
        if (is_long) {
            bool odd_wins = odd_cost < even_cost;
            next[q] = odd_wins ? odd_cost : even_cost;
            survivors[q * survivor_bytes(f)] = (uchar)(odd_wins ? odd | ODD_NODE : even);
        } else {
            next[2 * q] = even_cost;
            next[2 * q + 1] = odd_cost;
            if (f->low_bits > 4) {
                survivors[2 * q] = (uchar)even;
                survivors[2 * q + 1] = (uchar)odd;
            } else {
                survivors[q] = (uchar)(even | odd << 4);
            }
        }
    }
    BARRIER(t->n_items);
}

/* An even number of steps from `first`, around the end of the row. */
INLINE void viterbi_run(const team *t, const format_params *f, uint first, uint count)
{
    uint nodes = 256u >> f->low_bits;
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
    uint low = f->low_bits, pairs = viterbi_pairs(f);
    for (uint s = count; s-- > 0;) {
        LOCAL const uchar *survivors = t->survivors + (at + s) * pairs * survivor_bytes(f);
        bool is_long = stream_offset(f->rate, s + 1) - stream_offset(f->rate, s) > low;
        uint branch;
        if (is_long) {
            uint survivor = survivors[node * survivor_bytes(f)];
            node = node << 1 | survivor >> 7;
            branch = survivor & 0x7F;
        } else {
            branch = low > 4 ? survivors[node] : survivors[node / 2] >> node % 2 * 4 & 15u;
        }
        uint window = (node << low | branch) & 0xFF;
        t->windows[s] = (uchar)window;
        node = window & ((256u >> stream_bits(f->rate, s)) - 1);
    }
    return node;
}

/* The lead-in runs over the seam of the row with both ends free; the row starts
 * and ends in the node found there. 8 bits have no trellis: nothing happens, but the
 * barriers are passed. */
INLINE void viterbi(const team *t, const format_params *f)
{
    bool is_trellis = f->rate < 128;
    uint nodes = is_trellis ? 256u >> f->low_bits : 0, lead = is_trellis ? viterbi_lead(f) : 0;
    uint dim = is_trellis ? t->dim : 0;
    LOCAL uint *seam = (LOCAL uint *)t->sums;
    for (uint n = t->lane; n < nodes; n += t->lanes)
        t->costs[n] = 0;
    BARRIER(t->n_items);
    viterbi_run(t, f, t->dim - lead, 2 * lead);
    if (t->lane == 0 && is_trellis) {
        uint before_seam = stream_offset(f->rate, lead) - stream_offset(f->rate, lead - 1);
        uint first = 0, end = nodes >> (before_seam - f->low_bits);
        if (f->rate == 64) {
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
