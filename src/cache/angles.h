/* The angles by which a removal turns keys back, the same on every machine. */
#ifndef TQKV_CACHE_ANGLES_H
#define TQKV_CACHE_ANGLES_H

#include "tqkv_cache.h"

/* Of one layer and removal: pair i of a key turns by the angle whose cosine and sine these
 * are. */
typedef struct angle_table {
    uint32_t n_pairs;
    int interleaved;
    double cosine[TQKV_MAX_HEAD_DIM / 2], sine[TQKV_MAX_HEAD_DIM / 2];
} angle_table;

int rope_is_valid(const tqkv_rope *rope, uint32_t head_dim);

/* Angles of -delta positions. The rope is valid. */
void angles_fill(angle_table *t, const tqkv_rope *rope, uint32_t head_dim, size_t delta);

/* Turns a key. */
void angles_turn(const angle_table *t, float *x);

#endif
