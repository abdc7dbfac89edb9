/* libobjc.A.dylib and libMetal.dylib: one device, whose command buffers run what is
 * encoded at once. Methods are found by their selector alone. */
#include "standin.h"

#include <stdio.h>

#include "gpu/metal/objc.h"

typedef struct object_data {
    int users;
    char *text;       /* of strings; of libraries' and functions', the name */
    uint8_t *memory;  /* of buffers */
    standin_launch launch; /* of encoders */
    int failed;       /* of command buffers */
    struct object_data *owner;
    double time;
} data;

typedef struct pool {
    struct pool *before;
    data *objects[4096];
    size_t n;
} pool;

static _Thread_local pool *current;
static data the_class, the_device = {.users = 1 << 30};

static data *make(void)
{
    data *o = calloc(1, sizeof *o);
    o->users = 1;
    return o;
}

static object autoreleased(data *o)
{
    if (current && current->n < 4096)
        current->objects[current->n++] = o;
    return o;
}

static void m_release(data *o, selector s)
{
    (void)s;
    if (o == &the_class || o == &the_device || --o->users)
        return;
    free(o->text);
    free(o->memory);
    free(o);
}

static object m_retain(data *o, selector s)
{
    (void)s;
    if (o != &the_class && o != &the_device)
        o->users++;
    return o;
}

/* ---- strings, arrays, options ---- */

static object m_self(data *o, selector s)
{
    (void)s;
    return o == &the_class ? make() : o;
}

static object m_string(data *o, selector s, const char *text)
{
    (void)s;
    o->text = strdup(text);
    return o;
}

static object m_class_string(data *o, selector s, const char *text)
{
    (void)o;
    return autoreleased(m_string(make(), s, text));
}

static const char *m_text(data *o, selector s)
{
    (void)s;
    return o->text;
}

static object m_name(data *o, selector s)
{
    (void)o;
    const char *set = getenv("TQKV_TEST_NAME");
    return m_class_string(NULL, s, set ? set : "stand-in");
}

static uintptr_t m_count(data *o, selector s)
{
    (void)o;
    (void)s;
    return 1;
}

static object m_at(data *o, selector s, uintptr_t i)
{
    (void)o;
    (void)s;
    (void)i;
    return &the_device;
}

static uintptr_t m_size(data *o, selector s)
{
    (void)o;
    (void)s;
    return 1 << 30;
}

static void m_set_flag(data *o, selector s, signed char flag)
{
    (void)s;
    o->failed = flag != 0;
}

/* ---- the device ---- */

static object m_new_buffer(data *o, selector s, uintptr_t bytes, uintptr_t options)
{
    (void)o;
    (void)s;
    (void)options;
    if (standin_call())
        return NULL;
    data *b = make();
    b->memory = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    return b;
}

static object m_contents(data *o, selector s)
{
    (void)s;
    return standin_call() ? NULL : o->memory;
}

/* Fast math would change codes. */
static object m_new_library(data *o, selector s, data *source, data *options, object *error)
{
    (void)o;
    if (standin_call() || options->failed || strstr(source->text, "#error")) {
        *error = m_class_string(NULL, s, "stand-in: line 1: error");
        return NULL;
    }
    return make();
}

static object m_description(data *o, selector s)
{
    (void)s;
    return o;
}

static object m_new_function(data *o, selector s, data *name)
{
    (void)o;
    if (standin_call() || !standin_kernel(name->text))
        return NULL;
    return m_string(make(), s, name->text);
}

static object m_new_pipeline(data *o, selector s, data *function, object *error)
{
    (void)o;
    if (standin_call()) {
        *error = m_class_string(NULL, s, "stand-in: no pipeline");
        return NULL;
    }
    return m_string(make(), s, function->text);
}

static object m_new_queue(data *o, selector s)
{
    (void)o;
    (void)s;
    return standin_call() ? NULL : make();
}

/* ---- command buffers ---- */

static object m_command_buffer(data *o, selector s)
{
    (void)o;
    (void)s;
    return standin_call() ? NULL : autoreleased(make());
}

static object m_encoder(data *o, selector s)
{
    (void)s;
    data *e = make();
    e->owner = o;
    return autoreleased(e);
}

static void m_set_pipeline(data *o, selector s, data *pipeline)
{
    (void)s;
    o->launch.kernel = standin_kernel(pipeline->text);
}

static void m_set_buffer(data *o, selector s, data *buffer, uintptr_t offset, uintptr_t i)
{
    (void)s;
    o->launch.buffers[i] = buffer->memory + offset;
}

static void m_set_bytes(data *o, selector s, const void *bytes, uintptr_t size, uintptr_t i)
{
    (void)s;
    if (i == o->launch.kernel->n_buffers)
        memcpy(o->launch.params, bytes, size);
}

static void m_set_length(data *o, selector s, uintptr_t bytes, uintptr_t i)
{
    (void)s;
    (void)i;
    o->launch.local_bytes = (uint32_t)bytes;
}

static void m_dispatch(data *o, selector s, group_size groups, group_size items)
{
    (void)s;
    o->launch.groups[0] = (uint32_t)groups.width;
    o->launch.groups[1] = (uint32_t)groups.height;
    o->launch.groups[2] = (uint32_t)groups.depth;
    o->launch.n_items = (uint32_t)items.width;
    if (standin_call())
        o->owner->failed = 1;
    else
        standin_run(&o->launch);
}

static void m_copy(data *o, selector s, data *from, uintptr_t from_offset, data *to,
                   uintptr_t to_offset, uintptr_t bytes)
{
    (void)o;
    (void)s;
    memmove(to->memory + to_offset, from->memory + from_offset, bytes);
}

static void m_nothing(data *o, selector s)
{
    (void)o;
    (void)s;
}

static void m_commit(data *o, selector s)
{
    (void)s;
    o->time = standin_seconds();
    o->failed |= standin_call();
}

static uintptr_t m_status(data *o, selector s)
{
    (void)s;
    return o->failed ? 5 : 4;
}

static double m_time(data *o, selector s)
{
    (void)s;
    return o->time;
}

static const struct {
    const char *name;
    void *method;
} methods[] = {
#define METHOD(name, function) {name, (void *)(uintptr_t)function}
    METHOD("release", m_release),
    METHOD("retain", m_retain),
    METHOD("alloc", m_self),
    METHOD("new", m_self),
    METHOD("initWithUTF8String:", m_string),
    METHOD("stringWithUTF8String:", m_class_string),
    METHOD("UTF8String", m_text),
    METHOD("name", m_name),
    METHOD("count", m_count),
    METHOD("objectAtIndex:", m_at),
    METHOD("recommendedMaxWorkingSetSize", m_size),
    METHOD("maxBufferLength", m_size),
    METHOD("setFastMathEnabled:", m_set_flag),
    METHOD("newBufferWithLength:options:", m_new_buffer),
    METHOD("contents", m_contents),
    METHOD("newLibraryWithSource:options:error:", m_new_library),
    METHOD("localizedDescription", m_description),
    METHOD("newFunctionWithName:", m_new_function),
    METHOD("newComputePipelineStateWithFunction:error:", m_new_pipeline),
    METHOD("newCommandQueue", m_new_queue),
    METHOD("commandBuffer", m_command_buffer),
    METHOD("computeCommandEncoder", m_encoder),
    METHOD("blitCommandEncoder", m_encoder),
    METHOD("setComputePipelineState:", m_set_pipeline),
    METHOD("setBuffer:offset:atIndex:", m_set_buffer),
    METHOD("setBytes:length:atIndex:", m_set_bytes),
    METHOD("setThreadgroupMemoryLength:atIndex:", m_set_length),
    METHOD("dispatchThreadgroups:threadsPerThreadgroup:", m_dispatch),
    METHOD("copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:", m_copy),
    METHOD("endEncoding", m_nothing),
    METHOD("waitUntilCompleted", m_nothing),
    METHOD("commit", m_commit),
    METHOD("status", m_status),
    METHOD("GPUEndTime", m_time),
};

/* ---- the runtime's interface ---- */

#define DEFINE(type, name, ...) EXPORT type name(__VA_ARGS__); type name(__VA_ARGS__)

DEFINE(object, objc_getClass, const char *name)
{
    (void)name;
    return &the_class;
}

DEFINE(object, object_getClass, object o)
{
    return o;
}

DEFINE(selector, sel_registerName, const char *name)
{
    return (selector)(uintptr_t)name;
}

DEFINE(void *, class_getMethodImplementation, object o, selector s)
{
    (void)o;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(methods[i].name, (const char *)s))
            return methods[i].method;
    fprintf(stderr, "stand-in: no method %s\n", (const char *)s);
    abort();
}

DEFINE(void *, objc_autoreleasePoolPush, void)
{
    pool *p = calloc(1, sizeof *p);
    p->before = current;
    return current = p;
}

DEFINE(void, objc_autoreleasePoolPop, void *p)
{
    current = ((pool *)p)->before;
    for (size_t i = 0; i < ((pool *)p)->n; i++)
        m_release(((pool *)p)->objects[i], NULL);
    free(p);
}

DEFINE(object, MTLCopyAllDevices, void)
{
    return standin_call() ? NULL : make();
}
