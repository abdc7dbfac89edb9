#include "container/pages.h"

#include <string.h>

#include "common/checked.h"
#include "container/container.h"
#include "format/format.h"
#include "page/page.h"

/* ---- layout ---- */

static size_t page_bytes(const tqkv_format *f, size_t n_tokens)
{
    return n_tokens * (format_code_bytes(f) + format_scale_bytes(f)) + mean_bytes(f->head_dim);
}

size_t pages_tokens(const tqkv_container_info *info, uint64_t first)
{
    uint64_t left = info->n_tokens - first / info->n_heads % info->n_tokens;
    return left < TQKV_PAGE_TOKENS ? (size_t)left : TQKV_PAGE_TOKENS;
}

tqkv_status pages_bytes(const tqkv_container_info *info, size_t n_tokens, size_t *bytes)
{
    size_t heads = (size_t)info->n_heads, size;
    if (heads != info->n_heads ||
        !size_multiply(heads, page_bytes(&info->format, n_tokens), &size) ||
        size > SECTION_LIMIT_BYTES)
        return TQKV_ERROR_OVERFLOW;
    *bytes = size;
    return TQKV_OK;
}

/* One head's page of a section, which has no more rows than tokens. */
static tqkv_page page_of(const tqkv_format *f, uint8_t *section, size_t n_tokens, size_t head)
{
    size_t code = format_code_bytes(f), scale = format_scale_bytes(f);
    uint8_t *codes = section + head * page_bytes(f, n_tokens), *scales = codes + n_tokens * code;
    return (tqkv_page){
        .format = *f, .n_means = 1, .means = scales + n_tokens * scale,
        .rows = {.codes = codes, .scales = scales, .code_stride = code, .scale_stride = scale}};
}

static const float *balance_of(const tqkv_container_info *info, const tqkv_profile *profile,
                               uint64_t first, size_t head)
{
    const float *balance = NULL;
    if (profile)
        tqkv_profile_balance(profile, (uint32_t)(first / info->n_heads / info->n_tokens),
                             (uint32_t)head, &balance);
    return balance;
}

/* ---- rows ---- */

tqkv_status pages_seal(const tqkv_container_info *info, const tqkv_profile *profile,
                       uint64_t first, size_t n_tokens, const float *values, uint8_t *scratch,
                       uint8_t *section)
{
    const tqkv_format *f = &info->format;
    size_t heads = (size_t)info->n_heads;
    tqkv_page whole;
    tqkv_status status = tqkv_page_at(f, 1, scratch, &whole);
    for (size_t head = 0; status == TQKV_OK && head < heads; head++) {
        tqkv_page part = page_of(f, section, n_tokens, head);
        status = tqkv_page_seal(&whole, balance_of(info, profile, first, head),
                                values + head * f->head_dim, TQKV_F32, heads * f->head_dim,
                                page_first_rows(n_tokens));
        if (status != TQKV_OK)
            break;
        memcpy(part.rows.codes, whole.rows.codes, n_tokens * part.rows.code_stride);
        memcpy(part.rows.scales, whole.rows.scales, n_tokens * part.rows.scale_stride);
        memcpy(part.means, whole.means, mean_bytes(f->head_dim));
    }
    return status;
}

tqkv_status pages_read(const tqkv_container_info *info, const tqkv_profile *profile,
                       uint64_t first, size_t n_tokens, uint8_t *section, size_t skip,
                       size_t n_rows, float *values)
{
    const tqkv_format *f = &info->format;
    size_t heads = (size_t)info->n_heads, n = heads < n_rows ? heads : n_rows;
    tqkv_status status = TQKV_OK;
    for (size_t i = 0; status == TQKV_OK && i < n; i++) { /* every heads-th row from i on */
        size_t row = skip + i, head = row % heads;
        tqkv_page page = page_of(f, section, n_tokens, head);
        status = tqkv_page_read(&page, balance_of(info, profile, first, head), row / heads,
                                (n_rows - i + heads - 1) / heads, TQKV_ORIGINAL,
                                values + i * f->head_dim, heads * f->head_dim);
    }
    return status;
}
