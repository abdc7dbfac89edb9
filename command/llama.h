/* llama.cpp's programs, and what tqkv brings along for them. */
#ifndef TQKV_COMMAND_LLAMA_H
#define TQKV_COMMAND_LLAMA_H

#include <stddef.h>

enum { PATH_SIZE = 4096 };

/* ---- llama_files.c: where it does not say otherwise, 0 and no message if there is no
 * such file ---- */

/* libggml-tqkv.so: $TQKV_BACKEND, or beside this program, or where it was
 * installed. */
int llama_backend(char path[PATH_SIZE]);
/* The text that profiles are fitted to by default. */
int llama_text(char path[PATH_SIZE]);
/* A program of llama.cpp: in folder, or (null) where a shell would find it. */
int llama_program(const char *folder, const char *name, char path[PATH_SIZE]);
/* Where the profile of this model file is kept, which depends on the file's
 * name, size and time; 0 with a message. */
int llama_profile_place(const char *model, char path[PATH_SIZE]);
/* Makes the folders that a file's name goes through; 0 with a message. */
int llama_make_folders(const char *path);

/* ---- profile.c ---- */

enum { PROFILE_CENTRES = 64, PROFILE_WINDOWS = 2 }; /* unless the user says */

typedef struct profile_request {
    const char *model, *text, *out;
    const char *program; /* llama-perplexity */
    const char *threads; /* llama.cpp's -t; null: its default */
    unsigned centres, windows;
} profile_request;

/* Runs the model once and writes its profile; 0 with a message. */
int profile_make(const profile_request *r);

#endif
