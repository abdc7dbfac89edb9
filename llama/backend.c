/*
 * The backend that llama.cpp loads.
 *
 * It stands before ggml's CPU backend and takes over all that the CPU can do,
 * so that a graph stays in one piece: its nodes on cache tensors become custom
 * operations, and then an instance of the CPU backend computes the whole graph
 * on its own threads. No operation waits for another backend, nothing is
 * copied, and there is no second pool of threads.
 *
 * What tqkv cannot do right it claims as well, and refuses: the scheduler would
 * give it to the CPU otherwise, which would take codes for ggml's blocks. A
 * refused graph gets no memory, so that the context's creation fails.
 */
#include <stdlib.h>
#include <string.h>

#include "rotate.h"
#include "work.h"

#define NAME "tqkv"

static struct gg_reg registry;
static struct gg_device device;

/* Why this thread's last graph was refused, and whose it was, until memory for it
 * is asked for; empty if it was not. */
static _Thread_local char refusal[512];
static _Thread_local const void *refused_owner;

/* ---- a context's backend ---- */

typedef struct instance {
    struct gg_backend base;
    gg_backend_t cpu;
    work work;
    int knows_profile; /* the model has been looked at */
    tqkv_profile *profile;
    uint64_t profile_id;
    char refused[512]; /* why no graph is computed; empty if they are */
} instance;

static instance *instance_of(gg_backend_t b)
{
    return b->context;
}

static const char *backend_name(gg_backend_t b)
{
    (void)b;
    return NAME;
}

static void backend_free(gg_backend_t b)
{
    instance *i = instance_of(b);
    if (refused_owner == i)
        refusal[0] = 0;
    capture_finish(i->work.capture);
    work_free(&i->work);
    tqkv_profile_free(i->profile);
    i->cpu->iface.free(i->cpu);
    free(i);
}

static void refuse(instance *i, const char *why)
{
    if (!i->refused[0])
        gg.log(GG_LOG_ERROR, NAME ": %s\n", why);
    strncpy(i->refused, why, sizeof i->refused - 1);
}

static int has_attention(gg_graph *graph)
{
    for (int n = 0; n < gg.graph_n_nodes(graph); n++)
        if (node_kind_of(gg.graph_node(graph, n)) == NODE_ATTEND)
            return 1;
    return 0;
}

/* Finds the model's profile, at the first graph that would use it. */
static const char *meet_model(instance *i, gg_graph *graph)
{
    char fingerprint[FINGERPRINT_SIZE];
    if (i->knows_profile || !has_attention(graph) || !fingerprint_of(graph, fingerprint))
        return NULL;
    if (i->work.capture)
        capture_name(i->work.capture, fingerprint);
    const char *problem = profile_for(fingerprint, &i->profile, &i->profile_id);
    i->knows_profile = !problem;
    return problem;
}

static void graph_optimize(gg_backend_t b, gg_graph *graph, void *params)
{
    instance *i = instance_of(b);
    const char *problem = meet_model(i, graph);
    if (!problem)
        problem = graph_learn(&i->work.caches, graph, i->profile, i->profile_id);
    for (size_t c = 0; i->work.capture && c < i->work.caches.n; c++)
        if (i->work.caches.all[c].is_key)
            capture_prepare(i->work.capture, &i->work.caches.all[c]);
    if (problem)
        refuse(i, problem);
    else
        rotate_reserve(graph, params);
    memcpy(refusal, i->refused, sizeof refusal);
    refused_owner = i;
}

static int graph_compute(gg_backend_t b, gg_graph *graph)
{
    instance *i = instance_of(b);
    if (i->refused[0]) {
        refusal[0] = 0;
        return GG_STATUS_FAILED;
    }
    const char *problem = work_begin(&i->work, graph);
    int status = problem ? GG_STATUS_FAILED : i->cpu->iface.graph_compute(i->cpu, graph);
    if (!problem)
        problem = work_end(&i->work);
    if (problem) {
        gg.log(GG_LOG_ERROR, NAME ": %s\n", problem);
        return GG_STATUS_FAILED;
    }
    return status;
}

static uint8_t guid[16] = "tqkv cache rows";

static capture *capture_wanted(void)
{
    const char *path = getenv("TQKV_CAPTURE"), *keys = getenv("TQKV_CAPTURE_KEYS");
    const char *centres = getenv("TQKV_CAPTURE_CENTRES");
    long n = keys ? atol(keys) : 4096, m = centres ? atol(centres) : 64;
    return path && *path && n > 0 && m > 0 && m <= 256
               ? capture_create(path, (size_t)n, (uint32_t)m)
               : NULL;
}

static gg_backend_t device_init(gg_device_t d, const char *params)
{
    const char *reason;
    (void)params;
    refusal[0] = 0;
    gg_device_t cpu = gg_cpu_device(&reason);
    instance *i = cpu ? calloc(1, sizeof *i) : NULL;
    if (i)
        i->cpu = cpu->iface.init_backend(cpu, NULL);
    if (!i || !i->cpu || !i->cpu->iface.graph_compute || i->cpu->iface.synchronize ||
        i->cpu->iface.event_record || i->cpu->iface.graph_optimize || i->cpu->device != cpu) {
        gg.log(GG_LOG_ERROR, NAME ": %s\n",
               cpu ? "ggml's backends lie otherwise than this backend was made for" : reason);
        if (i && i->cpu)
            i->cpu->iface.free(i->cpu);
        free(i);
        return NULL;
    }
    i->base.guid = &guid;
    i->base.iface.get_name = backend_name;
    i->base.iface.free = backend_free;
    i->base.iface.graph_compute = graph_compute;
    i->base.iface.graph_optimize = graph_optimize;
    i->base.device = d;
    i->base.context = i;
    caches_init(&i->work.caches);
    i->work.n_threads = 4; /* ggml's own, until it says how many */
    i->work.capture = capture_wanted();
    return &i->base;
}

/* ---- memory ----
 *
 * llama.cpp assigns some nodes to the CPU by name; the scheduler brings them
 * back only to a backend whose memory is of the very same type. So tqkv's is the
 * CPU's, whose allocation is made to fail, once, for the thread whose graph was
 * refused. (The library is never unloaded, so that this stays valid.) */

static gg_buffer_t (*cpu_alloc)(gg_buffer_type_t, size_t);

static gg_buffer_t alloc_unless_refused(gg_buffer_type_t t, size_t size)
{
    if (!refusal[0])
        return cpu_alloc(t, size);
    gg.log(GG_LOG_ERROR, NAME ": no memory for a graph that was refused: %s\n", refusal);
    refusal[0] = 0;
    return NULL;
}

static void watch_memory(void)
{
    gg_buffer_type_t cpu = gg.cpu_buffer_type();
    if (cpu->iface.alloc_buffer == alloc_unless_refused)
        return;
    cpu_alloc = cpu->iface.alloc_buffer;
    cpu->iface.alloc_buffer = alloc_unless_refused;
}

/* ---- device ---- */

static const char *device_name(gg_device_t d)
{
    (void)d;
    return NAME;
}

static const char *device_description(gg_device_t d)
{
    (void)d;
    return "attention on a compressed KV cache";
}

static void device_memory(gg_device_t d, size_t *free_bytes, size_t *total)
{
    (void)d;
    *free_bytes = *total = 0;
}

static int device_type(gg_device_t d)
{
    (void)d;
    return GG_DEVICE_ACCEL;
}

static void device_props(gg_device_t d, gg_device_props *p)
{
    (void)d;
    p->name = NAME;
    p->description = device_description(d);
    p->memory_free = p->memory_total = 0;
    p->type = GG_DEVICE_ACCEL;
    memset(&p->caps, 0, sizeof p->caps);
}

static gg_buffer_type_t device_buffer_type(gg_device_t d)
{
    (void)d;
    return gg.cpu_buffer_type();
}

static bool device_supports_op(gg_device_t d, const gg_tensor *op)
{
    const char *reason;
    gg_device_t cpu = gg_cpu_device(&reason);
    (void)d;
    if (!cpu)
        return false;
    return node_kind_of(op) != NODE_OTHER || cpu->iface.supports_op(cpu, op);
}

static bool device_supports_buft(gg_device_t d, gg_buffer_type_t t)
{
    const char *reason;
    gg_device_t cpu = gg_cpu_device(&reason);
    (void)d;
    return cpu && cpu->iface.supports_buft(cpu, t);
}

/* ---- registry ---- */

static const char *registry_name(gg_reg_t r)
{
    (void)r;
    return NAME;
}

static size_t registry_count(gg_reg_t r)
{
    (void)r;
    return 1;
}

static gg_device_t registry_device(gg_reg_t r, size_t i)
{
    (void)r, (void)i;
    return &device;
}

/* The CPU's functions of these names, on the instance that computes. */
static void *cpu_function(const char *name)
{
    const char *reason;
    gg_device_t cpu = gg_cpu_device(&reason);
    return cpu ? cpu->reg->iface.get_proc_address(cpu->reg, name) : NULL;
}

static void set_n_threads(gg_backend_t b, int n)
{
    instance *i = instance_of(b);
    void *found = cpu_function("ggml_backend_set_n_threads");
    void (*set)(gg_backend_t, int);
    memcpy(&set, &found, sizeof set);
    if (set)
        set(i->cpu, n);
    i->work.n_threads = n > 0 ? (uint32_t)n : 1;
}

static void set_abort_callback(gg_backend_t b, bool (*callback)(void *), void *data)
{
    void *found = cpu_function("ggml_backend_set_abort_callback");
    void (*set)(gg_backend_t, bool (*)(void *), void *);
    memcpy(&set, &found, sizeof set);
    if (set)
        set(instance_of(b)->cpu, callback, data);
}

static void *registry_function(gg_reg_t r, const char *name)
{
    (void)r;
    void (*threads)(gg_backend_t, int) = set_n_threads;
    void (*abortion)(gg_backend_t, bool (*)(void *), void *) = set_abort_callback;
    void *found = NULL;
    if (!strcmp(name, "ggml_backend_set_n_threads"))
        memcpy(&found, &threads, sizeof found);
    else if (!strcmp(name, "ggml_backend_set_abort_callback"))
        memcpy(&found, &abortion, sizeof found);
    return found;
}

/* What ggml calls when it loads the library. */
__attribute__((visibility("default"))) gg_reg_t ggml_backend_init(void);

gg_reg_t ggml_backend_init(void)
{
    const char *problem = gg_bind(__builtin_return_address(0));
    if (problem) {
        (gg.log ? gg.log : gg_log_to_stderr)(GG_LOG_ERROR, NAME ": not loaded: %s\n", problem);
        return NULL;
    }
    device.iface.get_name = device_name;
    device.iface.get_description = device_description;
    device.iface.get_memory = device_memory;
    device.iface.get_type = device_type;
    device.iface.get_props = device_props;
    device.iface.init_backend = device_init;
    device.iface.get_buffer_type = device_buffer_type;
    device.iface.supports_op = device_supports_op;
    device.iface.supports_buft = device_supports_buft;
    device.reg = &registry;
    watch_memory();
    registry.api_version = GG_API_VERSION;
    registry.iface.get_name = registry_name;
    registry.iface.get_device_count = registry_count;
    registry.iface.get_device = registry_device;
    registry.iface.get_proc_address = registry_function;
    return &registry;
}
