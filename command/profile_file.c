#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

int file_load(const char *path, uint8_t **data, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        failed("%s: %s", path, strerror(errno));
        return 0;
    }
    size_t capacity = 1 << 16, got;
    *size = 0;
    *data = allocate(capacity, 1);
    while (*data && (got = fread(*data + *size, 1, capacity - *size, file))) {
        *size += got;
        if (*size == capacity) {
            uint8_t *grown = realloc(*data, capacity *= 2);
            if (!grown) {
                failed("%s: out of memory", path);
                free(*data);
            }
            *data = grown;
        }
    }
    if (*data && ferror(file)) {
        failed("%s: %s", path, strerror(errno));
        free(*data);
        *data = NULL;
    }
    fclose(file);
    return *data != NULL;
}

int profile_load(const char *path, tqkv_profile **profile)
{
    uint8_t *data;
    size_t size;
    if (!file_load(path, &data, &size))
        return 0;
    tqkv_status status = tqkv_profile_read(data, size, profile);
    free(data);
    if (status != TQKV_OK)
        failed("%s: not a usable profile: %s", path, tqkv_status_string(status));
    return status == TQKV_OK;
}
