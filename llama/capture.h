/* Keys and queries of a model at work, from which its profile is fitted. */
#ifndef TQKV_LLAMA_CAPTURE_H
#define TQKV_LLAMA_CAPTURE_H

#include "caches.h"

typedef struct capture capture;

/* Writes a profile to `path` in the end, from at most max_keys keys a head. */
capture *capture_create(const char *path, size_t max_keys, uint32_t n_centres);

/* n heads from `first` of row `row` of a batch; any thread, heads of a row by
 * one each. */
void capture_keys(capture *c, const cache *keys, size_t row, uint32_t first, uint32_t n,
                  const float *values);

/* The queries of all heads that read these keys, with their data; one thread. Rows captured
 * since the last call count as stored from then on. */
void capture_queries(capture *c, const cache *keys, const gg_tensor *queries, const void *data);

/* Makes room for the layer, before its first graph is computed. */
void capture_prepare(capture *c, const cache *keys);

void capture_name(capture *c, const char *fingerprint);

/* Fits and writes the profile, if there were keys, and frees. */
void capture_finish(capture *c);

#endif
