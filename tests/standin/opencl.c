/* libOpenCL.so.1: one platform with one device, queues that are done at once. */
#include "standin.h"

#include <stdio.h>

#include "gpu/opencl/api.h"

enum { FAILURE = -9999, BUILD_FAILURE = -11, INVALID_VALUE = -30, INVALID_BINARY = -42,
       INVALID_NAME = -46 };

struct _cl_context {
    int users;
};

struct _cl_command_queue {
    int users;
};

struct _cl_mem {
    uint8_t *memory;
};

struct _cl_program {
    int users, is_bad;
};

struct _cl_kernel {
    cl_program program;
    standin_launch launch;
    uint64_t offsets[TQKV_MAX_BUFFERS];
};

struct _cl_event {
    uint64_t nanoseconds;
};

static char the_platform, the_device;

#define DEFINE(type, name, ...) EXPORT type name(__VA_ARGS__); type name(__VA_ARGS__)
#define CALL()              \
    do {                    \
        if (standin_call()) \
            return FAILURE; \
    } while (0)

DEFINE(cl_int, clGetPlatformIDs, cl_uint n, cl_platform_id *ids, cl_uint *count)
{
    CALL();
    if (ids && n)
        ids[0] = (cl_platform_id)(void *)&the_platform;
    if (count)
        *count = 1;
    return CL_SUCCESS;
}

DEFINE(cl_int, clGetDeviceIDs, cl_platform_id platform, cl_ulong type, cl_uint n,
       cl_device_id *ids, cl_uint *count)
{
    (void)platform;
    (void)type;
    CALL();
    if (ids && n)
        ids[0] = (cl_device_id)(void *)&the_device;
    if (count)
        *count = 1;
    return CL_SUCCESS;
}

DEFINE(cl_int, clGetDeviceInfo, cl_device_id device, cl_uint name, size_t size, void *value,
       size_t *needed)
{
    uint64_t number = name == CL_DEVICE_MAX_WORK_GROUP_SIZE ? 256
                      : name == CL_DEVICE_LOCAL_MEM_SIZE    ? 32768
                      : name == CL_DEVICE_SINGLE_FP_CONFIG  ? 0xFF
                      : name == CL_DEVICE_MAX_COMPUTE_UNITS || name == CL_DEVICE_ENDIAN_LITTLE
                          ? 1
                          : 1 << 30;
    (void)device;
    CALL();
    if (name == CL_DEVICE_NAME || name == CL_DRIVER_VERSION) {
        const char *set = getenv("TQKV_TEST_NAME"), *text = set ? set : "stand-in";
        if (needed)
            *needed = strlen(text) + 1;
        if (value && size < strlen(text) + 1)
            return INVALID_VALUE;
        if (value)
            strcpy(value, text);
    } else {
        memcpy(value, &number, size < 8 ? size : 8);
    }
    return CL_SUCCESS;
}

#define FAIL_NULL()               \
    do {                          \
        *result = CL_SUCCESS;     \
        if (standin_call()) {     \
            *result = FAILURE;    \
            return NULL;          \
        }                         \
    } while (0)

DEFINE(cl_context, clCreateContext, const intptr_t *properties, cl_uint n,
       const cl_device_id *devices, void (*notify)(const char *, const void *, size_t, void *),
       void *data, cl_int *result)
{
    (void)properties;
    (void)n;
    (void)devices;
    (void)notify;
    (void)data;
    FAIL_NULL();
    cl_context c = calloc(1, sizeof *c);
    c->users = 1;
    return c;
}

DEFINE(cl_int, clRetainContext, cl_context c)
{
    CALL();
    c->users++;
    return CL_SUCCESS;
}

DEFINE(cl_int, clReleaseContext, cl_context c)
{
    if (--c->users == 0)
        free(c);
    return CL_SUCCESS;
}

DEFINE(cl_command_queue, clCreateCommandQueue, cl_context c, cl_device_id device, cl_ulong flags,
       cl_int *result)
{
    (void)c;
    (void)device;
    (void)flags;
    FAIL_NULL();
    cl_command_queue q = calloc(1, sizeof *q);
    q->users = 1;
    return q;
}

DEFINE(cl_int, clRetainCommandQueue, cl_command_queue q)
{
    CALL();
    q->users++;
    return CL_SUCCESS;
}

DEFINE(cl_int, clReleaseCommandQueue, cl_command_queue q)
{
    if (--q->users == 0)
        free(q);
    return CL_SUCCESS;
}

DEFINE(cl_mem, clCreateBuffer, cl_context c, cl_ulong flags, size_t bytes, void *host,
       cl_int *result)
{
    (void)c;
    (void)flags;
    (void)host;
    FAIL_NULL();
    cl_mem m = calloc(1, sizeof *m);
    m->memory = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    return m;
}

DEFINE(cl_int, clReleaseMemObject, cl_mem m)
{
    free(m->memory);
    free(m);
    return CL_SUCCESS;
}

DEFINE(cl_program, clCreateProgramWithSource, cl_context c, cl_uint n, const char **texts,
       const size_t *lengths, cl_int *result)
{
    (void)c;
    (void)lengths;
    FAIL_NULL();
    cl_program p = calloc(1, sizeof *p);
    p->users = 1;
    for (cl_uint i = 0; i < n; i++)
        p->is_bad |= strstr(texts[i], "#error") != NULL;
    return p;
}

DEFINE(cl_program, clCreateProgramWithBinary, cl_context c, cl_uint n, const cl_device_id *devices,
       const size_t *lengths, const unsigned char **binaries, cl_int *state, cl_int *result)
{
    (void)c;
    (void)n;
    (void)devices;
    FAIL_NULL();
    *state = lengths[0] == 8 && !memcmp(binaries[0], "STANDIN", 8) ? CL_SUCCESS : INVALID_BINARY;
    cl_program p = calloc(1, sizeof *p);
    p->users = 1;
    return p;
}

DEFINE(cl_int, clBuildProgram, cl_program p, cl_uint n, const cl_device_id *devices,
       const char *options, void (*notify)(cl_program, void *), void *data)
{
    (void)n;
    (void)devices;
    (void)options;
    (void)notify;
    (void)data;
    CALL();
    return p->is_bad ? BUILD_FAILURE : CL_SUCCESS;
}

DEFINE(cl_int, clGetProgramInfo, cl_program p, cl_uint name, size_t size, void *value,
       size_t *needed)
{
    (void)p;
    (void)size;
    (void)needed;
    CALL();
    if (name == CL_PROGRAM_BINARY_SIZES)
        *(size_t *)value = 8;
    else
        memcpy(*(unsigned char **)value, "STANDIN", 8);
    return CL_SUCCESS;
}

DEFINE(cl_int, clGetProgramBuildInfo, cl_program p, cl_device_id device, cl_uint name, size_t size,
       void *value, size_t *needed)
{
    static const char text[] = "stand-in: line 1: error";
    (void)p;
    (void)device;
    (void)name;
    CALL();
    if (value)
        memcpy(value, text, size < sizeof text ? size : sizeof text);
    if (needed)
        *needed = sizeof text;
    return CL_SUCCESS;
}

DEFINE(cl_int, clReleaseProgram, cl_program p)
{
    if (--p->users == 0)
        free(p);
    return CL_SUCCESS;
}

DEFINE(cl_kernel, clCreateKernel, cl_program p, const char *name, cl_int *result)
{
    FAIL_NULL();
    cl_kernel k = calloc(1, sizeof *k);
    k->launch.kernel = standin_kernel(name);
    if (!k->launch.kernel) {
        *result = INVALID_NAME;
        free(k);
        return NULL;
    }
    k->program = p;
    p->users++;
    return k;
}

DEFINE(cl_int, clReleaseKernel, cl_kernel k)
{
    clReleaseProgram(k->program);
    free(k);
    return CL_SUCCESS;
}

/* Buffers and their offsets in turn, then parameters, then local memory. */
DEFINE(cl_int, clSetKernelArg, cl_kernel k, cl_uint i, size_t size, const void *value)
{
    standin_launch *l = &k->launch;
    cl_uint n = l->kernel->n_buffers;
    CALL();
    if (i < 2 * n && i % 2 == 0)
        l->buffers[i / 2] = value ? (*(const cl_mem *)value)->memory : NULL;
    else if (i < 2 * n)
        memcpy(&k->offsets[i / 2], value, sizeof k->offsets[0]);
    else if (i == 2 * n)
        memcpy(l->params, value, size);
    else
        l->local_bytes = (uint32_t)size;
    return CL_SUCCESS;
}

DEFINE(cl_int, clEnqueueNDRangeKernel, cl_command_queue q, cl_kernel k, cl_uint dims,
       const size_t *offset, const size_t *global, const size_t *local, cl_uint n,
       const cl_event *waits, cl_event *event)
{
    (void)q;
    (void)dims;
    (void)offset;
    (void)n;
    (void)waits;
    (void)event;
    CALL();
    standin_launch l = k->launch;
    l.n_items = (uint32_t)local[0];
    for (int i = 0; i < 3; i++)
        l.groups[i] = (uint32_t)(global[i] / local[i]);
    for (uint32_t i = 0; i < l.kernel->n_buffers; i++)
        if (l.buffers[i])
            l.buffers[i] = (uint8_t *)l.buffers[i] + k->offsets[i];
    standin_run(&l);
    return CL_SUCCESS;
}

DEFINE(cl_int, clEnqueueReadBuffer, cl_command_queue q, cl_mem m, cl_uint blocks, size_t offset,
       size_t bytes, void *to, cl_uint n, const cl_event *waits, cl_event *event)
{
    (void)q;
    (void)blocks;
    (void)n;
    (void)waits;
    (void)event;
    CALL();
    memcpy(to, m->memory + offset, bytes);
    return CL_SUCCESS;
}

DEFINE(cl_int, clEnqueueWriteBuffer, cl_command_queue q, cl_mem m, cl_uint blocks, size_t offset,
       size_t bytes, const void *from, cl_uint n, const cl_event *waits, cl_event *event)
{
    (void)q;
    (void)blocks;
    (void)n;
    (void)waits;
    (void)event;
    CALL();
    memcpy(m->memory + offset, from, bytes);
    return CL_SUCCESS;
}

DEFINE(cl_int, clEnqueueCopyBuffer, cl_command_queue q, cl_mem from, cl_mem to, size_t from_offset,
       size_t to_offset, size_t bytes, cl_uint n, const cl_event *waits, cl_event *event)
{
    (void)q;
    (void)n;
    (void)waits;
    (void)event;
    CALL();
    memmove(to->memory + to_offset, from->memory + from_offset, bytes);
    return CL_SUCCESS;
}

DEFINE(cl_int, clEnqueueMarkerWithWaitList, cl_command_queue q, cl_uint n, const cl_event *waits,
       cl_event *event)
{
    (void)q;
    (void)n;
    (void)waits;
    CALL();
    *event = calloc(1, sizeof **event);
    (*event)->nanoseconds = (uint64_t)(standin_seconds() * 1e9);
    return CL_SUCCESS;
}

DEFINE(cl_int, clGetEventInfo, cl_event e, cl_uint name, size_t size, void *value, size_t *needed)
{
    (void)e;
    (void)name;
    (void)needed;
    CALL();
    memset(value, 0, size);
    return CL_SUCCESS;
}

DEFINE(cl_int, clGetEventProfilingInfo, cl_event e, cl_uint name, size_t size, void *value,
       size_t *needed)
{
    (void)name;
    (void)needed;
    CALL();
    memcpy(value, &e->nanoseconds, size);
    return CL_SUCCESS;
}

DEFINE(cl_int, clReleaseEvent, cl_event e)
{
    free(e);
    return CL_SUCCESS;
}

DEFINE(cl_int, clFlush, cl_command_queue q)
{
    (void)q;
    CALL();
    return CL_SUCCESS;
}

DEFINE(cl_int, clFinish, cl_command_queue q)
{
    (void)q;
    CALL();
    return CL_SUCCESS;
}
