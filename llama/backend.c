/*
 * The library that llama.cpp loads.
 *
 * It brings no device of its own. Where the user asks for it (TQKV_KV) it changes how ggml's
 * CPU device makes backends, and how the CPU's buffer type makes buffers (memory.h). Each
 * backend stays the CPU's own object, on the CPU's own device, but three of its functions are
 * replaced by those below, which call the CPU's. So llama.cpp decides about flash attention,
 * fused operations, threads and pipelines as it does without tqkv, and a graph without a cache
 * of ours goes straight to the CPU.
 *
 * The files, in the order in which data goes through them:
 *   backend.c settings.c ggml_abi.c   hooks, what the user asks for, what is known of ggml
 *   memory.c reserve.c                buffers of caches: addresses, and memory behind some
 *   cells.c rows.c                    one cache tensor: cells in pages; rows in saved states
 *   graph.c                           which nodes work on cells, and whether tqkv can
 *   work.c crew.c                     these nodes on ggml's threads
 *   store.c attend.c shift.c          the operations
 *   profiles.c capture.c              balances, and how they are fitted
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "settings.h"
#include "work.h"

#define NAME "tqkv"

/* ---- instances ---- */

/* What tqkv knows of one backend, of which each llama.cpp context has one. */
typedef struct instance {
    struct instance *next;
    gg_backend_t backend;
    struct { /* the CPU's own; optimize may be null */
        void (*free)(gg_backend_t);
        int (*compute)(gg_backend_t, gg_graph *);
        void (*optimize)(gg_backend_t, gg_graph *, void *);
    } cpu;
    work work;
    int knows_model; /* its profile has been looked for */
    model_profile profile;
    /* Why no graph is computed any more, or empty. */
    char problem[512];
} instance;

static instance *instances;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static instance *instance_of(gg_backend_t b)
{
    pthread_mutex_lock(&lock);
    instance *i = instances;
    while (i->backend != b)
        i = i->next;
    pthread_mutex_unlock(&lock);
    return i;
}

static void insert(instance *i)
{
    pthread_mutex_lock(&lock);
    i->next = instances;
    instances = i;
    pthread_mutex_unlock(&lock);
}

static void take_out(instance *i)
{
    pthread_mutex_lock(&lock);
    instance **at = &instances;
    while (*at != i)
        at = &(*at)->next;
    *at = i->next;
    pthread_mutex_unlock(&lock);
}

/* ---- a backend's functions ---- */

static void backend_free(gg_backend_t b)
{
    instance *i = instance_of(b);
    void (*cpu_free)(gg_backend_t) = i->cpu.free;
    take_out(i);
    capture_finish(i->work.capture);
    work_free(&i->work);
    tqkv_profile_free(i->profile.profile);
    free(i);
    cpu_free(b);
}

static int has_attention(gg_graph *graph)
{
    for (int n = 0; n < gg.graph_n_nodes(graph); n++)
        if (graph_kind(gg.graph_node(graph, n)) == NODE_ATTEND)
            return 1;
    return 0;
}

/* Finds the model's profile, at the first graph that would use it. */
static void meet_model(instance *i, gg_graph *graph)
{
    char fingerprint[FINGERPRINT_SIZE];
    if (i->knows_model || !has_attention(graph) || !fingerprint_of(graph, fingerprint))
        return;
    i->knows_model = 1;
    if (i->work.capture)
        capture_name(i->work.capture, fingerprint);
    const char *problem = profile_for(fingerprint, &i->profile);
    if (problem)
        gg.log(GG_LOG_WARN, NAME ": keys are kept without a profile: %s\n", problem);
}

static void prepare_capture(instance *i, gg_graph *graph)
{
    for (int n = 0; n < gg.graph_n_nodes(graph); n++) {
        const gg_tensor *t = gg.graph_node(graph, n);
        if (graph_kind(t) == NODE_ATTEND)
            capture_prepare(i->work.capture, memory_cells(t->src[1]));
    }
}

/* Graphs come here before memory is given to their tensors; also those that llama.cpp only
 * measures its memory by, before any row is stored. */
static void graph_optimize(gg_backend_t b, gg_graph *graph, void *params)
{
    instance *i = instance_of(b);
    if (i->cpu.optimize)
        i->cpu.optimize(b, graph, params);
    meet_model(i, graph);
    const char *problem = graph_learn(graph, &i->profile);
    if (problem)
        snprintf(i->problem, sizeof i->problem, "%s", problem);
    if (!problem && i->work.capture)
        prepare_capture(i, graph);
}

static int graph_compute(gg_backend_t b, gg_graph *graph)
{
    instance *i = instance_of(b);
    int status = GG_STATUS_FAILED;
    const char *problem = i->problem[0] ? i->problem
                                        : work_compute(&i->work, graph, i->cpu.compute, b, &status);
    if (problem)
        gg.log(GG_LOG_ERROR, NAME ": %s\n", problem);
    return problem ? GG_STATUS_FAILED : status;
}

/* ---- the CPU's device ---- */

static struct gg_reg registry;
static gg_backend_t (*cpu_init)(gg_device_t, const char *params);
static bool (*cpu_supports_buft)(gg_device_t, gg_buffer_type_t);

static const char *look_at(gg_backend_t b, gg_device_t d)
{
    return b->device != d || !b->iface.graph_compute || !b->iface.free || b->iface.synchronize ||
                   b->iface.event_record
               ? "ggml's backends lie otherwise than this library was made for"
               : NULL;
}

/* A backend that would not understand our buffers must not be: without it no context is made. */
static gg_backend_t init_backend(gg_device_t d, const char *params)
{
    gg_backend_t b = cpu_init(d, params);
    if (!b)
        return NULL;
    const char *problem = look_at(b, d);
    instance *i = problem ? NULL : calloc(1, sizeof *i);
    if (!i) {
        gg.log(GG_LOG_ERROR, NAME ": %s\n", problem ? problem : "out of memory");
        b->iface.free(b);
        return NULL;
    }
    i->backend = b;
    i->cpu.free = b->iface.free;
    i->cpu.compute = b->iface.graph_compute;
    i->cpu.optimize = b->iface.graph_optimize;
    settings s;
    if (!settings_read(&s) && s.capture)
        i->work.capture = capture_create(s.capture, s.capture_keys);
    insert(i);
    b->iface.free = backend_free;
    b->iface.graph_compute = graph_compute;
    b->iface.graph_optimize = graph_optimize;
    return b;
}

static bool supports_buft(gg_device_t d, gg_buffer_type_t t)
{
    return memory_is_ours(t) || cpu_supports_buft(d, t);
}

/* Null, or why everything stays as it is. The library is never unloaded, so that what is put
 * here stays valid. */
static const char *hook(void)
{
    const char *problem;
    gg_device_t cpu = gg_cpu_device(&problem);
    if (!cpu || cpu->iface.init_backend == init_backend)
        return problem;
    gg_reg_t other = gg.reg_by_name(NAME);
    if (other && other != &registry) /* itself, if it was loaded before anything was asked */
        return "another copy of this library is loaded already";
    problem = memory_hook();
    if (problem)
        return problem;
    cpu_init = cpu->iface.init_backend;
    cpu_supports_buft = cpu->iface.supports_buft;
    cpu->iface.init_backend = init_backend;
    cpu->iface.supports_buft = supports_buft;
    return NULL;
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
    return 0;
}

static gg_device_t registry_device(gg_reg_t r, size_t i)
{
    (void)r, (void)i;
    return NULL;
}

static void *registry_function(gg_reg_t r, const char *name)
{
    (void)r, (void)name;
    return NULL;
}

/* What ggml calls when it loads the library. */
__attribute__((visibility("default"))) gg_reg_t ggml_backend_init(void);

gg_reg_t ggml_backend_init(void)
{
    const char *problem = NULL;
    settings s;
    if (settings_are_wanted()) {
        problem = gg_bind(__builtin_return_address(0));
        if (!problem)
            problem = settings_read(&s);
        if (!problem)
            problem = hook();
    }
    if (problem) {
        (gg.log ? gg.log : gg_log_to_stderr)(GG_LOG_ERROR, NAME ": not loaded: %s\n", problem);
        return NULL;
    }
    registry.api_version = GG_API_VERSION;
    registry.iface.get_name = registry_name;
    registry.iface.get_device_count = registry_count;
    registry.iface.get_device = registry_device;
    registry.iface.get_proc_address = registry_function;
    return &registry;
}
