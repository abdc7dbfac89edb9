/* The container's bytes (doc/format.md), for its writer and its reader. */
#ifndef TQKV_CONTAINER_CONTAINER_H
#define TQKV_CONTAINER_CONTAINER_H

#include "tqkv.h"

enum {
    ROWS_VERSION = 3, /* 1 and 2 had other codes of 3 bits */
    PAGES_VERSION = 4,
    HEADER_BYTES = 64,
    SECTION_PROFILE = 1,
    SECTION_ROWS = 2,
    SECTION_END = 3,
    SECTION_PAGES = 4,
    /* The writer's rows sections; the reader takes up to the limit, which pages have too. */
    ROWS_TARGET_BYTES = 1 << 20,
    SECTION_LIMIT_BYTES = 1 << 24
};
#define PROFILE_LIMIT_BYTES ((uint64_t)1 << 31)

/* Checks info and counts rows and bytes of one row. */
tqkv_status container_shape(const tqkv_container_info *info, uint64_t *n_rows,
                            size_t *row_bytes);

void container_header_write(const tqkv_container_info *info, uint8_t *header);
tqkv_status container_header_read(const uint8_t *header, tqkv_container_info *info);

/* Encode or decode n_rows rows, the first of which is row `first` of the
 * container, each head by its own profile. */
tqkv_status container_encode(const tqkv_container_info *info,
                             const tqkv_profile *profile, uint64_t first,
                             size_t n_rows, const void *values, tqkv_type type,
                             uint8_t *rows);
tqkv_status container_decode(const tqkv_container_info *info,
                             const tqkv_profile *profile, uint64_t first,
                             size_t n_rows, uint8_t *rows, float *values);

/* A profile is for these rows. */
tqkv_status container_check_profile(const tqkv_container_info *info,
                                    const tqkv_profile *profile);

#endif
