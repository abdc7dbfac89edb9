/* A capture's rows through pages and back, and attention over them through the library's
 * cache, on codes. */
#ifndef TQKV_COMMAND_EVAL_ROWS_H
#define TQKV_COMMAND_EVAL_ROWS_H

#include "eval_attention.h"

typedef struct span {
    double encode_seconds, decode_seconds, values;
} span;

/* All rows of src, keys or values, in pages of each head, with a mean or without, to dst.
 * balance may be null. Adds to *time. 0 with a message. */
int pages_round_trip(const capture *c, const tqkv_format *f, const tqkv_profile *balance,
                     int has_means, const float *src, float *dst, span *time);

typedef struct cache_run {
    double token_bytes; /* a token, all layers; those that are not sealed in f16 */
    double seconds;     /* of attention */
    double units;       /* tokens and query heads attended */
} cache_run;

/* Appends the capture to a cache of these formats and attends from a's query
 * positions; fills a's outputs. balance may be null. 0 with a message. */
int cache_attention(attention *a, const capture *c, const tqkv_format *keys,
                    const tqkv_format *values, const tqkv_profile *balance, int has_means,
                    cache_run *run);

#endif
