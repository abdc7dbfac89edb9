/* Arbitrary bytes as a .npy file. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "fuzz.h"
#include "npy.h"

/* The command's messages, silenced; its allocations, bounded. */
int failed(const char *format, ...)
{
    (void)format;
    return EXIT_FAILED;
}

void *allocate(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > 1 << 24)
        return NULL;
    return malloc(bytes ? bytes : 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    npy array;
    if (size == 0)
        return 0;
    FILE *file = fmemopen((void *)data, size, "rb");
    if (!file)
        return 0;
    if (npy_read_header(&array, file, "fuzz", data[size - 1] & 1) &&
        array.head_dim >= 1 && array.head_dim <= TQKV_MAX_HEAD_DIM)
        free(npy_load(&array));
    npy_close(&array);
    return 0;
}
