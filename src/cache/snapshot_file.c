#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache.h"

static size_t write_file(void *context, const void *data, size_t size)
{
    return fwrite(data, 1, size, context);
}

static size_t read_file(void *context, void *data, size_t size)
{
    return fread(data, 1, size, context);
}

/* A rename is only safe from a crash of the system once the folder is written.
 * Some file systems cannot do that, and some folders cannot be opened; what is
 * under the name is whole all the same. 0 if the disk failed. */
static int sync_folder(char *path)
{
    char *slash = strrchr(path, '/');
    const char *folder = slash ? path : ".";
    if (slash)
        slash[slash == path] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd >= 0 && fsync(fd) != 0 && errno == EIO;
    if (fd >= 0)
        close(fd);
    return !failed;
}

/* Writes, flushes and closes. */
static tqkv_status write_all(tqkv_sequence *sequence, int fd)
{
    FILE *file = fdopen(fd, "wb");
    if (!file) {
        close(fd);
        return TQKV_ERROR_IO;
    }
    tqkv_status status = tqkv_sequence_save(sequence, write_file, file);
    if (status == TQKV_OK && (fflush(file) || fsync(fileno(file))))
        status = TQKV_ERROR_IO;
    if (fclose(file) && status == TQKV_OK)
        status = TQKV_ERROR_IO;
    return status;
}

tqkv_status tqkv_sequence_save_file(tqkv_sequence *sequence, const char *path)
{
    static const char suffix[] = ".XXXXXX";
    if (!sequence || !path || !*path)
        return TQKV_ERROR_ARGUMENT;
    size_t length = strlen(path);
    char *beside = malloc(length + sizeof suffix);
    if (!beside)
        return TQKV_ERROR_MEMORY;
    memcpy(beside, path, length);
    memcpy(beside + length, suffix, sizeof suffix);
    int fd = mkstemp(beside);
    tqkv_status status = fd < 0 ? TQKV_ERROR_IO : write_all(sequence, fd);
    if (status == TQKV_OK && rename(beside, path))
        status = TQKV_ERROR_IO;
    if (status != TQKV_OK && fd >= 0)
        unlink(beside);
    if (status == TQKV_OK && !sync_folder(beside))
        status = TQKV_ERROR_IO;
    free(beside);
    return status;
}

tqkv_status tqkv_sequence_load_file(tqkv_cache *c, const char *path, tqkv_sequence **sequence)
{
    if (!c || !path || !sequence)
        return TQKV_ERROR_ARGUMENT;
    FILE *file = fopen(path, "rb");
    if (!file)
        return TQKV_ERROR_IO;
    tqkv_sequence *loaded;
    tqkv_status status = tqkv_sequence_load(c, read_file, file, &loaded);
    if (status == TQKV_OK && getc(file) != EOF) { /* something follows */
        tqkv_sequence_free(loaded);
        status = TQKV_ERROR_CORRUPT;
    }
    fclose(file);
    if (status == TQKV_OK)
        *sequence = loaded;
    return status;
}
