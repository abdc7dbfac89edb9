#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "container/container.h"
#include "container/pages.h"
#include "container/section.h"


struct tqkv_reader {
    tqkv_container_info info;
    tqkv_profile *profile;
    tqkv_read_function read;
    void *context;
    uint64_t n_rows, done;
    size_t row_bytes;
    tqkv_status failed; /* the error that ended reading, if any */
    int finished;
    uint8_t *section; /* the current one's rows or pages */
    size_t capacity, held, taken; /* bytes; rows; rows */
};

/* Grows the buffer by what has really come, so that a false size in a short
 * file cannot ask for much memory. */
static tqkv_status get_payload(tqkv_reader *r, section *s)
{
    enum { STEP = 1 << 20 };
    size_t size = (size_t)s->size;
    for (size_t done = 0; done < size;) {
        size_t step = size - done < STEP ? size - done : STEP;
        if (done + step > r->capacity) {
            size_t wanted = done + step > 2 * r->capacity ? done + step : 2 * r->capacity;
            uint8_t *grown = realloc(r->section, wanted);
            if (!grown)
                return TQKV_ERROR_MEMORY;
            r->section = grown;
            r->capacity = wanted;
        }
        tqkv_status status = section_get(r->read, r->context, r->section + done, step);
        if (status != TQKV_OK)
            return status;
        done += step;
    }
    return section_check(r->read, r->context, s, r->section, size);
}

static tqkv_status read_profile(tqkv_reader *r)
{
    section s;
    tqkv_status status = section_begin(r->read, r->context, &s);
    if (status != TQKV_OK)
        return status;
    if (s.kind != SECTION_PROFILE || s.size == 0 || s.size > PROFILE_LIMIT_BYTES)
        return TQKV_ERROR_CORRUPT;
    status = get_payload(r, &s);
    if (status == TQKV_OK)
        status = tqkv_profile_read(r->section, (size_t)s.size, &r->profile);
    if (status == TQKV_OK)
        status = container_check_profile(&r->info, r->profile);
    return status;
}

static tqkv_status start(tqkv_reader *r)
{
    uint8_t header[HEADER_BYTES];
    size_t got = r->read(r->context, header, sizeof header);
    if (got < 8)
        return TQKV_ERROR_MAGIC;
    memset(header + got, 0, sizeof header - got);
    tqkv_status status = container_header_read(header, &r->info);
    if (got < sizeof header && status != TQKV_ERROR_MAGIC)
        return TQKV_ERROR_TRUNCATED;
    if (status != TQKV_OK)
        return status;
    status = container_shape(&r->info, &r->n_rows, &r->row_bytes);
    if (status == TQKV_OK && r->info.has_profile)
        status = read_profile(r);
    return status;
}

tqkv_status tqkv_reader_create(tqkv_read_function read, void *context,
                               tqkv_reader **reader)
{
    if (!read || !reader)
        return TQKV_ERROR_ARGUMENT;
    tqkv_reader *r = calloc(1, sizeof *r);
    if (!r)
        return TQKV_ERROR_MEMORY;
    r->read = read;
    r->context = context;
    tqkv_status status = start(r);
    if (status != TQKV_OK) {
        tqkv_reader_free(r);
        return status;
    }
    *reader = r;
    return TQKV_OK;
}

const tqkv_container_info *tqkv_reader_info(const tqkv_reader *reader)
{
    return reader ? &reader->info : NULL;
}

const tqkv_profile *tqkv_reader_profile(const tqkv_reader *reader)
{
    return reader ? reader->profile : NULL;
}

/* The end's total must be right, and nothing may follow. */
static tqkv_status check_end(tqkv_reader *r, section *s)
{
    uint8_t extra;
    if (s->size != 8)
        return TQKV_ERROR_CORRUPT;
    tqkv_status status = get_payload(r, s);
    if (status != TQKV_OK)
        return status;
    if (load_le(r->section, 8) != r->n_rows || r->done != r->n_rows)
        return TQKV_ERROR_CORRUPT;
    if (r->read(r->context, &extra, 1) != 0)
        return TQKV_ERROR_CORRUPT;
    r->finished = 1;
    return TQKV_OK;
}

/* Rows of a section; 0 if none of its kind and size may come here. */
static size_t rows_of(const tqkv_reader *r, const section *s)
{
    uint64_t left = r->n_rows - r->done;
    if (r->info.is_paged) {
        size_t n_tokens = pages_tokens(&r->info, r->done), bytes;
        return left && s->kind == SECTION_PAGES &&
                       pages_bytes(&r->info, n_tokens, &bytes) == TQKV_OK && s->size == bytes
                   ? n_tokens * (size_t)r->info.n_heads
                   : 0;
    }
    if (s->kind != SECTION_ROWS || s->size > SECTION_LIMIT_BYTES || s->size % r->row_bytes ||
        s->size / r->row_bytes > left)
        return 0;
    return (size_t)s->size / r->row_bytes;
}

static tqkv_status next_section(tqkv_reader *r)
{
    section s;
    tqkv_status status = section_begin(r->read, r->context, &s);
    if (status != TQKV_OK)
        return status;
    if (s.kind == SECTION_END)
        return check_end(r, &s);
    size_t n_rows = rows_of(r, &s);
    if (!n_rows)
        return TQKV_ERROR_CORRUPT;
    r->taken = r->held = 0;
    status = get_payload(r, &s);
    if (status == TQKV_OK)
        r->held = n_rows;
    return status;
}

/* Decodes the next count rows of the section. */
static tqkv_status decode(tqkv_reader *r, size_t count, float *dst)
{
    uint64_t first = r->done - r->taken;
    if (r->info.is_paged)
        return pages_read(&r->info, r->profile, first, pages_tokens(&r->info, first), r->section,
                          r->taken, count, dst);
    return container_decode(&r->info, r->profile, r->done, count,
                            r->section + r->taken * r->row_bytes, dst);
}

/* Decoded to dst, or without it copied to rows. */
static tqkv_status next_rows(tqkv_reader *r, float *dst, void *rows, size_t max_rows,
                             size_t *n_rows)
{
    if (r->failed != TQKV_OK)
        return r->failed;
    if (rows && r->info.is_paged)
        return TQKV_ERROR_STATE;
    if (r->taken == r->held && !r->finished)
        r->failed = next_section(r);
    if (r->failed != TQKV_OK)
        return r->failed;
    size_t left = r->finished ? 0 : r->held - r->taken;
    size_t count = left < max_rows ? left : max_rows;
    if (dst && count)
        r->failed = decode(r, count, dst);
    else if (rows && count)
        memcpy(rows, r->section + r->taken * r->row_bytes, count * r->row_bytes);
    if (r->failed != TQKV_OK)
        return r->failed;
    r->taken += count;
    r->done += count;
    *n_rows = count;
    return TQKV_OK;
}

tqkv_status tqkv_reader_next(tqkv_reader *r, float *dst, size_t max_rows,
                             size_t *n_rows)
{
    if (!r || !dst || !n_rows || !max_rows)
        return TQKV_ERROR_ARGUMENT;
    return next_rows(r, dst, NULL, max_rows, n_rows);
}

tqkv_status tqkv_reader_next_rows(tqkv_reader *r, void *rows, size_t max_rows, size_t *n_rows)
{
    if (!r || !rows || !n_rows || !max_rows)
        return TQKV_ERROR_ARGUMENT;
    return next_rows(r, NULL, rows, max_rows, n_rows);
}

void tqkv_reader_free(tqkv_reader *r)
{
    if (!r)
        return;
    tqkv_profile_free(r->profile);
    free(r->section);
    free(r);
}
