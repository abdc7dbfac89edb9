/*
 * The buffers that hold llama.cpp's caches.
 *
 * llama.cpp asks the CPU's buffer type for the size of each tensor of a cache, then for a
 * buffer of their sum, and then puts the tensors there one by one. Where these are cache
 * tensors in f16 the buffer becomes tqkv's: it has all the addresses that were asked for, but
 * memory only where cells.h says. Its type is one of its own, which no other backend takes
 * for memory of the host, so that everything that goes in or out passes through here, and
 * which llama.cpp's reports name.
 */
#ifndef TQKV_LLAMA_MEMORY_H
#define TQKV_LLAMA_MEMORY_H

#include "cells.h"

/* From now on the CPU's buffer type makes such buffers. Null, or what is wrong. */
const char *memory_hook(void);
int memory_is_ours(gg_buffer_type_t t);

/* The cells that t is, or is a view of; null if it is neither, or if they are plain. */
cells *memory_cells(const gg_tensor *t);

/* Makes the cells plain, and says so at the first ones of a buffer. 0 without memory. */
int memory_make_plain(cells *c, const char *why);
/* Tells the buffer of this tensor how large it is, once heads are known; logs what it keeps
 * when all are. */
void memory_count(const gg_tensor *t);

#endif
