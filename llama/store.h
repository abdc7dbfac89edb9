/* Rows into the cache and out of it. */
#ifndef TQKV_LLAMA_STORE_H
#define TQKV_LLAMA_STORE_H

#include "work.h"

/* The thread's part of a STORE, LOAD or SHIFT. */
void store_run(const step *s, int ith, int nth);
/* A rotation that is left out where its result is read by ggml: a copy. */
void copy_run(const step *s, int ith, int nth);
void load_run(const step *s, int ith, int nth);
void shift_run(const step *s, int ith, int nth);

#endif
