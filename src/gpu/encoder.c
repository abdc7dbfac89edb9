#include <stdlib.h>
#include <string.h>

#include "gpu/gpu.h"

tqkv_status encoder_enter(tqkv_encoder *e)
{
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status == TQKV_OK && atomic_flag_test_and_set(&e->is_busy))
        status = report_error(&e->report, TQKV_ERROR_STATE,
                              "two threads are in one encoder at a time");
    return status;
}

tqkv_status encoder_leave(tqkv_encoder *e, tqkv_status status)
{
    atomic_flag_clear(&e->is_busy);
    return status;
}

tqkv_status tqkv_encoder_create(tqkv_device *d, void *native, tqkv_encoder **encoder)
{
    tqkv_status status = handle_check(d, HANDLE_DEVICE);
    if (status != TQKV_OK)
        return status;
    if (!encoder)
        return device_failed(d, TQKV_ERROR_ARGUMENT, "nowhere to put the encoder");
    tqkv_encoder *e = calloc(1, sizeof *e);
    if (!e)
        return device_failed(d, TQKV_ERROR_MEMORY, "out of host memory");
    status = d->backend->stream_open(d, native, &e->stream, &d->report);
    if (status != TQKV_OK) {
        free(e);
        return status;
    }
    handle_init(&e->handle, HANDLE_ENCODER);
    atomic_flag_clear(&e->is_busy);
    report_init(&e->report);
    handle_keep(&d->handle);
    e->device = d;
    *encoder = e;
    return TQKV_OK;
}

/* ---- lists of commands ---- */

static void command_clear(command *c)
{
    for (uint32_t i = 0; i < c->n_buffers; i++)
        if (c->buffers[i])
            buffer_drop(c->buffers[i]);
    if (c->pipeline)
        registry_drop(c->pipeline->registry);
    if (c->event && handle_drop(&c->event->handle)) {
        c->event->device->backend->event_close(c->event->device, c->event->state);
        device_drop(c->event->device);
        free(c->event);
    }
}

static void command_list_clear(command_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        command_clear(&list->commands[i]);
    list->n = 0;
}

void command_list_release(command_list *list)
{
    command_list_clear(list);
    free(list->commands);
    list->commands = NULL;
    list->room = 0;
}

void encoder_truncate(tqkv_encoder *e, size_t n)
{
    while (e->list.n > n)
        command_clear(&e->list.commands[--e->list.n]);
}

/* The next command, not yet part of the list; all zeros but the parameters. */
static command *next_command(command_list *list)
{
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 8;
        command *grown = realloc(list->commands, room * sizeof *grown);
        if (!grown)
            return NULL;
        list->commands = grown;
        list->room = room;
    }
    command *c = &list->commands[list->n];
    memset(c, 0, offsetof(command, params));
    return c;
}

static tqkv_status out_of_memory(tqkv_encoder *e)
{
    return report_error(&e->report, TQKV_ERROR_MEMORY, "out of host memory");
}

/* ---- recording ---- */

static tqkv_status check_dispatch(tqkv_encoder *e, const tqkv_pipeline *pipeline,
                                  tqkv_buffer *const *buffers, size_t n_buffers,
                                  const void *params, size_t params_size, const uint32_t *groups,
                                  uint32_t n_items, uint32_t local_bytes)
{
    const tqkv_device_info *info = &e->device->info;
    uint32_t group_memory = e->device->tensor_memory > info->group_memory
                                ? e->device->tensor_memory
                                : info->group_memory;
    if (!pipeline || !groups || (n_buffers && !buffers) || (params_size && !params))
        return report_error(&e->report, TQKV_ERROR_ARGUMENT, "dispatch: a null argument");
    if (n_buffers > TQKV_MAX_BUFFERS || params_size > TQKV_MAX_PARAMS)
        return report_error(&e->report, TQKV_ERROR_ARGUMENT, "too many buffers or parameters");
    if (pipeline->device != e->device)
        return report_error(&e->report, TQKV_ERROR_ARGUMENT, "%s: compiled for another device",
                            pipeline->name);
    if (n_items == 0 || n_items > info->max_group || local_bytes > group_memory)
        return report_error(&e->report, TQKV_ERROR_ARGUMENT,
                            "%s: a group of %u items with %u bytes, the device has up to %u "
                            "and %u", pipeline->name, n_items, local_bytes, info->max_group,
                            group_memory);
    if (!groups[0] || groups[0] > INT32_MAX || !groups[1] || groups[1] > 65535 || !groups[2] ||
        groups[2] > 65535)
        return report_error(&e->report, TQKV_ERROR_ARGUMENT, "%s: %u x %u x %u groups",
                            pipeline->name, groups[0], groups[1], groups[2]);
    for (size_t i = 0; i < n_buffers; i++) {
        tqkv_status status = buffers[i] ? buffer_check(buffers[i], e->device) : TQKV_OK;
        if (status != TQKV_OK)
            return report_error(&e->report, status, "%s: buffer %zu is %s", pipeline->name, i,
                                status == TQKV_ERROR_STATE ? "freed" : "of another device");
    }
    return TQKV_OK;
}

tqkv_status encoder_record_dispatch(tqkv_encoder *e, const tqkv_pipeline *pipeline,
                                    tqkv_buffer *const *buffers, size_t n_buffers,
                                    const void *params, size_t params_size,
                                    const uint32_t *groups, uint32_t n_items,
                                    uint32_t local_bytes)
{
    tqkv_status status = check_dispatch(e, pipeline, buffers, n_buffers, params, params_size,
                                        groups, n_items, local_bytes);
    command *c = status == TQKV_OK ? next_command(&e->list) : NULL;
    if (!c)
        return status == TQKV_OK ? out_of_memory(e) : status;
    c->kind = COMMAND_DISPATCH;
    c->pipeline = pipeline;
    registry_keep(pipeline->registry);
    memcpy(c->groups, groups, sizeof c->groups);
    c->n_items = n_items;
    c->local_bytes = local_bytes;
    c->n_buffers = (uint32_t)n_buffers;
    for (size_t i = 0; i < n_buffers; i++) {
        c->buffers[i] = buffers[i];
        if (buffers[i])
            handle_keep(&buffers[i]->handle);
    }
    c->params_size = (uint32_t)params_size;
    if (params_size)
        memcpy(c->params, params, params_size);
    e->list.n++;
    return TQKV_OK;
}

tqkv_status tqkv_encoder_dispatch(tqkv_encoder *e, const tqkv_pipeline *pipeline,
                                  tqkv_buffer *const *buffers, size_t n_buffers,
                                  const void *params, size_t params_size,
                                  const uint32_t groups[3], uint32_t n_items,
                                  uint32_t local_bytes)
{
    tqkv_status status = encoder_enter(e);
    if (status != TQKV_OK)
        return status;
    return encoder_leave(e, encoder_record_dispatch(e, pipeline, buffers, n_buffers, params,
                                                    params_size, groups, n_items, local_bytes));
}

/* Whether ranges of one memory overlap, which no copy may. */
static int overlap(const tqkv_buffer *a, size_t a_offset, const tqkv_buffer *b, size_t b_offset,
                   size_t bytes)
{
    int is_address = a->device->backend->has_addresses;
    uintptr_t x = (is_address ? (uintptr_t)a->memory : 0) + a->offset + a_offset;
    uintptr_t y = (is_address ? (uintptr_t)b->memory : 0) + b->offset + b_offset;
    return (is_address || a->memory == b->memory) && x < y + bytes && y < x + bytes;
}

tqkv_status tqkv_encoder_copy(tqkv_encoder *e, tqkv_buffer *src, size_t src_offset,
                              tqkv_buffer *dst, size_t dst_offset, size_t bytes)
{
    tqkv_status status = encoder_enter(e);
    if (status != TQKV_OK)
        return status;
    status = buffer_check(src, e->device);
    if (status == TQKV_OK)
        status = buffer_check(dst, e->device);
    if (status != TQKV_OK)
        return encoder_leave(e, report_error(&e->report, status, "copy: a buffer is freed or not of "
                                                         "this device"));
    if (src_offset > src->bytes || bytes > src->bytes - src_offset || dst_offset > dst->bytes ||
        bytes > dst->bytes - dst_offset)
        return encoder_leave(e, report_error(&e->report, TQKV_ERROR_BUFFER,
                                     "copy: %zu bytes from %zu to %zu do not fit", bytes,
                                     src_offset, dst_offset));
    if (bytes && overlap(src, src_offset, dst, dst_offset, bytes))
        return encoder_leave(e, report_error(&e->report, TQKV_ERROR_ARGUMENT,
                                             "copy: the ranges overlap"));
    command *c = bytes ? next_command(&e->list) : NULL;
    if (!c)
        return encoder_leave(e, bytes ? out_of_memory(e) : TQKV_OK);
    c->kind = COMMAND_COPY;
    c->n_buffers = 2;
    c->buffers[0] = src;
    c->buffers[1] = dst;
    handle_keep(&src->handle);
    handle_keep(&dst->handle);
    c->offsets[0] = src_offset;
    c->offsets[1] = dst_offset;
    c->bytes = bytes;
    e->list.n++;
    return encoder_leave(e, TQKV_OK);
}

tqkv_status tqkv_encoder_record(tqkv_encoder *e, tqkv_event *event)
{
    tqkv_status status = encoder_enter(e);
    if (status != TQKV_OK)
        return status;
    status = handle_check(event, HANDLE_EVENT);
    if (status == TQKV_OK && event->device != e->device)
        status = TQKV_ERROR_ARGUMENT;
    if (status != TQKV_OK)
        report_error(&e->report, status, "event: null, freed or of another device");
    command *c = status == TQKV_OK ? next_command(&e->list) : NULL;
    if (!c)
        return encoder_leave(e, status == TQKV_OK ? out_of_memory(e) : status);
    c->kind = COMMAND_EVENT;
    c->event = event;
    handle_keep(&event->handle);
    e->list.n++;
    return encoder_leave(e, TQKV_OK);
}

/* ---- running ---- */

static tqkv_status submit_recorded(tqkv_encoder *e)
{
    if (e->list.n == 0)
        return TQKV_OK;
    tqkv_status status = e->device->backend->submit(e->device, e->stream, &e->list, &e->report);
    for (size_t i = 0; status == TQKV_OK && i < e->list.n; i++)
        if (e->list.commands[i].event)
            atomic_store(&e->list.commands[i].event->is_recorded, 1);
    command_list_clear(&e->list);
    return status;
}

tqkv_status tqkv_encoder_submit(tqkv_encoder *e)
{
    tqkv_status status = encoder_enter(e);
    return status == TQKV_OK ? encoder_leave(e, submit_recorded(e)) : status;
}

tqkv_status tqkv_encoder_wait(tqkv_encoder *e)
{
    tqkv_status status = encoder_enter(e);
    if (status != TQKV_OK)
        return status;
    return encoder_leave(e, e->device->backend->wait(e->device, e->stream, &e->report));
}

tqkv_status tqkv_encoder_message(const tqkv_encoder *e, char *message, size_t size)
{
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    return status == TQKV_OK ? report_copy(&e->report, message, size) : status;
}

void tqkv_encoder_free(tqkv_encoder *e)
{
    if (!handle_free(e, HANDLE_ENCODER))
        return;
    e->device->backend->wait(e->device, e->stream, NULL);
    e->device->backend->stream_close(e->device, e->stream);
    command_list_release(&e->list);
    report_destroy(&e->report);
    device_drop(e->device);
    free(e);
}

/* ---- events ---- */

tqkv_status tqkv_event_create(tqkv_device *d, tqkv_event **event)
{
    tqkv_status status = handle_check(d, HANDLE_DEVICE);
    if (status != TQKV_OK)
        return status;
    if (!event)
        return device_failed(d, TQKV_ERROR_ARGUMENT, "nowhere to put the event");
    tqkv_event *v = calloc(1, sizeof *v);
    if (!v)
        return device_failed(d, TQKV_ERROR_MEMORY, "out of host memory");
    status = d->backend->event_open(d, &v->state, &d->report);
    if (status != TQKV_OK) {
        free(v);
        return status;
    }
    handle_init(&v->handle, HANDLE_EVENT);
    handle_keep(&d->handle);
    v->device = d;
    *event = v;
    return TQKV_OK;
}

void tqkv_event_free(tqkv_event *v)
{
    command c = {.event = v};
    if (handle_free(v, HANDLE_EVENT))
        command_clear(&c);
}

tqkv_status tqkv_event_elapsed(tqkv_event *from, tqkv_event *to, double *seconds)
{
    tqkv_status status = handle_check(from, HANDLE_EVENT);
    if (status != TQKV_OK)
        return status;
    status = handle_check(to, HANDLE_EVENT);
    if (status != TQKV_OK)
        return device_failed(from->device, status, "the second event is null or freed");
    if (!seconds || from->device != to->device)
        return device_failed(from->device, TQKV_ERROR_ARGUMENT,
                             seconds ? "the second event is of another device"
                                     : "nowhere to put the seconds");
    if (!atomic_load(&from->is_recorded) || !atomic_load(&to->is_recorded))
        return device_failed(from->device, TQKV_ERROR_STATE, "the event was not recorded");
    return from->device->backend->elapsed(from->device, from->state, to->state, seconds,
                                          &from->device->report);
}

/* ---- graphs ---- */

tqkv_status tqkv_encoder_finish_graph(tqkv_encoder *e, tqkv_graph **graph)
{
    tqkv_status status = encoder_enter(e);
    if (status != TQKV_OK)
        return status;
    if (!graph)
        return encoder_leave(e, report_error(&e->report, TQKV_ERROR_ARGUMENT,
                                             "nowhere to put the graph"));
    for (size_t i = 0; i < e->list.n; i++)
        if (e->list.commands[i].event)
            return encoder_leave(e, report_error(&e->report, TQKV_ERROR_STATE,
                                         "a graph cannot have events"));
    tqkv_graph *g = calloc(1, sizeof *g);
    if (!g)
        return encoder_leave(e, out_of_memory(e));
    tqkv_device *d = e->device;
    if (d->backend->graph_open)
        status = d->backend->graph_open(d, e->stream, &e->list, &g->state, &e->report);
    if (status != TQKV_OK) {
        free(g);
        return encoder_leave(e, status);
    }
    handle_init(&g->handle, HANDLE_GRAPH);
    handle_keep(&d->handle);
    g->device = d;
    g->list = e->list; /* keeps the buffers, too */
    memset(&e->list, 0, sizeof e->list);
    *graph = g;
    return encoder_leave(e, TQKV_OK);
}

tqkv_status tqkv_graph_launch(tqkv_graph *g, tqkv_encoder *e)
{
    tqkv_status status = encoder_enter(e);
    if (status != TQKV_OK)
        return status;
    status = handle_check(g, HANDLE_GRAPH);
    if (status != TQKV_OK)
        return encoder_leave(e, report_error(&e->report, status, "the graph is null or freed"));
    if (g->device != e->device)
        return encoder_leave(e, report_error(&e->report, TQKV_ERROR_ARGUMENT,
                                     "the graph is of another device"));
    const backend *b = g->device->backend;
    status = submit_recorded(e); /* what was recorded before comes first */
    if (status == TQKV_OK && g->state)
        status = b->graph_launch(g->device, g->state, e->stream, &e->report);
    else if (status == TQKV_OK && g->list.n)
        status = b->submit(e->device, e->stream, &g->list, &e->report);
    return encoder_leave(e, status);
}

void tqkv_graph_free(tqkv_graph *g)
{
    if (!handle_free(g, HANDLE_GRAPH))
        return;
    if (g->state)
        g->device->backend->graph_close(g->device, g->state);
    command_list_release(&g->list);
    device_drop(g->device);
    free(g);
}
