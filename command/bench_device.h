/* tqkv bench --device */
#ifndef TQKV_COMMAND_BENCH_DEVICE_H
#define TQKV_COMMAND_BENCH_DEVICE_H

#include <stddef.h>
#include <stdint.h>

typedef struct device_options {
    const char *device, *cuda_module;
    uint64_t rows; /* 0: by the device's memory */
    int json;
    const char *const *cases; /* of attention */
    int n_cases;
} device_options;

/* Sorts the times. */
double median_time(double *times, size_t n);

int bench_device(const device_options *o);
int bench_attend(const device_options *o); /* --attention too */

#endif
