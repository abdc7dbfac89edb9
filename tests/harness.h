/* What the parts of the harness share. */
#ifndef TQKV_TESTS_HARNESS_H
#define TQKV_TESTS_HARNESS_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tqkv.h"

typedef struct harness_options {
    uint64_t seed, rounds;
    const char *isa, *kernel; /* only these, unless null */
    int timing;
} harness_options;

typedef struct harness_counts {
    unsigned long passed, failed;
} harness_counts;

void harness_codec(const harness_options *o, harness_counts *c);
void harness_attend(const harness_options *o, harness_counts *c);
void harness_plain(const harness_options *o, harness_counts *c);

/* Whether the processor has what a table needs and the options want it; says so
 * if not. */
int harness_runs(const harness_options *o, uint32_t needs, const char *name);
int harness_wants(const harness_options *o, const char *kernel);
/* Counts a check; prints what failed and the seed that repeats it. */
void harness_count(harness_counts *c, int ok, const char *isa, const char *kernel,
                   const char *format, unsigned head_dim, uint64_t seed);

extern uint64_t random_state;
uint64_t next_random(void);
float gaussian(void);
void random_bytes(void *out, size_t n);
double now(void);
int near(double got, double expected, double bound);

/* Memory with guard bytes around it. */
typedef struct guarded {
    uint8_t *memory, *data;
    size_t size;
} guarded;

/* Data that is misaligned by a random number of bytes, a multiple of align. */
guarded guarded_new(size_t size, size_t align);
int guarded_check(const guarded *g);

#endif
