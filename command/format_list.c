#include "format_list.h"

#include <string.h>

#include "command.h"

int next_format(char **list, int is_selection, uint32_t key_dim, uint32_t value_dim,
                format_pair *f, int *status)
{
    for (char *name; (name = strtok_r(*list, ",", list)) != NULL;) {
        tqkv_status s = tqkv_format_parse(name, key_dim, &f->keys);
        if (s == TQKV_OK)
            s = tqkv_format_parse(name, value_dim, &f->values);
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
