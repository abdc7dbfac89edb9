#include "format/trellis.h"

/* Trained by tools/train_trellis.c ("make tables" repeats it); 8 bits are
 * plain int8, whose window is the level. */
static const trellis_table tables[] = {
#include "format/trellis_tables.inc"
    /* 8 bits */
    {.a = {0, 16, 32, 48, 64, 80, 96, 112, -128, -112, -96, -80, -64, -48, -32, -16},
     .b = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
};

const trellis_table *trellis_table_of(unsigned bits)
{
    return &tables[bits - 2];
}
