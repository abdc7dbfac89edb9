/* Flash attention on the cache's codes. */
#ifndef TQKV_LLAMA_FLASH_H
#define TQKV_LLAMA_FLASH_H

#include "work.h"

/* Fills the step's attention from its node; grows the work's memory as needed.
 * Null, or what is wrong. */
const char *flash_prepare(work *w, step *s);

/* One thread's part: the first leads, the others follow. */
void flash_run(step *s, int ith, int nth);

#endif
