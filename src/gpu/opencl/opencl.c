/* Devices by OpenCL 1.2. */
#include "gpu/opencl/opencl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const libraries[] = {"libOpenCL.so.1", "libOpenCL.so",
                                        "/System/Library/Frameworks/OpenCL.framework/OpenCL",
                                        NULL};

#define NAME(type, symbol, member, parameters) symbol,
static const char *const names[] = {OPENCL_FUNCTIONS(NAME)};
#undef NAME

tqkv_status opencl_failed(cl_int result, const char *what, report *r)
{
    int is_memory = result == CL_MEM_OBJECT_ALLOCATION_FAILURE ||
                    result == CL_OUT_OF_RESOURCES || result == CL_OUT_OF_HOST_MEMORY;
    return report_error(r, is_memory ? TQKV_ERROR_MEMORY : TQKV_ERROR_DEVICE,
                        "opencl: %s: error %d", what, result);
}

static int load_api(opencl_api *api, const char **missing)
{
    return driver_open(libraries, names, (void **)api, sizeof *api / sizeof(void *), missing);
}

/* The ids of all platforms, or of a platform's devices; free() them. */
static cl_uint get_platforms(const opencl_api *api, cl_platform_id **ids)
{
    cl_uint n = 0;
    *ids = NULL;
    if (api->platforms(0, NULL, &n) != CL_SUCCESS || n == 0)
        return 0;
    *ids = calloc(n, sizeof **ids);
    return *ids && api->platforms(n, *ids, NULL) == CL_SUCCESS ? n : 0;
}

static cl_uint get_devices(const opencl_api *api, cl_platform_id platform, cl_device_id **ids)
{
    cl_uint n = 0;
    *ids = NULL;
    if (api->devices(platform, CL_DEVICE_TYPE_ALL, 0, NULL, &n) != CL_SUCCESS || n == 0)
        return 0;
    *ids = calloc(n, sizeof **ids);
    return *ids && api->devices(platform, CL_DEVICE_TYPE_ALL, n, *ids, NULL) == CL_SUCCESS ? n : 0;
}

/* Text of any length: a driver fills nothing if what it has is longer than there is room. */
static cl_int get_text(const opencl_api *api, cl_device_id id, cl_uint name, char *to, size_t size)
{
    size_t length = 0;
    cl_int result = api->device_info(id, name, 0, NULL, &length);
    if (result != CL_SUCCESS)
        return result;
    char *text = calloc(1, length + 1);
    if (!text)
        return CL_OUT_OF_HOST_MEMORY;
    result = length ? api->device_info(id, name, length, text, NULL) : CL_SUCCESS;
    if (result == CL_SUCCESS)
        text_copy(to, size, text);
    free(text);
    return result;
}

static cl_int fill_info(const opencl_api *api, cl_device_id id, unsigned platform, unsigned device,
                        tqkv_device_info *info)
{
    size_t group = 0;
    cl_uint units = 0;
    cl_ulong memory = 0, buffer = 0, local = 0;
    const struct {
        cl_uint name;
        size_t size;
        void *value;
    } queries[] = {
        {CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory},
        {CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof buffer, &buffer},
        {CL_DEVICE_LOCAL_MEM_SIZE, sizeof local, &local},
        {CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof group, &group},
        {CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units},
    };
    memset(info, 0, sizeof *info);
    cl_int result = get_text(api, id, CL_DEVICE_NAME, info->description, sizeof info->description);
    if (result == CL_SUCCESS)
        result = get_text(api, id, CL_DRIVER_VERSION, info->driver, sizeof info->driver);
    for (size_t i = 0; result == CL_SUCCESS && i < sizeof queries / sizeof *queries; i++)
        result = api->device_info(id, queries[i].name, queries[i].size, queries[i].value, NULL);
    if (result != CL_SUCCESS)
        return result;
    snprintf(info->name, sizeof info->name, "opencl:%u.%u", platform, device);
    info->memory = memory;
    info->max_buffer = buffer;
    info->max_group = (uint32_t)(group < 1024 ? group : 1024);
    info->group_memory = (uint32_t)(local < UINT32_MAX ? local : UINT32_MAX);
    info->n_units = units;
    return CL_SUCCESS;
}

static void list(tqkv_device_info *infos, size_t max, size_t *n)
{
    opencl_api api;
    const char *missing;
    cl_platform_id *platforms;
    if (!load_api(&api, &missing))
        return;
    cl_uint n_platforms = get_platforms(&api, &platforms);
    for (cl_uint p = 0; p < n_platforms; p++) {
        cl_device_id *devices;
        cl_uint n_devices = get_devices(&api, platforms[p], &devices);
        for (cl_uint i = 0; i < n_devices; i++) {
            tqkv_device_info info;
            if (fill_info(&api, devices[i], p, i, &info) != CL_SUCCESS)
                continue;
            if (*n < max)
                infos[*n] = info;
            ++*n;
        }
        free(devices);
    }
    free(platforms);
}

/* ---- opening ---- */

static tqkv_status find_device(opencl_device *c, const unsigned *numbers, report *r)
{
    cl_platform_id *platforms;
    cl_device_id *devices = NULL;
    cl_uint n_platforms = get_platforms(&c->api, &platforms), n_devices = 0;
    if (numbers[0] < n_platforms)
        n_devices = get_devices(&c->api, platforms[numbers[0]], &devices);
    tqkv_status status = TQKV_OK;
    if (numbers[1] < n_devices)
        c->device = devices[numbers[1]];
    else
        status = report_error(r, TQKV_ERROR_NO_DEVICE,
                              "opencl:%u.%u: there are %u platforms, this one has %u devices",
                              numbers[0], numbers[1], n_platforms, n_devices);
    free(platforms);
    free(devices);
    return status;
}

/* Results are the codec's only where these are. */
static tqkv_status check_arithmetic(opencl_device *c, report *r)
{
    cl_ulong config = 0;
    cl_uint is_little = 0;
    cl_int result = c->api.device_info(c->device, CL_DEVICE_SINGLE_FP_CONFIG, sizeof config,
                                       &config, NULL);
    if (result == CL_SUCCESS)
        result = c->api.device_info(c->device, CL_DEVICE_ENDIAN_LITTLE, sizeof is_little,
                                    &is_little, NULL);
    if (result != CL_SUCCESS)
        return opencl_failed(result, "asking for the device's arithmetic", r);
    if (!is_little || !(config & CL_FP_DENORM))
        return report_error(r, TQKV_ERROR_NO_DEVICE,
                            "opencl: the device is big-endian or flushes subnormal numbers");
    c->rounds_divisions = (config & CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT) != 0;
    return TQKV_OK;
}

static tqkv_status open_context(tqkv_device *d, const unsigned *numbers, void *native, report *r)
{
    opencl_device *c = d->state;
    cl_int result = CL_SUCCESS;
    tqkv_status status = find_device(c, numbers, r);
    if (status == TQKV_OK)
        status = check_arithmetic(c, r);
    if (status != TQKV_OK)
        return status;
    result = fill_info(&c->api, c->device, numbers[0], numbers[1], &d->info);
    if (result == CL_SUCCESS && native)
        result = c->api.retain_context(c->context = native);
    else if (result == CL_SUCCESS)
        c->context = c->api.create_context(NULL, 1, &c->device, NULL, NULL, &result);
    if (result != CL_SUCCESS)
        return opencl_failed(result, "creating a context", r);
    c->queue = c->api.create_queue(c->context, c->device, CL_QUEUE_PROFILING_ENABLE, &result);
    if (result != CL_SUCCESS) {
        c->api.release_context(c->context);
        return opencl_failed(result, "creating a queue", r);
    }
    return TQKV_OK;
}

static tqkv_status open_device(tqkv_device *d, const unsigned *numbers, void *native, report *r)
{
    const char *missing;
    opencl_device *c = calloc(1, sizeof *c);
    if (!c)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    d->state = c;
    tqkv_status status = load_api(&c->api, &missing)
                             ? open_context(d, numbers, native, r)
                             : report_error(r, TQKV_ERROR_NO_DEVICE,
                                            "opencl: the loader is missing or too old (no %s)",
                                            missing);
    if (status != TQKV_OK) {
        d->state = NULL;
        free(c);
    }
    return status;
}

static void close_device(tqkv_device *d)
{
    opencl_device *c = d->state;
    c->api.release_queue(c->queue);
    c->api.release_context(c->context);
    free(c);
}

/* ---- memory ---- */

static tqkv_status allocate(tqkv_device *d, size_t bytes, void **memory, report *r)
{
    const opencl_device *c = d->state;
    cl_int result = CL_SUCCESS;
    *memory = c->api.create_buffer(c->context, CL_MEM_READ_WRITE, bytes, NULL, &result);
    return result == CL_SUCCESS ? TQKV_OK : opencl_failed(result, "allocating memory", r);
}

static void release(tqkv_device *d, void *memory)
{
    const opencl_device *c = d->state;
    c->api.release_buffer(memory);
}

static tqkv_status upload(tqkv_device *d, void *memory, size_t offset, const void *src,
                          size_t bytes, report *r)
{
    const opencl_device *c = d->state;
    cl_int result = c->api.write(c->queue, memory, 1, offset, bytes, src, 0, NULL, NULL);
    return result == CL_SUCCESS ? TQKV_OK : opencl_failed(result, "upload", r);
}

static tqkv_status download(tqkv_device *d, void *memory, size_t offset, void *dst, size_t bytes,
                            report *r)
{
    const opencl_device *c = d->state;
    cl_int result = c->api.read(c->queue, memory, 1, offset, bytes, dst, 0, NULL, NULL);
    return result == CL_SUCCESS ? TQKV_OK : opencl_failed(result, "download", r);
}

/* ---- streams ---- */

static tqkv_status stream_open(tqkv_device *d, void *native, void **stream, report *r)
{
    const opencl_device *c = d->state;
    cl_int result = CL_SUCCESS;
    if (native)
        result = c->api.retain_queue(*stream = native);
    else
        *stream = c->api.create_queue(c->context, c->device, CL_QUEUE_PROFILING_ENABLE, &result);
    return result == CL_SUCCESS ? TQKV_OK : opencl_failed(result, "creating a queue", r);
}

static void stream_close(tqkv_device *d, void *stream)
{
    const opencl_device *c = d->state;
    c->api.release_queue(stream);
}

/* A buffer is two arguments, its memory and an offset in it. */
static cl_int set_arguments(const opencl_api *api, cl_kernel kernel, const command *c)
{
    cl_uint n = 0;
    cl_int result = CL_SUCCESS;
    for (uint32_t i = 0; i < c->n_buffers && result == CL_SUCCESS; i++) {
        cl_mem memory = c->buffers[i] ? c->buffers[i]->memory : NULL;
        cl_ulong offset = c->buffers[i] ? c->buffers[i]->offset : 0;
        result = api->set_argument(kernel, n++, sizeof memory, c->buffers[i] ? &memory : NULL);
        if (result == CL_SUCCESS)
            result = api->set_argument(kernel, n++, sizeof offset, &offset);
    }
    if (result == CL_SUCCESS)
        result = api->set_argument(kernel, n++, c->params_size, c->params);
    if (result == CL_SUCCESS) /* some drivers take no local memory of 0 bytes */
        result = api->set_argument(kernel, n, c->local_bytes ? c->local_bytes : 16, NULL);
    return result;
}

static cl_int launch(const opencl_api *api, cl_command_queue queue, const command *c)
{
    opencl_kernel *k = c->pipeline->kernel;
    size_t local[3] = {c->n_items, 1, 1};
    size_t global[3] = {(size_t)c->groups[0] * c->n_items, c->groups[1], c->groups[2]};
    pthread_mutex_lock(&k->mutex); /* a kernel has one set of arguments */
    cl_int result = set_arguments(api, k->kernel, c);
    if (result == CL_SUCCESS)
        result = api->enqueue(queue, k->kernel, 3, NULL, global, local, 0, NULL, NULL);
    pthread_mutex_unlock(&k->mutex);
    return result;
}

static cl_int record_event(const opencl_api *api, cl_command_queue queue, opencl_event *e)
{
    cl_event made = NULL;
    cl_int result = api->marker(queue, 0, NULL, &made);
    if (result != CL_SUCCESS)
        return result;
    if (e->event)
        api->release_event(e->event);
    e->event = made;
    return result;
}

static tqkv_status submit(tqkv_device *d, void *stream, const command_list *commands, report *r)
{
    const opencl_api *api = &((opencl_device *)d->state)->api;
    const char *what = "submitting";
    cl_int result = CL_SUCCESS;
    for (size_t i = 0; result == CL_SUCCESS && i < commands->n; i++) {
        const command *c = &commands->commands[i];
        tqkv_buffer *const *b = c->buffers;
        if (c->kind == COMMAND_DISPATCH) {
            what = c->pipeline->name;
            result = launch(api, stream, c);
        } else if (c->kind == COMMAND_COPY) {
            what = "copy";
            result = api->copy(stream, b[0]->memory, b[1]->memory, b[0]->offset + c->offsets[0],
                               b[1]->offset + c->offsets[1], c->bytes, 0, NULL, NULL);
        } else {
            what = "recording an event";
            result = record_event(api, stream, c->event->state);
        }
    }
    if (result == CL_SUCCESS)
        result = api->flush(stream);
    return result == CL_SUCCESS ? TQKV_OK : opencl_failed(result, what, r);
}

static tqkv_status wait_stream(tqkv_device *d, void *stream, report *r)
{
    cl_int result = ((opencl_device *)d->state)->api.finish(stream);
    return result == CL_SUCCESS ? TQKV_OK : opencl_failed(result, "waiting for the queue", r);
}

/* ---- events ---- */

static tqkv_status event_open(tqkv_device *d, void **event, report *r)
{
    (void)d;
    *event = calloc(1, sizeof(opencl_event));
    return *event ? TQKV_OK : report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
}

static void event_close(tqkv_device *d, void *event)
{
    opencl_event *e = event;
    if (e->event)
        ((opencl_device *)d->state)->api.release_event(e->event);
    free(e);
}

static tqkv_status elapsed(tqkv_device *d, void *from, void *to, double *seconds, report *r)
{
    const opencl_api *api = &((opencl_device *)d->state)->api;
    const opencl_event *events[2] = {from, to};
    cl_ulong times[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        cl_int state = 1;
        cl_int result = api->event_info(events[i]->event, CL_EVENT_COMMAND_EXECUTION_STATUS,
                                        sizeof state, &state, NULL);
        if (result == CL_SUCCESS && state > CL_COMPLETE)
            return report_error(r, TQKV_ERROR_STATE, "the events have not happened yet");
        if (result == CL_SUCCESS)
            result = api->event_time(events[i]->event, CL_PROFILING_COMMAND_END, sizeof times[i],
                                     &times[i], NULL);
        if (result != CL_SUCCESS)
            return opencl_failed(result, "the time of an event", r);
    }
    *seconds = (double)(int64_t)(times[1] - times[0]) * 1e-9;
    return TQKV_OK;
}

const backend backend_opencl = {
    .kind = "opencl",
    .n_numbers = 2,
    .list = list,
    .open = open_device,
    .close = close_device,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .compile = opencl_compile,
    .load = opencl_load,
    .unload = opencl_unload,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .submit = submit,
    .wait = wait_stream,
    .event_open = event_open,
    .event_close = event_close,
    .elapsed = elapsed,
};
