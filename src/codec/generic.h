/* Code that is the same text for every instruction set, compiled once for
 * each: define TARGET as the function attribute that selects it. */
#include <math.h>
#include <string.h>

#include "codec/kernels.h"
#include "format/mlx.h"

/* Adds 16 lanes pairwise: the order that vectors of 4, 8 and 16 lanes share. */
TARGET static inline float lanes_sum(const float *lane)
{
    float eight[8], four[4];
    for (int i = 0; i < 8; i++)
        eight[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++)
        four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* Follows survivors from the node after position count - 1 back to the node
 * before position 0, which it returns. A value's own bits are the lowest of its
 * window, but with three taps the highest. */
TARGET static inline unsigned viterbi_trace(const trellis_plan *p, const uint8_t *survivors,
                                            unsigned count, unsigned node, uint8_t *symbols)
{
    unsigned nodes = p->nodes, own = trellis_has_taps(p->bits) ? 6 : 0;
    for (unsigned s = count; s-- > 0;) {
        unsigned window = node << p->bits | survivors[s * nodes + node];
        symbols[s] = (uint8_t)(window >> own);
        node = window & (nodes - 1);
    }
    return node;
}

/* ---- rotation ---- */

/* Butterflies of distance from up to block / 2, inside blocks. */
TARGET static inline void butterflies(float *x, unsigned n, unsigned from,
                                      unsigned block)
{
    for (unsigned h = from; h < block; h *= 2)
        for (unsigned i = 0; i < n; i += 2 * h)
            for (unsigned j = i; j < i + h; j++) {
                float low = x[j], high = x[j + h];
                x[j] = low + high;
                x[j + h] = low - high;
            }
}

/* y[i][.] = sum over j of +-x[j][.], from left to right. */
TARGET static inline void outer_factor(float *x, unsigned order, unsigned block,
                                       const uint64_t *rows)
{
    float y[MAX_DIM];
    for (unsigned i = 0; i < order; i++) {
        float *sum = y + i * block;
        for (unsigned j = 0; j < order; j++) {
            const float *in = x + j * block;
            if (j == 0 && !(rows[i] & 1))
                for (unsigned k = 0; k < block; k++)
                    sum[k] = in[k];
            else if (j == 0)
                for (unsigned k = 0; k < block; k++)
                    sum[k] = -in[k];
            else if (rows[i] >> j & 1)
                for (unsigned k = 0; k < block; k++)
                    sum[k] -= in[k];
            else
                for (unsigned k = 0; k < block; k++)
                    sum[k] += in[k];
        }
    }
    memcpy(x, y, order * block * sizeof *x);
}

TARGET static inline void scale_row(float *x, unsigned n, float factor)
{
    for (unsigned i = 0; i < n; i++)
        x[i] *= factor;
}

#ifndef HAS_HADAMARD
TARGET static void hadamard(float *x, const rotation *r, int transposed,
                            float factor)
{
    unsigned block = r->head_dim / r->order;
    butterflies(x, r->head_dim, 1, block);
    if (r->order > 1)
        outer_factor(x, r->order, block, transposed ? r->outer_transposed : r->outer);
    scale_row(x, r->head_dim, factor);
}
#endif

/* ---- the reference's layout ----
 *
 * Double precision inside, because the layout's codes are defined by real
 * numbers: with 2^-52 between, a code depends on the order of operations for
 * no input that anybody will meet. */

TARGET static inline void hadamard_double(double *x, unsigned n)
{
    for (unsigned h = 1; h < n; h *= 2)
        for (unsigned i = 0; i < n; i += 2 * h)
            for (unsigned j = i; j < i + h; j++) {
                double low = x[j], high = x[j + h];
                x[j] = low + high;
                x[j + h] = low - high;
            }
    double root = sqrt((double)n);
    for (unsigned i = 0; i < n; i++)
        x[i] /= root;
}

TARGET static void mlx_encode(const float *x, unsigned n, unsigned bits,
                              const float *codebook, uint8_t *packed, float *norms)
{
    double y[MAX_DIM];
    uint8_t index[MAX_DIM];
    unsigned block = n > 256 ? 256 : n;
    for (unsigned i = 0; i < n; i++)
        y[i] = x[i];
    hadamard_double(y, n);
    for (unsigned b = 0; b < n; b += block) {
        double lane[16] = {0}, sum = 0;
        for (unsigned i = b; i < b + block; i += 16)
            for (unsigned j = 0; j < 16; j++)
                lane[j] += y[i + j] * y[i + j];
        for (unsigned j = 0; j < 16; j++)
            sum += lane[j];
        /* One norm: the L2 norm of the row. Blocks: their root mean square. */
        double norm = sqrt(n > 256 ? sum / block : sum);
        double unit = n > 256 ? norm : norm / sqrt((double)n);
        double inverse = norm > 1e-10 ? 1 / unit : 0;
        norms[b / block] = norm > 1e-10 ? (float)norm : 0;
        for (unsigned i = b; i < b + block; i++)
            index[i] = (uint8_t)mlx_nearest(codebook, bits, y[i] * inverse);
    }
    if (bits == 4)
        for (unsigned i = 0; i < n / 2; i++)
            packed[i] = (uint8_t)(index[2 * i] | index[2 * i + 1] << 4);
    else
        memcpy(packed, index, n);
}

TARGET static void mlx_decode(const uint8_t *packed, const float *norms,
                              unsigned n, unsigned bits, const float *codebook,
                              float scale_factor, float *dst)
{
    float inverse_root = (float)(1 / sqrt((double)n));
    unsigned block = n > 256 ? 256 : n, mask = (1u << bits) - 1;
    for (unsigned b = 0; b < n; b += block) {
        float norm = norms[b / block];
        float scale = n > 256 ? norm / scale_factor : norm * inverse_root;
        for (unsigned i = b; i < b + block; i++) {
            unsigned index = bits == 4 ? (unsigned)packed[i / 2] >> i % 2 * 4 : packed[i];
            dst[i] = codebook[index & mask] * scale;
        }
    }
}
