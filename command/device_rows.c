#include "device_rows.h"

#include <stdlib.h>
#include <string.h>

#include "command.h"

/* The balances of one layer's heads, one after the other; null without. */
static int balance_buffer(const device *d, const tqkv_profile *profile, uint32_t layer,
                          uint32_t n_heads, tqkv_buffer **all)
{
    const float *balances;
    *all = NULL;
    if (tqkv_profile_balance(profile, layer, 0, &balances) == TQKV_OK)
        *all = device_buffer(d, balances, n_heads * (size_t)tqkv_profile_head_dim(profile) *
                                              sizeof *balances);
    return !profile || *all;
}

/* One call of either direction. */
typedef struct job {
    const device *d;
    const tqkv_format *f;
    const tqkv_profile *profile;
    uint32_t n_heads;
    size_t n_tokens, row;
    tqkv_type type;
    tqkv_buffer *values, *rows, *balances;
} job;

/* Rows head, head + step, ... by the head's balance. */
static tqkv_status record_rows(const job *j, int is_encode, uint32_t head, uint32_t step,
                               size_t n)
{
    const device *d = j->d;
    size_t dim = j->f->head_dim, element = j->type == TQKV_F32 ? 4 : 2;
    size_t offset = head * dim * element;
    tqkv_buffer *values = NULL, *balance = NULL;
    tqkv_gpu_rows rows;
    tqkv_status status = tqkv_buffer_view(j->values, offset,
                                          tqkv_buffer_size(j->values) - offset, &values);
    if (status == TQKV_OK && j->profile)
        status = tqkv_buffer_view(j->balances, head * dim * sizeof(float), dim * sizeof(float),
                                  &balance);
    if (status == TQKV_OK)
        status = tqkv_gpu_rows_at(j->f, j->rows, head * j->row, step * j->row, &rows);
    if (status == TQKV_OK && is_encode)
        status = tqkv_dispatch_encode(d->encoder, d->registry, j->f, balance, values, j->type,
                                      step * dim, n, &rows);
    else if (status == TQKV_OK)
        status = tqkv_dispatch_decode(d->encoder, d->registry, j->f, balance, &rows, n,
                                      TQKV_ORIGINAL, values, j->type, step * dim);
    tqkv_buffer_free(values);
    tqkv_buffer_free(balance);
    return status;
}

/* All rows in one dispatch, or with balances one for each head. */
static tqkv_status record(const job *j, int is_encode)
{
    tqkv_status status = TQKV_OK;
    if (!j->profile)
        return record_rows(j, is_encode, 0, 1, j->n_tokens * j->n_heads);
    for (uint32_t h = 0; h < j->n_heads && status == TQKV_OK; h++)
        status = record_rows(j, is_encode, h, j->n_heads, j->n_tokens);
    return status;
}

static int run_timed(const job *j, int is_encode, double *taken)
{
    const device *d = j->d;
    tqkv_event *from = NULL, *to = NULL;
    double seconds_taken = 0;
    tqkv_status status = tqkv_event_create(d->device, &from);
    if (status == TQKV_OK)
        status = tqkv_event_create(d->device, &to);
    if (status == TQKV_OK)
        status = tqkv_encoder_record(d->encoder, from);
    if (status == TQKV_OK)
        status = record(j, is_encode);
    if (status == TQKV_OK)
        status = tqkv_encoder_record(d->encoder, to);
    int ok = device_ok(d, is_encode ? "encoding" : "decoding", status) && device_run(d) &&
             device_ok(d, "time", tqkv_event_elapsed(from, to, &seconds_taken));
    if (taken)
        *taken = seconds_taken;
    tqkv_event_free(from);
    tqkv_event_free(to);
    return ok;
}

static int job_start(job *j, uint32_t layer, const void *values, const uint8_t *rows)
{
    size_t n = j->n_tokens * j->n_heads, element = j->type == TQKV_F32 ? 4 : 2;
    tqkv_format_row_bytes(j->f, &j->row);
    j->values = device_buffer(j->d, values, n * j->f->head_dim * element);
    j->rows = j->values ? device_buffer(j->d, rows, n * j->row) : NULL;
    return j->rows && balance_buffer(j->d, j->profile, layer, j->n_heads, &j->balances);
}

static void job_end(job *j)
{
    tqkv_buffer_free(j->values);
    tqkv_buffer_free(j->rows);
    tqkv_buffer_free(j->balances);
}

int device_encode(const device *d, const tqkv_format *f, const tqkv_profile *profile,
                  uint32_t layer, uint32_t n_heads, const void *src, tqkv_type type,
                  size_t n_tokens, uint8_t *rows, double *taken)
{
    job j = {.d = d, .f = f, .profile = profile, .n_heads = n_heads, .n_tokens = n_tokens,
             .type = type};
    int ok = job_start(&j, layer, src, NULL) && run_timed(&j, 1, taken) &&
             device_ok(d, "download",
                       tqkv_buffer_download(j.rows, 0, rows, n_tokens * n_heads * j.row));
    job_end(&j);
    return ok;
}

int device_decode(const device *d, const tqkv_format *f, const tqkv_profile *profile,
                  uint32_t layer, uint32_t n_heads, const uint8_t *rows, size_t n_tokens,
                  float *dst, double *taken)
{
    job j = {.d = d, .f = f, .profile = profile, .n_heads = n_heads, .n_tokens = n_tokens,
             .type = TQKV_F32};
    size_t bytes = n_tokens * n_heads * f->head_dim * sizeof(float);
    int ok = job_start(&j, layer, NULL, rows) && run_timed(&j, 0, taken) &&
             device_ok(d, "download", tqkv_buffer_download(j.values, 0, dst, bytes));
    job_end(&j);
    return ok;
}

/* ---- attention ---- */

/* An operand's memory, from its first code to the end of its last row. */
static int operand_buffer(const device *d, const device_attention *a, const tqkv_operand *o,
                          tqkv_gpu_operand *out, tqkv_buffer **buffer)
{
    size_t row = o->format.head_dim * (o->type == TQKV_F32 ? 4u : 2u), last = a->n_tokens - 1;
    const tqkv_rows *r = &o->rows;
    if (o->format.codebook)
        tqkv_format_row_bytes(&o->format, &row);
    size_t bytes = last * r->code_stride + (a->n_kv_heads - 1) * o->head.codes + row;
    *buffer = device_buffer(d, r->codes, bytes);
    *out = (tqkv_gpu_operand){.format = o->format, .type = o->type};
    out->rows = (tqkv_gpu_rows){
        .codes = *buffer, .code_stride = r->code_stride, .scale_stride = r->scale_stride};
    if (o->format.codebook) {
        out->rows.scales = *buffer;
        out->rows.scale_offset = (size_t)(r->scales - r->codes);
    }
    out->head = (tqkv_gpu_strides){o->head.codes, o->head.scales, 0};
    return *buffer != NULL;
}

static int attend_with(const device *d, const device_attention *a, tqkv_gpu_attention *g,
                       size_t out_bytes)
{
    size_t bytes;
    if (!device_ok(d, "attention", tqkv_gpu_attend_workspace(d->device, g, &bytes)))
        return 0;
    tqkv_buffer *workspace = device_buffer(d, NULL, bytes);
    int ok = workspace &&
             device_ok(d, "attention", tqkv_dispatch_attend(d->encoder, d->registry, g, workspace)) &&
             device_run(d) &&
             device_ok(d, "download", tqkv_buffer_download(g->out, 0, a->out, out_bytes));
    tqkv_buffer_free(workspace);
    return ok;
}

int device_attend(const device *d, const device_attention *a)
{
    size_t rows = (size_t)a->n_sequences * a->n_queries * a->n_heads;
    size_t query_bytes = rows * a->keys.format.head_dim * sizeof(float);
    size_t out_bytes = rows * a->values.format.head_dim * sizeof(float);
    tqkv_buffer *keys = NULL, *values = NULL;
    tqkv_gpu_attention g = {
        .n_sequences = a->n_sequences, .n_queries = a->n_queries, .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads, .query_type = TQKV_F32, .out_type = TQKV_F32,
        .position = a->position, .n_tokens = (uint32_t)a->n_tokens, .scale = a->scale,
        .causal = 1};
    int ok = operand_buffer(d, a, &a->keys, &g.keys, &keys) &&
             operand_buffer(d, a, &a->values, &g.values, &values) &&
             balance_buffer(d, a->profile, a->layer, a->n_kv_heads, &g.keys.balances) &&
             (g.queries = device_buffer(d, a->queries, query_bytes)) != NULL &&
             (g.out = device_buffer(d, NULL, out_bytes)) != NULL;
    if (ok && a->lengths)
        ok = (g.lengths = device_buffer(d, a->lengths, a->n_sequences * sizeof *a->lengths)) !=
             NULL;
    ok = ok && attend_with(d, a, &g, out_bytes);
    tqkv_buffer *used[] = {keys, values, g.keys.balances, g.queries, g.out, g.lengths};
    for (int i = 0; i < 6; i++)
        tqkv_buffer_free(used[i]);
    return ok;
}
