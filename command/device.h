/* A device by the name that --device gives, with what every use of one needs. */
#ifndef TQKV_COMMAND_DEVICE_H
#define TQKV_COMMAND_DEVICE_H

#include "tqkv_gpu.h"

typedef struct device {
    tqkv_device *device;
    tqkv_registry *registry;
    tqkv_encoder *encoder;
} device;

/* 1, or 0 with the reason reported. cuda_module: a file, or null. Compiled kernels
 * are kept in $XDG_CACHE_HOME/tqkv or ~/.cache/tqkv. */
int device_open(device *d, const char *name, const char *cuda_module);
void device_close(device *d);

/* Reports a status that is none of success with the device's messages; 1 for
 * success. */
int device_ok(const device *d, const char *what, tqkv_status status);

/* A new buffer with data (null: undefined contents), or null, reported. */
tqkv_buffer *device_buffer(const device *d, const void *data, size_t bytes);
/* Submits and waits. */
int device_run(const device *d);

#endif
