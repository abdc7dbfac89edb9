/* Inside a profile. */
#ifndef TQKV_FORMAT_PROFILE_H
#define TQKV_FORMAT_PROFILE_H

#include "tqkv.h"

struct tqkv_profile {
    uint32_t n_layers, n_heads, head_dim, n_centres;
    char fingerprint[TQKV_MAX_FINGERPRINT + 1];
    size_t head_floats; /* balance and centres of one head: (1 + M) * head_dim */
    float values[];     /* [n_layers][n_heads][head_floats] */
};

/* The floats of one head: its balance, then its centres. Null if there is no
 * such head. */
float *profile_head(const tqkv_profile *profile, uint32_t layer, uint32_t head);

int balance_is_valid(const float *balance, uint32_t n);
int floats_are_finite(const float *values, size_t n);

#endif
