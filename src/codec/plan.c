#include "codec/plan.h"

#include <string.h>

#include "format/trellis.h"

static void place_group(stream_plan *p, unsigned group)
{
    window_group *g = &p->groups[group];
    g->first_byte = (uint16_t)(trellis_offset(p->rate, group * 8) / 8);
    for (unsigned i = 0; i < 8; i++) {
        unsigned offset = trellis_offset(p->rate, group * 8 + i);
        unsigned bit = offset - g->first_byte * 8u;
        g->bit_offset[i] = (uint8_t)bit;
        g->shuffle[2 * i] = (uint8_t)(bit / 8);
        g->shuffle[2 * i + 1] = (uint8_t)(bit / 8 + 1);
        g->multiplier[i] = (uint16_t)(256 >> bit % 8);
        p->is_high[group * 8 + i] =
            trellis_bits(p->rate, group * 8 + i) > p->low_bits ? 0xFF : 0;
    }
}

/* Where all values have the same bits, all groups look alike. */
static void place_windows(stream_plan *p)
{
    place_group(p, 0);
    for (unsigned group = 1; group < PATTERN / 8; group++) {
        if (p->mixed) {
            place_group(p, group);
        } else {
            p->groups[group] = p->groups[0];
            p->groups[group].first_byte = (uint16_t)(group * p->low_bits);
        }
    }
}

static void set_tables(stream_plan *p, unsigned codebook)
{
    for (unsigned high = 0; high <= (unsigned)p->mixed; high++) {
        unsigned bits = p->low_bits + high;
        if (codebook == TQKV_CODEBOOK_TRELLIS) {
            const trellis_table *t = trellis_table_of(bits);
            memcpy(p->a[high], t->a, sizeof t->a);
            memcpy(p->b[high], t->b, sizeof t->b);
        } else { /* the level is the number of the centroid */
            for (int i = 0; i < 16; i++) {
                p->a[high][i] = 0;
                p->b[high][i] = (int8_t)(i & ((1 << bits) - 1));
            }
        }
    }
}

void stream_plan_init(stream_plan *p, const tqkv_format *format)
{
    p->head_dim = format->head_dim;
    p->rate = format->rate;
    p->low_bits = format->rate / 16u;
    p->mixed = format->rate % 16 != 0;
    place_windows(p);
    set_tables(p, format->codebook);
}

void trellis_plan_init(trellis_plan *p, const tqkv_format *format)
{
    p->head_dim = format->head_dim;
    p->rate = format->rate;
    p->low_bits = format->rate / 16u;
    p->mixed = format->rate % 16 != 0;
    for (unsigned high = 0; high <= (unsigned)p->mixed; high++) {
        const trellis_table *t = trellis_table_of(p->low_bits + high);
        p->table[high] = t;
        for (unsigned w = 0; w < 256; w++)
            p->level[high][w] = (int16_t)(2 * (t->a[w >> 4] + t->b[w & 15]));
    }
}
