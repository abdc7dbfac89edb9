#include "graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- kinds ---- */

static int is_nothing(const gg_tensor *t)
{
    return t->op == gg.op_none || t->op == gg.op_view || t->op == gg.op_reshape ||
           t->op == gg.op_permute || t->op == gg.op_transpose;
}

node_kind graph_kind(const gg_tensor *t)
{
    if (is_nothing(t))
        return NODE_OTHER;
    if (t->op == gg.op_set_rows && memory_cells(t))
        return NODE_STORE;
    if (t->op == gg.op_flash_attn && memory_cells(t->src[1]) && memory_cells(t->src[2]))
        return NODE_ATTEND;
    if (t->op == gg.op_rope && memory_cells(t) && t->view_src && memory_cells(t->src[0]))
        return NODE_SHIFT;
    for (int i = 0; i < GG_MAX_SRC; i++)
        if (memory_cells(t->src[i]))
            return NODE_UNKNOWN;
    return memory_cells(t) ? NODE_UNKNOWN : NODE_OTHER;
}

/* ---- what tqkv can do ---- */

/* [head_dim][tokens][heads][streams] as a view of rows of [heads][head_dim]. */
static int is_view_of_rows(const gg_tensor *t, const cells *c)
{
    size_t stream = c->row_bytes * c->n_cells;
    return t->type == GG_F16 && t->nb[0] == 2 && t->nb[1] == c->row_bytes &&
           t->nb[2] == 2 * (size_t)t->ne[0] && t->ne[0] * t->ne[2] == c->row_values &&
           t->ne[1] <= c->n_cells && t->view_offs % stream == 0 &&
           t->view_offs / stream + (size_t)t->ne[3] <= c->n_streams &&
           (t->ne[3] == 1 || t->nb[3] == stream);
}

static int is_known_mask(const gg_tensor *t)
{
    const gg_tensor *q = t->src[0], *k = t->src[1], *m = t->src[3];
    return !m || (m->type == GG_F16 && m->nb[0] == 2 && m->ne[0] >= k->ne[1] &&
                  m->ne[1] >= q->ne[1] && (m->ne[2] == 1 || m->ne[2] == q->ne[2]) &&
                  q->ne[3] % m->ne[3] == 0 && m->nb[1] % 2 == 0 && m->nb[2] % 2 == 0);
}

static const char *check_attention(const gg_tensor *t)
{
    const gg_tensor *q = t->src[0], *k = t->src[1], *v = t->src[2], *sinks = t->src[4];
    const cells *keys = memory_cells(k), *values = memory_cells(v);
    if (keys == values)
        return "keys and values are one tensor (MLA)";
    if (!keys->is_key || values->is_key)
        return "attention reads keys as values";
    if (!is_view_of_rows(k, keys) || !is_view_of_rows(v, values))
        return "attention reads it in a layout tqkv does not know";
    if (q->type != GG_F32 || t->type != GG_F32 || q->nb[0] != 4 || q->nb[1] % 4 || q->nb[2] % 4 ||
        q->ne[0] != k->ne[0] || q->ne[2] % k->ne[2] || k->ne[2] != v->ne[2] ||
        k->ne[1] != v->ne[1] || q->ne[3] % k->ne[3] || k->ne[3] != v->ne[3] ||
        k->view_offs / keys->row_bytes != v->view_offs / values->row_bytes ||
        keys->n_cells != values->n_cells || k->ne[0] % 16 || v->ne[0] % 16)
        return "attention has a shape tqkv does not know";
    if (!is_known_mask(t))
        return "attention has a mask tqkv does not know";
    if (sinks && sinks->type != GG_F32)
        return "attention has sinks tqkv does not know";
    return NULL;
}

static const char *check_store(const gg_tensor *t)
{
    const gg_tensor *rows = t->src[0], *at = t->src[1];
    const cells *c = memory_cells(t);
    if (rows->type != GG_F32 || rows->nb[0] != 4 || rows->nb[1] % 4 || rows->ne[2] != 1 ||
        rows->ne[3] != 1 || rows->ne[0] != c->row_values || t->nb[1] != c->row_bytes ||
        t->view_offs || (at->type != GG_I64 && at->type != GG_I32) || at->ne[0] != rows->ne[1])
        return "rows are stored in a way tqkv does not know (values are transposed where flash "
               "attention is off: leave -fa at auto, or on)";
    return NULL;
}

static const char *check_shift(const gg_tensor *t)
{
    const cells *c = memory_cells(t);
    const gg_tensor *by = t->src[1];
    if (!c->is_key || !c->n_heads || t->nb[0] != 2 || t->nb[2] != c->row_bytes ||
        t->nb[1] * (size_t)t->ne[1] != c->row_bytes ||
        (size_t)t->ne[2] != (size_t)c->n_cells * c->n_streams || by->type != GG_I32 ||
        by->ne[0] < t->ne[2])
        return "keys are moved in a way tqkv does not know";
    return NULL;
}

static const char *explain(const gg_tensor *t)
{
    static _Thread_local char message[256];
    snprintf(message, sizeof message,
             "%s works on it, and tqkv has only flash attention (leave -fa at auto, or on, where "
             "the model allows it)",
             gg.op_desc(t));
    return message;
}

static const char *check(const gg_tensor *t)
{
    switch (graph_kind(t)) {
    case NODE_STORE:
        return check_store(t);
    case NODE_ATTEND:
        return check_attention(t);
    case NODE_SHIFT:
        return check_shift(t);
    case NODE_UNKNOWN:
        return explain(t);
    default:
        return NULL;
    }
}

/* ---- what it does about it ---- */

/* All cells that the node works on become plain. */
static const char *give_up(const gg_tensor *t, const char *why)
{
    static _Thread_local char message[512];
    for (int i = -1; i < GG_MAX_SRC; i++) {
        const gg_tensor *of = i < 0 ? t : t->src[i];
        cells *c = memory_cells(of);
        if (c && c->settings->is_strict) {
            snprintf(message, sizeof message, "TQKV_STRICT is set, and %s cannot be kept in codes: "
                                              "%s", c->name, why);
            return message;
        }
        if (c && !memory_make_plain(c, why))
            return "there is no memory to turn the cache back into f16";
        if (c)
            memory_count(of);
    }
    return NULL;
}

static const char *learn_cells(cells *c, const gg_tensor *view, model_profile *profile)
{
    if (c->n_heads)
        return cells_learn(c, (uint32_t)view->ne[0], (uint32_t)view->ne[2], NULL, 0);
    uint64_t id = 0;
    float *balances = c->is_key ? profile_balances(profile, (uint32_t)c->layer,
                                                   (uint32_t)view->ne[2], (uint32_t)view->ne[0],
                                                   &id)
                                : NULL;
    return cells_learn(c, (uint32_t)view->ne[0], (uint32_t)view->ne[2], balances, id);
}

/* Null, or why not. */
static const char *learn(const gg_tensor *t, model_profile *profile)
{
    cells *keys = memory_cells(t->src[1]), *values = memory_cells(t->src[2]);
    int is_new = !keys->n_heads || !values->n_heads;
    const char *why = learn_cells(keys, t->src[1], profile);
    if (!why)
        why = learn_cells(values, t->src[2], profile);
    if (!why && is_new) {
        memory_count(t->src[1]);
        memory_count(t->src[2]);
    }
    return why;
}

const char *graph_learn(gg_graph *graph, model_profile *profile)
{
    int n = gg.graph_n_nodes(graph);
    for (int i = 0; i < n; i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        const char *why = check(t);
        if (!why && graph_kind(t) == NODE_ATTEND)
            why = learn(t, profile);
        if (!why)
            continue;
        why = give_up(t, why);
        if (why)
            return why;
        i = -1; /* cells that become plain take their partners with them */
    }
    return NULL;
}

const char *graph_check_stores(gg_graph *graph)
{
    for (int i = 0; i < gg.graph_n_nodes(graph); i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        const cells *c = graph_kind(t) == NODE_STORE ? memory_cells(t) : NULL;
        const char *why = c && !c->n_heads
                              ? give_up(t, "no attention on it was seen (on another device?)")
                              : NULL;
        if (why)
            return why;
    }
    return NULL;
}
