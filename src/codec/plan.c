#include "codec/plan.h"

#include <string.h>

static void place_windows(stream_plan *p)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned bit = i * p->bits;
        p->shuffle[2 * i] = (uint8_t)(bit / 8);
        p->shuffle[2 * i + 1] = (uint8_t)(bit / 8 + 1);
        p->multiplier[i] = (uint16_t)(256 >> bit % 8);
    }
    for (unsigned i = 0; i < 64; i++) {
        p->group_bytes[i] = (uint8_t)(i / 8 * p->bits + i % 8);
        p->group_bits[i] = (uint8_t)(i % 8 * p->bits);
    }
}

static void set_taps(stream_plan *p, const trellis_table *t)
{
    for (int j = 0; j < 3; j++)
        for (int i = 0; i < 16; i++)
            p->taps[j][i] = t->taps[j][i % 8];
    for (int i = 0; i < 64; i++) {
        int first = (i & 3) | (i >> 4 & 1) << 2, second = (i >> 2 & 3) | (i >> 5) << 2;
        p->pairs[0][i] = (int8_t)(t->taps[0][second] + t->taps[1][first]);
        p->pairs[1][i] = t->taps[2][second];
        p->pairs[2][i] = t->taps[0][first];
        p->pairs[3][i] = (int8_t)(t->taps[1][second] + t->taps[2][first]);
    }
}

static void set_tables(stream_plan *p, unsigned codebook)
{
    const trellis_table *t = trellis_table_of(p->bits);
    if (p->is_planes) {
        set_taps(p, t);
    } else if (codebook == TQKV_CODEBOOK_TRELLIS) {
        memcpy(p->a, t->a, sizeof t->a);
        memcpy(p->b, t->b, sizeof t->b);
    } else {
        for (int i = 0; i < 16; i++) { /* the level is the number of the centroid */
            p->a[i] = 0;
            p->b[i] = (int8_t)(i & ((1 << p->bits) - 1));
        }
    }
}

void stream_plan_init(stream_plan *p, const tqkv_format *format)
{
    memset(p, 0, sizeof *p);
    p->head_dim = format->head_dim;
    p->bits = format->bits;
    p->is_planes = format->codebook == TQKV_CODEBOOK_TRELLIS && trellis_has_taps(p->bits);
    place_windows(p);
    set_tables(p, format->codebook);
}

void trellis_plan_init(trellis_plan *p, const tqkv_format *format)
{
    p->head_dim = format->head_dim;
    p->bits = format->bits;
    p->nodes = trellis_nodes(p->bits);
    p->table = trellis_table_of(format->bits);
}
