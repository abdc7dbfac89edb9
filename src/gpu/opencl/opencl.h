/* What the two files of this backend share. */
#ifndef TQKV_GPU_OPENCL_OPENCL_H
#define TQKV_GPU_OPENCL_OPENCL_H

#include "gpu/gpu.h"
#include "gpu/opencl/api.h"

typedef struct opencl_device {
    opencl_api api;
    cl_device_id device;
    cl_context context;
    cl_command_queue queue; /* for uploads and downloads */
    int rounds_divisions;
} opencl_device;

typedef struct opencl_kernel {
    pthread_mutex_t mutex;
    cl_program program;
    cl_kernel kernel;
} opencl_kernel;

typedef struct opencl_event {
    cl_event event; /* null until recorded */
} opencl_event;

tqkv_status opencl_failed(cl_int result, const char *what, report *r);
tqkv_status opencl_compile(tqkv_device *d, const program *p, void **kernel, binary *code,
                           report *r);
tqkv_status opencl_load(tqkv_device *d, const char *name, const void *data, size_t size,
                        void **kernel, report *r);
void opencl_unload(tqkv_device *d, void *kernel);

#endif
