/* Additive trellis codes: tables (doc/format.md). */
#ifndef TQKV_FORMAT_TRELLIS_H
#define TQKV_FORMAT_TRELLIS_H

#include <stdint.h>

/* level of window w = a[w >> 4] + b[w & 15], from -128 to 127. */
typedef struct trellis_table {
    int8_t a[16], b[16];
} trellis_table;

/* The table of 2 to 8 bits a value. */
const trellis_table *trellis_table_of(unsigned bits);

#endif
