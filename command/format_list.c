#include "format_list.h"

#include <string.h>

#include "command.h"

tqkv_status parse_pair(const char *name, uint32_t key_dim, uint32_t value_dim, tqkv_format *keys,
                       tqkv_format *values)
{
    char first[TQKV_FORMAT_NAME_SIZE];
    const char *slash = strchr(name, '/'), *second = slash ? slash + 1 : name;
    size_t length = slash ? (size_t)(slash - name) : strlen(name);
    if (length >= sizeof first)
        return TQKV_ERROR_FORMAT_NAME;
    memcpy(first, name, length);
    first[length] = 0;
    tqkv_status s = tqkv_format_parse(first, key_dim, keys);
    return s == TQKV_OK ? tqkv_format_parse(second, value_dim, values) : s;
}

void pair_name(const format_pair *f, char name[PAIR_NAME_SIZE])
{
    char values[TQKV_FORMAT_NAME_SIZE];
    tqkv_format_name(&f->keys, name, PAIR_NAME_SIZE);
    tqkv_format_name(&f->values, values, sizeof values);
    if (strcmp(name, values)) {
        strcat(name, "/");
        strcat(name, values);
    }
}

int next_format(char **list, int is_selection, uint32_t key_dim, uint32_t value_dim,
                format_pair *f, int *status)
{
    for (char *name; (name = strtok_r(*list, ",", list)) != NULL;) {
        tqkv_status s = parse_pair(name, key_dim, value_dim, &f->keys, &f->values);
        if (s == TQKV_ERROR_HEAD_DIM_POWER && is_selection)
            continue; /* this head_dim has no mlx formats */
        f->name = name;
        if (s == TQKV_OK)
            return 1;
        *status = s == TQKV_ERROR_FORMAT_NAME
                      ? misused("--formats %s: %s", name, tqkv_status_string(s))
                      : failed("%s: head_dim %u: %s", name, (unsigned)key_dim,
                               tqkv_status_string(s));
        return 0;
    }
    return 0;
}
