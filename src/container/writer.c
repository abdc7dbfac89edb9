#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "container/container.h"
#include "container/pages.h"
#include "container/section.h"

struct tqkv_writer {
    tqkv_container_info info;
    tqkv_profile *profile;
    tqkv_write_function write;
    void *context;
    uint64_t n_rows, done;
    size_t row_bytes, rows_per_section;
    tqkv_status failed; /* the error that ended writing, if any */
    int finished;
    uint8_t *buffer; /* one section's rows or pages */
    size_t buffered; /* rows */
    float *values;   /* for pages: the buffered rows */
    uint8_t *page;   /* for pages: room for one */
};

/* What has been written when writing fails is no prefix of a container. */
static tqkv_status wrote(tqkv_writer *w, tqkv_status status)
{
    w->failed = status;
    return status;
}

static tqkv_status put_section(tqkv_writer *w, unsigned kind, const void *data, size_t size)
{
    return wrote(w, section_write(w->write, w->context, kind, data, size));
}

static tqkv_status put_profile(tqkv_writer *w)
{
    size_t size;
    tqkv_status status = tqkv_profile_size(w->profile, &size);
    if (status != TQKV_OK)
        return status;
    if (size > PROFILE_LIMIT_BYTES)
        return TQKV_ERROR_OVERFLOW;
    uint8_t *data = malloc(size);
    if (!data)
        return TQKV_ERROR_MEMORY;
    status = tqkv_profile_write(w->profile, data, size);
    if (status == TQKV_OK)
        status = put_section(w, SECTION_PROFILE, data, size);
    free(data);
    return status;
}

static tqkv_status copy_profile(const tqkv_profile *profile, tqkv_profile **copy)
{
    size_t size;
    tqkv_status status = tqkv_profile_size(profile, &size);
    if (status != TQKV_OK)
        return status;
    void *data = malloc(size);
    if (!data)
        return TQKV_ERROR_MEMORY;
    status = tqkv_profile_write(profile, data, size);
    if (status == TQKV_OK)
        status = tqkv_profile_read(data, size, copy);
    free(data);
    return status;
}

/* Memory for one section; none of pages is larger than the first. */
static tqkv_status make_buffers(tqkv_writer *w)
{
    size_t bytes, page;
    if (!w->info.is_paged) {
        w->rows_per_section = ROWS_TARGET_BYTES / w->row_bytes;
        w->buffer = malloc(w->rows_per_section * w->row_bytes);
        return w->buffer ? TQKV_OK : TQKV_ERROR_MEMORY;
    }
    size_t n_tokens = pages_tokens(&w->info, 0);
    tqkv_status status = pages_bytes(&w->info, n_tokens, &bytes);
    if (status == TQKV_OK)
        status = tqkv_page_bytes(&w->info.format, 1, &page);
    if (status != TQKV_OK)
        return status;
    w->rows_per_section = n_tokens * (size_t)w->info.n_heads;
    w->buffer = malloc(bytes);
    w->page = malloc(page);
    w->values = calloc(w->rows_per_section, w->info.format.head_dim * sizeof *w->values);
    return w->buffer && w->page && w->values ? TQKV_OK : TQKV_ERROR_MEMORY;
}

static tqkv_status start(tqkv_writer *w, const tqkv_profile *profile)
{
    uint8_t header[HEADER_BYTES];
    tqkv_status status = TQKV_OK;
    if (profile) {
        status = container_check_profile(&w->info, profile);
        if (status == TQKV_OK)
            status = copy_profile(profile, &w->profile);
    }
    if (status != TQKV_OK)
        return status;
    w->info.has_profile = profile != NULL;
    status = make_buffers(w);
    if (status != TQKV_OK)
        return status;
    container_header_write(&w->info, header);
    status = wrote(w, w->write(w->context, header, sizeof header) == sizeof header ? TQKV_OK
                                                                                   : TQKV_ERROR_IO);
    return status == TQKV_OK && w->profile ? put_profile(w) : status;
}

tqkv_status tqkv_writer_create(const tqkv_container_info *info,
                               const tqkv_profile *profile,
                               tqkv_write_function write, void *context,
                               tqkv_writer **writer)
{
    uint64_t n_rows;
    size_t row_bytes;
    if (!info || !write || !writer)
        return TQKV_ERROR_ARGUMENT;
    tqkv_status status = container_shape(info, &n_rows, &row_bytes);
    if (status != TQKV_OK)
        return status;
    if (!info->has_layer_axis && info->n_layers != 1)
        return TQKV_ERROR_ARGUMENT;
    tqkv_writer *w = calloc(1, sizeof *w);
    if (!w)
        return TQKV_ERROR_MEMORY;
    w->info = *info;
    w->write = write;
    w->context = context;
    w->n_rows = n_rows;
    w->row_bytes = row_bytes;
    status = start(w, profile);
    if (status != TQKV_OK) {
        tqkv_writer_free(w);
        return status;
    }
    *writer = w;
    return TQKV_OK;
}

/* Seals what is buffered, all tokens of a section, and goes on to the next one. */
static tqkv_status flush_pages(tqkv_writer *w)
{
    size_t n_tokens = w->buffered / (size_t)w->info.n_heads, bytes;
    tqkv_status status = pages_bytes(&w->info, n_tokens, &bytes);
    if (status == TQKV_OK)
        status = pages_seal(&w->info, w->profile, w->done - w->buffered, n_tokens, w->values,
                            w->page, w->buffer);
    if (status != TQKV_OK)
        return wrote(w, status);
    w->buffered = 0;
    w->rows_per_section = pages_tokens(&w->info, w->done) * (size_t)w->info.n_heads;
    return put_section(w, SECTION_PAGES, w->buffer, bytes);
}

static tqkv_status flush(tqkv_writer *w)
{
    if (w->info.is_paged)
        return flush_pages(w);
    tqkv_status status = put_section(w, SECTION_ROWS, w->buffer, w->buffered * w->row_bytes);
    w->buffered = 0;
    return status;
}

/* The next rows of a section: values encoded, or kept for a page, or rows (type -1) copied. */
static tqkv_status put_rows(tqkv_writer *w, const uint8_t *in, int type, size_t count)
{
    size_t dim = w->info.format.head_dim;
    if (w->info.is_paged)
        return tqkv_to_f32(in, (tqkv_type)type, count * dim, w->values + w->buffered * dim);
    uint8_t *to = w->buffer + w->buffered * w->row_bytes;
    if (type >= 0)
        return container_encode(&w->info, w->profile, w->done, count, in, (tqkv_type)type, to);
    memcpy(to, in, count * w->row_bytes);
    return TQKV_OK;
}

static tqkv_status append(tqkv_writer *w, const uint8_t *in, int type, size_t n_rows)
{
    size_t row = type < 0 ? w->row_bytes
                          : (size_t)w->info.format.head_dim * (type == TQKV_F32 ? 4 : 2);
    if (w->failed != TQKV_OK)
        return w->failed;
    if (w->finished || n_rows > w->n_rows - w->done || (type < 0 && w->info.is_paged))
        return TQKV_ERROR_STATE;
    while (n_rows) {
        size_t room = w->rows_per_section - w->buffered;
        size_t count = n_rows < room ? n_rows : room;
        tqkv_status status = wrote(w, put_rows(w, in, type, count));
        if (status != TQKV_OK)
            return status;
        w->buffered += count;
        w->done += count;
        n_rows -= count;
        in += count * row;
        if (w->buffered == w->rows_per_section)
            status = flush(w);
        if (status != TQKV_OK)
            return status;
    }
    return TQKV_OK;
}

tqkv_status tqkv_writer_append(tqkv_writer *w, const void *src, tqkv_type type,
                               size_t n_rows)
{
    if (!w || (!src && n_rows))
        return TQKV_ERROR_ARGUMENT;
    if (type != TQKV_F32 && type != TQKV_F16 && type != TQKV_BF16)
        return TQKV_ERROR_ARGUMENT;
    return append(w, src, (int)type, n_rows);
}

tqkv_status tqkv_writer_append_rows(tqkv_writer *w, const void *rows, size_t n_rows)
{
    if (!w || (!rows && n_rows))
        return TQKV_ERROR_ARGUMENT;
    return append(w, rows, -1, n_rows);
}

tqkv_status tqkv_writer_finish(tqkv_writer *w)
{
    uint8_t total[8];
    if (!w)
        return TQKV_ERROR_ARGUMENT;
    if (w->failed != TQKV_OK)
        return w->failed;
    if (w->finished || w->done != w->n_rows)
        return TQKV_ERROR_STATE;
    tqkv_status status = w->buffered ? flush(w) : TQKV_OK;
    store_le(total, w->n_rows, 8);
    if (status == TQKV_OK)
        status = put_section(w, SECTION_END, total, sizeof total);
    w->finished = status == TQKV_OK;
    return status;
}

void tqkv_writer_free(tqkv_writer *w)
{
    if (!w)
        return;
    tqkv_profile_free(w->profile);
    free(w->buffer);
    free(w->values);
    free(w->page);
    free(w);
}
