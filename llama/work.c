#include "work.h"

#include <stdlib.h>
#include <string.h>

#include "flash.h"
#include "rotate.h"
#include "store.h"

static void run(gg_tensor *dst, int ith, int nth, void *context)
{
    step *s = context;
    (void)dst;
    if (s->kind == NODE_ROTATE)
        copy_run(s, ith, nth);
    else if (s->kind == NODE_STORE)
        store_run(s, ith, nth);
    else if (s->kind == NODE_LOAD)
        load_run(s, ith, nth);
    else if (s->kind == NODE_SHIFT)
        shift_run(s, ith, nth);
    else
        flash_run(s, ith, nth);
}

static step *new_step(work *w)
{
    if (w->n_steps == w->max_steps) {
        size_t more = w->max_steps ? 2 * w->max_steps : 64;
        step **steps = realloc(w->steps, more * sizeof *steps);
        if (!steps)
            return NULL;
        w->steps = steps;
        memset(steps + w->max_steps, 0, (more - w->max_steps) * sizeof *steps);
        w->max_steps = more;
    }
    step **at = &w->steps[w->n_steps];
    if (!*at)
        *at = calloc(1, sizeof **at);
    if (*at)
        w->n_steps++;
    return *at;
}

static int is_first_of_mask(const work *w, const step *s)
{
    for (size_t i = 0; i < w->n_steps; i++) {
        const step *other = w->steps[i];
        if (other != s && other->kind == NODE_ATTEND && other->node->src[3] == s->node->src[3])
            return 0;
    }
    return 1;
}

static step *begin_step(work *w, gg_tensor *t, node_kind kind)
{
    step *s = new_step(w);
    if (!s)
        return NULL;
    s->work = w;
    s->node = t;
    s->kind = kind;
    s->op = t->op;
    s->keys = s->values = NULL;
    s->rotation = NULL;
    s->is_left_out = 0;
    memcpy(s->op_params, t->op_params, sizeof s->op_params);
    return s;
}

/* The entry of a cache tensor, which must be there; null for other tensors. */
static int find(work *w, const gg_tensor *t, cache **entry)
{
    const gg_tensor *root = cache_tensor(t);
    *entry = root ? caches_find(&w->caches, root) : NULL;
    return !root || *entry;
}

static const char *add(work *w, gg_tensor *t, node_kind kind)
{
    static const char unknown[] = "a cache tensor that no attention was seen for";
    step *s = begin_step(w, t, kind);
    if (!s)
        return "out of memory";
    s->rotation = kind == NODE_STORE || kind == NODE_ATTEND ? rotate_of(t->src[0]) : NULL;
    s->rows = kind == NODE_STORE ? rotate_data(t->src[0]) : NULL;
    s->shifts = kind == NODE_SHIFT ? rotate_shifts(t->src[0]) : NULL;
    if (kind != NODE_ATTEND)
        return find(w, kind == NODE_LOAD ? t->src[0] : t, &s->keys) ? NULL : unknown;
    if (!find(w, t->src[1], &s->keys) || !find(w, t->src[2], &s->values))
        return unknown;
    s->is_first_of_mask = is_first_of_mask(w, s);
    crew_reset(&s->crew);
    return flash_prepare(w, s);
}

/* Whether ggml reads a rotation that has to change nothing: behind attention that
 * was computed before, since graphs may come in pieces, and around RoPE, when keys
 * are moved. */
static int becomes_copy(const gg_tensor *rotation)
{
    const gg_tensor *from = tensor_root(rotation->src[1]);
    node_kind kind = node_kind_of(from);
    if (kind == NODE_ATTEND || kind == NODE_LOAD)
        return 1;
    const gg_tensor *before = from->src[0] ? rotate_of(from->src[0]) : NULL; /* RoPE's */
    return before && node_kind_of(tensor_root(before->src[1])) == NODE_LOAD;
}

/* Nothing is left of rotations whose result only tqkv reads. */
static const char *add_rotations(work *w, gg_graph *graph)
{
    size_t n = w->n_steps;
    for (int i = 0; i < gg.graph_n_nodes(graph); i++) {
        gg_tensor *t = gg.graph_node(graph, i);
        if (t->op != gg.op_mul_mat || rotate_of(t) != t)
            continue;
        int is_left_out = 0;
        for (size_t j = 0; j < n; j++)
            is_left_out |= w->steps[j]->rotation == t;
        if (!is_left_out && !becomes_copy(t))
            continue;
        step *s = begin_step(w, t, NODE_ROTATE);
        if (!s)
            return "out of memory";
        s->is_left_out = is_left_out;
    }
    return NULL;
}

static const char *collect(work *w, gg_graph *graph)
{
    for (int i = 0; i < gg.graph_n_nodes(graph); i++) {
        gg_tensor *t = gg.graph_node(graph, i);
        node_kind kind = node_kind_of(t);
        const char *problem = kind == NODE_UNKNOWN ? "an operation that tqkv has not"
                              : kind == NODE_OTHER ? NULL
                                                   : add(w, t, kind);
        if (problem)
            return problem;
    }
    return add_rotations(w, graph);
}

const char *work_begin(work *w, gg_graph *graph)
{
    w->n_steps = 0;
    w->failure = NULL;
    const char *problem = collect(w, graph);
    for (size_t i = 0; !problem && i < w->n_steps; i++) {
        step *s = w->steps[i];
        gg_custom_params params = {run, GG_ALL_TASKS, s};
        s->node->op = s->is_left_out ? gg.op_none : gg.op_custom;
        memcpy(s->node->op_params, &params, sizeof params);
    }
    return problem;
}

const char *work_end(work *w)
{
    for (size_t i = 0; i < w->n_steps; i++) {
        step *s = w->steps[i];
        s->node->op = s->op;
        memcpy(s->node->op_params, s->op_params, sizeof s->op_params);
    }
    return w->failure;
}

void work_free(work *w)
{
    for (size_t i = 0; i < w->max_steps; i++)
        free(w->steps[i]);
    free(w->steps);
    free(w->workspace);
    free(w->slopes);
    caches_free(&w->caches);
    *w = (work){0};
}
