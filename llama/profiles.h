/* The profiles that TQKV_PROFILE names, and which model a graph is of. */
#ifndef TQKV_LLAMA_PROFILES_H
#define TQKV_LLAMA_PROFILES_H

#include "ggml_abi.h"
#include "tqkv.h"

enum { FINGERPRINT_SIZE = 24 };

/* Says which model the graph's weights belong to: a hash of the norms before
 * attention and output, which quantised files of a model share. 0 if the
 * graph has none, or the weights have not been loaded. */
int fingerprint_of(gg_graph *graph, char text[FINGERPRINT_SIZE]);

/* The balances of one model's keys. */
typedef struct model_profile {
    tqkv_profile *profile; /* null: none */
    uint64_t id;           /* says which, in the tags of saved rows */
    int has_warned;        /* of layers that it does not cover */
} model_profile;

/* The profile with this fingerprint among the files of TQKV_PROFILE, whose names are
 * divided by colons ("\:" is a colon in a name, "\\" a backslash); none if the variable is
 * not set. Free its profile with tqkv_profile_free. Null, or what is wrong, in text that lives
 * until the next call. */
const char *profile_for(const char *fingerprint, model_profile *m);

/* A copy of a layer's balances, [n_heads][head_dim], to be freed, and which they are of; null
 * where the profile has none for such a layer. m may be null. */
float *profile_balances(model_profile *m, uint32_t layer, uint32_t n_heads, uint32_t head_dim,
                        uint64_t *id);

#endif
