#include "format/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static const char magic[8] = {'T', 'Q', 'K', 'V', 'P', 'R', 'O', 'F'};
enum { VERSION = 1, HEADER_BYTES = 32, CHECKSUM_BYTES = 8 };

/* The shape is that of some format. */
static tqkv_status check_shape(uint32_t n_layers, uint32_t n_heads,
                               uint32_t head_dim, uint32_t n_centres)
{
    tqkv_format any = {.rate = 64, .codebook = TQKV_CODEBOOK_TRELLIS,
                       .layout = TQKV_LAYOUT_ROW, .rotation = TQKV_ROTATION_NONE};
    if (head_dim > UINT16_MAX)
        return TQKV_ERROR_HEAD_DIM_RANGE;
    any.head_dim = (uint16_t)head_dim;
    tqkv_status status = tqkv_format_check(&any);
    if (status == TQKV_OK && (!n_layers || !n_heads || !n_centres || n_centres > 256))
        status = TQKV_ERROR_ARGUMENT;
    return status;
}

/* Floats of a whole profile, whose bytes fit a size_t with room to spare. */
static int count_floats(uint32_t n_layers, uint32_t n_heads, uint32_t head_dim,
                        uint32_t n_centres, size_t *floats)
{
    size_t bytes;
    return size_multiply(n_layers, n_heads, floats) &&
           size_multiply(*floats, (size_t)(1 + n_centres) * head_dim, floats) &&
           size_multiply(*floats, sizeof(float), &bytes) &&
           bytes <= SIZE_MAX / 2;
}

tqkv_status tqkv_profile_create(uint32_t n_layers, uint32_t n_heads,
                                uint32_t head_dim, uint32_t n_centres,
                                const char *fingerprint, tqkv_profile **profile)
{
    size_t floats, length = fingerprint ? strlen(fingerprint) : 0;
    tqkv_status status = check_shape(n_layers, n_heads, head_dim, n_centres);
    if (status != TQKV_OK)
        return status;
    if (!profile || length > TQKV_MAX_FINGERPRINT)
        return TQKV_ERROR_ARGUMENT;
    if (!count_floats(n_layers, n_heads, head_dim, n_centres, &floats))
        return TQKV_ERROR_OVERFLOW;
    tqkv_profile *p = calloc(1, sizeof *p + floats * sizeof(float));
    if (!p)
        return TQKV_ERROR_MEMORY;
    p->n_layers = n_layers;
    p->n_heads = n_heads;
    p->head_dim = head_dim;
    p->n_centres = n_centres;
    p->head_floats = (size_t)(1 + n_centres) * head_dim;
    if (length)
        memcpy(p->fingerprint, fingerprint, length);
    for (size_t first = 0; first < floats; first += p->head_floats)
        for (uint32_t i = 0; i < head_dim; i++)
            p->values[first + i] = 1;
    *profile = p;
    return TQKV_OK;
}

void tqkv_profile_free(tqkv_profile *profile)
{
    free(profile);
}

uint32_t tqkv_profile_n_layers(const tqkv_profile *profile)
{
    return profile ? profile->n_layers : 0;
}

uint32_t tqkv_profile_n_heads(const tqkv_profile *profile)
{
    return profile ? profile->n_heads : 0;
}

uint32_t tqkv_profile_head_dim(const tqkv_profile *profile)
{
    return profile ? profile->head_dim : 0;
}

uint32_t tqkv_profile_n_centres(const tqkv_profile *profile)
{
    return profile ? profile->n_centres : 0;
}

const char *tqkv_profile_fingerprint(const tqkv_profile *profile)
{
    return profile ? profile->fingerprint : "";
}

float *profile_head(const tqkv_profile *p, uint32_t layer, uint32_t head)
{
    if (!p || layer >= p->n_layers || head >= p->n_heads)
        return NULL;
    return (float *)p->values + ((size_t)layer * p->n_heads + head) * p->head_floats;
}

tqkv_status tqkv_profile_get(const tqkv_profile *profile, uint32_t layer,
                             uint32_t head, tqkv_key_profile *key_profile)
{
    const float *values = profile_head(profile, layer, head);
    if (!values || !key_profile)
        return TQKV_ERROR_ARGUMENT;
    key_profile->head_dim = profile->head_dim;
    key_profile->n_centres = profile->n_centres;
    key_profile->balance = values;
    key_profile->centres = values + profile->head_dim;
    return TQKV_OK;
}

int floats_are_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return 0;
    return 1;
}

int balance_is_valid(const float *balance, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(balance[i]) || !(balance[i] > 0))
            return 0;
    return 1;
}

tqkv_status tqkv_profile_set(tqkv_profile *profile, uint32_t layer, uint32_t head,
                             const float *balance, const float *centres)
{
    float *values = profile_head(profile, layer, head);
    if (!values || !balance || !centres)
        return TQKV_ERROR_ARGUMENT;
    uint32_t n = profile->head_dim;
    if (!balance_is_valid(balance, n) ||
        !floats_are_finite(centres, (size_t)profile->n_centres * n))
        return TQKV_ERROR_ARGUMENT;
    memmove(values, balance, n * sizeof *values);
    memmove(values + n, centres, (size_t)profile->n_centres * n * sizeof *values);
    return TQKV_OK;
}

/* ---- the file form ---- */

static size_t file_bytes(const tqkv_profile *p)
{
    return HEADER_BYTES + strlen(p->fingerprint) +
           (size_t)p->n_layers * p->n_heads * p->head_floats * sizeof(float) +
           CHECKSUM_BYTES;
}

tqkv_status tqkv_profile_size(const tqkv_profile *profile, size_t *bytes)
{
    if (!profile || !bytes)
        return TQKV_ERROR_ARGUMENT;
    *bytes = file_bytes(profile);
    return TQKV_OK;
}

tqkv_status tqkv_profile_write(const tqkv_profile *p, void *data, size_t size)
{
    if (!p || !data)
        return TQKV_ERROR_ARGUMENT;
    size_t bytes = file_bytes(p), length = strlen(p->fingerprint);
    if (size < bytes)
        return TQKV_ERROR_BUFFER;
    uint8_t *out = data;
    memcpy(out, magic, sizeof magic);
    store_le(out + 8, VERSION, 2);
    store_le(out + 10, ENDIAN_MARK, 2);
    store_le(out + 12, p->n_layers, 4);
    store_le(out + 16, p->n_heads, 4);
    store_le(out + 20, p->head_dim, 4);
    store_le(out + 24, p->n_centres, 4);
    store_le(out + 28, length, 4);
    memcpy(out + HEADER_BYTES, p->fingerprint, length);
    uint8_t *to = out + HEADER_BYTES + length;
    size_t floats = (size_t)p->n_layers * p->n_heads * p->head_floats;
    for (size_t i = 0; i < floats; i++, to += 4) {
        uint32_t bits;
        memcpy(&bits, &p->values[i], sizeof bits);
        store_le(to, bits, 4);
    }
    store_le(to, XXH64(out, (size_t)(to - out), 0), CHECKSUM_BYTES);
    return TQKV_OK;
}

static tqkv_status check_header(const uint8_t *in, size_t size)
{
    if (size < sizeof magic || memcmp(in, magic, sizeof magic))
        return TQKV_ERROR_MAGIC;
    if (size < HEADER_BYTES + CHECKSUM_BYTES)
        return TQKV_ERROR_TRUNCATED;
    if (load_le(in + 10, 2) == REVERSED_MARK)
        return TQKV_ERROR_ENDIAN;
    if (load_le(in + 8, 2) != VERSION)
        return TQKV_ERROR_VERSION;
    return TQKV_OK;
}

/* Fills a profile's arrays from the file, and checks them. */
static tqkv_status read_values(tqkv_profile *p, const uint8_t *from)
{
    size_t heads = (size_t)p->n_layers * p->n_heads;
    for (size_t i = 0; i < heads * p->head_floats; i++) {
        uint32_t bits = (uint32_t)load_le(from + 4 * i, 4);
        memcpy(&p->values[i], &bits, sizeof bits);
    }
    for (size_t h = 0; h < heads; h++) {
        const float *values = p->values + h * p->head_floats;
        if (!balance_is_valid(values, p->head_dim) ||
            !floats_are_finite(values, p->head_floats))
            return TQKV_ERROR_CORRUPT;
    }
    return TQKV_OK;
}

tqkv_status tqkv_profile_read(const void *data, size_t size, tqkv_profile **profile)
{
    const uint8_t *in = data;
    char fingerprint[TQKV_MAX_FINGERPRINT + 1] = {0};
    size_t floats;
    if (!data || !profile)
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = check_header(in, size);
    if (status != TQKV_OK)
        return status;
    if (XXH64(in, size - CHECKSUM_BYTES, 0) != load_le(in + size - CHECKSUM_BYTES, 8))
        return TQKV_ERROR_CHECKSUM;
    uint32_t n_layers = (uint32_t)load_le(in + 12, 4), n_heads = (uint32_t)load_le(in + 16, 4);
    uint32_t head_dim = (uint32_t)load_le(in + 20, 4), n_centres = (uint32_t)load_le(in + 24, 4);
    uint32_t length = (uint32_t)load_le(in + 28, 4);
    if (check_shape(n_layers, n_heads, head_dim, n_centres) != TQKV_OK ||
        length > TQKV_MAX_FINGERPRINT ||
        !count_floats(n_layers, n_heads, head_dim, n_centres, &floats) ||
        size != HEADER_BYTES + length + floats * sizeof(float) + CHECKSUM_BYTES)
        return TQKV_ERROR_CORRUPT;
    memcpy(fingerprint, in + HEADER_BYTES, length);
    if (strlen(fingerprint) != length)
        return TQKV_ERROR_CORRUPT;
    tqkv_profile *p;
    status = tqkv_profile_create(n_layers, n_heads, head_dim, n_centres, fingerprint, &p);
    if (status != TQKV_OK)
        return status;
    status = read_values(p, in + HEADER_BYTES + length);
    if (status != TQKV_OK) {
        tqkv_profile_free(p);
        return status;
    }
    *profile = p;
    return TQKV_OK;
}
