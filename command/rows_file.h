/* A container opened for reading, for decode, info and verify. */
#ifndef TQKV_COMMAND_ROWS_FILE_H
#define TQKV_COMMAND_ROWS_FILE_H

#include <stdio.h>

#include "device.h"
#include "npy.h"
#include "tqkv.h"

typedef struct rows_file {
    FILE *file;
    const char *path;
    tqkv_reader *reader;
    const tqkv_container_info *info;
    uint64_t n_rows;
} rows_file;

/* Opens and reads the header; 0 with a message. rows_file_close in any case. */
int rows_file_open(rows_file *rows, const char *path);
void rows_file_close(rows_file *rows);

/* Reads all rows in chunks; each goes to take, which returns 0 to stop. Both
 * report their own failures; 1 if everything was read and taken. */
typedef int (*take_rows)(void *context, const float *values, size_t n_rows);
int rows_file_each(rows_file *rows, const char *what, take_rows take, void *context);

/* The same by a device, which gives the same values. */
int rows_file_each_on(rows_file *rows, const device *d, const char *what, take_rows take,
                      void *context);

#endif
