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

/* The codes of a row, for tq and lm: a bit stream, of which every 8 values have `bits` bytes
 * from which their windows are cut alike; or planes of symbols with three taps. */
typedef struct stream_plan {
    unsigned head_dim, bits;
    int is_planes;
    /* Planes: the tables, each twice; and what two symbols add to levels, by bits 0 to
     * 3 of a nibble of the low plane, and above them the third bits of its symbols: their
     * own second level, the second level behind them, their own first, the first
     * behind. */
    int8_t taps[3][16];
    int8_t pairs[4][64];
    /* Streams: level tables. */
    int8_t a[16], b[16];
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
    unsigned nodes;
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
