/* What we use of CUDA's driver interface and NVRTC, so that no toolkit is needed to
 * build. Values and signatures: CUDA Driver API and NVRTC documentation, CUDA 11.8
 * and later. */
#ifndef TQKV_GPU_CUDA_API_H
#define TQKV_GPU_CUDA_API_H

#include <stddef.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_READY = 600,
    CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 8,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6,
    CU_STREAM_NON_BLOCKING = 1,
    CU_STREAM_PER_THREAD = 2, /* a handle, not a flag */
    CU_STREAM_CAPTURE_MODE_RELAXED = 2
};

/* A launch and what it is allowed. */
typedef struct CUlaunchAttribute {
    int id;
    char pad[8 - sizeof(int)];
    union {
        char pad[64];
        int value;
    } value;
} CUlaunchAttribute;

typedef struct CUlaunchConfig {
    unsigned grid[3], block[3], shared_bytes;
    CUstream stream;
    CUlaunchAttribute *attributes;
    unsigned n_attributes;
} CUlaunchConfig;

/* X(name in the library, member, parameters) */
#define CUDA_FUNCTIONS(X)                                                                     \
    X("cuInit", init, (unsigned))                                                             \
    X("cuDriverGetVersion", driver_version, (int *))                                          \
    X("cuGetErrorName", error_name, (CUresult, const char **))                                \
    X("cuDeviceGetCount", device_count, (int *))                                              \
    X("cuDeviceGet", device_get, (CUdevice *, int))                                           \
    X("cuDeviceGetName", device_name, (char *, int, CUdevice))                                \
    X("cuDeviceTotalMem_v2", device_memory, (size_t *, CUdevice))                             \
    X("cuDeviceGetAttribute", device_attribute, (int *, int, CUdevice))                       \
    X("cuDevicePrimaryCtxRetain", primary_retain, (CUcontext *, CUdevice))                    \
    X("cuDevicePrimaryCtxRelease_v2", primary_release, (CUdevice))                            \
    X("cuCtxPushCurrent_v2", push, (CUcontext))                                               \
    X("cuCtxPopCurrent_v2", pop, (CUcontext *))                                               \
    X("cuCtxSynchronize", wait_all, (void))                                                   \
    X("cuMemAlloc_v2", allocate, (CUdeviceptr *, size_t))                                     \
    X("cuMemFree_v2", release, (CUdeviceptr))                                                 \
    X("cuMemsetD8_v2", fill, (CUdeviceptr, unsigned char, size_t))                            \
    X("cuMemcpyHtoD_v2", upload, (CUdeviceptr, const void *, size_t))                         \
    X("cuMemcpyDtoH_v2", download, (void *, CUdeviceptr, size_t))                             \
    X("cuMemcpyDtoDAsync_v2", copy, (CUdeviceptr, CUdeviceptr, size_t, CUstream))             \
    X("cuModuleLoadData", module_load, (CUmodule *, const void *))                            \
    X("cuModuleUnload", module_unload, (CUmodule))                                            \
    X("cuModuleGetFunction", module_function, (CUfunction *, CUmodule, const char *))         \
    X("cuFuncSetAttribute", function_set, (CUfunction, int, int))                             \
    X("cuLaunchKernelEx", launch, (const CUlaunchConfig *, CUfunction, void **, void **))     \
    X("cuStreamCreate", stream_create, (CUstream *, unsigned))                                \
    X("cuStreamDestroy_v2", stream_destroy, (CUstream))                                       \
    X("cuStreamSynchronize", stream_wait, (CUstream))                                         \
    X("cuEventCreate", event_create, (CUevent *, unsigned))                                   \
    X("cuEventDestroy_v2", event_destroy, (CUevent))                                          \
    X("cuEventRecord", event_record, (CUevent, CUstream))                                     \
    X("cuEventElapsedTime", event_elapsed, (float *, CUevent, CUevent))                       \
    X("cuStreamBeginCapture_v2", capture_begin, (CUstream, int))                              \
    X("cuStreamEndCapture", capture_end, (CUstream, CUgraph *))                               \
    X("cuGraphInstantiateWithFlags", graph_instantiate, (CUgraphExec *, CUgraph, unsigned long long)) \
    X("cuGraphDestroy", graph_destroy, (CUgraph))                                             \
    X("cuGraphExecDestroy", graph_exec_destroy, (CUgraphExec))                                \
    X("cuGraphLaunch", graph_launch, (CUgraphExec, CUstream))

typedef struct cuda_api {
#define MEMBER(symbol, member, parameters) CUresult(*member) parameters;
    CUDA_FUNCTIONS(MEMBER)
#undef MEMBER
} cuda_api;

typedef int nvrtcResult;
enum { NVRTC_ERROR_OUT_OF_MEMORY = 1 };
typedef struct _nvrtcProgram *nvrtcProgram;

#define NVRTC_FUNCTIONS(X)                                                                    \
    X("nvrtcCreateProgram", create, (nvrtcProgram *, const char *, const char *, int,         \
                                     const char *const *, const char *const *))               \
    X("nvrtcDestroyProgram", destroy, (nvrtcProgram *))                                       \
    X("nvrtcCompileProgram", compile, (nvrtcProgram, int, const char *const *))               \
    X("nvrtcGetProgramLogSize", log_size, (nvrtcProgram, size_t *))                           \
    X("nvrtcGetProgramLog", log, (nvrtcProgram, char *))                                      \
    X("nvrtcGetCUBINSize", cubin_size, (nvrtcProgram, size_t *))                              \
    X("nvrtcGetCUBIN", cubin, (nvrtcProgram, char *))

typedef struct nvrtc_api {
#define MEMBER(symbol, member, parameters) nvrtcResult(*member) parameters;
    NVRTC_FUNCTIONS(MEMBER)
#undef MEMBER
} nvrtc_api;

#endif
