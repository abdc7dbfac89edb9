/* Scalar Lloyd-Max codes for N(0,1). */
#ifndef TQKV_FORMAT_LLOYD_MAX_H
#define TQKV_FORMAT_LLOYD_MAX_H

#include <stdint.h>

/* The encoder compares in integers, LLOYD_UNIT to the row's root mean square;
 * thresholds are the midpoints of the values, rounded to that grid. No two lie
 * in the same 256 steps, so that the upper byte of a magnitude says which one
 * matters, and the lower byte on which side of it the magnitude is. */
enum { LLOYD_UNIT = 1024, LLOYD_VALUE_UNIT = 256 };

typedef struct lloyd_code {
    unsigned bits;
    float values[16];      /* ascending, 2^bits of them */
    int16_t thresholds[8]; /* the positive half, ascending: 0 first, then the
                              midpoints of the upper values */
    /* For a magnitude m, as bytes m >> 8 (at most 15) and m & 255: the number
     * of thresholds below it is count[m >> 8] + ((m & 255) >= edge[m >> 8]). */
    uint8_t count[16], edge[16];
    /* The upper values in units of 1 / LLOYD_VALUE_UNIT, rounded, for the scale:
     * lower and upper byte. */
    uint8_t value_low[16], value_high[16];
} lloyd_code;

/* The code of 2, 3 or 4 bits. */
const lloyd_code *lloyd_code_of(unsigned bits);

#endif
