/* Apple GPUs. This has run against a stand-in for the runtime only (doc/gpu.md),
 * not on Apple's hardware. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu.h"
#include "gpu/metal/objc.h"

typedef struct metal_device {
    objc_api api;
    object device;
} metal_device;

enum { MAX_PENDING = 64 };

typedef struct metal_stream {
    object queue;  /* null: the caller's command buffer */
    object buffer; /* the caller's, or null */
    /* Committed since the last wait, the oldest first. */
    object pending[MAX_PENDING];
    int n_pending, has_failed;
} metal_stream;

typedef struct metal_event {
    object buffer; /* the event is its end; null until recorded */
} metal_event;

static const char *const objc_libraries[] = {"/usr/lib/libobjc.A.dylib", "libobjc.A.dylib", NULL};
static const char *const metal_libraries[] = {
    "/System/Library/Frameworks/Metal.framework/Metal", "libMetal.dylib", NULL};

#define NAME(symbol, type, member, parameters) symbol,
static const char *const objc_names[] = {OBJC_FUNCTIONS(NAME)};
#undef NAME
static const char *const metal_names[] = {"MTLCopyAllDevices"};

/* UNITS: Metal does not tell the number of cores, of which Apple's GPUs have 7 to 80: enough
 * that long contexts are split, and no device has many times as many groups as it can use. */
enum { SHARED_STORAGE = 0, STATUS_COMPLETED = 4, GROUP_MEMORY = 32 << 10, MAX_GROUP = 1024,
       UNITS = 32 };

typedef struct framework {
    object (*copy_devices)(void); /* an NSArray, which we own */
} framework;

static int load_api(objc_api *api, framework *f, const char **missing)
{
    return driver_open(objc_libraries, objc_names, (void **)api, sizeof *api / sizeof(void *),
                       missing) &&
           driver_open(metal_libraries, metal_names, (void **)f, 1, missing);
}

static void fill_info(const objc_api *api, object device, unsigned number, tqkv_device_info *info)
{
    const char *name = send_string(api, send(api, device, "name"), "UTF8String");
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "metal:%u", number);
    text_copy(info->description, sizeof info->description, name ? name : "");
    snprintf(info->driver, sizeof info->driver, "Metal");
    info->memory = send_integer(api, device, "recommendedMaxWorkingSetSize");
    info->max_buffer = send_integer(api, device, "maxBufferLength");
    info->max_group = MAX_GROUP;
    info->group_memory = GROUP_MEMORY;
    info->n_units = UNITS;
}

static void list(tqkv_device_info *infos, size_t max, size_t *n)
{
    objc_api api;
    framework f;
    const char *missing;
    if (!load_api(&api, &f, &missing))
        return;
    void *pool = api.pool_push();
    object devices = f.copy_devices();
    uintptr_t count = devices ? send_integer(&api, devices, "count") : 0;
    for (uintptr_t i = 0; i < count; i++) {
        if (*n < max)
            fill_info(&api, send_index(&api, devices, "objectAtIndex:", i), (unsigned)i,
                      &infos[*n]);
        ++*n;
    }
    if (devices)
        send_nothing(&api, devices, "release");
    api.pool_pop(pool);
}

static tqkv_status take_device(metal_device *c, const framework *f, unsigned number, report *r)
{
    object devices = f->copy_devices();
    uintptr_t count = devices ? send_integer(&c->api, devices, "count") : 0;
    if (number < count)
        c->device = send(&c->api, send_index(&c->api, devices, "objectAtIndex:", number), "retain");
    if (devices)
        send_nothing(&c->api, devices, "release");
    return c->device ? TQKV_OK
                     : report_error(r, TQKV_ERROR_NO_DEVICE, "metal:%u: there are %u devices",
                                    number, (unsigned)count);
}

static tqkv_status open_device(tqkv_device *d, const unsigned *numbers, void *native, report *r)
{
    framework f;
    const char *missing;
    metal_device *c = calloc(1, sizeof *c);
    if (!c)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    tqkv_status status = TQKV_OK;
    if (!load_api(&c->api, &f, &missing)) {
        status = report_error(r, TQKV_ERROR_NO_DEVICE, "metal: there is no Metal here (no %s)",
                              missing);
    } else {
        void *pool = c->api.pool_push();
        if (native)
            c->device = send(&c->api, native, "retain");
        else
            status = take_device(c, &f, numbers[0], r);
        if (status == TQKV_OK)
            fill_info(&c->api, c->device, numbers[0], &d->info);
        c->api.pool_pop(pool);
    }
    if (status != TQKV_OK) {
        free(c);
        return status;
    }
    d->state = c;
    return TQKV_OK;
}

static const objc_api *api_of(const tqkv_device *d)
{
    return &((const metal_device *)d->state)->api;
}

static void close_device(tqkv_device *d)
{
    send_nothing(api_of(d), ((metal_device *)d->state)->device, "release");
    free(d->state);
}

/* ---- memory, which the processor shares ---- */

static tqkv_status allocate(tqkv_device *d, size_t bytes, void **memory, report *r)
{
    const metal_device *c = d->state;
    *memory = send_allocate(&c->api, c->device, "newBufferWithLength:options:", bytes,
                            SHARED_STORAGE);
    return *memory ? TQKV_OK
                   : report_error(r, TQKV_ERROR_MEMORY, "metal: out of memory (%zu bytes)", bytes);
}

static void release(tqkv_device *d, void *memory)
{
    send_nothing(api_of(d), memory, "release");
}

static tqkv_status upload(tqkv_device *d, void *memory, size_t offset, const void *src,
                          size_t bytes, report *r)
{
    uint8_t *contents = send(api_of(d), memory, "contents");
    if (!contents)
        return report_error(r, TQKV_ERROR_DEVICE, "metal: the buffer is not in shared memory");
    memcpy(contents + offset, src, bytes);
    return TQKV_OK;
}

static tqkv_status download(tqkv_device *d, void *memory, size_t offset, void *dst, size_t bytes,
                            report *r)
{
    const uint8_t *contents = send(api_of(d), memory, "contents");
    if (!contents)
        return report_error(r, TQKV_ERROR_DEVICE, "metal: the buffer is not in shared memory");
    memcpy(dst, contents + offset, bytes);
    return TQKV_OK;
}

/* ---- kernels ---- */

/* "A=1 B=2" as #define lines, the prelude, the text: an NSString that we own. */
static object make_source(const objc_api *api, const program *p)
{
    const char *prelude = builtin_prelude("metal");
    size_t size = 16 + strlen(prelude) + strlen(p->text);
    for (const char *c = p->options; *c; c++)
        size += *c == ' ' ? 16 : 1;
    char *text = malloc(size);
    if (!text)
        return NULL;
    size_t at = 0, length;
    const char *rest = p->options;
    for (const char *macro; (macro = next_macro(&rest, &length));) {
        size_t name = strcspn(macro, "= ");
        if (name < length)
            at += (size_t)sprintf(text + at, "#define %.*s %.*s\n", (int)name, macro,
                                  (int)(length - name - 1), macro + name + 1);
    }
    snprintf(text + at, size - at, "%s%s", prelude, p->text);
    object string = send_text(api, send(api, api->get_class("NSString"), "alloc"),
                              "initWithUTF8String:", text);
    free(text);
    return string;
}

static tqkv_status compile_failed(const objc_api *api, const program *p, object error, report *r)
{
    const char *log =
        error ? send_string(api, send(api, error, "localizedDescription"), "UTF8String") : NULL;
    return report_error(r, TQKV_ERROR_COMPILE, "%s: does not compile: %s", p->name,
                        log ? log : "no reason given");
}

static tqkv_status make_pipeline(const metal_device *c, object library, const program *p,
                                 void **kernel, report *r)
{
    object error = NULL;
    object name = send_text(&c->api, c->api.get_class("NSString"), "stringWithUTF8String:",
                            p->name);
    object function = send_object(&c->api, library, "newFunctionWithName:", name);
    if (!function)
        return compile_failed(&c->api, p, NULL, r);
    *kernel = send_pipeline(&c->api, c->device, "newComputePipelineStateWithFunction:error:",
                            function, &error);
    send_nothing(&c->api, function, "release");
    return *kernel ? TQKV_OK : compile_failed(&c->api, p, error, r);
}

static tqkv_status compile(tqkv_device *d, const program *p, void **kernel, binary *code,
                           report *r)
{
    const metal_device *c = d->state;
    void *pool = c->api.pool_push();
    object error = NULL, library = NULL, source = make_source(&c->api, p);
    object options = send(&c->api, c->api.get_class("MTLCompileOptions"), "new");
    tqkv_status status = TQKV_OK;
    (void)code; /* the system keeps compiled kernels itself */
    if (source && options) {
        send_flag(&c->api, options, "setFastMathEnabled:", 0);
        library = send_compile(&c->api, c->device, "newLibraryWithSource:options:error:", source,
                               options, &error);
        status = library ? make_pipeline(c, library, p, kernel, r)
                         : compile_failed(&c->api, p, error, r);
    } else {
        status = report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    }
    object made[] = {library, options, source};
    for (int i = 0; i < 3; i++)
        if (made[i])
            send_nothing(&c->api, made[i], "release");
    c->api.pool_pop(pool);
    return status;
}

static void unload(tqkv_device *d, void *kernel)
{
    send_nothing(api_of(d), kernel, "release");
}

/* ---- streams ---- */

static tqkv_status stream_open(tqkv_device *d, void *native, void **stream, report *r)
{
    const metal_device *c = d->state;
    metal_stream *s = calloc(1, sizeof *s);
    if (!s)
        return report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
    if (native)
        s->buffer = send(&c->api, native, "retain");
    else
        s->queue = send(&c->api, c->device, "newCommandQueue");
    if (!s->queue && !native) {
        free(s);
        return report_error(r, TQKV_ERROR_DEVICE, "metal: no command queue");
    }
    *stream = s;
    return TQKV_OK;
}

/* Waits for what is pending and remembers whether any of it failed. */
static void settle(const objc_api *api, metal_stream *s)
{
    for (int i = 0; i < s->n_pending; i++) {
        send_nothing(api, s->pending[i], "waitUntilCompleted");
        s->has_failed |= send_integer(api, s->pending[i], "status") != STATUS_COMPLETED;
        send_nothing(api, s->pending[i], "release");
    }
    s->n_pending = 0;
}

static void stream_close(tqkv_device *d, void *stream)
{
    metal_stream *s = stream;
    settle(api_of(d), s);
    if (s->buffer)
        send_nothing(api_of(d), s->buffer, "release");
    if (s->queue)
        send_nothing(api_of(d), s->queue, "release");
    free(s);
}

static void encode_dispatch(const objc_api *api, object buffer, const command *c)
{
    object e = send(api, buffer, "computeCommandEncoder");
    set_object(api, e, "setComputePipelineState:", c->pipeline->kernel);
    for (uint32_t i = 0; i < c->n_buffers; i++)
        if (c->buffers[i])
            set_buffer(api, e, "setBuffer:offset:atIndex:", c->buffers[i]->memory,
                       c->buffers[i]->offset, i);
    set_bytes(api, e, "setBytes:length:atIndex:", c->params, c->params_size, c->n_buffers);
    set_length(api, e, "setThreadgroupMemoryLength:atIndex:",
               c->local_bytes ? (c->local_bytes + 15) & ~15u : 16, 0);
    send_groups(api, e, "dispatchThreadgroups:threadsPerThreadgroup:",
                (group_size){c->groups[0], c->groups[1], c->groups[2]},
                (group_size){c->n_items, 1, 1});
    send_nothing(api, e, "endEncoding");
}

static void encode_copy(const objc_api *api, object buffer, const command *c)
{
    object e = send(api, buffer, "blitCommandEncoder");
    tqkv_buffer *const *b = c->buffers;
    send_copy(api, e, "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:",
              b[0]->memory, b[0]->offset + c->offsets[0], b[1]->memory,
              b[1]->offset + c->offsets[1], c->bytes);
    send_nothing(api, e, "endEncoding");
}

static void commit(const objc_api *api, metal_stream *s, object buffer)
{
    if (s->n_pending == MAX_PENDING)
        settle(api, s);
    send_nothing(api, buffer, "commit");
    s->pending[s->n_pending++] = send(api, buffer, "retain");
}

/* An event is the end of a command buffer. */
static void record_event(const objc_api *api, object buffer, metal_event *event)
{
    if (event->buffer)
        send_nothing(api, event->buffer, "release");
    event->buffer = send(api, buffer, "retain");
}

static tqkv_status encode_all(const objc_api *api, metal_stream *s, const command_list *commands,
                              report *r)
{
    object buffer = s->queue ? send(api, s->queue, "commandBuffer") : s->buffer;
    for (size_t i = 0; i < commands->n && buffer; i++) {
        const command *c = &commands->commands[i];
        if (c->kind == COMMAND_DISPATCH) {
            encode_dispatch(api, buffer, c);
        } else if (c->kind == COMMAND_COPY) {
            encode_copy(api, buffer, c);
        } else if (!s->queue) {
            return report_error(r, TQKV_ERROR_STATE,
                                "metal: no events in a command buffer of the caller's");
        } else {
            record_event(api, buffer, c->event->state);
            commit(api, s, buffer);
            buffer = send(api, s->queue, "commandBuffer");
        }
    }
    if (!buffer)
        return report_error(r, TQKV_ERROR_DEVICE, "metal: no command buffer");
    if (s->queue)
        commit(api, s, buffer);
    return TQKV_OK;
}

static tqkv_status submit(tqkv_device *d, void *stream, const command_list *commands, report *r)
{
    const objc_api *api = api_of(d);
    void *pool = api->pool_push();
    tqkv_status status = encode_all(api, stream, commands, r);
    api->pool_pop(pool);
    return status;
}

/* The caller's command buffer is the caller's to wait for. */
static tqkv_status wait_stream(tqkv_device *d, void *stream, report *r)
{
    const objc_api *api = api_of(d);
    metal_stream *s = stream;
    void *pool = api->pool_push();
    settle(api, s);
    api->pool_pop(pool);
    int ok = !s->has_failed;
    s->has_failed = 0;
    return ok ? TQKV_OK : report_error(r, TQKV_ERROR_DEVICE, "metal: a command buffer failed");
}

/* ---- events ---- */

static tqkv_status event_open(tqkv_device *d, void **event, report *r)
{
    (void)d;
    *event = calloc(1, sizeof(metal_event));
    return *event ? TQKV_OK : report_error(r, TQKV_ERROR_MEMORY, "out of host memory");
}

static void event_close(tqkv_device *d, void *event)
{
    metal_event *e = event;
    if (e->buffer)
        send_nothing(api_of(d), e->buffer, "release");
    free(e);
}

static tqkv_status elapsed(tqkv_device *d, void *from, void *to, double *seconds, report *r)
{
    const objc_api *api = api_of(d);
    metal_event *events[2] = {from, to};
    for (int i = 0; i < 2; i++)
        if (send_integer(api, events[i]->buffer, "status") != STATUS_COMPLETED)
            return report_error(r, TQKV_ERROR_STATE, "the events have not happened yet");
    *seconds = send_double(api, events[1]->buffer, "GPUEndTime") -
               send_double(api, events[0]->buffer, "GPUEndTime");
    return TQKV_OK;
}

const backend backend_metal = {
    .kind = "metal",
    .n_numbers = 1,
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
