#include "rotate.h"

#include <string.h>

static int is_contiguous(const gg_tensor *t)
{
    size_t stride = sizeof(float);
    for (int i = 0; i < GG_MAX_DIMS; i++) {
        if (t->type != GG_F32 || t->nb[i] != stride)
            return 0;
        stride *= (size_t)t->ne[i];
    }
    return 1;
}

static int is_product_with(const gg_tensor *t, const char *matrix)
{
    return t->op == gg.op_mul_mat && !strcmp(t->src[0]->name, matrix);
}

int rotate_is_of_keys(const gg_tensor *t)
{
    return is_product_with(t, "attn_inp_k_rot");
}

static int is_rotation(const gg_tensor *t)
{
    return gg.has_alloc_deps &&
           (rotate_is_of_keys(t) || is_product_with(t, "attn_inp_v_rot")) && is_contiguous(t) &&
           is_contiguous(t->src[1]);
}

const gg_tensor *rotate_of(const gg_tensor *t)
{
    const gg_tensor *root = tensor_root(t);
    return is_rotation(root) ? root : NULL;
}

void *rotate_data(const gg_tensor *t)
{
    const gg_tensor *r = rotate_of(t);
    if (!r)
        return t->data;
    return (uint8_t *)r->src[1]->data + ((uint8_t *)t->data - (uint8_t *)r->data);
}

int rotate_follows(gg_graph *graph, const gg_tensor *attention)
{
    for (int i = 0; i < gg.graph_n_nodes(graph); i++) {
        const gg_tensor *t = gg.graph_node(graph, i);
        if (is_rotation(t) && tensor_root(t->src[1]) == attention)
            return 1;
    }
    return 0;
}

const gg_tensor *rotate_shifts(const gg_tensor *keys)
{
    const gg_tensor *t = tensor_root(keys);
    while (rotate_is_of_keys(t))
        t = tensor_root(t->src[1]);
    return t->src[1] && t->src[1]->type == GG_I32 ? t->src[1] : NULL;
}

void rotate_reserve(gg_graph *graph, const gg_optimize_params *params)
{
    for (int i = 0; gg.has_alloc_deps && i < gg.graph_n_nodes(graph); i++) {
        gg_tensor *t = gg.graph_node(graph, i);
        node_kind kind = node_kind_of(t);
        if (kind != NODE_STORE && kind != NODE_ATTEND)
            continue;
        const gg_tensor *r = rotate_of(t->src[0]);
        if (r)
            params->add_alloc_dep(params->context, (gg_tensor *)tensor_root(r->src[1]), t);
    }
}
