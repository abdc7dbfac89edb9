/* llama.cpp's programs, and what tqkv brings along for them. */
#ifndef TQKV_COMMAND_LLAMA_H
#define TQKV_COMMAND_LLAMA_H

#include <stddef.h>

enum { PATH_SIZE = 4096 };

/* ---- llama_files.c: 0 and no message if there is no such file ---- */

/* libggml-tqkv.so: $TQKV_BACKEND, or beside this program, or where it was
 * installed. */
int llama_backend(char path[PATH_SIZE]);
/* The text that profiles are fitted to by default. */
int llama_text(char path[PATH_SIZE]);
/* A program of llama.cpp: in folder, or (null) where a shell would find it. */
int llama_program(const char *folder, const char *name, char path[PATH_SIZE]);

/* ---- profile.c ---- */

enum { PROFILE_WINDOWS = 2 }; /* unless the user says */

typedef struct profile_request {
    const char *model, *text, *out;
    const char *program; /* llama-perplexity */
    const char *threads; /* llama.cpp's -t; null: its default */
    unsigned windows;
} profile_request;

#endif
