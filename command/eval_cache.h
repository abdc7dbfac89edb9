/* Attention over a capture through the library's cache, on codes. */
#ifndef TQKV_COMMAND_EVAL_CACHE_H
#define TQKV_COMMAND_EVAL_CACHE_H

#include "eval_attention.h"

typedef struct cache_run {
    double token_bytes; /* of one token, all layers */
    double seconds;     /* of attention */
} cache_run;

/* Appends the capture to a cache of these formats and attends from a's query
 * positions; fills a's outputs. profile may be null. 0 with a message. */
int cache_attention(attention *a, const capture *c, const tqkv_format *keys,
                    const tqkv_format *values, const tqkv_profile *profile, int page_means,
                    cache_run *run);

#endif
