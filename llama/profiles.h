/* The key profiles that TQKV_PROFILE names, and which model a graph is of. */
#ifndef TQKV_LLAMA_PROFILES_H
#define TQKV_LLAMA_PROFILES_H

#include "ggml_abi.h"
#include "tqkv.h"

enum { FINGERPRINT_SIZE = 24 };

/* Says which model the graph's weights belong to: a hash of the norms before
 * attention and output, which quantised files of a model share. 0 if the
 * graph has none, or the weights have not been loaded. */
int fingerprint_of(gg_graph *graph, char text[FINGERPRINT_SIZE]);

/* The profile with this fingerprint among the files of TQKV_PROFILE, whose names are
 * divided by colons ("\:" is a colon in a name, "\\" a backslash), and a number that says
 * which it is; *profile is null if the variable is not set. Free it with
 * tqkv_profile_free. Null, or what is wrong, in text that lives until the next call. */
const char *profile_for(const char *fingerprint, tqkv_profile **profile, uint64_t *id);

#endif
