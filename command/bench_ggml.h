/* ggml's row functions, from a shared library opened at run time. */
#ifndef TQKV_COMMAND_BENCH_GGML_H
#define TQKV_COMMAND_BENCH_GGML_H

#include <stddef.h>
#include <stdint.h>

typedef struct ggml_peer {
    void *base, *cpu;
    /* What ggml's CPU backend does when a row enters a cache of that type. */
    void (*quantize_q4_0)(const float *x, void *y, int64_t n);
    void (*quantize_iq4_nl)(const float *x, void *y, int64_t n);
    /* The library's quantiser, which searches for a scale. */
    size_t (*search_iq4_nl)(const float *x, void *y, int64_t rows, int64_t n, const float *w);
    void (*dequantize_q4_0)(const void *x, float *y, int64_t n);
} ggml_peer;

/* From a folder with libggml-base.so and libggml-cpu.so; 0 with a message. */
int ggml_peer_open(ggml_peer *peer, const char *folder);

#endif
