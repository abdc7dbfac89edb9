#include "container/container.h"

#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "container/pages.h"
#include "format/format.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static const char magic[8] = {'T', 'Q', 'K', 'V', 'R', 'O', 'W', 'S'};

tqkv_status container_shape(const tqkv_container_info *info, uint64_t *n_rows,
                            size_t *row_bytes)
{
    tqkv_status status = tqkv_format_check(&info->format);
    if (status != TQKV_OK)
        return status;
    if (!info->n_layers || !info->n_tokens || !info->n_heads ||
        info->type > TQKV_BF16 || info->has_layer_axis > 1 || info->is_paged > 1)
        return TQKV_ERROR_ARGUMENT;
    uint64_t rows, values;
    if (__builtin_mul_overflow(info->n_layers, info->n_tokens, &rows) ||
        __builtin_mul_overflow(rows, info->n_heads, &rows) ||
        __builtin_mul_overflow(rows, (uint64_t)info->format.head_dim * 8, &values))
        return TQKV_ERROR_OVERFLOW;
    size_t section;
    if (info->is_paged)
        status = pages_bytes(info, pages_tokens(info, 0), &section);
    if (status != TQKV_OK)
        return status;
    *n_rows = rows;
    return tqkv_format_row_bytes(&info->format, row_bytes);
}

void container_header_write(const tqkv_container_info *info, uint8_t *h)
{
    memset(h, 0, HEADER_BYTES);
    memcpy(h, magic, sizeof magic);
    store_le(h + 8, info->is_paged ? PAGES_VERSION : ROWS_VERSION, 2);
    store_le(h + 10, ENDIAN_MARK, 2);
    h[12] = info->format.codebook;
    h[13] = info->format.layout;
    h[14] = info->format.rotation;
    h[15] = info->type;
    store_le(h + 16, format_stored_bits(&info->format), 2);
    store_le(h + 18, info->format.head_dim, 2);
    h[20] = info->has_layer_axis;
    h[21] = info->has_profile;
    h[22] = info->is_paged;
    store_le(h + 24, info->n_layers, 8);
    store_le(h + 32, info->n_tokens, 8);
    store_le(h + 40, info->n_heads, 8);
    store_le(h + 56, XXH64(h, 56, 0), 8);
}

tqkv_status container_header_read(const uint8_t *h, tqkv_container_info *info)
{
    uint64_t rows;
    size_t row_bytes;
    if (memcmp(h, magic, sizeof magic))
        return TQKV_ERROR_MAGIC;
    if (load_le(h + 10, 2) == REVERSED_MARK)
        return TQKV_ERROR_ENDIAN;
    uint64_t version = load_le(h + 8, 2);
    if (version != ROWS_VERSION && version != PAGES_VERSION)
        return TQKV_ERROR_VERSION;
    if (XXH64(h, 56, 0) != load_le(h + 56, 8))
        return TQKV_ERROR_CHECKSUM;
    tqkv_container_info i = {
        .format = {.bits = format_bits_from(load_le(h + 16, 2)),
                   .head_dim = (uint16_t)load_le(h + 18, 2),
                   .codebook = h[12], .layout = h[13], .rotation = h[14]},
        .n_layers = load_le(h + 24, 8),
        .n_tokens = load_le(h + 32, 8),
        .n_heads = load_le(h + 40, 8),
        .type = h[15],
        .has_layer_axis = h[20],
        .has_profile = h[21],
        .is_paged = h[22],
    };
    if (h[21] > 1 || h[22] != (version == PAGES_VERSION) || h[23] || load_le(h + 48, 8) ||
        (!i.has_layer_axis && i.n_layers != 1) ||
        container_shape(&i, &rows, &row_bytes) != TQKV_OK)
        return TQKV_ERROR_CORRUPT;
    *info = i;
    return TQKV_OK;
}

tqkv_status container_check_profile(const tqkv_container_info *info,
                                    const tqkv_profile *profile)
{
    return tqkv_profile_n_layers(profile) == info->n_layers &&
                   tqkv_profile_n_heads(profile) == info->n_heads &&
                   tqkv_profile_head_dim(profile) == info->format.head_dim
               ? TQKV_OK
               : TQKV_ERROR_PROFILE;
}

/* Rows of one layer and head: every n_heads-th from row `first` of the span. */
typedef struct head_rows {
    const float *balance; /* or null */
    size_t first, count, step;
} head_rows;

/* The head_rows number `index` of a span of n_rows rows inside one layer. */
static head_rows rows_of_head(const tqkv_container_info *info,
                              const tqkv_profile *profile, uint64_t first,
                              size_t n_rows, size_t index)
{
    head_rows r = {.first = 0, .count = n_rows, .step = 1};
    if (profile) {
        uint64_t per_layer = info->n_tokens * info->n_heads;
        r.first = index;
        r.step = (size_t)info->n_heads;
        r.count = (n_rows - index + r.step - 1) / r.step;
        tqkv_profile_balance(profile, (uint32_t)(first / per_layer),
                             (uint32_t)((first + index) % info->n_heads), &r.balance);
    }
    return r;
}

/* Rows from `first` that lie in the same layer. */
static size_t within_layer(const tqkv_container_info *info,
                           const tqkv_profile *profile, uint64_t first, size_t n_rows)
{
    uint64_t per_layer = info->n_tokens * info->n_heads;
    uint64_t left = per_layer - first % per_layer;
    return !profile || left > n_rows ? n_rows : (size_t)left;
}

static size_t heads_in(const tqkv_container_info *info, const tqkv_profile *profile,
                       size_t n_rows)
{
    if (!profile)
        return 1;
    return info->n_heads < n_rows ? (size_t)info->n_heads : n_rows;
}

/* Either way: rows from src, or values to dst if src is null. */
typedef struct transfer {
    const uint8_t *src;
    tqkv_type type;
    float *dst;
} transfer;

/* Rows of one head, whose first row and value are at bytes, src and dst. */
static tqkv_status transfer_head(const tqkv_format *f, const head_rows *r,
                                 const transfer *t, uint8_t *bytes, size_t row_bytes)
{
    size_t stride = r->step * f->head_dim, element = t->type == TQKV_F32 ? 4 : 2;
    tqkv_rows rows;
    tqkv_status status =
        tqkv_rows_at(f, bytes + r->first * row_bytes, r->step * row_bytes, &rows);
    if (status != TQKV_OK)
        return status;
    if (t->src)
        return tqkv_encode(f, r->balance, t->src + r->first * f->head_dim * element, t->type,
                           stride, r->count, &rows);
    return tqkv_decode(f, r->balance, &rows, r->count, TQKV_ORIGINAL,
                       t->dst + r->first * f->head_dim, stride);
}

static tqkv_status transfer_rows(const tqkv_container_info *info,
                                 const tqkv_profile *profile, uint64_t first,
                                 size_t n_rows, transfer t, uint8_t *bytes)
{
    size_t dim = info->format.head_dim, row_bytes;
    tqkv_status status = tqkv_format_row_bytes(&info->format, &row_bytes);
    while (status == TQKV_OK && n_rows) {
        size_t span = within_layer(info, profile, first, n_rows);
        size_t heads = heads_in(info, profile, span);
        for (size_t i = 0; status == TQKV_OK && i < heads; i++) {
            head_rows r = rows_of_head(info, profile, first, span, i);
            status = transfer_head(&info->format, &r, &t, bytes, row_bytes);
        }
        first += span;
        n_rows -= span;
        bytes += span * row_bytes;
        if (t.src)
            t.src += span * dim * (t.type == TQKV_F32 ? 4 : 2);
        else
            t.dst += span * dim;
    }
    return status;
}

tqkv_status container_encode(const tqkv_container_info *info,
                             const tqkv_profile *profile, uint64_t first,
                             size_t n_rows, const void *values, tqkv_type type,
                             uint8_t *rows)
{
    return transfer_rows(info, profile, first, n_rows,
                         (transfer){.src = values, .type = type}, rows);
}

tqkv_status container_decode(const tqkv_container_info *info,
                             const tqkv_profile *profile, uint64_t first,
                             size_t n_rows, uint8_t *rows, float *values)
{
    return transfer_rows(info, profile, first, n_rows, (transfer){.dst = values}, rows);
}
