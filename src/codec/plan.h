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
    /* Kernels may read this far past the last code byte. */
    CODE_PADDING = 64,
    /* Longest lead-in of the tail-biting search; no head_dim is less. */
    MAX_LEAD = 16
};

/* The bit stream of a row, for tq and lm. Every 8 values have `bits` bytes, from which their
 * windows are cut alike. */
typedef struct stream_plan {
    unsigned head_dim, bits;
    int8_t a[16], b[16]; /* level tables */
    /* 8 windows: with their bytes shuffled by shuffle into 16-bit lanes, window i is
     * (lane i * multiplier[i]) >> 8 & 255. */
    uint8_t shuffle[16];
    uint16_t multiplier[8];
    /* 64 windows: bytes of each 8, and the bits where windows begin there. */
    uint8_t group_bytes[64], group_bits[64];
} stream_plan;

/* The search for codes (doc/format.md, section 8). */
typedef struct trellis_plan {
    unsigned head_dim, bits;
    const trellis_table *table;
} trellis_plan;

/* Values before and after the seam that the search looks at to choose the node
 * there: enough for a path to forget where it began (doc/quality.md). */
static inline unsigned trellis_lead(unsigned bits)
{
    return bits < 4 ? MAX_LEAD : MAX_LEAD / 2;
}

/* At 4 bits each of the 16 nodes has its own centre, a[node]. A search that
 * goes on only from the NARROW nodes whose centres are nearest to the target
 * loses nothing that can be measured (doc/quality.md) and takes a third less. */
enum { NARROW = 10 };

static inline int trellis_is_narrow(const trellis_plan *p)
{
    return p->bits == 4;
}

/* The first of the nodes from which the search goes on after a target. */
static inline unsigned trellis_first_node(const trellis_plan *p, int target)
{
    unsigned first = 0;
    for (unsigned i = NARROW / 2; i < 16 - NARROW / 2; i++)
        first += target > 2 * p->table->a[i];
    return first;
}

void stream_plan_init(stream_plan *p, const tqkv_format *format);
void trellis_plan_init(trellis_plan *p, const tqkv_format *format);

#endif
