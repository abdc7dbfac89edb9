/*
 * The library that llama.cpp loads.
 *
 * It brings no device of its own. It changes how ggml's CPU device makes its
 * backends: each backend stays the CPU's own object, on the CPU's own device,
 * but three of its functions are replaced by those below, which call the CPU's.
 * So llama.cpp decides about flash attention, fused operations, threads and
 * pipelines as it does without tqkv, and a graph without a cache of ours goes
 * straight to the CPU. In a graph with one, the nodes on cache tensors become
 * custom operations, and the CPU computes the whole graph on its own threads.
 *
 * What tqkv cannot compute shows in the graphs that llama.cpp reserves memory
 * for, before any row has been stored. Then tqkv stands aside for that context:
 * its cache holds what ggml puts there, and one warning says why.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rotate.h"
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
    int knows_profile; /* the model has been looked at */
    tqkv_profile *profile;
    uint64_t profile_id;
    int is_aside;      /* ggml computes this context's graphs alone */
    int has_started;   /* rows may have been stored */
    /* Why the next graph is not computed, or empty. The pieces of a graph are all learnt
     * before the first is computed. */
    char problem[256];
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
    tqkv_profile_free(i->profile);
    free(i);
    cpu_free(b);
}

static int has_attention(gg_graph *graph)
{
    for (int n = 0; n < gg.graph_n_nodes(graph); n++)
        if (node_kind_of(gg.graph_node(graph, n)) == NODE_ATTEND)
            return 1;
    return 0;
}

/* Finds the model's profile, at the first graph that would use it. */
static void meet_model(instance *i, gg_graph *graph)
{
    char fingerprint[FINGERPRINT_SIZE];
    if (i->knows_profile || !has_attention(graph) || !fingerprint_of(graph, fingerprint))
        return;
    i->knows_profile = 1;
    if (i->work.capture)
        capture_name(i->work.capture, fingerprint);
    const char *problem = profile_for(fingerprint, &i->profile, &i->profile_id);
    if (problem)
        gg.log(GG_LOG_WARN, NAME ": keys are kept without a profile: %s\n", problem);
}

/* Before the first row ggml can take the cache over; behind it, the graph fails. */
static void cannot(instance *i, const char *why)
{
    if (i->has_started) {
        snprintf(i->problem, sizeof i->problem, "%s", why);
        return;
    }
    gg.log(GG_LOG_WARN, NAME ": not used in this context, whose cache is llama.cpp's own: %s\n",
           why);
    i->is_aside = 1;
    caches_free(&i->work.caches);
}

static void learn(instance *i, gg_graph *graph, void *params)
{
    meet_model(i, graph);
    const char *why = graph_learn(&i->work.caches, graph, i->profile, i->profile_id);
    if (why) {
        cannot(i, why);
        return;
    }
    for (size_t c = 0; i->work.capture && c < i->work.caches.n; c++)
        if (i->work.caches.all[c].is_key)
            capture_prepare(i->work.capture, &i->work.caches.all[c]);
    rotate_reserve(graph, params);
}

static void graph_optimize(gg_backend_t b, gg_graph *graph, void *params)
{
    instance *i = instance_of(b);
    if (i->cpu.optimize)
        i->cpu.optimize(b, graph, params);
    if (!i->is_aside)
        learn(i, graph, params);
}

static int graph_compute(gg_backend_t b, gg_graph *graph)
{
    instance *i = instance_of(b);
    if (i->is_aside || !i->work.caches.n)
        return i->cpu.compute(b, graph);
    const char *problem = i->problem[0] ? i->problem : work_begin(&i->work, graph);
    if (problem) {
        gg.log(GG_LOG_ERROR, NAME ": %s\n", problem);
        i->problem[0] = 0;
        return GG_STATUS_FAILED;
    }
    if (!i->has_started && i->work.n_steps) {
        caches_describe(&i->work.caches, i->profile != NULL);
        i->has_started = 1;
    }
    int status = i->cpu.compute(b, graph);
    problem = work_end(&i->work);
    if (problem)
        gg.log(GG_LOG_ERROR, NAME ": %s\n", problem);
    return problem ? GG_STATUS_FAILED : status;
}

static capture *capture_wanted(void)
{
    const char *path = getenv("TQKV_CAPTURE"), *keys = getenv("TQKV_CAPTURE_KEYS");
    const char *centres = getenv("TQKV_CAPTURE_CENTRES");
    long n = keys ? atol(keys) : 4096, m = centres ? atol(centres) : 64;
    return path && *path && n > 0 && m > 0 && m <= 256
               ? capture_create(path, (size_t)n, (uint32_t)m)
               : NULL;
}

/* ---- the CPU's device ---- */

static gg_backend_t (*cpu_init)(gg_device_t, const char *params);

static gg_backend_t init_backend(gg_device_t d, const char *params)
{
    gg_backend_t b = cpu_init(d, params);
    if (!b || b->device != d || !b->iface.graph_compute || !b->iface.free ||
        b->iface.synchronize || b->iface.event_record) {
        if (b)
            gg.log(GG_LOG_WARN, NAME ": not used: ggml's backends lie otherwise than this library "
                                     "was made for\n");
        return b;
    }
    instance *i = calloc(1, sizeof *i);
    if (!i) {
        gg.log(GG_LOG_WARN, NAME ": not used: out of memory\n");
        return b;
    }
    i->backend = b;
    i->cpu.free = b->iface.free;
    i->cpu.compute = b->iface.graph_compute;
    i->cpu.optimize = b->iface.graph_optimize;
    caches_init(&i->work.caches);
    i->work.capture = capture_wanted();
    insert(i);
    b->iface.free = backend_free;
    b->iface.graph_compute = graph_compute;
    b->iface.graph_optimize = graph_optimize;
    return b;
}

/* Null, or why the CPU's device stays as it is. The library is never unloaded,
 * so that what is put here stays valid. */
static const char *hook(void)
{
    const char *problem;
    gg_device_t cpu = gg_cpu_device(&problem);
    if (!cpu || cpu->iface.init_backend == init_backend)
        return problem;
    if (gg.reg_by_name(NAME))
        return "another copy of this library is loaded already";
    cpu_init = cpu->iface.init_backend;
    cpu->iface.init_backend = init_backend;
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
    static struct gg_reg registry;
    const char *problem = gg_bind(__builtin_return_address(0));
    if (!problem)
        problem = hook();
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
