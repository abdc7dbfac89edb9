#include "rows_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "command.h"
#include "device_rows.h"

static size_t read_file(void *context, void *data, size_t size)
{
    return fread(data, 1, size, context);
}

int rows_file_open(rows_file *r, const char *path)
{
    struct stat status;
    memset(r, 0, sizeof *r);
    r->path = strcmp(path, "-") ? path : "standard input";
    r->file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!r->file) {
        failed("%s: %s", path, strerror(errno));
        return 0;
    }
    if (!fstat(fileno(r->file), &status) && S_ISDIR(status.st_mode)) {
        failed("%s: is a directory; a tqkv container is expected", r->path);
        return 0;
    }
    tqkv_status result = tqkv_reader_create(read_file, r->file, &r->reader);
    if (result != TQKV_OK) {
        failed("%s: header: %s", r->path, tqkv_status_string(result));
        return 0;
    }
    r->info = tqkv_reader_info(r->reader);
    r->n_rows = r->info->n_layers * r->info->n_tokens * r->info->n_heads;
    return 1;
}

void rows_file_close(rows_file *r)
{
    tqkv_reader_free(r->reader);
    if (r->file && r->file != stdin)
        fclose(r->file);
}

enum { ROWS = 1024 /* taken at a time */ };

int rows_file_each(rows_file *r, const char *what, take_rows take, void *context)
{
    float *values = allocate(ROWS, r->info->format.head_dim * sizeof *values);
    uint64_t done = 0;
    int ok = values != NULL;
    for (size_t n = 1; ok && n;) {
        tqkv_status status = tqkv_reader_next(r->reader, values, ROWS, &n);
        if (status != TQKV_OK)
            ok = !failed("%s: rows from %" PRIu64 ": %s", r->path, done,
                         tqkv_status_string(status));
        else if (n)
            ok = take(context, values, n);
        done += ok ? n : 0;
        progress(what, done, r->n_rows);
    }
    progress_end();
    free(values);
    return ok;
}

/* Up to `most` rows, from as many sections as it takes; 0 rows at the end. */
static int read_rows(rows_file *r, uint8_t *rows, size_t row, size_t most, uint64_t done,
                     size_t *got)
{
    *got = 0;
    for (size_t n = 1; n && *got < most;) {
        tqkv_status status = tqkv_reader_next_rows(r->reader, rows + *got * row, most - *got, &n);
        if (status != TQKV_OK)
            return !failed("%s: rows from %" PRIu64 ": %s", r->path, done + *got,
                           tqkv_status_string(status));
        *got += n;
    }
    return 1;
}

int rows_file_each_on(rows_file *r, const device *d, const char *what, take_rows take,
                      void *context)
{
    const tqkv_container_info *i = r->info;
    const tqkv_profile *profile = tqkv_reader_profile(r->reader);
    size_t heads = (size_t)i->n_heads, row, tokens = (1 << 22) / i->format.head_dim / heads + 1;
    tqkv_format_row_bytes(&i->format, &row);
    uint8_t *rows = allocate(tokens * heads, row);
    float *values = allocate(tokens * heads, i->format.head_dim * sizeof *values);
    uint64_t done = 0;
    int ok = rows && values;
    while (ok && done < r->n_rows) {
        uint64_t token = done / heads, left = i->n_tokens - token % i->n_tokens;
        size_t n = left < tokens ? (size_t)left : tokens, got;
        ok = read_rows(r, rows, row, n * heads, done, &got);
        if (ok && got < n * heads) /* the container's own counts say otherwise */
            ok = !failed("%s: rows from %" PRIu64 ": %s", r->path, done,
                         tqkv_status_string(TQKV_ERROR_TRUNCATED));
        ok = ok && device_decode(d, &i->format, profile, (uint32_t)(token / i->n_tokens),
                                 (uint32_t)heads, rows, n, values, NULL);
        for (size_t at = 0; ok && at < got; at += ROWS)
            ok = take(context, values + at * i->format.head_dim,
                      got - at < ROWS ? got - at : ROWS);
        done += ok ? got : 0;
        progress(what, done, r->n_rows);
    }
    size_t rest = 0;
    ok = ok && read_rows(r, rows, row, 1, done, &rest); /* the end, checked */
    progress_end();
    free(rows);
    free(values);
    return ok;
}
