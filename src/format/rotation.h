/* Which Hadamard matrix rotates a head (doc/format.md). */
#ifndef TQKV_FORMAT_ROTATION_H
#define TQKV_FORMAT_ROTATION_H

#include <stdint.h>

/* H = outer (x) Sylvester of order head_dim / order: bit j of outer[i] is set
 * where row i, column j is -1. */
typedef struct rotation {
    unsigned head_dim;
    unsigned order;           /* of the outer factor: 1, 12, 20, 28 or 36 */
    const uint64_t *outer;    /* [order] rows; null for order 1 */
    const uint64_t *outer_transposed;
    float inverse_root;       /* 1 / sqrt(head_dim), to nearest */
    int active;               /* 0: no rotation at all */
    int has_signs;
    uint64_t signs[16];       /* bit i % 64 of word i / 64: flip value i */
} rotation;

/* head_dim and kind must have been checked. */
void rotation_init(rotation *r, unsigned head_dim, unsigned kind);

#endif
