#include "work.h"

#include <stdlib.h>
#include <string.h>

#include "flash.h"
#include "store.h"

static void run(gg_tensor *dst, int ith, int nth, void *context)
{
    step *s = context;
    (void)dst;
    if (s->kind == NODE_STORE)
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

static const char *add(work *w, gg_tensor *t, node_kind kind)
{
    step *s = new_step(w);
    if (!s)
        return "out of memory";
    s->work = w;
    s->node = t;
    s->kind = kind;
    s->op = t->op;
    memcpy(s->op_params, t->op_params, sizeof s->op_params);
    const gg_tensor *first = kind == NODE_ATTEND ? t->src[1] : kind == NODE_LOAD ? t->src[0] : t;
    const gg_tensor *root = cache_tensor(first);
    s->keys = root ? caches_find(&w->caches, root) : NULL;
    s->values = NULL;
    if (root && !s->keys)
        return "a cache tensor that no attention was seen for";
    if (kind != NODE_ATTEND)
        return NULL;
    root = cache_tensor(t->src[2]);
    s->values = root ? caches_find(&w->caches, root) : NULL;
    if (root && !s->values)
        return "a cache tensor that no attention was seen for";
    s->is_first_of_mask = is_first_of_mask(w, s);
    crew_reset(&s->crew);
    return flash_prepare(w, s);
}

const char *work_begin(work *w, gg_graph *graph)
{
    w->n_steps = 0;
    w->failure = NULL;
    int n = gg.graph_n_nodes(graph);
    for (int i = 0; i < n; i++) {
        gg_tensor *t = gg.graph_node(graph, i);
        node_kind kind = node_kind_of(t);
        const char *problem = kind == NODE_UNKNOWN ? "an operation that tqkv has not"
                              : kind == NODE_OTHER ? NULL
                                                   : add(w, t, kind);
        if (problem)
            return problem;
    }
    for (size_t i = 0; i < w->n_steps; i++) {
        step *s = w->steps[i];
        gg_custom_params params = {run, GG_ALL_TASKS, s};
        s->node->op = gg.op_custom;
        memcpy(s->node->op_params, &params, sizeof params);
    }
    return NULL;
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
