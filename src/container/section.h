/* Sections: kind, size, payload and checksum, which containers and snapshots are
 * made of (doc/format.md). */
#ifndef TQKV_CONTAINER_SECTION_H
#define TQKV_CONTAINER_SECTION_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tqkv.h"

enum { SECTION_HEADER_BYTES = 16, CHECKSUM_BYTES = 8 };

/* Writes a whole section. */
tqkv_status section_write(tqkv_write_function write, void *context, unsigned kind,
                          const void *data, size_t size);

/* A section that is being read. */
typedef struct section {
    unsigned kind;
    uint64_t size;
    XXH64_state_t hash;
} section;

/* All of size bytes, or TQKV_ERROR_TRUNCATED. */
tqkv_status section_get(tqkv_read_function read, void *context, void *data, size_t size);
tqkv_status section_begin(tqkv_read_function read, void *context, section *s);
/* The checksum that follows the payload, which is given here. */
tqkv_status section_check(tqkv_read_function read, void *context, section *s,
                          const void *payload, size_t size);

/* A section of which kind and size are known beforehand; anything else is
 * TQKV_ERROR_CORRUPT. */
tqkv_status section_read(tqkv_read_function read, void *context, unsigned kind, void *data,
                         size_t size);

#endif
