#include "codec/plan.h"

#include <string.h>

#include "format/trellis.h"

/* Where 8 windows begin: the bits after the first's byte. */
static void place_group(stream_plan *p, unsigned group)
{
    window_group *g = &p->groups[group];
    g->first_byte = (uint16_t)(trellis_offset(p->rate, group * 8) / 8);
    for (unsigned i = 0; i < 8; i++) {
        unsigned value = group * 8 + i;
        unsigned bit = trellis_offset(p->rate, value) - g->first_byte * 8u;
        g->shuffle[2 * i] = (uint8_t)(bit / 8);
        g->shuffle[2 * i + 1] = (uint8_t)(bit / 8 + 1);
        g->multiplier[i] = (uint16_t)(256 >> bit % 8);
        p->group_bits[value] = (uint8_t)bit;
        p->is_high[value] = trellis_bits(p->rate, value) > p->low_bits ? 0xFF : 0;
    }
}

static void place_bytes(stream_plan *p, unsigned group)
{
    uint64_t first = p->groups[group].first_byte - p->groups[group / 8 * 8].first_byte;
    uint64_t bytes = first * 0x0101010101010101u + 0x0706050403020100u;
    memcpy(p->group_bytes + group * 8, &bytes, sizeof bytes);
}

/* Where all values have the same bits, all groups look alike. */
static void place_windows(stream_plan *p)
{
    place_group(p, 0);
    for (unsigned group = 1; group < PATTERN / 8; group++) {
        if (p->mixed) {
            place_group(p, group);
            continue;
        }
        p->groups[group] = p->groups[0];
        p->groups[group].first_byte = (uint16_t)(group * p->low_bits);
        memcpy(p->group_bits + group * 8, p->group_bits, 8);
    }
    for (unsigned group = 0; group < PATTERN / 8; group++)
        place_bytes(p, group);
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
    for (unsigned high = 0; high <= (unsigned)p->mixed; high++)
        p->table[high] = trellis_table_of(p->low_bits + high);
}
