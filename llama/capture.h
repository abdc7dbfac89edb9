/* Keys and queries of a model at work, from which its profile is fitted. */
#ifndef TQKV_LLAMA_CAPTURE_H
#define TQKV_LLAMA_CAPTURE_H

#include "cells.h"
#include "profiles.h"

typedef struct capture capture;

/* Writes a profile to `path` in the end, from at most max_keys keys a head. */
capture *capture_create(const char *path, size_t max_keys);

/* The keys of all heads in row `row` of a batch; any thread, a row by one. */
void capture_keys(capture *c, const cells *keys, size_t row, const float *values);

/* The queries of all heads that read these keys; one thread. Rows captured since the last
 * call count as stored from then on. */
void capture_queries(capture *c, const cells *keys, const gg_tensor *queries);

/* Makes room for the layer, before its first graph is computed. */
void capture_prepare(capture *c, const cells *keys);

void capture_name(capture *c, const char *fingerprint);

/* Fits and writes the profile, if there were keys, and frees. */
void capture_finish(capture *c);

#endif
