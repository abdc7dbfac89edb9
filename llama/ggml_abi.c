#include "ggml_abi.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

gg_api gg;

void gg_log_to_stderr(int level, const char *text, ...)
{
    va_list arguments;
    (void)level;
    va_start(arguments, text);
    vfprintf(stderr, text, arguments);
    va_end(arguments);
}

/* ---- finding ---- */

typedef struct init_params {
    size_t size;
    void *memory;
    bool no_alloc;
} init_params;

/* Functions that make the tensors to look at. */
typedef struct maker {
    gg_context *(*init)(init_params);
    void (*free)(gg_context *);
    size_t (*tensor_overhead)(void);
    gg_tensor *(*new_4d)(gg_context *, int, int64_t, int64_t, int64_t, int64_t);
    gg_tensor *(*set_name)(gg_tensor *, const char *);
    gg_tensor *(*view_2d)(gg_context *, gg_tensor *, int64_t, int64_t, size_t, size_t);
    gg_tensor *(*reshape_1d)(gg_context *, gg_tensor *, int64_t);
    gg_tensor *(*permute)(gg_context *, gg_tensor *, int, int, int, int);
    gg_tensor *(*transpose)(gg_context *, gg_tensor *);
    gg_tensor *(*set_rows)(gg_context *, gg_tensor *, gg_tensor *, gg_tensor *);
    gg_tensor *(*rope)(gg_context *, gg_tensor *, gg_tensor *, gg_tensor *, int n_dims, int mode,
                       int n_ctx, float, float, float, float, float, float);
    gg_tensor *(*flash)(gg_context *, gg_tensor *, gg_tensor *, gg_tensor *, gg_tensor *,
                        float, float, float);
    void (*add_sinks)(gg_tensor *, gg_tensor *);
    gg_tensor *(*custom)(gg_context *, int, int64_t, int64_t, int64_t, int64_t, gg_tensor **,
                         int, gg_custom_function, int, void *);
} maker;

/* The functions of the library that calls, and of those it needs: also where
 * they were loaded without being made global, as by Python. */
static void *handle_of(const void *caller)
{
    Dl_info info;
    void *handle = NULL;
    if (dladdr(caller, &info) && info.dli_fname)
        handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    return handle ? handle : dlopen(NULL, RTLD_LAZY);
}

static const char *find_all(void *handle, maker *m)
{
    const struct {
        const char *name;
        void *function; /* a pointer to a function pointer */
        int is_optional;
    } wanted[] = {
        {"ggml_backend_dev_by_type", &gg.dev_by_type, 0},
        {"ggml_backend_dev_by_name", &gg.dev_by_name, 0},
        {"ggml_backend_reg_by_name", &gg.reg_by_name, 0},
        {"ggml_backend_cpu_buffer_type", &gg.cpu_buffer_type, 0},
        {"ggml_backend_buffer_free", &gg.buffer_free, 0},
        {"ggml_graph_n_nodes", &gg.graph_n_nodes, 0},
        {"ggml_graph_node", &gg.graph_node, 0},
        {"ggml_op_desc", &gg.op_desc, 0},
        {"ggml_type_name", &gg.type_name, 0},
        {"ggml_nbytes", &gg.nbytes, 0},
        {"ggml_backend_tensor_get", &gg.tensor_get, 0},
        {"ggml_log_internal", &gg.log, 1},
        {"ggml_init", &m->init, 0},
        {"ggml_free", &m->free, 0},
        {"ggml_tensor_overhead", &m->tensor_overhead, 0},
        {"ggml_new_tensor_4d", &m->new_4d, 0},
        {"ggml_set_name", &m->set_name, 0},
        {"ggml_view_2d", &m->view_2d, 0},
        {"ggml_reshape_1d", &m->reshape_1d, 0},
        {"ggml_permute", &m->permute, 0},
        {"ggml_transpose", &m->transpose, 0},
        {"ggml_set_rows", &m->set_rows, 0},
        {"ggml_rope_ext_inplace", &m->rope, 0},
        {"ggml_flash_attn_ext", &m->flash, 0},
        {"ggml_flash_attn_ext_add_sinks", &m->add_sinks, 0},
        {"ggml_custom_4d", &m->custom, 0},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *found = dlsym(handle, wanted[i].name);
        if (!found && !wanted[i].is_optional)
            return "the program does not export ggml's functions (one linked statically has to be "
                   "built with -rdynamic), or its ggml is too old";
        memcpy(wanted[i].function, &found, sizeof found);
    }
    if (!gg.log)
        gg.log = gg_log_to_stderr;
    return NULL;
}

/* ---- checking ---- */

static int is_shape(const gg_tensor *t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return t->ne[0] == a && t->ne[1] == b && t->ne[2] == c && t->ne[3] == d;
}

static void probe(gg_tensor *dst, int ith, int nth, void *context)
{
    (void)dst, (void)ith, (void)nth, (void)context;
}

/* Types, shapes, strides, names, views, sources and parameters where they are
 * expected; operations' numbers on the way. */
static int look_at_tensors(const maker *m, gg_context *c)
{
    gg_tensor *t = m->new_4d(c, GG_Q4_0, 64, 5, 3, 2);
    m->set_name(t, "cache_k_l7");
    if (t->type != GG_Q4_0 || !is_shape(t, 64, 5, 3, 2) || t->nb[0] != 18 || t->nb[1] != 36 ||
        t->nb[2] != 180 || t->nb[3] != 540 || strcmp(t->name, "cache_k_l7") || t->view_src ||
        t->src[0] || t->buffer || t->data)
        return 0;
    gg_tensor *view = m->view_2d(c, t, 64, 2, 36, 72);
    if (view->view_src != t || view->view_offs != 72 || view->src[0] != t)
        return 0;
    gg.op_none = t->op;
    gg.op_view = view->op;
    gg_tensor *rows = m->new_4d(c, GG_F32, 64, 2, 1, 1), *at = m->new_4d(c, GG_I64, 2, 1, 1, 1);
    gg.op_reshape = m->reshape_1d(c, rows, 128)->op;
    gg.op_permute = m->permute(c, rows, 0, 2, 1, 3)->op;
    gg.op_transpose = m->transpose(c, rows)->op;
    gg_tensor *flat = m->view_2d(c, t, 64, 5, 36, 0);
    gg_tensor *set = m->set_rows(c, flat, rows, at);
    if (set->src[0] != rows || set->src[1] != at || set->view_src != t)
        return 0;
    gg.op_set_rows = set->op;
    gg_tensor *halves = m->new_4d(c, GG_F16, 64, 3, 2, 1), *moves = m->new_4d(c, GG_I32, 2, 1, 1, 1);
    gg_tensor *rope = m->rope(c, halves, moves, NULL, 64, 2, 0, 1e4f, 1, 0, 1, 32, 1);
    if (rope->view_src != halves || rope->src[0] != halves || rope->src[1] != moves)
        return 0;
    gg.op_rope = rope->op;
    gg_tensor *q = m->new_4d(c, GG_F32, 64, 2, 6, 1), *k = m->new_4d(c, GG_F16, 64, 7, 3, 1);
    gg_tensor *mask = m->new_4d(c, GG_F16, 7, 2, 1, 1), *sinks = m->new_4d(c, GG_F32, 6, 1, 1, 1);
    gg_tensor *flash = m->flash(c, q, k, k, mask, .5f, 2, 3);
    m->add_sinks(flash, sinks);
    float numbers[3];
    memcpy(numbers, flash->op_params, sizeof numbers);
    if (flash->src[0] != q || flash->src[2] != k || flash->src[3] != mask ||
        flash->src[4] != sinks || !is_shape(flash, 64, 6, 2, 1) || numbers[0] != .5f ||
        numbers[1] != 2 || numbers[2] != 3)
        return 0;
    gg.op_flash_attn = flash->op;
    gg_tensor *custom = m->custom(c, GG_F32, 1, 1, 1, 1, &rows, 1, probe, GG_ALL_TASKS, &gg);
    gg_custom_params params;
    memcpy(&params, custom->op_params, sizeof params);
    gg.op_custom = custom->op;
    return params.function == probe && params.n_tasks == GG_ALL_TASKS && params.context == &gg;
}

static int look_at_types(void)
{
    static const struct {
        int type;
        const char *name;
    } known[] = {{GG_F32, "f32"}, {GG_F16, "f16"}, {GG_Q4_0, "q4_0"}, {GG_I32, "i32"},
                 {GG_I64, "i64"}, {GG_BF16, "bf16"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *name = gg.type_name(known[i].type);
        if (!name || strcmp(name, known[i].name))
            return 0;
    }
    return 1;
}

const char *gg_bind(const void *caller)
{
    maker m;
    void *handle = handle_of(caller);
    if (!handle)
        return "ggml's functions cannot be looked up";
    const char *problem = find_all(handle, &m);
    if (problem)
        return problem;
    /* ggml asks for so much for a tensor, beside an object of its own. */
    size_t overhead = m.tensor_overhead();
    if (overhead < sizeof(gg_tensor) || overhead > sizeof(gg_tensor) + 64)
        return "ggml's tensors have another size than this backend was made for";
    if (!look_at_types())
        return "ggml numbers its types otherwise than this backend was made for";
    gg_context *c = m.init((init_params){.size = 32 * overhead, .no_alloc = true});
    if (!c)
        return "out of memory";
    int fits = look_at_tensors(&m, c);
    m.free(c);
    return fits ? NULL : "ggml's tensors lie otherwise than this backend was made for";
}

gg_device_t gg_cpu_device(const char **reason)
{
    gg_device_t d = gg.dev_by_type(GG_DEVICE_CPU);
    *reason = "ggml's CPU backend is not loaded; load it first";
    if (!d)
        return NULL;
    *reason = "ggml's devices lie otherwise than this backend was made for";
    if (!d->reg || d->reg->api_version != GG_API_VERSION || !d->iface.get_name ||
        gg.dev_by_name(d->iface.get_name(d)) != d || d->iface.get_type(d) != GG_DEVICE_CPU ||
        d->iface.get_buffer_type(d) != gg.cpu_buffer_type() || !d->iface.supports_op ||
        !d->iface.supports_buft || d->iface.events[0])
        return NULL;
    *reason = NULL;
    return d;
}
