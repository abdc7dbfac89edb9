/* The reference kernels: what every other table must equal. */
#include <math.h>
#include <string.h>

#include "codec/kernels.h"

#define TARGET
#include "codec/generic.h"

static void moments(const float *x, unsigned n, float *sum_of_squares, float *peak)
{
    float lane[16] = {0}, largest = 0;
    for (unsigned i = 0; i < n; i += 16)
        for (unsigned j = 0; j < 16; j++) {
            lane[j] += x[i + j] * x[i + j];
            float magnitude = fabsf(x[i + j]);
            largest = magnitude > largest ? magnitude : largest;
        }
    *sum_of_squares = lanes_sum(lane);
    *peak = largest;
}

static void quantize(const float *x, unsigned n, float gain, int limit, int16_t *t)
{
    for (unsigned i = 0; i < n; i++) {
        int rounded = (int)rintf(x[i] * gain);
        t[i] = (int16_t)(rounded > limit ? limit : rounded < -limit ? -limit : rounded);
    }
}

/* ---- the trellis ----
 *
 * Of window i the low bits, all but those that are new since window i - 1, are
 * the node before it; its high bits, all but those that window i + 1 does not
 * share, are the node after it. */

enum { BLOCKED = 1 << 21 /* more than 4 steps can cost */ };

/* The plan, and twice the levels of all windows. */
typedef struct search {
    const trellis_plan *plan;
    int16_t level[512];
} search;

static search search_of(const trellis_plan *p)
{
    search s = {.plan = p};
    for (unsigned w = 0; w < p->nodes << p->bits; w++)
        s.level[w] = (int16_t)(2 * trellis_level(p->table, p->bits, w));
    return s;
}

/* Squared distance of a target to a window, both in half levels. */
static int32_t error_of(const search *s, int target, unsigned window)
{
    int32_t error = target - s->level[window];
    return error * error;
}

static void viterbi_step(const search *s, int target, int32_t *cost, uint8_t *survivor)
{
    unsigned bits = s->plan->bits, nodes = s->plan->nodes, branches = 1u << bits;
    int32_t best[64];
    for (unsigned n = 0; n < nodes; n++) {
        best[n] = INT32_MAX;
        for (unsigned j = 0; j < branches; j++) {
            unsigned window = n << bits | j;
            int32_t total = cost[window & (nodes - 1)] + error_of(s, target, window);
            if (total < best[n]) {
                best[n] = total;
                survivor[n] = (uint8_t)j;
            }
        }
    }
    memcpy(cost, best, nodes * sizeof *cost);
}

/* Steps over count positions from first, around the end of the row. */
static void viterbi_run(const search *s, const int16_t *t, unsigned first,
                        unsigned count, int32_t *cost, uint8_t *survivors)
{
    const trellis_plan *p = s->plan;
    for (unsigned step = 0; step < count; step++)
        viterbi_step(s, t[(first + step) % p->head_dim], cost, survivors + step * p->nodes);
}

static unsigned cheapest(const int32_t *cost, unsigned first, unsigned end)
{
    unsigned best = first;
    for (unsigned n = first; n < end; n++)
        if (cost[n] < cost[best])
            best = n;
    return best;
}

static void viterbi_full(const trellis_plan *p, const int16_t *t, uint8_t *symbols,
                         uint8_t *survivors)
{
    unsigned n = p->head_dim, nodes = p->nodes, lead = trellis_lead(p->bits);
    int32_t cost[64] = {0};
    search s = search_of(p);
    /* The lead-in runs over the seam with both ends free. */
    viterbi_run(&s, t, n - lead, 2 * lead, cost, survivors);
    unsigned seam =
        viterbi_trace(p, survivors + lead * nodes, lead, cheapest(cost, 0, nodes), symbols);
    /* The row starts and ends in the node found there. */
    for (unsigned i = 0; i < nodes; i++)
        cost[i] = BLOCKED;
    cost[seam] = 0;
    viterbi_run(&s, t, 0, n, cost, survivors);
    viterbi_trace(p, survivors, n, seam, symbols);
}

/* The same at 4 bits, going on only from the nodes that each target allows. */
static void narrow_run(const search *s, const int16_t *t, unsigned first,
                       unsigned count, int32_t *cost, uint8_t *survivors)
{
    const trellis_plan *p = s->plan;
    for (unsigned step = 0; step < count; step++) {
        unsigned i = (first + step) % p->head_dim;
        unsigned from = trellis_first_node(p, t[(i ? i : p->head_dim) - 1]);
        int32_t best[16];
        for (unsigned n = 0; n < 16; n++) {
            best[n] = INT32_MAX;
            for (unsigned old = from; old < from + NARROW; old++) {
                int32_t total = cost[old] + error_of(s, t[i], n << 4 | old);
                if (total < best[n]) {
                    best[n] = total;
                    survivors[step * 16 + n] = (uint8_t)old;
                }
            }
        }
        memcpy(cost, best, sizeof best);
    }
}

static void viterbi_narrow(const trellis_plan *p, const int16_t *t, uint8_t *symbols,
                           uint8_t *survivors)
{
    unsigned n = p->head_dim, lead = trellis_lead(4);
    unsigned first = trellis_first_node(p, t[lead - 1]);
    int32_t cost[16] = {0};
    search s = search_of(p);
    narrow_run(&s, t, n - lead, 2 * lead, cost, survivors);
    unsigned seam = viterbi_trace(p, survivors + lead * 16, lead,
                                  cheapest(cost, first, first + NARROW), symbols);
    for (unsigned i = 0; i < 16; i++)
        cost[i] = BLOCKED;
    cost[seam] = 0;
    narrow_run(&s, t, 0, n, cost, survivors);
    viterbi_trace(p, survivors, n, seam, symbols);
}

static void viterbi(const trellis_plan *p, const int16_t *t, uint8_t *symbols,
                    uint8_t *survivors)
{
    (trellis_is_narrow(p) ? viterbi_narrow : viterbi_full)(p, t, symbols, survivors);
}

/* ---- codes and values ---- */

/* Symbol i of planes. */
static unsigned symbol_of(const uint8_t *codes, unsigned head_dim, unsigned i)
{
    unsigned at = trellis_high_bit(i, head_dim), high = codes[head_dim / 4 + at / 8] >> at % 8 & 1;
    return (codes[i / 4] >> 2 * (i % 4) & 3) | high << 2;
}

static void plane_levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    unsigned n = p->head_dim;
    unsigned first = symbol_of(codes, n, n - 2), second = symbol_of(codes, n, n - 1);
    for (unsigned i = 0; i < n; i++) {
        unsigned own = symbol_of(codes, n, i);
        out[i] = (int8_t)(p->taps[0][own] + p->taps[1][second] + p->taps[2][first]);
        first = second;
        second = own;
    }
}

static void levels(const uint8_t *codes, const stream_plan *p, int8_t *out)
{
    if (p->is_planes) {
        plane_levels(codes, p, out);
        return;
    }
    uint8_t padded[MAX_DIM + CODE_PADDING];
    codes_pad(codes, p, padded);
    for (unsigned i = 0; i < p->head_dim; i++) {
        unsigned bit = i * p->bits;
        unsigned pair = padded[bit / 8] | (unsigned)padded[bit / 8 + 1] << 8;
        unsigned window = pair >> bit % 8 & 255;
        out[i] = (int8_t)(p->a[window >> 4] + p->b[window & 15]);
    }
}

static void scale_levels(const int8_t *in, unsigned n, float scale, float *dst)
{
    for (unsigned i = 0; i < n; i++)
        dst[i] = (float)in[i] * scale;
}

static void project_levels(const float *x, const int8_t *in, unsigned n, float *xl,
                           int32_t *ll)
{
    float lane[16] = {0};
    int32_t sum = 0;
    for (unsigned i = 0; i < n; i += 16)
        for (unsigned j = 0; j < 16; j++) {
            lane[j] += x[i + j] * (float)in[i + j];
            sum += in[i + j] * in[i + j];
        }
    *xl = lanes_sum(lane);
    *ll = sum;
}

static void lloyd_index(const float *x, unsigned n, float gain,
                        const lloyd_code *code, uint8_t *index, int32_t *tv,
                        int32_t *vv)
{
    int half = 1 << (code->bits - 1);
    *tv = *vv = 0;
    for (unsigned i = 0; i < n; i++) {
        int t = (int)rintf(x[i] * gain), above = 0;
        t = t > INT16_MAX ? INT16_MAX : t < INT16_MIN ? INT16_MIN : t;
        int magnitude = t < 0 ? -t : t;
        for (int k = 1; k < half; k++)
            above += magnitude > code->thresholds[k];
        index[i] = (uint8_t)(t < 0 ? half - 1 - above : half + above);
        int v = code->value_low[above] | code->value_high[above] << 8;
        *tv += magnitude * v;
        *vv += v * v;
    }
}

static void pack_nibbles(const uint8_t *index, unsigned n, uint8_t *codes)
{
    for (unsigned i = 0; i < n / 2; i++)
        codes[i] = (uint8_t)((index[2 * i] & 15) | index[2 * i + 1] << 4);
}

static void lloyd_values(const int8_t *index, unsigned n, const lloyd_code *code,
                         float scale, float *dst)
{
    for (unsigned i = 0; i < n; i++)
        dst[i] = code->values[index[i] & 15] * scale;
}

const codec_kernels codec_scalar = {
    .name = "scalar",
    .hadamard = hadamard,
    .moments = moments,
    .quantize = quantize,
    .viterbi = viterbi,
    .levels = levels,
    .scale_levels = scale_levels,
    .project_levels = project_levels,
    .lloyd_index = lloyd_index,
    .pack_nibbles = pack_nibbles,
    .lloyd_values = lloyd_values,
    .mlx_encode = mlx_encode,
    .mlx_decode = mlx_decode,
};
