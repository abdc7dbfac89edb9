#ifndef TQKV_COMMAND_FIT_H
#define TQKV_COMMAND_FIT_H

#include "capture.h"

/* Fits the balance of every head of profile to the first n_tokens tokens of a capture's keys
 * and queries, in pages with means or without; 0 with a message. */
int fit_profile(const capture *c, uint64_t n_tokens, int has_means, tqkv_profile *profile);

#endif
