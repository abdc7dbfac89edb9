#include "flash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rotate.h"

/* ---- preparing ---- */

static tqkv_type plain_type(int type)
{
    return type == GG_F32 ? TQKV_F32 : type == GG_F16 ? TQKV_F16 : TQKV_BF16;
}

static tqkv_operand operand_of(const gg_tensor *t, const cache *c)
{
    if (!c)
        return (tqkv_operand){.format = {.head_dim = (uint16_t)t->ne[0]},
                              .type = (uint8_t)plain_type(t->type),
                              .rows = {.codes = t->data, .code_stride = t->nb[1]},
                              .head = {.codes = t->nb[2]}};
    return (tqkv_operand){.format = c->slot.format,
                          .rows = slot_rows(&c->slot, t->data, t->nb[1]),
                          .head = {.codes = t->nb[2], .scales = t->nb[2],
                                   .centres = c->slot.centre_at ? t->nb[2] : 0},
                          .profiles = c->profiles};
}

static const char *reserve_slopes(work *w, uint32_t n)
{
    if (w->n_slopes >= n)
        return NULL;
    float *slopes = realloc(w->slopes, n * sizeof *slopes);
    if (!slopes)
        return "out of memory";
    w->slopes = slopes;
    w->n_slopes = n;
    return NULL;
}

/* ALiBi's factors for the mask, as ggml has them: Press et al. (2022),
 * arXiv:2108.12409. */
static void set_slopes(float *slopes, uint32_t n, float max_bias)
{
    uint32_t whole = 1;
    while (whole * 2 <= n)
        whole *= 2;
    float even = powf(2, -max_bias / (float)whole), odd = powf(2, -max_bias / 2 / (float)whole);
    for (uint32_t h = 0; h < n; h++)
        slopes[h] = h < whole ? powf(even, (float)(h + 1)) : powf(odd, (float)(2 * (h - whole) + 1));
}

static void set_mask(tqkv_attention *a, const gg_tensor *mask)
{
    if (!mask)
        return;
    a->mask = mask->data;
    a->mask_type = TQKV_F16;
    a->mask_stride = mask->nb[1] / sizeof(uint16_t);
    a->mask_head_stride = mask->ne[2] > 1 ? mask->nb[2] / sizeof(uint16_t) : 0;
}

const char *flash_prepare(work *w, step *s)
{
    const gg_tensor *t = s->node, *q = t->src[0], *k = t->src[1], *v = t->src[2];
    float numbers[3]; /* scale, max_bias, softcap */
    memcpy(numbers, t->op_params, sizeof numbers);
    s->tokens = (tqkv_tokens){.n_tokens = (size_t)k->ne[1], .keys = operand_of(k, s->keys),
                              .values = operand_of(v, s->values)};
    s->attention = (tqkv_attention){
        .n_queries = (uint32_t)q->ne[1], .n_heads = (uint32_t)q->ne[2],
        .n_kv_heads = (uint32_t)k->ne[2], .queries = rotate_data(q), .query_type = TQKV_F32,
        .query_stride = q->nb[1] / sizeof(float), .head_stride = q->nb[2] / sizeof(float),
        .scale = numbers[0], .softcap = numbers[2],
        .sinks = t->src[4] ? t->src[4]->data : NULL, .sets = &s->tokens, .n_sets = 1};
    set_mask(&s->attention, t->src[3]);
    return reserve_slopes(w, s->attention.n_heads);
}

/* ---- foreign rows ---- */

static int is_seen(const gg_tensor *t, size_t stream, size_t token)
{
    const gg_tensor *m = t->src[3];
    if (!m)
        return 1;
    for (int64_t i = 0; i < t->src[0]->ne[1] * m->ne[2]; i++) {
        const uint8_t *row = (const uint8_t *)m->data + stream % (size_t)m->ne[3] * m->nb[3] +
                             (size_t)(i % m->ne[2]) * m->nb[2] + (size_t)(i / m->ne[2]) * m->nb[1];
        uint16_t half;
        memcpy(&half, row + token * sizeof half, sizeof half);
        if (half != 0xFC00)
            return 1;
    }
    return 0;
}

static cache *tagged(const step *s)
{
    return s->values ? s->values : s->keys;
}

/* Whether the rows of a slot in all layers that see the same tokens are ours. */
static int are_ours(const work *w, const step *first, size_t slot)
{
    for (size_t i = 0; i < w->n_steps; i++) {
        const step *s = w->steps[i];
        if (s->kind == NODE_ATTEND && s->node->src[3] == first->node->src[3] &&
            slot < tagged(s)->n_slots && !cache_is_ours(tagged(s), slot))
            return 0;
    }
    return 1;
}

/* Rows may be moved as bytes, and read from files. Those that somebody else has
 * put where attention sees them have to carry the tag. */
static int check_rows(const step *s)
{
    const gg_tensor *t = s->node, *view = s->values ? t->src[2] : t->src[1];
    cache *c = tagged(s);
    size_t first = view->view_offs / c->row_bytes;
    size_t per_stream = (size_t)c->tensor->ne[1];
    for (size_t stream = 0; stream < (size_t)view->ne[3]; stream++)
        for (size_t token = 0; token < (size_t)view->ne[1]; token++) {
            size_t slot = first + stream * per_stream + token;
            if (slot >= c->n_slots)
                return 0;
            if (!cache_is_changed(c, slot) || !is_seen(t, stream, token))
                continue;
            if (!are_ours(s->work, s, slot))
                return 0;
            cache_accept(c, slot);
        }
    return 1;
}

/* ---- running ---- */

static void move_rows(tqkv_rows *r, size_t bytes)
{
    r->codes += bytes;
    r->scales = r->scales ? r->scales + bytes : NULL;
    r->centres = r->centres ? r->centres + bytes : NULL;
}

/* Memory for this many threads, which grows and stays. Null, or what is wrong. */
static const char *reserve_workspace(const step *s, const tqkv_executor *executor)
{
    work *w = s->work;
    size_t bytes;
    tqkv_status status = tqkv_attend_workspace(&s->attention, executor, &bytes);
    if (status != TQKV_OK)
        return tqkv_status_string(status);
    if (w->workspace_size < bytes) {
        free(w->workspace);
        w->workspace = malloc(bytes);
        w->workspace_size = w->workspace ? bytes : 0;
    }
    return w->workspace ? NULL : "out of memory";
}

static void lead(step *s, int nth)
{
    const gg_tensor *t = s->node, *q = t->src[0], *k = t->src[1], *v = t->src[2], *m = t->src[3];
    work *w = s->work;
    if (s->is_first_of_mask && !check_rows(s))
        w->failure = "the cache holds rows that were made with another format or profile, or by "
                     "llama.cpp itself: the state that was loaded is not of this configuration";
    tqkv_executor executor = {.n_threads = (uint32_t)nth, .run = crew_run, .context = &s->crew};
    if (!w->failure)
        w->failure = reserve_workspace(s, &executor);
    if (w->failure)
        return;
    float bias;
    memcpy(&bias, &s->op_params[1], sizeof bias);
    if (bias > 0)
        set_slopes(w->slopes, s->attention.n_heads, bias);
    size_t streams = (size_t)q->ne[3], shared = streams / (size_t)k->ne[3];
    for (size_t i = 0; i < streams; i++) {
        tqkv_tokens tokens = s->tokens;
        tqkv_attention a = s->attention;
        tqkv_partial result = {.out = (float *)((uint8_t *)t->data + i * t->nb[3])};
        move_rows(&tokens.keys.rows, i / shared * k->nb[3]);
        move_rows(&tokens.values.rows, i / shared * v->nb[3]);
        a.queries = (const uint8_t *)s->attention.queries + i * q->nb[3];
        a.sets = &tokens;
        if (m)
            a.mask = (const uint8_t *)m->data + i % (size_t)m->ne[3] * m->nb[3];
        a.mask_slopes = bias > 0 ? w->slopes : NULL;
        tqkv_status status = tqkv_attend(&a, &result, &executor, w->workspace, w->workspace_size);
        if (status != TQKV_OK)
            w->failure = tqkv_status_string(status);
    }
}

void flash_run(step *s, int ith, int nth)
{
    if (ith > 0) {
        crew_follow(&s->crew);
        return;
    }
    if (s->work->capture && s->keys)
        capture_queries(s->work->capture, s->keys, s->node->src[0], s->attention.queries);
    lead(s, nth);
    crew_finish(&s->crew);
}
