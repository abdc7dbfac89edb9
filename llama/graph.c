#include "graph.h"

#include <stdio.h>
#include <string.h>

#include "rotate.h"

/* ---- kinds ---- */

static int is_nothing(const gg_tensor *t)
{
    return t->op == gg.op_none || t->op == gg.op_view || t->op == gg.op_reshape ||
           t->op == gg.op_permute || t->op == gg.op_transpose;
}

node_kind node_kind_of(const gg_tensor *t)
{
    if (is_nothing(t))
        return NODE_OTHER;
    if (t->op == gg.op_set_rows && cache_tensor(t))
        return NODE_STORE;
    if (t->op == gg.op_flash_attn && (cache_tensor(t->src[1]) || cache_tensor(t->src[2])))
        return NODE_ATTEND;
    if (t->op == gg.op_cpy && cache_tensor(t))
        return NODE_SHIFT;
    if (t->op == gg.op_cpy && cache_tensor(t->src[0]))
        return NODE_LOAD;
    for (int i = 0; i < GG_MAX_SRC; i++)
        if (cache_tensor(t->src[i]))
            return NODE_UNKNOWN;
    return cache_tensor(t) ? NODE_UNKNOWN : NODE_OTHER;
}

/* ---- shapes ---- */

static int is_plain(int type)
{
    return type == GG_F32 || type == GG_F16 || type == GG_BF16;
}

/* [dim][tokens][heads][streams] as a view of [heads][dim] rows of the cache. */
static int is_view_of_rows(const gg_tensor *t, const gg_tensor *root)
{
    return t->nb[1] == root->nb[1] && t->nb[2] == gg.row_size(root->type, t->ne[0]) &&
           t->ne[0] * t->ne[2] == root->ne[0] && t->ne[1] <= root->ne[1] &&
           t->ne[3] <= root->ne[2] && (t->ne[3] == 1 || t->nb[3] == root->nb[2]) &&
           t->view_offs % root->nb[1] == 0;
}

static const char *check_operand(const gg_tensor *t)
{
    const gg_tensor *root = cache_tensor(t);
    if (root)
        return is_view_of_rows(t, root) ? NULL
                                        : "attention reads the cache in a layout tqkv does not know";
    return is_plain(t->type) && t->nb[0] == (t->type == GG_F32 ? 4u : 2u)
               ? NULL
               : "one of K and V is quantised by ggml and the other by tqkv";
}

/* A tensor that the scheduler copied from another device, which it names so:
 * whether llama.cpp has rotated it there cannot be seen. */
static int is_from_elsewhere(const gg_tensor *t)
{
    const gg_tensor *root = tensor_root(t);
    return root->op == gg.op_none && strchr(root->name, '#');
}

static const char from_elsewhere[] =
    "queries, keys or values are computed by another device, which may rotate them";

static const char *check_attention(const gg_tensor *t)
{
    const gg_tensor *q = t->src[0], *k = t->src[1], *v = t->src[2], *m = t->src[3];
    const gg_tensor *sinks = t->src[4];
    const gg_tensor *keys = cache_tensor(k), *values = cache_tensor(v);
    if (keys && keys == values)
        return "keys and values share one tensor (MLA), of which tqkv's codes can only be one";
    if ((keys && !cache_is_key(keys)) || (values && cache_is_key(values)))
        return "attention reads keys as values";
    if (is_from_elsewhere(q))
        return from_elsewhere;
    const char *problem = check_operand(k);
    if (!problem)
        problem = check_operand(v);
    if (problem)
        return problem;
    if (q->type != GG_F32 || t->type != GG_F32 || q->nb[0] != 4 || q->nb[1] % 4 || q->nb[2] % 4 ||
        q->ne[0] != k->ne[0] || k->ne[0] % 16 || v->ne[0] % 16 || q->ne[2] % k->ne[2] ||
        k->ne[2] != v->ne[2] || k->ne[1] != v->ne[1] || q->ne[3] % k->ne[3] ||
        k->ne[3] != v->ne[3])
        return "attention has a shape tqkv does not know";
    if (m && (m->type != GG_F16 || m->nb[0] != 2 || m->ne[0] < k->ne[1] || m->ne[1] < q->ne[1] ||
              (m->ne[2] != 1 && m->ne[2] != q->ne[2]) || q->ne[3] % m->ne[3] || m->nb[1] % 2 ||
              m->nb[2] % 2))
        return "attention has a mask tqkv does not know";
    if (sinks && sinks->type != GG_F32)
        return "attention has sinks tqkv does not know";
    return NULL;
}

static const char *check_store(const gg_tensor *t)
{
    const gg_tensor *rows = t->src[0], *at = t->src[1], *root = cache_tensor(t);
    if (is_from_elsewhere(rows))
        return from_elsewhere;
    if (rows->type != GG_F32 || rows->nb[0] != 4 || rows->nb[1] % 4 || rows->ne[2] != 1 ||
        rows->ne[3] != 1 || rows->ne[0] != root->ne[0] || t->nb[1] != root->nb[1] ||
        t->view_offs || (at->type != GG_I64 && at->type != GG_I32) || at->ne[0] != rows->ne[1])
        return "rows are stored into the cache in a way tqkv does not know";
    return NULL;
}

static const char *explain(const gg_tensor *t)
{
    static _Thread_local char message[256];
    snprintf(message, sizeof message,
             "%s (%s) reads or writes it, and tqkv computes nothing on a cache but flash attention "
             "(which -fa off, or the model itself, rules out)",
             gg.op_desc(t), t->name);
    return message;
}

static const char *check(const gg_tensor *t, node_kind kind)
{
    switch (kind) {
    case NODE_STORE:
        return check_store(t);
    case NODE_ATTEND:
        return check_attention(t);
    case NODE_UNKNOWN:
        return explain(t);
    default:
        return NULL;
    }
}

/* ---- learning ---- */

/* Whether queries, and keys with them, come rotated by llama.cpp. */
static int rotation_stays(const gg_tensor *q)
{
    return rotate_is_of_keys(tensor_root(q)) && !rotate_of(q);
}

static cache_pair pair_of(const gg_tensor *t)
{
    return (cache_pair){.keys = cache_tensor(t->src[1]), .values = cache_tensor(t->src[2]),
                        .key_dim = (uint32_t)t->src[1]->ne[0],
                        .value_dim = (uint32_t)t->src[2]->ne[0],
                        .n_heads = (uint32_t)t->src[1]->ne[2],
                        .is_rotated = rotation_stays(t->src[0])};
}

/* The first values (those that RoPE turns) of all heads of all slots, as
 * [values][heads][slots], against floats. */
static const char *check_copy(const cache *c, const gg_tensor *slots, const gg_tensor *floats)
{
    if (floats->type != GG_F32 || floats->nb[0] != 4 || floats->nb[1] % 4 || floats->nb[2] % 4 ||
        floats->ne[0] != slots->ne[0] || floats->ne[1] != slots->ne[1] ||
        floats->ne[2] != slots->ne[2] || slots->ne[3] != 1 || slots->view_offs ||
        slots->ne[0] > c->slot.format.head_dim || slots->ne[1] != c->n_heads ||
        (size_t)slots->ne[2] > c->n_slots || slots->nb[2] != c->row_bytes ||
        slots->nb[1] != c->slot.bytes)
        return "the cache is copied in a way tqkv does not know";
    return NULL;
}

/* Rows that are stored or copied are of a cache that some attention was seen
 * for: only that tells their head size. */
static const char *check_rows(const caches *c, const gg_tensor *t, node_kind kind)
{
    if (kind != NODE_STORE && kind != NODE_LOAD && kind != NODE_SHIFT)
        return NULL;
    const gg_tensor *slots = kind == NODE_LOAD ? t->src[0] : t;
    const cache *e = caches_find(c, cache_tensor(slots));
    if (!e)
        return "attention on this cache is computed by another device (keep the cache where tqkv "
               "is: on the CPU, without a GPU that takes attention over)";
    return kind == NODE_STORE ? NULL : check_copy(e, slots, kind == NODE_LOAD ? t : t->src[0]);
}

/* A rotation that is left out has no other reader than tqkv, but for that of
 * attention's output and those around RoPE. */
static const char *check_readers(const gg_tensor *t, node_kind kind)
{
    for (int i = 0; kind == NODE_OTHER && !is_nothing(t) && i < GG_MAX_SRC; i++) {
        const gg_tensor *r = t->src[i] ? rotate_of(t->src[i]) : NULL;
        if (!r)
            continue;
        const gg_tensor *from = tensor_root(r->src[1]);
        node_kind before = node_kind_of(from);
        if (before != NODE_ATTEND && before != NODE_LOAD)
            return "something beside the cache reads llama.cpp's rotation of keys or values: set "
                   "LLAMA_ATTN_ROT_DISABLE=1";
    }
    return NULL;
}

/* Where values' rotations are left out, those of the outputs have to be, too. */
static const char *check_outputs(gg_graph *graph)
{
    int is_left_out = 0, n = gg.graph_n_nodes(graph);
    for (int i = 0; i < n; i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        is_left_out |= node_kind_of(t) == NODE_STORE && !cache_is_key(cache_tensor(t)) &&
                       rotate_of(t->src[0]);
    }
    for (int i = 0; is_left_out && i < n; i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        if (node_kind_of(t) == NODE_ATTEND && cache_tensor(t->src[2]) && !rotate_follows(graph, t))
            return "attention's output is rotated by another device";
    }
    return NULL;
}

static int has_caches(gg_graph *graph)
{
    for (int i = 0; i < gg.graph_n_nodes(graph); i++)
        if (node_kind_of(gg.graph_node(graph, i)) != NODE_OTHER)
            return 1;
    return 0;
}

const char *graph_learn(caches *c, gg_graph *graph, const tqkv_profile *profile,
                        uint64_t profile_id)
{
    int n = has_caches(graph) ? gg.graph_n_nodes(graph) : 0;
    for (int i = 0; i < n; i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        node_kind kind = node_kind_of(t);
        const char *problem = check(t, kind);
        if (!problem && kind == NODE_ATTEND) {
            cache_pair pair = pair_of(t);
            problem = caches_add(c, &pair, profile, profile_id);
        }
        if (problem)
            return problem;
    }
    for (int i = 0; i < n; i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        node_kind kind = node_kind_of(t);
        const char *problem = check_rows(c, t, kind);
        if (!problem)
            problem = check_readers(t, kind);
        if (problem)
            return problem;
    }
    return n ? check_outputs(graph) : NULL;
}
