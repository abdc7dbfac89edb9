/* Arbitrary bytes as a container, of rows or of pages, and as a profile. So that
 * mutations get past the checksums, a second pass repairs them first. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tqkv.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* What came of reading: how it ended, how many rows there were, and a sum of them. */
typedef struct outcome {
    tqkv_status status;
    uint64_t n_rows, sum;
} outcome;

static void must(int condition)
{
    if (!condition)
        abort();
}

static outcome read_in_pieces(const uint8_t *data, size_t size, size_t most)
{
    static float rows[64 * TQKV_MAX_HEAD_DIM];
    memory m = {data, size, 0};
    outcome o = {0};
    tqkv_reader *r;
    XXH64_state_t hash;
    o.status = tqkv_reader_create(read_memory, &m, &r);
    if (o.status != TQKV_OK)
        return o;
    const tqkv_container_info *info = tqkv_reader_info(r);
    XXH64_reset(&hash, 0);
    for (size_t n = 1; n && o.status == TQKV_OK; o.n_rows += n) {
        if (info->is_paged) /* refused, which changes nothing */
            must(tqkv_reader_next_rows(r, rows, most, &n) == TQKV_ERROR_STATE);
        n = 0;
        o.status = tqkv_reader_next(r, rows, most, &n);
        must(n <= most && (o.status == TQKV_OK || !n));
        XXH64_update(&hash, rows, n * info->format.head_dim * sizeof *rows);
    }
    o.sum = XXH64_digest(&hash);
    must(o.n_rows <= info->n_layers * info->n_tokens * info->n_heads);
    tqkv_reader_free(r);
    return o;
}

/* The same rows, and the same end, however many are taken at a time. */
static void read_all(const uint8_t *data, size_t size)
{
    outcome many = read_in_pieces(data, size, 64), few = read_in_pieces(data, size, 7);
    must(many.status == few.status && many.n_rows == few.n_rows && many.sum == few.sum);
}

static void store_sum(uint8_t *to, const uint8_t *data, size_t size)
{
    uint64_t sum = XXH64(data, size, 0);
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(sum >> 8 * i);
}

/* Puts right checksums wherever the layout says one is. */
static void repair(uint8_t *data, size_t size)
{
    if (size < 64)
        return;
    store_sum(data + 56, data, 56);
    for (size_t at = 64; size - at >= 24;) {
        uint64_t payload = 0;
        for (int i = 0; i < 8; i++)
            payload |= (uint64_t)data[at + 8 + (size_t)i] << 8 * i;
        if (payload > size - at - 24)
            break;
        if (data[at] == 1 && payload > 40)
            store_sum(data + at + 16 + payload - 8, data + at + 16, payload - 8);
        store_sum(data + at + 16 + payload, data + at, 16 + payload);
        at += 24 + payload;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tqkv_profile *profile;
    read_all(data, size);
    if (size && tqkv_profile_read(data, size, &profile) == TQKV_OK)
        tqkv_profile_free(profile);
    uint8_t *copy = malloc(size + 1);
    if (!copy)
        return 0;
    if (size)
        memcpy(copy, data, size);
    repair(copy, size);
    read_all(copy, size);
    if (size > 48) {
        memcpy(copy, data, size);
        store_sum(copy + size - 8, copy, size - 8);
        if (tqkv_profile_read(copy, size, &profile) == TQKV_OK)
            tqkv_profile_free(profile);
    }
    free(copy);
    return 0;
}
