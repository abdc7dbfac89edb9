/* Sections of pages (doc/format.md, sections 7 and 10), for the container's writer and
 * reader. */
#ifndef TQKV_CONTAINER_PAGES_H
#define TQKV_CONTAINER_PAGES_H

#include "tqkv_page.h"

/* Tokens of the section that begins with row `first` of the container. */
size_t pages_tokens(const tqkv_container_info *info, uint64_t first);

/* Bytes of a section of so many tokens; TQKV_ERROR_OVERFLOW beyond what one may have. */
tqkv_status pages_bytes(const tqkv_container_info *info, size_t n_tokens, size_t *bytes);

/* Makes the section that begins with row `first` from values[n_tokens][n_heads][head_dim].
 * scratch has room for one whole page. */
tqkv_status pages_seal(const tqkv_container_info *info, const tqkv_profile *profile,
                       uint64_t first, size_t n_tokens, const float *values, uint8_t *scratch,
                       uint8_t *section);

/* Decodes rows skip to skip + n_rows - 1 of the section, n_tokens long, that begins with
 * row `first` of the container. */
tqkv_status pages_read(const tqkv_container_info *info, const tqkv_profile *profile,
                       uint64_t first, size_t n_tokens, uint8_t *section, size_t skip,
                       size_t n_rows, float *values);

#endif
