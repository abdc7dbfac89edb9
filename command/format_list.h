/* Formats from a comma-separated list. */
#ifndef TQKV_COMMAND_FORMAT_LIST_H
#define TQKV_COMMAND_FORMAT_LIST_H

#include "tqkv.h"

typedef struct format_pair {
    const char *name;
    tqkv_format keys, values;
} format_pair;

/* A format's name for both, or KEYS/VALUES. */
tqkv_status parse_pair(const char *name, uint32_t key_dim, uint32_t value_dim, tqkv_format *keys,
                       tqkv_format *values);

enum { PAIR_NAME_SIZE = 2 * TQKV_FORMAT_NAME_SIZE };
void pair_name(const format_pair *f, char name[PAIR_NAME_SIZE]);

/* Takes the next format off *list, for keys and values of these sizes; formats of
 * our own selection that have no such size are passed over. 0 at the end, and,
 * with a message and *status what the command shall return, where one is none. */
int next_format(char **list, int is_selection, uint32_t key_dim, uint32_t value_dim,
                format_pair *f, int *status);

#endif
