/* Arbitrary bytes as a snapshot, with right checksums so that mutations get past
 * them; what loads is attended and goes on. The first byte chooses the cache. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tqkv_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { HEADER = 16 + TQKV_MAX_FINGERPRINT + 1, SECTION = 16, CHECKSUM = 8 };

static void repair(uint8_t *data, size_t size)
{
    for (size_t at = HEADER; size >= at && size - at >= SECTION + CHECKSUM;) {
        uint64_t payload = 0;
        for (int i = 0; i < 8; i++)
            payload |= (uint64_t)data[at + 8 + (size_t)i] << 8 * i;
        if (payload > size - at - SECTION - CHECKSUM)
            break;
        uint64_t sum = XXH64(data + at, SECTION + (size_t)payload, 0);
        for (int i = 0; i < 8; i++)
            data[at + SECTION + (size_t)payload + (size_t)i] = (uint8_t)(sum >> 8 * i);
        at += SECTION + (size_t)payload + CHECKSUM;
    }
}

static void use(tqkv_cache *c, tqkv_sequence *s)
{
    float row[32] = {1, 2, 3}, out[64];
    size_t bytes;
    tqkv_executor one = {1, NULL, NULL};
    tqkv_attention a = {.n_queries = 1, .position = 500, .queries = row, .scale = 1};
    tqkv_partial result = {out, NULL, NULL};
    if (tqkv_cache_workspace(c, 0, 1, &one, &bytes) != TQKV_OK)
        return;
    void *workspace = malloc(bytes);
    for (int i = 0; workspace && i < 70; i++) {
        tqkv_sequence_append(s, 0, row, row, row, TQKV_F32, 1);
        if (i % 32 == 0)
            tqkv_sequence_attend(s, 0, &a, &result, &one, workspace, bytes);
    }
    tqkv_sequence_truncate(s, 20);
    tqkv_sequence_remove(s, 3, 9, NULL);
    free(workspace);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    tqkv_layer layer = {.n_heads = 2, .n_kv_heads = 1, .window = data[0] & 1 ? 70 : 0};
    tqkv_format_parse("tq4", 16, &layer.keys);
    tqkv_format_parse("lm3", 16, &layer.values);
    tqkv_cache_config config = {.layers = &layer, .n_layers = 1, .capacity = 600,
                                .n_first = 3, .n_recent = 5, .no_means = data[0] >> 1 & 1,
                                .fit_tokens = data[0] & 4 ? 20 : 0};
    tqkv_cache *c;
    tqkv_sequence *s;
    uint8_t *copy = malloc(size - 1);
    if (!copy || tqkv_cache_create(&config, &c) != TQKV_OK) {
        free(copy);
        return 0;
    }
    memcpy(copy, data + 1, size - 1);
    repair(copy, size - 1);
    memory m = {copy, size - 1, 0};
    if (tqkv_sequence_load(c, read_memory, &m, &s) == TQKV_OK) {
        use(c, s);
        tqkv_sequence_free(s);
    }
    tqkv_cache_free(c);
    free(copy);
    return 0;
}
