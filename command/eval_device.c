#include "eval_device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "device_rows.h"

static size_t row_bytes(const tqkv_format *f)
{
    size_t bytes = 0;
    tqkv_format_row_bytes(f, &bytes);
    return bytes;
}

int device_round_trip(const device *d, const capture *c, const tqkv_format *f,
                      const tqkv_profile *profile, const float *src, float *dst, uint8_t *rows,
                      device_span *time)
{
    size_t layer_rows = (size_t)c->n_tokens * c->n_kv_heads, row = row_bytes(f);
    uint8_t *own = rows ? NULL : allocate(layer_rows, row);
    int ok = rows || own;
    for (uint32_t i = 0; ok && i < c->n_layers; i++) {
        uint8_t *at = rows ? rows + i * layer_rows * row : own;
        size_t first = i * layer_rows * f->head_dim;
        double encode = 0, decode = 0;
        ok = device_encode(d, f, profile, i, c->n_kv_heads, src + first, TQKV_F32,
                           (size_t)c->n_tokens, at, &encode) &&
             device_decode(d, f, profile, i, c->n_kv_heads, at, (size_t)c->n_tokens, dst + first,
                           &decode);
        time->encode_seconds += encode;
        time->decode_seconds += decode;
        time->values += (double)layer_rows * f->head_dim;
    }
    free(own);
    return ok;
}

/* A layer's rows, [token][head]. */
static tqkv_operand operand(const capture *c, const tqkv_format *f, uint8_t *rows)
{
    size_t row = row_bytes(f);
    tqkv_operand o = {.format = *f, .head = {.codes = row, .scales = row}};
    tqkv_rows_at(f, rows, c->n_kv_heads * row, &o.rows);
    return o;
}

int device_eval_attention(const device *d, attention *a, const capture *c, const tqkv_format *keys,
                          const tqkv_format *values, const tqkv_profile *profile,
                          uint8_t *key_rows, uint8_t *value_rows)
{
    size_t n = (size_t)a->n_queries, heads = c->n_heads, rows = (size_t)c->n_tokens * c->n_kv_heads;
    float *queries = allocate(n * heads, c->head_dim * sizeof *queries);
    float *out = allocate(n * heads, c->v_head_dim * sizeof *out);
    uint32_t *lengths = allocate(n, sizeof *lengths);
    int ok = queries && out && lengths;
    for (size_t q = 0; ok && q < n; q++)
        lengths[q] = (uint32_t)attention_position(a, c, q) + 1;
    for (uint32_t i = 0; ok && i < c->n_layers; i++) {
        device_attention g = {
            .n_sequences = (uint32_t)n, .n_queries = 1, .n_heads = c->n_heads,
            .n_kv_heads = c->n_kv_heads, .lengths = lengths, .n_tokens = (size_t)c->n_tokens,
            .keys = operand(c, keys, key_rows + i * rows * row_bytes(keys)),
            .values = operand(c, values, value_rows + i * rows * row_bytes(values)),
            .profile = profile, .layer = i, .queries = queries, .out = out,
            .scale = 1 / sqrtf((float)c->head_dim)};
        for (size_t q = 0; q < n; q++)
            memcpy(queries + q * heads * c->head_dim,
                   c->queries + (i * c->n_tokens + lengths[q] - 1) * heads * c->head_dim,
                   heads * c->head_dim * sizeof *queries);
        ok = device_attend(d, &g);
        for (size_t q = 0; ok && q < n; q++)
            for (size_t h = 0; h < heads; h++)
                for (size_t k = 0; k < c->v_head_dim; k++)
                    a->outputs[((i * heads + h) * n + q) * c->v_head_dim + k] =
                        out[(q * heads + h) * c->v_head_dim + k];
    }
    free(queries);
    free(out);
    free(lengths);
    return ok;
}
