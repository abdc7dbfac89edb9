/* Output files that appear whole or not at all. */
#ifndef TQKV_COMMAND_OUTPUT_H
#define TQKV_COMMAND_OUTPUT_H

#include <stdio.h>

typedef struct output {
    FILE *file;
    const char *path; /* as given; "-" is stdout */
    char *partial;    /* path and ".partial": what is written until it is whole */
} output;

/* Opens path.partial, locked against other commands; 0 with a message. A
 * partial file that a crash left is overwritten. */
int output_open(output *out, const char *path);
/* Syncs, renames to path, closes; 0 with a message, and no file. */
int output_commit(output *out);
/* Removes what was written; no-op after commit. */
void output_discard(output *out);

/* A tqkv_write_function on the file. */
size_t output_write(void *context, const void *data, size_t size);

#endif
