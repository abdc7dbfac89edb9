/* Arbitrary bytes as a GGUF file's metadata. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "command.h"
#include "fuzz.h"
#include "gguf.h"

int failed(const char *format, ...)
{
    (void)format;
    return EXIT_FAILED;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static model_shape shape;
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/tqkv-fuzz-%ld", (long)getpid());
    FILE *file = fopen(path, "wb");
    if (!file)
        return 0;
    fwrite(data, 1, size, file);
    fclose(file);
    gguf_read_shape(path, &shape);
    unlink(path);
    return 0;
}
