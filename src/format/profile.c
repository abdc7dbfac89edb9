#include "format/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static const char magic[8] = {'T', 'Q', 'K', 'V', 'P', 'R', 'O', 'F'};
enum { VERSION = 2, HEADER_BYTES = 28, CHECKSUM_BYTES = 8 };

/* The shape is that of some format. */
static tqkv_status check_shape(uint32_t n_layers, uint32_t n_heads, uint32_t head_dim)
{
    tqkv_format any = {.bits = 4, .codebook = TQKV_CODEBOOK_TRELLIS,
                       .layout = TQKV_LAYOUT_ROW, .rotation = TQKV_ROTATION_NONE};
    if (head_dim > UINT16_MAX)
        return TQKV_ERROR_HEAD_DIM_RANGE;
    any.head_dim = (uint16_t)head_dim;
    tqkv_status status = tqkv_format_check(&any);
    if (status == TQKV_OK && (!n_layers || !n_heads))
        status = TQKV_ERROR_ARGUMENT;
    return status;
}

/* Floats of a whole profile, whose bytes fit a size_t with room to spare. */
static int count_floats(uint32_t n_layers, uint32_t n_heads, uint32_t head_dim, size_t *floats)
{
    size_t bytes;
    return size_multiply(n_layers, n_heads, floats) &&
           size_multiply(*floats, head_dim, floats) &&
           size_multiply(*floats, sizeof(float), &bytes) &&
           bytes <= SIZE_MAX / 2;
}

tqkv_status tqkv_profile_create(uint32_t n_layers, uint32_t n_heads, uint32_t head_dim,
                                const char *fingerprint, tqkv_profile **profile)
{
    size_t floats, length = fingerprint ? strlen(fingerprint) : 0;
    tqkv_status status = check_shape(n_layers, n_heads, head_dim);
    if (status != TQKV_OK)
        return status;
    if (!profile || length > TQKV_MAX_FINGERPRINT)
        return TQKV_ERROR_ARGUMENT;
    if (!count_floats(n_layers, n_heads, head_dim, &floats))
        return TQKV_ERROR_OVERFLOW;
    tqkv_profile *p = calloc(1, sizeof *p + floats * sizeof(float));
    if (!p)
        return TQKV_ERROR_MEMORY;
    p->n_layers = n_layers;
    p->n_heads = n_heads;
    p->head_dim = head_dim;
    if (length)
        memcpy(p->fingerprint, fingerprint, length);
    for (size_t i = 0; i < floats; i++)
        p->balances[i] = 1;
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

const char *tqkv_profile_fingerprint(const tqkv_profile *profile)
{
    return profile ? profile->fingerprint : "";
}

float *profile_head(const tqkv_profile *p, uint32_t layer, uint32_t head)
{
    if (!p || layer >= p->n_layers || head >= p->n_heads)
        return NULL;
    return (float *)p->balances + ((size_t)layer * p->n_heads + head) * p->head_dim;
}

tqkv_status tqkv_profile_balance(const tqkv_profile *profile, uint32_t layer, uint32_t head,
                                 const float **balance)
{
    const float *found = profile_head(profile, layer, head);
    if (!found || !balance)
        return TQKV_ERROR_ARGUMENT;
    *balance = found;
    return TQKV_OK;
}

int balance_is_valid(const float *balance, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(balance[i]) || !(balance[i] > 0))
            return 0;
    return 1;
}

tqkv_status tqkv_profile_set(tqkv_profile *profile, uint32_t layer, uint32_t head,
                             const float *balance)
{
    float *to = profile_head(profile, layer, head);
    if (!to || !balance || !balance_is_valid(balance, profile->head_dim))
        return TQKV_ERROR_ARGUMENT;
    memmove(to, balance, profile->head_dim * sizeof *to);
    return TQKV_OK;
}

/* ---- the file form ---- */

/* Of all balances. */
static size_t n_floats(const tqkv_profile *p)
{
    return (size_t)p->n_layers * p->n_heads * p->head_dim;
}

static size_t file_bytes(const tqkv_profile *p)
{
    return HEADER_BYTES + strlen(p->fingerprint) + n_floats(p) * sizeof(float) + CHECKSUM_BYTES;
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
    store_le(out + 24, length, 4);
    memcpy(out + HEADER_BYTES, p->fingerprint, length);
    uint8_t *to = out + HEADER_BYTES + length;
    for (size_t i = 0; i < n_floats(p); i++, to += 4) {
        uint32_t bits;
        memcpy(&bits, &p->balances[i], sizeof bits);
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

/* Fills a profile's balances from the file, and checks them. */
static tqkv_status read_balances(tqkv_profile *p, const uint8_t *from)
{
    for (size_t i = 0; i < n_floats(p); i++) {
        uint32_t bits = (uint32_t)load_le(from + 4 * i, 4);
        memcpy(&p->balances[i], &bits, sizeof bits);
    }
    return balance_is_valid(p->balances, n_floats(p)) ? TQKV_OK : TQKV_ERROR_CORRUPT;
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
    uint32_t head_dim = (uint32_t)load_le(in + 20, 4), length = (uint32_t)load_le(in + 24, 4);
    if (check_shape(n_layers, n_heads, head_dim) != TQKV_OK || length > TQKV_MAX_FINGERPRINT ||
        !count_floats(n_layers, n_heads, head_dim, &floats) ||
        size != HEADER_BYTES + length + floats * sizeof(float) + CHECKSUM_BYTES)
        return TQKV_ERROR_CORRUPT;
    memcpy(fingerprint, in + HEADER_BYTES, length);
    if (strlen(fingerprint) != length)
        return TQKV_ERROR_CORRUPT;
    tqkv_profile *p;
    status = tqkv_profile_create(n_layers, n_heads, head_dim, fingerprint, &p);
    if (status != TQKV_OK)
        return status;
    status = read_balances(p, in + HEADER_BYTES + length);
    if (status != TQKV_OK) {
        tqkv_profile_free(p);
        return status;
    }
    *profile = p;
    return TQKV_OK;
}
