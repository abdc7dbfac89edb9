#include "rows_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "command.h"

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

int rows_file_each(rows_file *r, const char *what, take_rows take, void *context)
{
    enum { ROWS = 1024 };
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
