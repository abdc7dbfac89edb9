/* What libFuzzer calls, which no header of its own declares. */
#ifndef TQKV_FUZZ_FUZZ_H
#define TQKV_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
