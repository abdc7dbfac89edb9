/* Inside the GPU side: what handles are, and what a backend provides. */
#ifndef TQKV_GPU_GPU_H
#define TQKV_GPU_GPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tqkv_gpu.h"

/* ---- messages ---- */

enum { REPORT_SIZE = 4096 };

/* The message of a handle. */
typedef struct report {
    pthread_mutex_t mutex;
    char text[REPORT_SIZE];
} report;

void report_init(report *r);
void report_destroy(report *r);
/* Sets the message and returns status; r may be null. */
tqkv_status report_error(report *r, tqkv_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
tqkv_status report_copy(const report *r, char *message, size_t size);

/* As much of UTF-8 text as fits size bytes with its end, in whole characters. */
void text_copy(char *to, size_t size, const char *from);

/* ---- handles ---- */

enum { HANDLE_DEVICE = 0x54514456, HANDLE_BUFFER, HANDLE_REGISTRY, HANDLE_ENCODER, HANDLE_EVENT,
       HANDLE_GRAPH, HANDLE_FREED };

/* At the front of every handle. */
typedef struct handle {
    atomic_uint kind; /* HANDLE_FREED once the caller has freed it */
    atomic_int users;
} handle;

void handle_init(handle *h, unsigned kind);
/* TQKV_OK, ARGUMENT for null and STATE for a handle freed or of another kind. */
tqkv_status handle_check(const void *h, unsigned kind);
/* 1 if this was the caller's one call to free it. */
int handle_free(void *h, unsigned kind);
void handle_keep(handle *h);
int handle_drop(handle *h); /* 1 if it was the last user */

/* ---- what handles hold ---- */

typedef struct backend backend;

struct tqkv_device {
    handle handle;
    const backend *backend;
    void *state; /* the backend's */
    tqkv_device_info info;
    uint32_t tensor_memory; /* bytes that a group of attend_tensor may share; 0: not served */
    report report;
};

struct tqkv_buffer {
    handle handle;
    tqkv_device *device;
    tqkv_buffer *parent; /* of a view */
    void *memory;        /* the backend's */
    size_t offset, bytes; /* in memory */
    int is_owner;
    void *map;
    int map_writes;
};

struct tqkv_pipeline {
    tqkv_pipeline *next;
    tqkv_registry *registry; /* which lives as long as a command has its pipelines */
    const char *name; /* of the source it was made from */
    char *options;
    tqkv_device *device;
    void *kernel; /* the backend's */
    int has_options; /* compiled with them; 0: a kernel for all cases */
};

struct tqkv_event {
    handle handle;
    tqkv_device *device;
    void *state;
    atomic_int is_recorded;
};

/* Of a stream, or a graph. */
enum { COUNTERS_PER_STREAM = 16384 };

enum { COMMAND_DISPATCH, COMMAND_COPY, COMMAND_EVENT };

typedef struct command {
    int kind;
    const tqkv_pipeline *pipeline;
    uint32_t groups[3], n_items, local_bytes;
    uint32_t n_buffers, params_size;
    tqkv_buffer *buffers[TQKV_MAX_BUFFERS]; /* copy: from, to */
    size_t offsets[2], bytes;               /* of a copy */
    tqkv_event *event;
    uint32_t counters_at; /* the buffer that the backend gives: COUNTERS_PER_STREAM u32, 0 between
                           * launches; 0: none */
    int overlaps;         /* may begin before the command in front of it has ended */
    _Alignas(16) uint8_t params[TQKV_MAX_PARAMS];
} command;

typedef struct command_list {
    command *commands;
    size_t n, room;
} command_list;

struct tqkv_encoder {
    handle handle;
    tqkv_device *device;
    void *stream; /* the backend's */
    atomic_flag is_busy;
    command_list list;
    report report;
};

struct tqkv_graph {
    handle handle;
    tqkv_device *device;
    void *state; /* the backend's; null: the list is submitted */
    command_list list;
};

/* ---- backends ---- */

/* One kernel to compile. */
typedef struct program {
    const char *name;    /* of the kernel */
    const char *text;    /* without the prelude */
    const char *options; /* "A=1 B=2" or "" */
    tqkv_host_kernel host;
} program;

/* The next macro of options, `length` long; null behind the last. Begin with the
 * options at *rest. */
static inline const char *next_macro(const char **rest, size_t *length)
{
    const char *macro = *rest + strspn(*rest, " ");
    *length = strcspn(macro, " ");
    *rest = macro + *length;
    return *length ? macro : NULL;
}

/* Compiled code that can be kept in a file; free(data). */
typedef struct binary {
    void *data;
    size_t size;
} binary;

/* All but list and open get a device that is open. Where they fail they say why in
 * the report they are given. */
struct backend {
    const char *kind;
    int specialises;  /* built-in kernels are worth compiling for each format */
    int has_row_items; /* kernels may keep a row in an item's registers */
    int has_addresses; /* memory handles are addresses, whose alignment can be told */
    int takes_module;  /* compiled kernels that a caller brings (tqkv_registry_config) */
    int n_numbers;     /* in a device's name: 2 for "opencl:1.0" */
    void (*list)(tqkv_device_info *infos, size_t max, size_t *n);
    /* numbers: those in the device's name */
    tqkv_status (*open)(tqkv_device *d, const unsigned *numbers, void *native, report *r);
    void (*close)(tqkv_device *d);
    tqkv_status (*allocate)(tqkv_device *d, size_t bytes, void **memory, report *r);
    void (*release)(tqkv_device *d, void *memory);
    tqkv_status (*upload)(tqkv_device *d, void *memory, size_t offset, const void *src,
                          size_t bytes, report *r);
    tqkv_status (*download)(tqkv_device *d, void *memory, size_t offset, void *dst, size_t bytes,
                            report *r);
    tqkv_status (*compile)(tqkv_device *d, const program *p, void **kernel, binary *code,
                           report *r);
    /* From a binary that compile gave, maybe in another process; null: never does. */
    tqkv_status (*load)(tqkv_device *d, const char *name, const void *data, size_t size,
                        void **kernel, report *r);
    void (*unload)(tqkv_device *d, void *kernel);
    tqkv_status (*stream_open)(tqkv_device *d, void *native, void **stream, report *r);
    void (*stream_close)(tqkv_device *d, void *stream);
    tqkv_status (*submit)(tqkv_device *d, void *stream, const command_list *list, report *r);
    tqkv_status (*wait)(tqkv_device *d, void *stream, report *r);
    tqkv_status (*event_open)(tqkv_device *d, void **event, report *r);
    void (*event_close)(tqkv_device *d, void *event);
    tqkv_status (*elapsed)(tqkv_device *d, void *from, void *to, double *seconds, report *r);
    /* Null where graphs are lists. */
    tqkv_status (*graph_open)(tqkv_device *d, void *stream, const command_list *list,
                              void **graph, report *r);
    tqkv_status (*graph_launch)(tqkv_device *d, void *graph, void *stream, report *r);
    void (*graph_close)(tqkv_device *d, void *graph);
};

extern const backend backend_cuda, backend_host, backend_metal, backend_opencl;

/* A driver's library and its functions, in the order of their names; *missing names
 * what was not found: the library, or a function of it. */
int driver_open(const char *const *libraries, const char *const *names, void **functions,
                size_t n, const char **missing);

/* ---- between the parts ---- */

tqkv_status device_failed(const tqkv_device *d, tqkv_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void device_drop(tqkv_device *d);
void registry_keep(tqkv_registry *r);
void registry_drop(tqkv_registry *r);
/* tqkv_registry_get_pipeline for a device that its caller may have freed. */
tqkv_status registry_find(tqkv_registry *r, const char *name, const char *options,
                          tqkv_device *d, const tqkv_pipeline **pipeline);
tqkv_status buffer_check(const tqkv_buffer *b, const tqkv_device *d);
void buffer_drop(tqkv_buffer *b);
void command_list_release(command_list *list);
/* Several commands that are recorded together or not at all: enter, record, forget
 * all but the first n if one failed, leave. */
tqkv_status encoder_enter(tqkv_encoder *e);
tqkv_status encoder_leave(tqkv_encoder *e, tqkv_status status);
void encoder_truncate(tqkv_encoder *e, size_t n);
tqkv_status encoder_record_dispatch(tqkv_encoder *e, const tqkv_pipeline *pipeline,
                                    tqkv_buffer *const *buffers, size_t n_buffers,
                                    const void *params, size_t params_size,
                                    const uint32_t *groups, uint32_t n_items,
                                    uint32_t local_bytes);
static inline void *buffer_host_address(const tqkv_buffer *b)
{
    return (uint8_t *)b->memory + b->offset;
}

/* Compiled code on disk (cache_file.c). */
typedef struct cache_key {
    uint64_t low, high;
} cache_key;

cache_key cache_key_of(const tqkv_device *d, const program *p);
/* 1 if there was a good one. */
int cache_file_read(const char *folder, cache_key key, binary *code);
tqkv_status cache_file_write(const char *folder, cache_key key, const binary *code, report *r);

/* The built-in kernels: text and host form by name; null if there is none. */
const char *builtin_name(const char *name); /* the same, static */
const char *builtin_text(const char *name);
int builtin_is_special(const char *name); /* it only is one with options */
const char *builtin_prelude(const char *language);
tqkv_host_kernel builtin_host_kernel(const char *name);

#endif
