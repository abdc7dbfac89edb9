/* What the kernels need to know of a format, worked out once a call. */
#ifndef TQKV_CODEC_PLAN_H
#define TQKV_CODEC_PLAN_H

#include <stdint.h>

#include "format/lloyd_max.h"
#include "format/rotation.h"
#include "format/trellis.h"
#include "tqkv.h"

enum {
    MAX_DIM = TQKV_MAX_HEAD_DIM,
    /* The pattern of windows repeats after 128 values, at a whole byte. */
    PATTERN = 128,
    /* Kernels may read this far past the last code byte. */
    CODE_PADDING = 64,
    /* Longest lead-in of the tail-biting search; no head_dim is less. */
    MAX_LEAD = 16
};

/* Where 8 consecutive windows lie: with the bytes from first_byte on shuffled by
 * shuffle into 16-bit lanes, window i is (lane i * multiplier[i]) >> 8 & 255. */
typedef struct window_group {
    uint8_t shuffle[16];
    uint16_t multiplier[8];
    uint16_t first_byte;
} window_group;

/* The bit stream of a row, for tq and lm. */
typedef struct stream_plan {
    unsigned head_dim, rate;
    unsigned low_bits;            /* floor(rate) */
    int mixed;                    /* two rates in the row */
    int8_t a[2][16], b[2][16];    /* level tables: low rate, high rate */
    window_group groups[PATTERN / 8];
    uint8_t is_high[PATTERN];     /* if mixed: 0xFF for values of the high rate */
    /* The same for 64 windows at once: the bytes of each group, relative to the
     * first of 8 groups, and the bits where windows begin there. */
    uint8_t group_bytes[PATTERN], group_bits[PATTERN];
} stream_plan;

/* The search for codes (doc/format.md, section 8). */
typedef struct trellis_plan {
    unsigned head_dim, rate;
    unsigned low_bits;
    int mixed;
    const trellis_table *table[2]; /* of the low and the high rate */
} trellis_plan;

/* Values before and after the seam that the search looks at to choose the node
 * there: enough for a path to forget where it began (doc/quality.md). */
static inline unsigned trellis_lead(unsigned low_bits)
{
    return low_bits < 4 ? MAX_LEAD : MAX_LEAD / 2;
}

/* At 4 bits each of the 16 nodes has its own centre, a[node]. A search that
 * goes on only from the NARROW nodes whose centres are nearest to the target
 * loses nothing that can be measured (doc/quality.md) and takes a third less. */
enum { NARROW = 10 };

static inline int trellis_is_narrow(const trellis_plan *p)
{
    return p->rate == 64;
}

/* The first of the nodes from which the search goes on after a target. */
static inline unsigned trellis_first_node(const trellis_plan *p, int target)
{
    unsigned first = 0;
    for (unsigned i = NARROW / 2; i < 16 - NARROW / 2; i++)
        first += target > 2 * p->table[0]->a[i];
    return first;
}

void stream_plan_init(stream_plan *p, const tqkv_format *format);
void trellis_plan_init(trellis_plan *p, const tqkv_format *format);

#endif
