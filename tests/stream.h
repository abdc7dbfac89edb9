/* Memory that a container's writer fills and its reader reads. */
#ifndef TQKV_TESTS_STREAM_H
#define TQKV_TESTS_STREAM_H

#include "test.h"

typedef struct memory {
    uint8_t *data;
    size_t size, at, fail_at; /* fail_at: bytes after which writing fails */
} memory;

static inline size_t memory_write(void *context, const void *data, size_t size)
{
    memory *m = context;
    size_t room = m->fail_at - m->size;
    if (size > room)
        size = room;
    m->data = realloc(m->data, m->size + size + 1);
    assert_non_null(m->data);
    memcpy(m->data + m->size, data, size);
    m->size += size;
    return size;
}

static inline size_t memory_read(void *context, void *data, size_t size)
{
    memory *m = context;
    size_t left = m->size - m->at;
    if (size > left)
        size = left;
    memcpy(data, m->data + m->at, size);
    m->at += size;
    return size;
}

#endif
