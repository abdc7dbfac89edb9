/* Formats from a comma-separated list. */
#ifndef TQKV_COMMAND_FORMAT_LIST_H
#define TQKV_COMMAND_FORMAT_LIST_H

#include "tqkv.h"

typedef struct format_pair {
    const char *name;
    tqkv_format keys, values;
} format_pair;

/* Takes the next format off *list, for keys and values of these sizes; formats of
 * our own selection that have no such size are passed over. 0 at the end, and,
 * with a message and *status what the command shall return, where one is none. */
int next_format(char **list, int is_selection, uint32_t key_dim, uint32_t value_dim,
                format_pair *f, int *status);

#endif
