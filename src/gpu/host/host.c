/* The processor as a device: groups in parallel by OpenMP, a group's items one
 * after the other from barrier to barrier. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gpu/gpu.h"
#include "gpu/host/items.h"

enum { GROUP_MEMORY = 32 << 10, MAX_GROUP = 128 };

static void fill_info(tqkv_device_info *info)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "host");
    snprintf(info->description, sizeof info->description, "this processor, kernels as C");
    snprintf(info->driver, sizeof info->driver, "tqkv %s", TQKV_VERSION);
    info->memory = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
    info->max_buffer = info->memory;
    info->max_group = MAX_GROUP;
    info->group_memory = GROUP_MEMORY;
    info->n_units = (uint32_t)omp_get_max_threads();
}

static void list(tqkv_device_info *infos, size_t max, size_t *n)
{
    if (*n < max)
        fill_info(&infos[*n]);
    ++*n;
}

static tqkv_status open_device(tqkv_device *d, const unsigned *numbers, void *native, report *r)
{
    (void)numbers;
    if (native)
        return report_error(r, TQKV_ERROR_ARGUMENT, "host: has no context");
    fill_info(&d->info);
    return TQKV_OK;
}

static void close_device(tqkv_device *d)
{
    (void)d;
}

static tqkv_status allocate(tqkv_device *d, size_t bytes, void **memory, report *r)
{
    (void)d;
    size_t rounded = bytes > SIZE_MAX - 63 ? 0 : (bytes + 63) & ~(size_t)63;
    *memory = rounded ? aligned_alloc(64, rounded) : NULL;
    return *memory ? TQKV_OK
                   : report_error(r, TQKV_ERROR_MEMORY, "host: out of memory (%zu bytes)", bytes);
}

static void release(tqkv_device *d, void *memory)
{
    (void)d;
    free(memory);
}

static tqkv_status upload(tqkv_device *d, void *memory, size_t offset, const void *src,
                          size_t bytes, report *r)
{
    (void)d;
    (void)r;
    memcpy((uint8_t *)memory + offset, src, bytes);
    return TQKV_OK;
}

static tqkv_status download(tqkv_device *d, void *memory, size_t offset, void *dst, size_t bytes,
                            report *r)
{
    (void)d;
    (void)r;
    memcpy(dst, (uint8_t *)memory + offset, bytes);
    return TQKV_OK;
}

typedef struct host_pipeline {
    tqkv_host_kernel run;
} host_pipeline;

static tqkv_status compile(tqkv_device *d, const program *p, void **kernel, binary *code, report *r)
{
    (void)d;
    (void)code;
    if (!p->host)
        return report_error(r, TQKV_ERROR_COMPILE, "%s: has no function for the host", p->name);
    host_pipeline *made = malloc(sizeof *made);
    if (!made)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    made->run = p->host;
    *kernel = made;
    return TQKV_OK;
}

static void unload(tqkv_device *d, void *kernel)
{
    (void)d;
    free(kernel);
}

static tqkv_status stream_open(tqkv_device *d, void *native, void **stream, report *r)
{
    (void)d;
    *stream = NULL;
    return native ? report_error(r, TQKV_ERROR_ARGUMENT, "host: has no streams") : TQKV_OK;
}

static void stream_close(tqkv_device *d, void *stream)
{
    (void)d;
    (void)stream;
}

static tqkv_status run_dispatch(const command *c, report *r)
{
    const host_pipeline *kernel = c->pipeline->kernel;
    void *buffers[TQKV_MAX_BUFFERS] = {0};
    int64_t n = (int64_t)c->groups[0] * c->groups[1] * c->groups[2];
    int failed = 0;
    for (uint32_t i = 0; i < c->n_buffers; i++)
        buffers[i] = c->buffers[i] ? buffer_host_address(c->buffers[i]) : NULL;
#pragma omp parallel if (n > 1)
    {
        item_stacks *stacks = item_stacks_create(c->n_items);
        /* exactly as much as was asked for, so that sanitizers see what is beyond */
        uint8_t *local = c->local_bytes ? aligned_alloc(16, (c->local_bytes + 15) & ~15u) : NULL;
        int ok = stacks && (local || !c->local_bytes);
        if (!ok) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < n; g++) {
            uint32_t group[3] = {(uint32_t)(g % c->groups[0]),
                                 (uint32_t)(g / c->groups[0] % c->groups[1]),
                                 (uint32_t)(g / c->groups[0] / c->groups[1])};
            if (ok)
                items_run(stacks, kernel->run, group, c->n_items, local, c->params, buffers);
        }
        free(local);
        item_stacks_free(stacks);
    }
    return failed ? report_error(r, TQKV_ERROR_MEMORY, "out of host memory") : TQKV_OK;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static tqkv_status submit(tqkv_device *d, void *stream, const command_list *commands, report *r)
{
    (void)d;
    (void)stream;
    tqkv_status status = TQKV_OK;
    for (size_t i = 0; status == TQKV_OK && i < commands->n; i++) {
        const command *c = &commands->commands[i];
        if (c->kind == COMMAND_DISPATCH)
            status = run_dispatch(c, r);
        else if (c->kind == COMMAND_COPY)
            memmove((uint8_t *)buffer_host_address(c->buffers[1]) + c->offsets[1],
                    (uint8_t *)buffer_host_address(c->buffers[0]) + c->offsets[0], c->bytes);
        else
            *(double *)c->event->state = now();
    }
    return status;
}

static tqkv_status wait_stream(tqkv_device *d, void *stream, report *r)
{
    (void)d;
    (void)stream;
    (void)r;
    return TQKV_OK;
}

static tqkv_status event_open(tqkv_device *d, void **event, report *r)
{
    (void)d;
    *event = calloc(1, sizeof(double));
    return *event ? TQKV_OK : report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
}

static void event_close(tqkv_device *d, void *event)
{
    (void)d;
    free(event);
}

static tqkv_status elapsed(tqkv_device *d, void *from, void *to, double *seconds, report *r)
{
    (void)d;
    (void)r;
    *seconds = *(double *)to - *(double *)from;
    return TQKV_OK;
}

const backend backend_host = {
    .kind = "host",
    .has_row_items = 1,
    .has_addresses = 1,
    .list = list,
    .open = open_device,
    .close = close_device,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .compile = compile,
    .unload = unload,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .submit = submit,
    .wait = wait_stream,
    .event_open = event_open,
    .event_close = event_close,
    .elapsed = elapsed,
};
