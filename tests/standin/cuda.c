/* libcuda.so.1: memory is malloc's, streams are done at once. A module is any data
 * that begins with "STANDIN", and a library behind it. */
#include "standin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#include "gpu/cuda/api.h"

enum { UNKNOWN_ERROR = 719, NOT_FOUND = 500, INVALID_IMAGE = 200 };

#define CALL()                                       \
    do {                                             \
        if (standin_call())                          \
            return UNKNOWN_ERROR;                    \
    } while (0)

struct CUstream_st {
    struct CUgraph_st *capture;
};

struct CUgraph_st {
    size_t n;
    standin_launch launches[32];
};

struct CUfunc_st {
    const host_kernel *kernel;
    void (*emulate)(unsigned blocks, unsigned threads, void **arguments);
};

struct CUmod_st {
    void *library;
    struct CUfunc_st function; /* there is one */
};

struct CUevent_st {
    double time;
};

/* CU_STREAM_LEGACY and CU_STREAM_PER_THREAD name streams that nobody makes. */
static CUstream real_stream(CUstream stream)
{
    static struct CUstream_st legacy;
    static _Thread_local struct CUstream_st per_thread;
    return (uintptr_t)stream == CU_STREAM_PER_THREAD ? &per_thread
           : (uintptr_t)stream <= 1                  ? &legacy
                                                     : stream;
}

/* Buffer `index` of the last kernel that a stream has got. */
EXPORT void *standin_last_buffer(unsigned index);
static void *last_buffers[TQKV_MAX_BUFFERS];

void *standin_last_buffer(unsigned index)
{
    return last_buffers[index];
}

#define DEFINE(name, ...) EXPORT CUresult name(__VA_ARGS__); CUresult name(__VA_ARGS__)

DEFINE(cuInit, unsigned flags)
{
    (void)flags;
    CALL();
    return CUDA_SUCCESS;
}

DEFINE(cuDriverGetVersion, int *version)
{
    CALL();
    *version = 13000;
    return CUDA_SUCCESS;
}

DEFINE(cuGetErrorName, CUresult result, const char **name)
{
    (void)result;
    CALL();
    *name = "STANDIN_ERROR";
    return CUDA_SUCCESS;
}

DEFINE(cuDeviceGetCount, int *n)
{
    CALL();
    *n = 1;
    return CUDA_SUCCESS;
}

DEFINE(cuDeviceGet, CUdevice *device, int number)
{
    CALL();
    *device = number;
    return CUDA_SUCCESS;
}

DEFINE(cuDeviceGetName, char *name, int size, CUdevice device)
{
    (void)device;
    CALL();
    snprintf(name, (size_t)size, "stand-in");
    return CUDA_SUCCESS;
}

DEFINE(cuDeviceTotalMem_v2, size_t *bytes, CUdevice device)
{
    (void)device;
    CALL();
    *bytes = (size_t)1 << 30;
    return CUDA_SUCCESS;
}

DEFINE(cuDeviceGetAttribute, int *value, int attribute, CUdevice device)
{
    (void)device;
    CALL();
    *value = attribute == CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK         ? 1024
             : attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK ? 49152
             : attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? 232448
             : attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT        ? 4
                                                                            : 9;
    return CUDA_SUCCESS;
}

static void *retained; /* the current context */

DEFINE(cuDevicePrimaryCtxRetain, CUcontext *context, CUdevice device)
{
    (void)device;
    CALL();
    *context = (CUcontext)&retained;
    return CUDA_SUCCESS;
}

/* What gives back never fails: a real driver's failure there leaks too. */

DEFINE(cuDevicePrimaryCtxRelease_v2, CUdevice device)
{
    (void)device;
    return CUDA_SUCCESS;
}

DEFINE(cuCtxPushCurrent_v2, CUcontext context)
{
    CALL();
    retained = context;
    return CUDA_SUCCESS;
}

DEFINE(cuCtxPopCurrent_v2, CUcontext *context)
{
    *context = retained;
    return CUDA_SUCCESS;
}

DEFINE(cuCtxSynchronize, void)
{
    return CUDA_SUCCESS;
}

DEFINE(cuMemAlloc_v2, CUdeviceptr *pointer, size_t bytes)
{
    if (standin_call())
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *memory = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    *pointer = (CUdeviceptr)(uintptr_t)memory;
    return memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

DEFINE(cuMemFree_v2, CUdeviceptr pointer)
{
    free((void *)(uintptr_t)pointer);
    return CUDA_SUCCESS;
}

DEFINE(cuMemsetD8_v2, CUdeviceptr pointer, unsigned char value, size_t bytes)
{
    CALL();
    memset((void *)(uintptr_t)pointer, value, bytes);
    return CUDA_SUCCESS;
}

DEFINE(cuMemcpyHtoD_v2, CUdeviceptr to, const void *from, size_t bytes)
{
    CALL();
    memcpy((void *)(uintptr_t)to, from, bytes);
    return CUDA_SUCCESS;
}

DEFINE(cuMemcpyDtoH_v2, void *to, CUdeviceptr from, size_t bytes)
{
    CALL();
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return CUDA_SUCCESS;
}

DEFINE(cuMemcpyDtoDAsync_v2, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    (void)stream;
    CALL();
    memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    return CUDA_SUCCESS;
}

DEFINE(cuModuleLoadData, CUmodule *module, const void *data)
{
    CALL();
    if (memcmp(data, "STANDIN", 7))
        return INVALID_IMAGE;
    CUmodule made = calloc(1, sizeof *made);
    const char *library = (const char *)data + 7;
    if (*library) {
        made->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        unlink(library);
        if (!made->library) {
            free(made);
            return INVALID_IMAGE;
        }
    }
    *module = made;
    return CUDA_SUCCESS;
}

DEFINE(cuModuleUnload, CUmodule module)
{
    if (module->library)
        dlclose(module->library);
    free(module);
    return CUDA_SUCCESS;
}

DEFINE(cuModuleGetFunction, CUfunction *function, CUmodule module, const char *name)
{
    CALL();
    module->function.kernel = standin_kernel(name);
    if (module->library) /* ISO C has no cast from an object's pointer to a function's */
        *(void **)&module->function.emulate = dlsym(module->library, "emulate");
    *function = &module->function;
    return module->function.kernel || module->function.emulate ? CUDA_SUCCESS : NOT_FOUND;
}

DEFINE(cuFuncSetAttribute, CUfunction function, int attribute, int value)
{
    (void)function;
    (void)attribute;
    (void)value;
    CALL();
    return CUDA_SUCCESS;
}

DEFINE(cuLaunchKernelEx, const CUlaunchConfig *config, CUfunction function, void **arguments,
       void **extra)
{
    (void)extra;
    CALL();
    CUstream stream = real_stream(config->stream);
    standin_launch l = {.kernel = function->kernel, .emulate = function->emulate,
                        .groups = {config->grid[0], config->grid[1], config->grid[2]},
                        .n_items = config->block[0], .local_bytes = config->shared_bytes};
    uint32_t n = l.emulate ? (uint32_t)STANDIN_EMULATED_BUFFERS : l.kernel->n_buffers;
    for (uint32_t i = 0; i < n; i++)
        memcpy(&l.buffers[i], arguments[i], sizeof l.buffers[i]);
    memcpy(last_buffers, l.buffers, sizeof last_buffers);
    memcpy(l.params, arguments[n], sizeof l.params); /* the encoder has as many */
    if (!stream->capture)
        standin_run(&l);
    else if (stream->capture->n < 32)
        stream->capture->launches[stream->capture->n++] = l;
    return CUDA_SUCCESS;
}

DEFINE(cuStreamCreate, CUstream *stream, unsigned flags)
{
    (void)flags;
    CALL();
    *stream = calloc(1, sizeof **stream);
    return CUDA_SUCCESS;
}

DEFINE(cuStreamDestroy_v2, CUstream stream)
{
    free(stream);
    return CUDA_SUCCESS;
}

DEFINE(cuStreamSynchronize, CUstream stream)
{
    (void)stream;
    CALL();
    return CUDA_SUCCESS;
}

DEFINE(cuEventCreate, CUevent *event, unsigned flags)
{
    (void)flags;
    CALL();
    *event = calloc(1, sizeof **event);
    return CUDA_SUCCESS;
}

DEFINE(cuEventDestroy_v2, CUevent event)
{
    free(event);
    return CUDA_SUCCESS;
}

DEFINE(cuEventRecord, CUevent event, CUstream stream)
{
    (void)stream;
    CALL();
    event->time = standin_seconds();
    return CUDA_SUCCESS;
}

DEFINE(cuEventElapsedTime, float *milliseconds, CUevent from, CUevent to)
{
    CALL();
    *milliseconds = (float)((to->time - from->time) * 1e3);
    return CUDA_SUCCESS;
}

DEFINE(cuStreamBeginCapture_v2, CUstream stream, int mode)
{
    (void)mode;
    CALL();
    stream = real_stream(stream);
    stream->capture = calloc(1, sizeof *stream->capture);
    return CUDA_SUCCESS;
}

/* As the driver does, ends the capture also where it fails. */
DEFINE(cuStreamEndCapture, CUstream stream, CUgraph *graph)
{
    stream = real_stream(stream);
    *graph = stream->capture;
    stream->capture = NULL;
    if (standin_call()) {
        free(*graph);
        *graph = NULL;
        return UNKNOWN_ERROR;
    }
    return CUDA_SUCCESS;
}

DEFINE(cuGraphInstantiateWithFlags, CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
    (void)flags;
    CALL();
    struct CUgraph_st *copy = malloc(sizeof *copy);
    *copy = *graph;
    *exec = (CUgraphExec)copy;
    return CUDA_SUCCESS;
}

DEFINE(cuGraphDestroy, CUgraph graph)
{
    free(graph);
    return CUDA_SUCCESS;
}

DEFINE(cuGraphExecDestroy, CUgraphExec exec)
{
    free(exec);
    return CUDA_SUCCESS;
}

DEFINE(cuGraphLaunch, CUgraphExec exec, CUstream stream)
{
    const struct CUgraph_st *graph = (const struct CUgraph_st *)exec;
    (void)stream;
    CALL();
    for (size_t i = 0; i < graph->n; i++)
        standin_run(&graph->launches[i]);
    return CUDA_SUCCESS;
}
