#include "container/section.h"

#include "common/bytes.h"

static tqkv_status put(tqkv_write_function write, void *context, const void *data, size_t size)
{
    return write(context, data, size) == size ? TQKV_OK : TQKV_ERROR_IO;
}

tqkv_status section_write(tqkv_write_function write, void *context, unsigned kind,
                          const void *data, size_t size)
{
    uint8_t header[SECTION_HEADER_BYTES] = {0}, checksum[CHECKSUM_BYTES];
    XXH64_state_t state;
    store_le(header, kind, 4);
    store_le(header + 8, size, 8);
    XXH64_reset(&state, 0);
    XXH64_update(&state, header, sizeof header);
    XXH64_update(&state, data, size);
    store_le(checksum, XXH64_digest(&state), 8);
    tqkv_status status = put(write, context, header, sizeof header);
    if (status == TQKV_OK)
        status = put(write, context, data, size);
    if (status == TQKV_OK)
        status = put(write, context, checksum, sizeof checksum);
    return status;
}

tqkv_status section_get(tqkv_read_function read, void *context, void *data, size_t size)
{
    return read(context, data, size) == size ? TQKV_OK : TQKV_ERROR_TRUNCATED;
}

tqkv_status section_begin(tqkv_read_function read, void *context, section *s)
{
    uint8_t header[SECTION_HEADER_BYTES];
    tqkv_status status = section_get(read, context, header, sizeof header);
    if (status != TQKV_OK)
        return status;
    s->kind = (unsigned)load_le(header, 4);
    s->size = load_le(header + 8, 8);
    XXH64_reset(&s->hash, 0);
    XXH64_update(&s->hash, header, sizeof header);
    return load_le(header + 4, 4) ? TQKV_ERROR_CORRUPT : TQKV_OK;
}

tqkv_status section_check(tqkv_read_function read, void *context, section *s,
                          const void *payload, size_t size)
{
    uint8_t checksum[CHECKSUM_BYTES];
    XXH64_update(&s->hash, payload, size);
    tqkv_status status = section_get(read, context, checksum, sizeof checksum);
    if (status != TQKV_OK)
        return status;
    return XXH64_digest(&s->hash) == load_le(checksum, 8) ? TQKV_OK : TQKV_ERROR_CHECKSUM;
}

tqkv_status section_read(tqkv_read_function read, void *context, unsigned kind, void *data,
                         size_t size)
{
    section s;
    tqkv_status status = section_begin(read, context, &s);
    if (status == TQKV_OK && (s.kind != kind || s.size != size))
        status = TQKV_ERROR_CORRUPT;
    if (status == TQKV_OK)
        status = section_get(read, context, data, size);
    if (status == TQKV_OK)
        status = section_check(read, context, &s, data, size);
    return status;
}
