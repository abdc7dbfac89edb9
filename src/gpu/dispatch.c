#include "gpu/dispatch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/format.h"
#include "format/rotation.h"

tqkv_status dispatch_check(tqkv_encoder *e, tqkv_registry *registry, tqkv_device *device)
{
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status != TQKV_OK)
        return status;
    status = handle_check(registry, HANDLE_REGISTRY);
    if (status != TQKV_OK)
        return FAILED(e, status, "the registry is null or freed");
    return device == e->device ? TQKV_OK
                               : FAILED(e, TQKV_ERROR_ARGUMENT, "the encoder is of another device");
}

int buffer_is_aligned(const tqkv_buffer *b, size_t offset, size_t alignment)
{
    /* OpenCL's and Metal's handles are no addresses; theirs are aligned well. */
    uintptr_t base = b->device->backend->has_addresses ? (uintptr_t)b->memory : 0;
    return (base + b->offset + offset) % alignment == 0;
}

tqkv_status dispatch_check_buffer(tqkv_encoder *e, const tqkv_buffer *b, size_t offset,
                                  uint64_t bytes, size_t alignment, const char *what)
{
    tqkv_status status = buffer_check(b, e->device);
    if (status != TQKV_OK)
        return FAILED(e, status, "%s: is null, freed or of another device", what);
    if (offset > b->bytes || bytes > b->bytes - offset)
        return FAILED(e, TQKV_ERROR_BUFFER, "%s: has %zu bytes, need %llu from %zu on", what,
                      b->bytes, (unsigned long long)bytes, offset);
    if (!buffer_is_aligned(b, offset, alignment))
        return FAILED(e, TQKV_ERROR_ARGUMENT, "%s: does not begin at a multiple of %zu bytes",
                      what, alignment);
    return TQKV_OK;
}

uint64_t product3(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product) || __builtin_mul_overflow(product, c, &product))
        return UINT64_MAX;
    return product;
}

uint64_t sum2(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

tqkv_status launch_find(launch *l, tqkv_encoder *e, tqkv_registry *registry, const char *name,
                        const char *options)
{
    if (!e->device->backend->specialises)
        options = NULL;
    tqkv_status status =
        registry_find(registry, name, options ? options : "", e->device, &l->pipeline);
    if (status != TQKV_OK) {
        char text[REPORT_SIZE];
        tqkv_registry_message(registry, text, sizeof text);
        FAILED(e, status, "%s", text);
    }
    return status;
}

tqkv_status launch_record(const launch *l, tqkv_encoder *e, const void *params, size_t size)
{
    return (l->is_entered ? encoder_record_dispatch : tqkv_encoder_dispatch)(
        e, l->pipeline, l->buffers, l->n_buffers, params, size, l->groups, l->n_items,
        l->local_bytes);
}

tqkv_status launch_set_groups(launch *l, tqkv_encoder *e, uint64_t n)
{
    enum { ROW = 65535 };
    uint64_t rows = (n + ROW - 1) / ROW;
    if (rows > ROW)
        return FAILED(e, TQKV_ERROR_OVERFLOW, "%llu groups are too many for a dispatch",
                      (unsigned long long)n);
    l->groups[0] = (uint32_t)(n < ROW ? n : ROW);
    l->groups[1] = (uint32_t)rows;
    l->groups[2] = 1;
    return TQKV_OK;
}

void format_params_set(format_params *p, const tqkv_format *f, unsigned type, float scale_factor)
{
    memset(p, 0, sizeof *p);
    p->head_dim = f->head_dim;
    p->kind = f->codebook;
    p->type = type;
    p->bits = p->code_bits = f->bits;
    p->block_factor = scale_factor;
    p->inverse_root = (float)(1 / sqrt((double)f->head_dim));
    if (f->codebook == 0) {
        p->code_bytes = f->head_dim * (uint)type_size(type);
    } else {
        p->code_bytes = (uint)format_code_bytes(f);
    }
    if (f->codebook == TQKV_CODEBOOK_MLX) /* nibbles or bytes */
        p->code_bits = f->bits == 4 ? 4 : 8;
}

size_t format_options(char *text, size_t size, const char *prefix, const format_params *f)
{
    return (size_t)snprintf(text, size,
                            "%s_CODE_BITS=%u %s_KIND=%u %s_BITS=%u %s_WORDS=%u %s_TYPE=%u %s_DIM=%u "
                            "%s_CODE_BYTES=%u ",
                            prefix, f->code_bits, prefix, f->kind, prefix, f->bits, prefix, f->words,
                            prefix, f->type, prefix, f->head_dim, prefix, f->code_bytes);
}

void rotation_params_set(rotation_params *p, const tqkv_format *f, int inverse)
{
    rotation r;
    memset(p, 0, sizeof *p);
    p->order = 1;
    if (f->codebook == 0 || f->rotation == TQKV_ROTATION_NONE)
        return;
    rotation_init(&r, f->head_dim, f->rotation);
    p->order = r.order;
    p->active = 1;
    p->has_signs = (uint)r.has_signs;
    p->inverse_root = r.inverse_root;
    memcpy(p->signs, r.signs, sizeof p->signs);
    if (r.order > 1)
        memcpy(p->outer, inverse ? r.outer_transposed : r.outer, r.order * sizeof *p->outer);
}

int rows_have_words(const format_params *p, const tqkv_buffer *codes, size_t offset,
                    size_t strides)
{
    return p->kind != 0 && p->code_bytes % 4 == 0 && strides % 4 == 0 &&
           buffer_is_aligned(codes, offset, 4);
}

int is_type(unsigned type)
{
    return type == TQKV_F32 || type == TQKV_F16 || type == TQKV_BF16;
}
