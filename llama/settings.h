/* What the user asks for, by the environment. */
#ifndef TQKV_LLAMA_SETTINGS_H
#define TQKV_LLAMA_SETTINGS_H

#include "tqkv.h"

/* Read when the library is loaded, and again for each context's cache.
 *
 *   TQKV_KV      the formats of keys and values, as tq5/tq4, or one name for both. Where it
 *                is unset or empty caches stay llama.cpp's, and if it is so when the library
 *                is loaded, nothing is hooked.
 *   TQKV_RECENT  so many of the newest tokens, at least, stay staged (see cells.h)
 *   TQKV_STRICT  1: an operation that tqkv has not makes the graph fail; otherwise the
 *                tensor that it works on becomes plain f16
 *   TQKV_PROFILE the files with the models' balances (profiles.h)
 *   TQKV_CAPTURE, TQKV_CAPTURE_KEYS, TQKV_CAPTURE_PROGRESS
 *                a profile to write, from so many keys of each head; every token then
 *                stays staged, so that it is fitted to the f16 cache's keys and queries */
typedef struct settings {
    char formats[2][TQKV_FORMAT_NAME_SIZE]; /* values', keys' */
    uint32_t recent_pages;
    int is_strict;
    const char *capture; /* path, or null; the environment's */
    size_t capture_keys;
} settings;

/* Whether the user wants anything at all. */
int settings_are_wanted(void);

/* Null, or what is wrong with the variables, in static text. */
const char *settings_read(settings *s);

#endif
