/* What libFuzzer calls, which no header of its own declares; and input as a
 * stream. */
#ifndef TQKV_FUZZ_FUZZ_H
#define TQKV_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes to read from. */
typedef struct memory {
    const uint8_t *data;
    size_t size, at;
} memory;

static inline size_t read_memory(void *context, void *data, size_t size)
{
    memory *m = context;
    size_t left = m->size - m->at, n = size < left ? size : left;
    if (n)
        memcpy(data, m->data + m->at, n);
    m->at += n;
    return n;
}

#endif
