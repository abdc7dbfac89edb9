#include <string.h>

#include "cache/cache.h"
#include "common/f16.h"
#include "format/format.h"
#include "page/page.h"

tqkv_page entry_head(const cache_layer *l, uint32_t entry, operand_kind kind, uint32_t head)
{
    page_kind which = entry_kind(entry);
    const page_layout *p = &l->layouts[which];
    const page_pool *pool = &l->pools[which];
    const tqkv_format *f = format_of(l, kind);
    uint8_t *body = pool_page(pool, BODY, entry_page(entry)) + head * p->head_bytes[BODY];
    tqkv_page page = {
        .format = *f, .n_means = p->n_means,
        .rows = {.codes = body + p->codes[kind], .scales = body + p->scales[kind],
                 .code_stride = format_code_bytes(f), .scale_stride = format_scale_bytes(f)}};
    if (p->n_means) {
        uint8_t *means = pool_page(pool, MEANS, entry_page(entry)) + head * p->head_bytes[MEANS];
        page.means = means + p->means[kind];
        page.numbers = p->n_means > 1 ? means + p->numbers[kind] : NULL;
    }
    return page;
}

tqkv_page layer_page(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                     uint32_t head, size_t token)
{
    return entry_head(l, *sealed_entry(l, s, token), kind, head);
}

uint16_t *layer_half(const cache_layer *l, const sequence_layer *s, operand_kind kind,
                     uint32_t head, size_t token)
{
    const page_layout *p = &l->layouts[STAGED];
    int is_first = token < l->n_first;
    uint32_t page = is_first ? s->first[token / PAGE_TOKENS] : *tail_entry(l, s, token);
    size_t place = is_first ? token % PAGE_TOKENS : page_place(s, token);
    uint8_t *body = pool_page(&l->pools[STAGED], BODY, page) + head * p->head_bytes[BODY];
    return (uint16_t *)(body + p->codes[kind]) + place * head_dim_of(l, kind);
}

uint16_t *layer_copy_halves(const cache_layer *l, const sequence_layer *s, size_t token,
                            uint16_t *to)
{
    for (int kind = KEYS; kind < N_OPERANDS; kind++)
        for (uint32_t h = 0; h < l->shape.n_kv_heads; h++) {
            size_t dim = head_dim_of(l, (operand_kind)kind);
            memcpy(to, layer_half(l, s, (operand_kind)kind, h, token), dim * sizeof *to);
            to += dim;
        }
    return to;
}

const float *layer_balance(const cache_layer *l, operand_kind kind, uint32_t head)
{
    return kind == KEYS && l->balances ? l->balances + (size_t)head * l->shape.keys.head_dim : NULL;
}

void to_halves(const float *x, size_t n, uint16_t *half)
{
    for (size_t i = 0; i < n; i++) {
        float y = x[i] > F16_MAX ? F16_MAX : x[i] < -F16_MAX ? -F16_MAX : x[i];
        half[i] = f16_from_f32(y == y ? y : 0);
    }
}

void layer_read(const cache_layer *l, const sequence_layer *s, operand_kind kind, uint32_t head,
                size_t token, float *x)
{
    if (!is_coded(s, token)) {
        tqkv_to_f32(layer_half(l, s, kind, head, token), TQKV_F16, head_dim_of(l, kind), x);
        return;
    }
    tqkv_page page = layer_page(l, s, kind, head, token);
    tqkv_page_read(&page, layer_balance(l, kind, head), page_place(s, token), 1, TQKV_ORIGINAL, x,
                   0);
}

void layer_encode(const cache_layer *l, const sequence_layer *s, operand_kind kind, uint32_t head,
                  size_t first, size_t n, const void *page_rows, tqkv_type type)
{
    tqkv_page page = layer_page(l, s, kind, head, first);
    const float *balance = layer_balance(l, kind, head);
    size_t place = page_place(s, first), row = head_dim_of(l, kind) * (type == TQKV_F32 ? 4u : 2u);
    if (!page_has_before(s, first)) {
        tqkv_page_seal(&page, balance, page_rows, type, 0, page_first_rows(n) << place);
        return;
    }
    for (size_t i = place; i < place + n; i++)
        tqkv_page_write(&page, balance, i, (const uint8_t *)page_rows + i * row, type);
}
