/* NVIDIA GPUs, by CUDA's driver interface. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/cuda/api.h"
#include "gpu/cuda/nvrtc.h"
#include "gpu/gpu.h"

typedef struct cuda_device {
    cuda_api api;
    CUdevice device;
    CUcontext context;
    int is_primary; /* retained by us */
    int major, minor;
    pthread_mutex_t mutex; /* over native_counters */
    struct native_counters *native_counters;
} cuda_device;

typedef struct cuda_kernel {
    CUmodule module;
    CUfunction function;
    uint32_t most_shared; /* bytes that launches may have, once allowed */
    atomic_int is_allowed;
    int can_overlap; /* programmatic dependent launch: sm_90 and later */
} cuda_kernel;

/* What kernels that several blocks end together count in: 0 between launches, which a
 * stream, or a graph, has one after the other. */
typedef struct cuda_stream {
    CUstream stream;
    CUdeviceptr counters;
    int is_owner;
} cuda_stream;

/* Those of a caller's stream live as long as the device: a graph that the caller captures may
 * be launched when the encoder is long freed. */
typedef struct native_counters {
    struct native_counters *next;
    CUstream stream;
    uint64_t thread; /* of CU_STREAM_PER_THREAD, which is another stream in each; else 0 */
    CUdeviceptr counters;
} native_counters;

typedef struct cuda_graph {
    CUgraphExec exec;
    CUdeviceptr counters;
} cuda_graph;

static const char *const libraries[] = {"libcuda.so.1", NULL};

#define NAME(symbol, member, parameters) symbol,
static const char *const names[] = {CUDA_FUNCTIONS(NAME)};
#undef NAME

static tqkv_status failed(const cuda_api *api, CUresult result, const char *what, report *r)
{
    const char *name = NULL;
    if (api->error_name(result, &name) != CUDA_SUCCESS || !name)
        name = "unknown error";
    tqkv_status status =
        result == CUDA_ERROR_OUT_OF_MEMORY ? TQKV_ERROR_MEMORY : TQKV_ERROR_DEVICE;
    return report_error(r, status, "cuda: %s: %s", what, name);
}

/* Runs `call` in the device's context; *status says how it went. */
#define IN_CONTEXT(d, r, status, what, call)                          \
    do {                                                              \
        const cuda_api *api_ = &((cuda_device *)(d)->state)->api;     \
        CUresult result_ = enter(d);                                  \
        if (result_ == CUDA_SUCCESS) {                                \
            result_ = (call);                                         \
            leave(d);                                                 \
        }                                                             \
        (status) = result_ == CUDA_SUCCESS ? TQKV_OK                  \
                                           : failed(api_, result_, what, r); \
    } while (0)

/* Gives something back, after all kernels that may use it, and also where the context cannot be entered any more. */
#define GIVE_BACK(d, call)                                        \
    do {                                                          \
        const cuda_api *api_ = &((cuda_device *)(d)->state)->api; \
        int entered_ = enter(d) == CUDA_SUCCESS;                  \
        (call);                                                   \
        if (entered_)                                             \
            leave(d);                                             \
    } while (0)

static const cuda_api *api_of(const tqkv_device *d)
{
    return &((const cuda_device *)d->state)->api;
}

static CUresult enter(const tqkv_device *d)
{
    const cuda_device *c = d->state;
    return c->api.push(c->context);
}

static void leave(const tqkv_device *d)
{
    CUcontext old;
    api_of(d)->pop(&old);
}

static int load_api(cuda_api *api, const char **missing)
{
    return driver_open(libraries, names, (void **)api, sizeof *api / sizeof(void *), missing);
}

static CUresult make_counters(const cuda_api *api, CUdeviceptr *counters)
{
    enum { BYTES = COUNTERS_PER_STREAM * 4 };
    CUresult result = api->allocate(counters, BYTES);
    if (result != CUDA_SUCCESS)
        return result;
    result = api->fill(*counters, 0, BYTES);
    if (result == CUDA_SUCCESS)
        result = api->stream_wait(NULL);
    if (result != CUDA_SUCCESS) {
        api->release(*counters);
        *counters = 0;
    }
    return result;
}

static CUresult fill_info(const cuda_api *api, int number, CUdevice *device,
                          tqkv_device_info *info)
{
    int version = 0, threads = 0, shared = 0, units = 0;
    size_t memory = 0;
    memset(info, 0, sizeof *info);
    CUresult result = api->device_get(device, number);
    if (result == CUDA_SUCCESS)
        result = api->driver_version(&version);
    if (result == CUDA_SUCCESS)
        result = api->device_name(info->description, sizeof info->description, *device);
    if (result == CUDA_SUCCESS)
        result = api->device_memory(&memory, *device);
    if (result == CUDA_SUCCESS)
        result = api->device_attribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                                       *device);
    if (result == CUDA_SUCCESS)
        result = api->device_attribute(&shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK,
                                       *device);
    if (result == CUDA_SUCCESS)
        result = api->device_attribute(&units, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, *device);
    snprintf(info->name, sizeof info->name, "cuda:%d", number);
    snprintf(info->driver, sizeof info->driver, "CUDA %d.%d", version / 1000, version % 1000 / 10);
    info->memory = info->max_buffer = memory;
    info->max_group = (uint32_t)threads;
    info->group_memory = (uint32_t)shared;
    info->n_units = (uint32_t)units;
    return result;
}

static void list(tqkv_device_info *infos, size_t max, size_t *n)
{
    cuda_api api;
    const char *missing;
    int count = 0;
    if (!load_api(&api, &missing) || api.init(0) != CUDA_SUCCESS ||
        api.device_count(&count) != CUDA_SUCCESS)
        return;
    for (int i = 0; i < count; i++) {
        tqkv_device_info info;
        CUdevice device;
        if (fill_info(&api, i, &device, &info) != CUDA_SUCCESS)
            continue;
        if (*n < max)
            infos[*n] = info;
        ++*n;
    }
}

static tqkv_status open_context(tqkv_device *d, unsigned number, void *native, report *r)
{
    cuda_device *c = d->state;
    int count = 0;
    CUresult result = c->api.init(0);
    if (result == CUDA_SUCCESS)
        result = c->api.device_count(&count);
    if (result != CUDA_SUCCESS) {
        failed(&c->api, result, "no device", r);
        return TQKV_ERROR_NO_DEVICE;
    }
    if (number >= (unsigned)count)
        return report_error(r, TQKV_ERROR_NO_DEVICE, "cuda:%u: there are %d devices", number,
                            count);
    result = fill_info(&c->api, (int)number, &c->device, &d->info);
    if (result == CUDA_SUCCESS)
        result = c->api.device_attribute(&c->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                                         c->device);
    if (result == CUDA_SUCCESS)
        result = c->api.device_attribute(&c->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                                         c->device);
    int shared = 0;
    if (result == CUDA_SUCCESS)
        result = c->api.device_attribute(
            &shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, c->device);
    d->tensor_memory = c->major >= 8 ? (uint32_t)shared : 0;
    c->context = native;
    if (result == CUDA_SUCCESS && !native) {
        result = c->api.primary_retain(&c->context, c->device);
        c->is_primary = result == CUDA_SUCCESS;
    }
    return result == CUDA_SUCCESS ? TQKV_OK : failed(&c->api, result, "opening the device", r);
}

static tqkv_status open_device(tqkv_device *d, const unsigned *numbers, void *native, report *r)
{
    const char *missing;
    cuda_device *c = calloc(1, sizeof *c);
    if (!c)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    d->state = c;
    pthread_mutex_init(&c->mutex, NULL);
    tqkv_status status =
        load_api(&c->api, &missing)
            ? open_context(d, numbers[0], native, r)
            : report_error(r, TQKV_ERROR_NO_DEVICE,
                           "cuda: NVIDIA's driver is missing or too old (no %s)", missing);
    if (status != TQKV_OK) {
        pthread_mutex_destroy(&c->mutex);
        d->state = NULL;
        free(c);
    }
    return status;
}

static void close_device(tqkv_device *d)
{
    cuda_device *c = d->state;
    while (c->native_counters) {
        native_counters *n = c->native_counters;
        c->native_counters = n->next;
        GIVE_BACK(d, (api_->wait_all(), api_->release(n->counters)));
        free(n);
    }
    pthread_mutex_destroy(&c->mutex);
    if (c->is_primary)
        c->api.primary_release(c->device);
    free(c);
}

/* ---- memory ---- */

static CUdeviceptr address(void *memory, size_t offset)
{
    return (CUdeviceptr)(uintptr_t)memory + offset;
}

static tqkv_status allocate(tqkv_device *d, size_t bytes, void **memory, report *r)
{
    CUdeviceptr pointer = 0;
    tqkv_status status;
    IN_CONTEXT(d, r, status, "allocating memory", api_->allocate(&pointer, bytes));
    *memory = (void *)(uintptr_t)pointer;
    return status;
}

static void release(tqkv_device *d, void *memory)
{
    GIVE_BACK(d, (api_->wait_all(), api_->release(address(memory, 0))));
}

/* The driver may return before the last of pageable memory has arrived, and our
 * streams do not wait for the default one. */
static CUresult upload_all(const cuda_api *api, CUdeviceptr to, const void *src, size_t bytes)
{
    CUresult result = api->upload(to, src, bytes);
    return result == CUDA_SUCCESS ? api->stream_wait(NULL) : result;
}

static tqkv_status upload(tqkv_device *d, void *memory, size_t offset, const void *src,
                          size_t bytes, report *r)
{
    tqkv_status status;
    IN_CONTEXT(d, r, status, "upload", upload_all(api_, address(memory, offset), src, bytes));
    return status;
}

static tqkv_status download(tqkv_device *d, void *memory, size_t offset, void *dst, size_t bytes,
                            report *r)
{
    tqkv_status status;
    IN_CONTEXT(d, r, status, "download", api_->download(dst, address(memory, offset), bytes));
    return status;
}

/* ---- kernels ---- */

static CUresult load_module(const cuda_api *api, cuda_kernel *k, const void *data,
                            const char *name)
{
    CUresult result = api->module_load(&k->module, data);
    if (result != CUDA_SUCCESS)
        return result;
    result = api->module_function(&k->function, k->module, name);
    if (result != CUDA_SUCCESS)
        api->module_unload(k->module);
    return result;
}

static tqkv_status load(tqkv_device *d, const char *name, const void *data, size_t size,
                        void **kernel, report *r)
{
    (void)size; /* cubins, fat binaries and PTX say how long they are */
    cuda_kernel *k = calloc(1, sizeof *k);
    if (!k)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    const cuda_device *c = d->state;
    k->most_shared = d->tensor_memory;
    k->can_overlap = c->major >= 9;
    tqkv_status status;
    IN_CONTEXT(d, r, status, name, load_module(api_, k, data, name));
    if (status != TQKV_OK) {
        free(k);
        return status;
    }
    *kernel = k;
    return TQKV_OK;
}

static tqkv_status compile(tqkv_device *d, const program *p, void **kernel, binary *code,
                           report *r)
{
    const cuda_device *c = d->state;
    tqkv_status status = nvrtc_compile(c->major, c->minor, p, code, r);
    if (status == TQKV_OK)
        status = load(d, p->name, code->data, code->size, kernel, r);
    return status;
}

static void unload(tqkv_device *d, void *kernel)
{
    cuda_kernel *k = kernel;
    GIVE_BACK(d, (api_->wait_all(), api_->module_unload(k->module)));
    free(k);
}

/* ---- streams ---- */

static int is_per_thread(CUstream stream)
{
    return (uintptr_t)stream == CU_STREAM_PER_THREAD;
}

/* Of the calling thread: from 1 on, and never that of another one, also of one that has ended,
 * whose stream may still have work. */
static uint64_t thread_number(void)
{
    static _Atomic uint64_t last;
    static _Thread_local uint64_t number;
    if (!number)
        number = atomic_fetch_add(&last, 1) + 1;
    return number;
}

/* The counters of a caller's stream, as the calling thread names it. */
static CUresult find_counters(cuda_device *c, CUstream stream, CUdeviceptr *counters)
{
    CUresult result = CUDA_SUCCESS;
    uint64_t thread = is_per_thread(stream) ? thread_number() : 0;
    pthread_mutex_lock(&c->mutex);
    native_counters *n = c->native_counters;
    while (n && (n->stream != stream || n->thread != thread))
        n = n->next;
    if (!n) {
        n = calloc(1, sizeof *n);
        result = n ? make_counters(&c->api, &n->counters) : CUDA_ERROR_OUT_OF_MEMORY;
        if (result == CUDA_SUCCESS) {
            n->stream = stream;
            n->thread = thread;
            n->next = c->native_counters;
            c->native_counters = n;
        } else {
            free(n);
        }
    }
    if (result == CUDA_SUCCESS)
        *counters = n->counters;
    pthread_mutex_unlock(&c->mutex);
    return result;
}

static CUresult make_stream(cuda_device *c, cuda_stream *s)
{
    const cuda_api *api = &c->api;
    if (!s->is_owner)
        return find_counters(c, s->stream, &s->counters);
    CUresult result = make_counters(api, &s->counters);
    if (result == CUDA_SUCCESS)
        result = api->stream_create(&s->stream, CU_STREAM_NON_BLOCKING);
    if (result != CUDA_SUCCESS && s->counters)
        api->release(s->counters);
    return result;
}

static tqkv_status stream_open(tqkv_device *d, void *native, void **stream, report *r)
{
    cuda_stream *s = calloc(1, sizeof *s);
    if (!s)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    tqkv_status status = TQKV_OK;
    s->stream = native;
    s->is_owner = !native;
    IN_CONTEXT(d, r, status, "creating a stream", make_stream(d->state, s));
    if (status != TQKV_OK) {
        free(s);
        return status;
    }
    *stream = s;
    return TQKV_OK;
}

static void stream_close(tqkv_device *d, void *stream)
{
    cuda_stream *s = stream;
    if (s->is_owner)
        GIVE_BACK(d, (api_->stream_destroy(s->stream), api_->release(s->counters)));
    free(s);
}

/* Beyond 48 KB a kernel has to be allowed its memory: all that there is, so that it does not
 * matter who asks first. */
static CUresult allow_shared(const cuda_api *api, cuda_kernel *k, uint32_t bytes)
{
    if (bytes <= 48 << 10 || atomic_load(&k->is_allowed))
        return CUDA_SUCCESS;
    CUresult result = api->function_set(
        k->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)k->most_shared);
    if (result == CUDA_SUCCESS)
        atomic_store(&k->is_allowed, 1);
    return result;
}

static CUresult launch(const cuda_api *api, CUstream stream, CUdeviceptr counters,
                       const command *c)
{
    cuda_kernel *k = c->pipeline->kernel;
    CUdeviceptr pointers[TQKV_MAX_BUFFERS];
    void *arguments[TQKV_MAX_BUFFERS + 1];
    for (uint32_t i = 0; i < c->n_buffers; i++) {
        const tqkv_buffer *b = c->buffers[i];
        pointers[i] = b ? address(b->memory, b->offset) : 0;
        arguments[i] = &pointers[i];
    }
    if (c->counters_at)
        pointers[c->counters_at] = counters;
    arguments[c->n_buffers] = (void *)c->params;
    CUresult result = allow_shared(api, k, c->local_bytes);
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                                   .value.value = 1};
    CUlaunchConfig config = {{c->groups[0], c->groups[1], c->groups[2]}, {c->n_items, 1, 1},
                             c->local_bytes, stream, &attribute, c->overlaps && k->can_overlap ? 1 : 0};
    return result == CUDA_SUCCESS ? api->launch(&config, k->function, arguments, NULL) : result;
}

static CUresult run(const cuda_api *api, CUstream stream, CUdeviceptr counters,
                    const command_list *commands, const char **what)
{
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; result == CUDA_SUCCESS && i < commands->n; i++) {
        const command *c = &commands->commands[i];
        tqkv_buffer *const *b = c->buffers;
        if (c->kind == COMMAND_DISPATCH) {
            *what = c->pipeline->name;
            result = launch(api, stream, counters, c);
        } else if (c->kind == COMMAND_COPY) {
            *what = "copy";
            result = api->copy(address(b[1]->memory, b[1]->offset + c->offsets[1]),
                               address(b[0]->memory, b[0]->offset + c->offsets[0]), c->bytes,
                               stream);
        } else {
            *what = "recording an event";
            result = api->event_record(c->event->state, stream);
        }
    }
    return result;
}

static int is_counted(const command_list *commands)
{
    for (size_t i = 0; i < commands->n; i++)
        if (commands->commands[i].counters_at)
            return 1;
    return 0;
}

/* An encoder may have come to another thread since it was made, and so to another stream. */
static CUresult run_on_stream(cuda_device *c, const cuda_stream *s, const command_list *commands,
                              const char **what)
{
    CUdeviceptr counters = s->counters;
    CUresult result = CUDA_SUCCESS;
    *what = "making counters";
    if (is_per_thread(s->stream) && is_counted(commands))
        result = find_counters(c, s->stream, &counters);
    return result == CUDA_SUCCESS ? run(&c->api, s->stream, counters, commands, what) : result;
}

static tqkv_status submit(tqkv_device *d, void *stream, const command_list *commands, report *r)
{
    const char *what = "";
    tqkv_status status;
    IN_CONTEXT(d, r, status, what, run_on_stream(d->state, stream, commands, &what));
    return status;
}

static tqkv_status wait_stream(tqkv_device *d, void *stream, report *r)
{
    tqkv_status status;
    IN_CONTEXT(d, r, status, "waiting for the stream",
               api_->stream_wait(((cuda_stream *)stream)->stream));
    return status;
}

/* ---- events ---- */

static tqkv_status event_open(tqkv_device *d, void **event, report *r)
{
    tqkv_status status;
    IN_CONTEXT(d, r, status, "creating an event", api_->event_create((CUevent *)event, 0));
    return status;
}

static void event_close(tqkv_device *d, void *event)
{
    GIVE_BACK(d, api_->event_destroy(event));
}

static tqkv_status elapsed(tqkv_device *d, void *from, void *to, double *seconds, report *r)
{
    float milliseconds = 0;
    const cuda_api *api = api_of(d);
    CUresult result = enter(d);
    if (result == CUDA_SUCCESS) {
        result = api->event_elapsed(&milliseconds, from, to);
        leave(d);
    }
    if (result == CUDA_ERROR_NOT_READY)
        return report_error(r, TQKV_ERROR_STATE, "the events have not happened yet");
    if (result != CUDA_SUCCESS)
        return failed(api, result, "the time between events", r);
    *seconds = milliseconds * 1e-3;
    return TQKV_OK;
}

/* ---- graphs ---- */

static CUresult capture(const cuda_api *api, CUstream stream, const command_list *commands,
                        cuda_graph *g, const char **what)
{
    CUgraph graph = NULL;
    *what = "capturing a graph";
    CUresult result = is_counted(commands) ? make_counters(api, &g->counters) : CUDA_SUCCESS;
    if (result == CUDA_SUCCESS)
        result = api->capture_begin(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    if (result != CUDA_SUCCESS)
        return result;
    result = run(api, stream, g->counters, commands, what);
    CUresult ended = api->capture_end(stream, &graph);
    if (result == CUDA_SUCCESS)
        result = ended;
    if (result == CUDA_SUCCESS)
        result = api->graph_instantiate(&g->exec, graph, 0);
    if (graph)
        api->graph_destroy(graph);
    return result;
}

static void graph_free(tqkv_device *d, cuda_graph *g)
{
    if (g->counters)
        GIVE_BACK(d, (api_->wait_all(), api_->release(g->counters)));
    free(g);
}

static tqkv_status graph_open(tqkv_device *d, void *stream, const command_list *commands,
                              void **graph, report *r)
{
    const char *what = "";
    tqkv_status status;
    cuda_graph *g = calloc(1, sizeof *g);
    if (!g)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    IN_CONTEXT(d, r, status, what,
               capture(api_, ((cuda_stream *)stream)->stream, commands, g, &what));
    if (status == TQKV_OK) {
        *graph = g;
        return status;
    }
    graph_free(d, g);
    return status;
}

static tqkv_status graph_launch(tqkv_device *d, void *graph, void *stream, report *r)
{
    tqkv_status status;
    IN_CONTEXT(d, r, status, "launching a graph",
               api_->graph_launch(((cuda_graph *)graph)->exec, ((cuda_stream *)stream)->stream));
    return status;
}

static void graph_close(tqkv_device *d, void *graph)
{
    cuda_graph *g = graph;
    GIVE_BACK(d, api_->graph_exec_destroy(g->exec));
    graph_free(d, g);
}

const backend backend_cuda = {
    .kind = "cuda",
    .specialises = 1,
    .has_row_items = 1,
    .has_addresses = 1,
    .takes_module = 1,
    .n_numbers = 1,
    .list = list,
    .open = open_device,
    .close = close_device,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .compile = compile,
    .load = load,
    .unload = unload,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .submit = submit,
    .wait = wait_stream,
    .event_open = event_open,
    .event_close = event_close,
    .elapsed = elapsed,
    .graph_open = graph_open,
    .graph_launch = graph_launch,
    .graph_close = graph_close,
};
