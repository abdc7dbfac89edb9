/* Drivers made of this processor, for tests: they run the kernels' host forms, and
 * fail when they are told to. */
#ifndef TQKV_TESTS_STANDIN_H
#define TQKV_TESTS_STANDIN_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpu/host/items.h"
#include "gpu/host/kernels.h"

#define EXPORT __attribute__((visibility("default")))

/* Calls are counted from 1; call `first` fails, and if forever, all behind it. 0:
 * none does. Returns how many calls there were since it was last set. */
EXPORT long standin_fail(long first, int forever);

/* 1 if this call shall fail. */
EXPORT int standin_call(void);

const host_kernel *standin_kernel(const char *name);

typedef struct standin_launch {
    const host_kernel *kernel;
    /* or, as cuda_emulation.h has it */
    void (*emulate)(unsigned blocks, unsigned threads, void **arguments);
    uint32_t groups[3], n_items, local_bytes;
    void *buffers[TQKV_MAX_BUFFERS];
    _Alignas(16) uint8_t params[TQKV_MAX_PARAMS];
} standin_launch;

enum { STANDIN_EMULATED_BUFFERS = 21 }; /* of attend_tensor */

void standin_run(const standin_launch *l);
double standin_seconds(void);

#endif
