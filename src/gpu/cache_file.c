/* Compiled kernels on disk: a header, the code, nothing else. A file is written
 * under another name and then renamed, so that no process reads half of one. */
#define XXH_INLINE_ALL
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "gpu/gpu.h"

typedef struct header {
    char magic[8];
    cache_key key;
    uint64_t size, checksum;
} header;

static const char magic[8] = "TQKVCODE";
enum { MAX_CODE = 64 << 20 };

static void hash_string(XXH3_state_t *state, const char *text)
{
    XXH3_128bits_update(state, text, strlen(text) + 1);
}

cache_key cache_key_of(const tqkv_device *d, const program *p)
{
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    hash_string(&state, d->backend->kind);
    hash_string(&state, builtin_prelude(d->backend->kind));
    hash_string(&state, p->name);
    hash_string(&state, p->text);
    hash_string(&state, p->options);
    hash_string(&state, d->info.description);
    hash_string(&state, d->info.driver);
    XXH128_hash_t hash = XXH3_128bits_digest(&state);
    return (cache_key){hash.low64, hash.high64};
}

static int make_path(const char *folder, cache_key key, const char *suffix, char *path,
                     size_t size)
{
    int length = snprintf(path, size, "%s/tqkv-%016llx%016llx%s", folder,
                          (unsigned long long)key.high, (unsigned long long)key.low, suffix);
    return length > 0 && (size_t)length < size;
}

static int read_all(int file, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(file, (uint8_t *)data + done, size - done);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return 0;
        done += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

static int write_all(int file, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(file, (const uint8_t *)data + done, size - done);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return 0;
        done += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

/* Code is run: nobody but this user and root may have been able to write it. */
static int is_trusted(const struct stat *s)
{
    return S_ISREG(s->st_mode) && (s->st_uid == geteuid() || s->st_uid == 0) &&
           !(s->st_mode & (S_IWGRP | S_IWOTH));
}

static int read_code(int file, cache_key key, binary *code)
{
    struct stat s;
    header h;
    if (fstat(file, &s) || !is_trusted(&s) || !read_all(file, &h, sizeof h))
        return 0;
    if (memcmp(h.magic, magic, sizeof magic) || h.key.low != key.low || h.key.high != key.high ||
        h.size == 0 || h.size > MAX_CODE || (uint64_t)s.st_size != sizeof h + h.size)
        return 0;
    void *data = malloc((size_t)h.size);
    if (!data)
        return 0;
    if (!read_all(file, data, (size_t)h.size) || XXH3_64bits(data, (size_t)h.size) != h.checksum) {
        free(data);
        return 0;
    }
    *code = (binary){data, (size_t)h.size};
    return 1;
}

int cache_file_read(const char *folder, cache_key key, binary *code)
{
    char path[4096];
    if (!make_path(folder, key, "", path, sizeof path))
        return 0;
    int file = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int ok = file >= 0 && read_code(file, key, code);
    if (file >= 0)
        close(file);
    return ok;
}

tqkv_status cache_file_write(const char *folder, cache_key key, const binary *code, report *r)
{
    char path[4096], temporary[4096];
    header h = {.key = key, .size = code->size, .checksum = XXH3_64bits(code->data, code->size)};
    memcpy(h.magic, magic, sizeof magic);
    if (!make_path(folder, key, "", path, sizeof path) ||
        !make_path(folder, key, ".XXXXXX", temporary, sizeof temporary))
        return report_error(r, TQKV_ERROR_IO, "the cache folder's name is too long");
    int file = mkostemp(temporary, O_CLOEXEC);
    if (file < 0)
        return report_error(r, TQKV_ERROR_IO, "%s: a compiled kernel could not be kept: %s",
                            folder, strerror(errno));
    int ok = write_all(file, &h, sizeof h) && write_all(file, code->data, code->size);
    ok = !close(file) && ok;
    if (ok && !rename(temporary, path))
        return TQKV_OK;
    unlink(temporary);
    return report_error(r, TQKV_ERROR_IO, "%s: a compiled kernel could not be kept: %s", folder,
                        strerror(errno));
}
