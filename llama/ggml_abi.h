/*
 * What a loaded backend and ggml share in memory, as of
 * GGML_BACKEND_API_VERSION 2: declared here under our own names, so that the
 * library needs no ggml to build and one binary serves many versions of it.
 * ggml_abi.c finds ggml's functions in the process at run time, and checks
 * there that the structures lie as they are declared here, by making tensors
 * and graphs with ggml's own functions and looking at them. Operation numbers,
 * which differ from version to version, are read off those tensors.
 * tests/llama compares all of it with ggml's headers.
 */
#ifndef TQKV_GGML_ABI_H
#define TQKV_GGML_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GG_API_VERSION = 2,
    GG_MAX_DIMS = 4,
    GG_MAX_SRC = 10,
    GG_OP_PARAMS = 16, /* of 32 bits */
    GG_MAX_NAME = 64,
    GG_ALL_TASKS = -1,

    /* Types' numbers are those of the GGUF file format. */
    GG_F32 = 0, GG_F16 = 1, GG_Q4_0 = 2, GG_I32 = 26, GG_I64 = 27, GG_BF16 = 30,

    GG_DEVICE_CPU = 0,
    GG_STATUS_SUCCESS = 0, GG_STATUS_FAILED = -1,
    GG_USAGE_WEIGHTS = 1,
    GG_LOG_INFO = 2, GG_LOG_WARN = 3, GG_LOG_ERROR = 4
};

typedef struct gg_buffer_type *gg_buffer_type_t;
typedef struct gg_buffer *gg_buffer_t;
typedef struct gg_backend *gg_backend_t;
typedef struct gg_device *gg_device_t;
typedef struct gg_reg *gg_reg_t;
typedef struct gg_graph gg_graph;     /* ggml_cgraph, opaque */
typedef struct gg_context gg_context; /* ggml_context, opaque */

typedef struct gg_tensor {
    int type;
    gg_buffer_t buffer;
    int64_t ne[GG_MAX_DIMS];
    size_t nb[GG_MAX_DIMS];
    int op;
    int32_t op_params[GG_OP_PARAMS];
    int32_t flags;
    struct gg_tensor *src[GG_MAX_SRC];
    struct gg_tensor *view_src;
    size_t view_offs;
    void *data;
    char name[GG_MAX_NAME];
    void *extra;
    char padding[8];
} gg_tensor;

typedef void (*gg_custom_function)(gg_tensor *dst, int ith, int nth, void *context);

/* op_params of a custom operation. */
typedef struct gg_custom_params {
    gg_custom_function function;
    int n_tasks;
    void *context;
} gg_custom_params;

struct gg_buffer_type {
    struct {
        const char *(*get_name)(gg_buffer_type_t);
        gg_buffer_t (*alloc_buffer)(gg_buffer_type_t, size_t);
        size_t (*get_alignment)(gg_buffer_type_t);
        size_t (*get_max_size)(gg_buffer_type_t);
        size_t (*get_alloc_size)(gg_buffer_type_t, const gg_tensor *);
        bool (*is_host)(gg_buffer_type_t);
    } iface;
    gg_device_t device;
    void *context;
};

typedef struct gg_buffer_iface {
    void (*free_buffer)(gg_buffer_t);
    void *(*get_base)(gg_buffer_t);
    int (*init_tensor)(gg_buffer_t, gg_tensor *);
    void (*memset_tensor)(gg_buffer_t, gg_tensor *, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(gg_buffer_t, gg_tensor *, const void *data, size_t offset, size_t size);
    void (*get_tensor)(gg_buffer_t, const gg_tensor *, void *data, size_t offset, size_t size);
    void (*set_tensor_2d)(void), (*get_tensor_2d)(void);
    bool (*cpy_tensor)(gg_buffer_t, const gg_tensor *src, gg_tensor *dst);
    void (*clear)(gg_buffer_t, uint8_t value);
    void (*reset)(gg_buffer_t);
} gg_buffer_iface;

struct gg_buffer {
    gg_buffer_iface iface;
    gg_buffer_type_t type;
    void *context;
    size_t size;
    int usage;
};

struct gg_backend {
    uint8_t (*guid)[16];
    struct {
        const char *(*get_name)(gg_backend_t);
        void (*free)(gg_backend_t);
        void (*transfers[5])(void);
        void (*synchronize)(gg_backend_t);
        void (*plans[4])(void);
        int (*graph_compute)(gg_backend_t, gg_graph *);
        void (*event_record)(gg_backend_t, void *);
        void (*event_wait)(gg_backend_t, void *);
        void (*graph_optimize)(gg_backend_t, gg_graph *, void *params);
    } iface;
    gg_device_t device;
    void *context;
};

struct gg_device {
    struct {
        const char *(*get_name)(gg_device_t);
        const char *(*get_description)(gg_device_t);
        void (*get_memory)(gg_device_t, size_t *free, size_t *total);
        int (*get_type)(gg_device_t);
        void (*get_props)(gg_device_t, void *props);
        gg_backend_t (*init_backend)(gg_device_t, const char *params);
        gg_buffer_type_t (*get_buffer_type)(gg_device_t);
        gg_buffer_type_t (*get_host_buffer_type)(gg_device_t);
        gg_buffer_t (*buffer_from_host_ptr)(gg_device_t, void *, size_t, size_t);
        bool (*supports_op)(gg_device_t, const gg_tensor *);
        bool (*supports_buft)(gg_device_t, gg_buffer_type_t);
        bool (*offload_op)(gg_device_t, const gg_tensor *);
        void (*events[3])(void);
    } iface;
    gg_reg_t reg;
    void *context;
};

struct gg_reg {
    int api_version;
    struct {
        const char *(*get_name)(gg_reg_t);
        size_t (*get_device_count)(gg_reg_t);
        gg_device_t (*get_device)(gg_reg_t, size_t);
        void *(*get_proc_address)(gg_reg_t, const char *);
    } iface;
    void *context;
};

/* Functions of the ggml in this process, and its operations' numbers. */
typedef struct gg_api {
    gg_device_t (*dev_by_type)(int type);
    gg_device_t (*dev_by_name)(const char *name);
    gg_reg_t (*reg_by_name)(const char *name);
    gg_buffer_type_t (*cpu_buffer_type)(void);
    void (*buffer_free)(gg_buffer_t);
    int (*graph_n_nodes)(gg_graph *);
    gg_tensor *(*graph_node)(gg_graph *, int);
    const char *(*op_desc)(const gg_tensor *);
    const char *(*type_name)(int type);
    size_t (*nbytes)(const gg_tensor *);
    void (*tensor_get)(const gg_tensor *, void *data, size_t offset, size_t size);
    void (*log)(int level, const char *text, ...);  /* never null */
    int op_none, op_view, op_reshape, op_permute, op_transpose;
    int op_set_rows, op_flash_attn, op_rope, op_custom;
} gg_api;

extern gg_api gg;
void gg_log_to_stderr(int level, const char *text, ...);

/* Finds and checks; caller is an address in the code that loads the backend.
 * Null, or what is wrong, in static text. */
const char *gg_bind(const void *caller);

/* The CPU's device, checked like the rest; null (with the reason) if it has
 * none or lies otherwise. */
gg_device_t gg_cpu_device(const char **reason);

#endif
