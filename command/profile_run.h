/* One run of llama.cpp on a text, watched by the backend, which fits a profile. */
#ifndef TQKV_COMMAND_PROFILE_RUN_H
#define TQKV_COMMAND_PROFILE_RUN_H

#include <stddef.h>
#include <stdint.h>

#include "llama.h"

/* The profile's bytes, to be freed; 0 with a message. Everything that the run makes on
 * the way lies in one folder in $TMPDIR, which goes when it ends, also by a signal. */
int profile_run(const profile_request *r, const char *backend, uint8_t **data, size_t *size);

#endif
