/* What we use of OpenCL 1.2, so that no headers are needed to build. Values and
 * signatures: The OpenCL Specification 1.2, Khronos. */
#ifndef TQKV_GPU_OPENCL_API_H
#define TQKV_GPU_OPENCL_API_H

#include <stddef.h>
#include <stdint.h>

typedef int32_t cl_int;
typedef uint32_t cl_uint;
typedef uint64_t cl_ulong;
typedef struct _cl_platform_id *cl_platform_id;
typedef struct _cl_device_id *cl_device_id;
typedef struct _cl_context *cl_context;
typedef struct _cl_command_queue *cl_command_queue;
typedef struct _cl_mem *cl_mem;
typedef struct _cl_program *cl_program;
typedef struct _cl_kernel *cl_kernel;
typedef struct _cl_event *cl_event;

enum {
    CL_SUCCESS = 0,
    CL_MEM_OBJECT_ALLOCATION_FAILURE = -4,
    CL_OUT_OF_RESOURCES = -5,
    CL_OUT_OF_HOST_MEMORY = -6,
    CL_PROFILING_INFO_NOT_AVAILABLE = -7,
    CL_PLATFORM_NAME = 0x0902,
    CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002,
    CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004,
    CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
    CL_DEVICE_SINGLE_FP_CONFIG = 0x101B,
    CL_DEVICE_GLOBAL_MEM_SIZE = 0x101F,
    CL_DEVICE_LOCAL_MEM_SIZE = 0x1023,
    CL_DEVICE_ENDIAN_LITTLE = 0x1026,
    CL_DEVICE_NAME = 0x102B,
    CL_DRIVER_VERSION = 0x102D,
    CL_FP_DENORM = 1,
    CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT = 1 << 7,
    CL_MEM_READ_WRITE = 1,
    CL_QUEUE_PROFILING_ENABLE = 2,
    CL_PROGRAM_BINARY_SIZES = 0x1165,
    CL_PROGRAM_BINARIES = 0x1166,
    CL_PROGRAM_BUILD_LOG = 0x1183,
    CL_PROFILING_COMMAND_END = 0x1283,
    CL_COMPLETE = 0,
    CL_EVENT_COMMAND_EXECUTION_STATUS = 0x11D3
};
#define CL_DEVICE_TYPE_ALL 0xFFFFFFFFu

#define OPENCL_FUNCTIONS(X)                                                                   \
    X(cl_int, "clGetPlatformIDs", platforms, (cl_uint, cl_platform_id *, cl_uint *))          \
    X(cl_int, "clGetDeviceIDs", devices, (cl_platform_id, cl_ulong, cl_uint, cl_device_id *,  \
                                          cl_uint *))                                         \
    X(cl_int, "clGetDeviceInfo", device_info, (cl_device_id, cl_uint, size_t, void *, size_t *)) \
    X(cl_context, "clCreateContext", create_context, (const intptr_t *, cl_uint,              \
      const cl_device_id *, void (*)(const char *, const void *, size_t, void *), void *,     \
      cl_int *))                                                                              \
    X(cl_int, "clRetainContext", retain_context, (cl_context))                                \
    X(cl_int, "clReleaseContext", release_context, (cl_context))                              \
    X(cl_command_queue, "clCreateCommandQueue", create_queue, (cl_context, cl_device_id,      \
                                                               cl_ulong, cl_int *))           \
    X(cl_int, "clRetainCommandQueue", retain_queue, (cl_command_queue))                       \
    X(cl_int, "clReleaseCommandQueue", release_queue, (cl_command_queue))                     \
    X(cl_mem, "clCreateBuffer", create_buffer, (cl_context, cl_ulong, size_t, void *, cl_int *)) \
    X(cl_int, "clReleaseMemObject", release_buffer, (cl_mem))                                 \
    X(cl_program, "clCreateProgramWithSource", create_program, (cl_context, cl_uint,          \
      const char **, const size_t *, cl_int *))                                               \
    X(cl_program, "clCreateProgramWithBinary", create_from_binary, (cl_context, cl_uint,      \
      const cl_device_id *, const size_t *, const unsigned char **, cl_int *, cl_int *))      \
    X(cl_int, "clBuildProgram", build, (cl_program, cl_uint, const cl_device_id *, const char *, \
                                        void (*)(cl_program, void *), void *))                \
    X(cl_int, "clGetProgramInfo", program_info, (cl_program, cl_uint, size_t, void *, size_t *)) \
    X(cl_int, "clGetProgramBuildInfo", build_info, (cl_program, cl_device_id, cl_uint, size_t, \
                                                    void *, size_t *))                        \
    X(cl_int, "clReleaseProgram", release_program, (cl_program))                              \
    X(cl_kernel, "clCreateKernel", create_kernel, (cl_program, const char *, cl_int *))       \
    X(cl_int, "clReleaseKernel", release_kernel, (cl_kernel))                                 \
    X(cl_int, "clSetKernelArg", set_argument, (cl_kernel, cl_uint, size_t, const void *))     \
    X(cl_int, "clEnqueueNDRangeKernel", enqueue, (cl_command_queue, cl_kernel, cl_uint,       \
      const size_t *, const size_t *, const size_t *, cl_uint, const cl_event *, cl_event *)) \
    X(cl_int, "clEnqueueReadBuffer", read, (cl_command_queue, cl_mem, cl_uint, size_t, size_t, \
      void *, cl_uint, const cl_event *, cl_event *))                                         \
    X(cl_int, "clEnqueueWriteBuffer", write, (cl_command_queue, cl_mem, cl_uint, size_t, size_t, \
      const void *, cl_uint, const cl_event *, cl_event *))                                   \
    X(cl_int, "clEnqueueCopyBuffer", copy, (cl_command_queue, cl_mem, cl_mem, size_t, size_t, \
      size_t, cl_uint, const cl_event *, cl_event *))                                         \
    X(cl_int, "clEnqueueMarkerWithWaitList", marker, (cl_command_queue, cl_uint,              \
                                                      const cl_event *, cl_event *))          \
    X(cl_int, "clGetEventInfo", event_info, (cl_event, cl_uint, size_t, void *, size_t *))    \
    X(cl_int, "clGetEventProfilingInfo", event_time, (cl_event, cl_uint, size_t, void *, size_t *)) \
    X(cl_int, "clReleaseEvent", release_event, (cl_event))                                    \
    X(cl_int, "clFlush", flush, (cl_command_queue))                                           \
    X(cl_int, "clFinish", finish, (cl_command_queue))

typedef struct opencl_api {
#define MEMBER(type, symbol, member, parameters) type(*member) parameters;
    OPENCL_FUNCTIONS(MEMBER)
#undef MEMBER
} opencl_api;

#endif
