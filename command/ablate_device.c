#include "ablate_device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* Buffers of one layer: [0] keys, [1] values. */
typedef struct legs {
    const device *d;
    const capture *c;
    tqkv_format f;
    uint32_t bits;
    tqkv_buffer *rotated[2], *decoded[2]; /* [head][token][head_dim] f32 */
    tqkv_buffer *packed[2], *norms[2];
    tqkv_buffer *source, *one; /* [token][head] as captured; one position decoded */
    tqkv_buffer *query, *out, *workspace;
    float *host;               /* of the size of `rotated` */
} legs;

static size_t layer_floats(const legs *l)
{
    return (size_t)l->c->n_tokens * l->c->n_kv_heads * l->c->head_dim;
}

static tqkv_flash_attn_vec_params params_of(const legs *l, uint32_t tokens)
{
    const capture *c = l->c;
    return (tqkv_flash_attn_vec_params){
        .num_heads = c->n_heads, .num_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
        .kv_seq_len = tokens, .kv_capacity = (uint32_t)c->n_tokens,
        .scale = 1 / sqrtf((float)c->head_dim), .mask_type = 1, .scale_factor_d512 = 1};
}

static int prepare(legs *l)
{
    const capture *c = l->c;
    size_t n = layer_floats(l), bytes;
    tqkv_mlx_shape shape = {l->bits, c->n_kv_heads, c->head_dim, (uint32_t)c->n_tokens};
    size_t packed, norms;
    tqkv_flash_attn_vec_params p = params_of(l, (uint32_t)c->n_tokens);
    tqkv_mlx_sizes(&shape, &packed, &norms);
    if (!device_ok(l->d, "attention", tqkv_flash_attn_vec_workspace(l->d->device, &p, &bytes)))
        return 0;
    int ok = (l->host = allocate(n, sizeof *l->host)) != NULL;
    for (int i = 0; i < 2 && ok; i++)
        ok = (l->rotated[i] = device_buffer(l->d, NULL, n * 4)) &&
             (l->decoded[i] = device_buffer(l->d, NULL, n * 4)) &&
             (l->packed[i] = device_buffer(l->d, NULL, packed)) &&
             (l->norms[i] = device_buffer(l->d, NULL, norms * 4));
    return ok && (l->source = device_buffer(l->d, NULL, n * 4)) &&
           (l->one = device_buffer(l->d, NULL, (size_t)c->n_kv_heads * c->head_dim * 4)) &&
           (l->query = device_buffer(l->d, NULL, (size_t)c->n_heads * c->head_dim * 4)) &&
           (l->out = device_buffer(l->d, NULL, (size_t)c->n_heads * c->head_dim * 4)) &&
           (l->workspace = device_buffer(l->d, NULL, bytes));
}

static void release(legs *l)
{
    tqkv_buffer *all[] = {l->rotated[0], l->rotated[1], l->decoded[0], l->decoded[1],
                          l->packed[0], l->packed[1], l->norms[0], l->norms[1],
                          l->source, l->one, l->query, l->out, l->workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tqkv_buffer_free(all[i]);
    free(l->host);
}

/* One position after the other, as the reference does, to [head][token]. */
static tqkv_status decode_positions(const legs *l, int i)
{
    const capture *c = l->c;
    const device *d = l->d;
    size_t row = c->head_dim * sizeof(float);
    tqkv_status status = TQKV_OK;
    for (uint32_t t = 0; t < c->n_tokens && status == TQKV_OK; t++) {
        if (l->bits == 4)
            status = tqkv_dispatch_dequantize_kv(
                d->encoder, d->registry, d->device, l->packed[i], l->norms[i], l->one,
                c->n_kv_heads, c->head_dim, (uint32_t)c->n_tokens, t, 1);
        else
            status = tqkv_dispatch_dequantize_hb_kv(
                d->encoder, d->registry, d->device, l->packed[i], l->norms[i], l->one,
                c->n_kv_heads, c->head_dim, (uint32_t)c->n_tokens, t, 1, l->bits);
        for (uint32_t h = 0; h < c->n_kv_heads && status == TQKV_OK; h++)
            status = tqkv_encoder_copy(d->encoder, l->one, h * row, l->decoded[i],
                                       (h * (size_t)c->n_tokens + t) * row, row);
    }
    return status;
}

/* The norms of a kernel with a wrong scale. */
static int multiply_norms(const legs *l, int i, double factor)
{
    size_t n = tqkv_buffer_size(l->norms[i]) / sizeof(float);
    float *norms = allocate(n, sizeof *norms);
    int ok = norms && device_ok(l->d, "download",
                                tqkv_buffer_download(l->norms[i], 0, norms, n * sizeof *norms));
    for (size_t k = 0; ok && k < n; k++)
        norms[k] = (float)(norms[k] * factor);
    ok = ok && device_ok(l->d, "upload",
                         tqkv_buffer_upload(l->norms[i], 0, norms, n * sizeof *norms));
    free(norms);
    return ok;
}

/* A layer's keys or values to all three forms. */
static int load(legs *l, int i, const float *x, double wrong_scale)
{
    const capture *c = l->c;
    const device *d = l->d;
    size_t n = layer_floats(l), dim = c->head_dim;
    for (uint32_t h = 0; h < c->n_kv_heads; h++)
        tqkv_rotate(&l->f, x + h * dim, c->n_kv_heads * dim, (size_t)c->n_tokens,
                    l->host + h * (size_t)c->n_tokens * dim, 0);
    if (!device_ok(d, "upload", tqkv_buffer_upload(l->rotated[i], 0, l->host, n * 4)) ||
        !device_ok(d, "upload", tqkv_buffer_upload(l->source, 0, x, n * 4)))
        return 0;
    tqkv_status status =
        l->bits == 4
            ? tqkv_dispatch_hadamard_quantize_kv(d->encoder, d->registry, d->device, l->source,
                                                 TQKV_F32, l->packed[i], l->norms[i], NULL,
                                                 c->n_kv_heads, c->head_dim,
                                                 (uint32_t)c->n_tokens, 0, (uint32_t)c->n_tokens)
            : tqkv_dispatch_hadamard_quantize_kv_hb(
                  d->encoder, d->registry, d->device, l->source, TQKV_F32, l->packed[i],
                  l->norms[i], NULL, c->n_kv_heads, c->head_dim, (uint32_t)c->n_tokens, 0,
                  (uint32_t)c->n_tokens, l->bits);
    if (status == TQKV_OK)
        status = decode_positions(l, i);
    return device_ok(d, "legs", status) && device_run(d) &&
           (wrong_scale == 1 || multiply_norms(l, i, wrong_scale));
}

/* One query position: dense on originals (0), on decoded rows (1), on codes (2). */
static int attend(const legs *l, int leg, uint32_t tokens, float *out)
{
    const device *d = l->d;
    tqkv_flash_attn_vec_params p = params_of(l, tokens);
    tqkv_status status;
    if (leg < 2)
        status = tqkv_dispatch_flash_attn_vec(
            d->encoder, d->registry, d->device, l->query, leg ? l->decoded[0] : l->rotated[0],
            leg ? l->decoded[1] : l->rotated[1], TQKV_F32, l->out, l->workspace, &p);
    else if (l->bits == 4)
        status = tqkv_dispatch_flash_attn_vec_tq(d->encoder, d->registry, d->device, l->query,
                                                 l->packed[0], l->norms[0], l->packed[1],
                                                 l->norms[1], l->out, l->workspace, &p);
    else
        status = tqkv_dispatch_flash_attn_vec_hb(d->encoder, d->registry, d->device, l->query,
                                                 l->packed[0], l->norms[0], l->packed[1],
                                                 l->norms[1], l->out, l->workspace, &p, l->bits);
    return device_ok(d, "legs", status) && device_run(d) &&
           device_ok(d, "download",
                     tqkv_buffer_download(l->out, 0, out, tqkv_buffer_size(l->out)));
}

static int run_layer(legs *l, uint64_t layer, uint32_t n_queries, float *const *outs)
{
    const capture *c = l->c;
    size_t row = (size_t)c->n_heads * c->head_dim;
    int ok = 1;
    for (uint32_t q = 0; ok && q < n_queries; q++) {
        uint64_t position = c->n_tokens - n_queries + q;
        tqkv_rotate(&l->f, c->queries + (layer * c->n_tokens + position) * row, 0, c->n_heads,
                    l->host, 0);
        ok = device_ok(l->d, "upload", tqkv_buffer_upload(l->query, 0, l->host, row * 4));
        for (int leg = 0; ok && leg < 3; leg++)
            ok = attend(l, leg, (uint32_t)position + 1,
                        outs[leg] + (layer * n_queries + q) * row);
    }
    return ok;
}

int device_reference_legs(const device *d, const capture *c, const tqkv_format *f,
                          uint32_t n_queries, double wrong_scale, float *dense, float *decoded,
                          float *codes)
{
    legs l = {.d = d, .c = c, .f = *f, .bits = f->bits};
    float *const outs[] = {dense, decoded, codes};
    if (c->v_head_dim != c->head_dim)
        return !failed("the reference has keys and values of one head_dim");
    int ok = prepare(&l);
    for (uint64_t i = 0; ok && i < c->n_layers; i++) {
        size_t first = (size_t)i * layer_floats(&l);
        ok = load(&l, 0, c->keys + first, wrong_scale) &&
             load(&l, 1, c->values + first, wrong_scale) &&
             run_layer(&l, i, n_queries, outs);
    }
    release(&l);
    return ok;
}
