/* What the subcommands share. A subcommand gets its own argc and argv and
 * returns the exit status: 0 success, 1 the work failed, 2 wrong use. */
#ifndef TQKV_COMMAND_COMMAND_H
#define TQKV_COMMAND_COMMAND_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tqkv.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

int command_ablate(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_decode(int argc, char **argv);
int command_devices(int argc, char **argv);
int command_encode(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_fit(int argc, char **argv);
int command_formats(int argc, char **argv);
int command_info(int argc, char **argv);
int command_llama(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_profile(int argc, char **argv);
int command_verify(int argc, char **argv);

/* ---- message.c: errors on stderr ---- */

/* "tqkv: " and the message, a line. failed returns EXIT_FAILED, misused
 * EXIT_USAGE, so that callers can return them. */
int failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
int misused(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A library error about a file: "FILE: sentence". */
int failed_status(const char *path, tqkv_status status);
/* What getopt_long found wrong with argv, and where help is. */
int misused_option(const char *subcommand, char **argv);
/* An unsigned number from text up to limit; 0 if it is none. */
int parse_number(const char *text, uint64_t limit, uint64_t *value);
/* malloc of count * size that reports failure (and overflow) itself. */
void *allocate(size_t count, size_t size);

/* ---- progress.c ---- */

/* How far the work is and how long it will take: on a terminal one line, for work of
 * over a second; elsewhere a line now and then. `what` must live until progress_end. */
void progress(const char *what, uint64_t done, uint64_t total);
void progress_end(void);
double seconds(void); /* a monotonic clock */

/* ---- profile_file.c ---- */

/* Reads all of a file into *data, to be freed; 0 with a message. */
int file_load(const char *path, uint8_t **data, size_t *size);
int profile_load(const char *path, tqkv_profile **profile);

#endif
