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

static void set_tables(stream_plan *p, unsigned codebook)
{
    if (codebook == TQKV_CODEBOOK_TRELLIS) {
        const trellis_table *t = trellis_table_of(p->bits);
        memcpy(p->a, t->a, sizeof t->a);
        memcpy(p->b, t->b, sizeof t->b);
        return;
    }
    for (int i = 0; i < 16; i++) { /* the level is the number of the centroid */
        p->a[i] = 0;
        p->b[i] = (int8_t)(i & ((1 << p->bits) - 1));
    }
}

void stream_plan_init(stream_plan *p, const tqkv_format *format)
{
    p->head_dim = format->head_dim;
    p->bits = format->bits;
    place_windows(p);
    set_tables(p, format->codebook);
}

void trellis_plan_init(trellis_plan *p, const tqkv_format *format)
{
    p->head_dim = format->head_dim;
    p->bits = format->bits;
    p->table = trellis_table_of(format->bits);
}
