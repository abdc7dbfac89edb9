/* tqkv bench --attention: attention on codes beside ggml's flash attention. */
#ifndef TQKV_COMMAND_BENCH_ATTENTION_H
#define TQKV_COMMAND_BENCH_ATTENTION_H

#include <stdint.h>

typedef struct attention_options {
    const char *ggml; /* folder of its libraries, or null */
    const char *const *formats;
    int n_formats;
    int is_selection; /* the default formats: those that a head_dim lacks are left out */
    /* Only these, unless 0. */
    uint64_t head_dim, group, context, threads, queries;
    int json;
} attention_options;

/* The exit status. */
int bench_attention(const attention_options *o);

#endif
