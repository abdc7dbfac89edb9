/* Inside a profile. */
#ifndef TQKV_FORMAT_PROFILE_H
#define TQKV_FORMAT_PROFILE_H

#include "tqkv.h"

struct tqkv_profile {
    uint32_t n_layers, n_heads, head_dim;
    char fingerprint[TQKV_MAX_FINGERPRINT + 1];
    float balances[]; /* [n_layers][n_heads][head_dim] */
};

/* The balance of one head; null if there is no such head. */
float *profile_head(const tqkv_profile *profile, uint32_t layer, uint32_t head);

/* n values, of one balance or of several. */
int balance_is_valid(const float *balance, size_t n);

#endif
