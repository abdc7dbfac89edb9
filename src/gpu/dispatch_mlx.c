/* The reference's dispatches on its own layout. */
#include <math.h>
#include <stdio.h>

#include "format/format.h"
#include "gpu/dispatch.h"

/* A cache in the reference's layout. */
typedef struct mlx_cache {
    const char *name; /* of the dispatch, for messages */
    uint32_t heads, head_dim, capacity, bits;
    tqkv_buffer *packed, *norms;
} mlx_cache;

static uint32_t norms_per_position(uint32_t head_dim)
{
    return mlx_norms_per_position(head_dim);
}

static uint64_t code_bytes(const mlx_cache *c)
{
    return c->bits == 4 ? c->head_dim / 2 : c->head_dim;
}

static tqkv_status check_cache(tqkv_encoder *e, const mlx_cache *c)
{
    char what[64];
    uint64_t packed = product3(c->heads, c->capacity, code_bytes(c));
    uint64_t norms = product3(c->heads, c->capacity, 4ull * norms_per_position(c->head_dim));
    snprintf(what, sizeof what, "%s: packed", c->name);
    /* one byte has the only nibble of a head_dim of 1 */
    tqkv_status status =
        dispatch_check_buffer(e, c->packed, 0, packed ? packed : 1, 1, what);
    snprintf(what, sizeof what, "%s: norms", c->name);
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, c->norms, 0, norms, 4, what);
    return status;
}

static tqkv_status check_bits(tqkv_encoder *e, const char *name, uint32_t bits, int with_4)
{
    if (bits == 5 || bits == 6 || bits == 8 || (with_4 && bits == 4))
        return TQKV_OK;
    return FAILED(e, TQKV_ERROR_BITS, "%s: codebook_bits must be %s5, 6, or 8, got %u", name,
                  with_4 ? "4, " : "", bits);
}

static tqkv_status check_power(tqkv_encoder *e, const char *name, uint32_t head_dim)
{
    if (head_dim & (head_dim - 1))
        return FAILED(e, TQKV_ERROR_HEAD_DIM_POWER, "%s: head_dim must be a power of two, got %u",
                      name, head_dim);
    return TQKV_OK;
}

static tqkv_status check_factor(tqkv_encoder *e, const char *name, uint32_t head_dim, float factor)
{
    if (head_dim > 256 && (!isfinite(factor) || factor == 0))
        return FAILED(e, TQKV_ERROR_ARGUMENT, "%s: scale_factor_d512 is %g", name, (double)factor);
    return TQKV_OK;
}

static tqkv_status check_dst(tqkv_encoder *e, const char *name, const tqkv_buffer *dst,
                             uint64_t elements, tqkv_type type)
{
    char what[64];
    snprintf(what, sizeof what, "%s: dst", name);
    return dispatch_check_buffer(e, dst, 0, product3(elements, type_size(type), 1),
                                 type_size(type), what);
}

/* One group for each head, as the reference has it. */
static tqkv_status dequantize_one(tqkv_encoder *e, tqkv_registry *registry, const mlx_cache *c,
                                  tqkv_buffer *dst, uint32_t read_pos, float scale_factor,
                                  const char *kernel)
{
    tqkv_status status = check_factor(e, c->name, c->head_dim, scale_factor);
    if (status == TQKV_OK && c->head_dim > INT32_MAX)
        status = FAILED(e, TQKV_ERROR_OVERFLOW, "%s: head_dim %u", c->name, c->head_dim);
    if (status == TQKV_OK)
        status = check_dst(e, c->name, dst, (uint64_t)c->heads * c->head_dim, TQKV_F32);
    if (status == TQKV_OK && read_pos >= c->capacity)
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "%s: read_pos %u, capacity %u", c->name, read_pos,
                        c->capacity);
    if (status == TQKV_OK)
        status = check_cache(e, c);
    launch l = {.buffers = {c->packed, c->norms, dst}, .n_buffers = 4,
                .groups = {c->heads, 1, 1},
                .n_items = c->head_dim < ITEMS ? c->head_dim : ITEMS};
    if (status == TQKV_OK)
        status = launch_find(&l, e, registry, kernel, NULL);
    if (status != TQKV_OK)
        return status;
    tq_dequantize_hb_kv_params p = {c->head_dim, c->heads, read_pos, c->capacity,
                                    norms_per_position(c->head_dim), scale_factor, c->bits};
    /* the first six members are those of the 4-bit kernel */
    return launch_record(&l, e, &p, c->bits == 4 ? sizeof(tq_dequantize_kv_params) : sizeof p);
}

tqkv_status tqkv_dispatch_dequantize_kv(tqkv_encoder *e, tqkv_registry *registry,
                                        tqkv_device *device, tqkv_buffer *packed,
                                        tqkv_buffer *norms, tqkv_buffer *dst,
                                        uint32_t num_kv_heads, uint32_t head_dim,
                                        uint32_t cache_capacity, uint32_t read_pos,
                                        float scale_factor_d512)
{
    mlx_cache c = {"tq_dequantize_kv", num_kv_heads, head_dim, cache_capacity, 4, packed, norms};
    if (num_kv_heads == 0 || head_dim == 0)
        return TQKV_OK;
    tqkv_status status = dispatch_check(e, registry, device);
    if (status == TQKV_OK)
        status = check_power(e, c.name, head_dim);
    if (status == TQKV_OK)
        status = dequantize_one(e, registry, &c, dst, read_pos, scale_factor_d512, c.name);
    return status;
}

tqkv_status tqkv_dispatch_dequantize_hb_kv(tqkv_encoder *e, tqkv_registry *registry,
                                           tqkv_device *device, tqkv_buffer *packed,
                                           tqkv_buffer *norms, tqkv_buffer *dst,
                                           uint32_t num_kv_heads, uint32_t head_dim,
                                           uint32_t cache_capacity, uint32_t read_pos,
                                           float scale_factor_d512, uint32_t codebook_bits)
{
    mlx_cache c = {"tq_dequantize_hb_kv", num_kv_heads, head_dim, cache_capacity, codebook_bits,
                   packed, norms};
    if (num_kv_heads == 0 || head_dim == 0)
        return TQKV_OK;
    tqkv_status status = dispatch_check(e, registry, device);
    if (status == TQKV_OK)
        status = check_bits(e, c.name, codebook_bits, 0);
    if (status == TQKV_OK)
        status = dequantize_one(e, registry, &c, dst, read_pos, scale_factor_d512, c.name);
    return status;
}

/* ---- ranges ---- */

static tqkv_status check_range(tqkv_encoder *e, const mlx_cache *c, uint32_t n_positions)
{
    tqkv_status status = check_bits(e, c->name, c->bits, 1);
    if (status == TQKV_OK)
        status = check_power(e, c->name, c->head_dim);
    if (status == TQKV_OK && (c->head_dim < 16 || c->head_dim > TQKV_MAX_HEAD_DIM))
        status = FAILED(e, TQKV_ERROR_HEAD_DIM_RANGE, "%s: head_dim %u", c->name, c->head_dim);
    if (status == TQKV_OK && (n_positions > c->capacity || c->heads > 65535))
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "%s: %u positions of %u heads, capacity %u",
                        c->name, n_positions, c->heads, c->capacity);
    return status == TQKV_OK ? check_cache(e, c) : status;
}

tqkv_status tqkv_dispatch_dequantize_kv_range(tqkv_encoder *e, tqkv_registry *registry,
                                              tqkv_device *device, tqkv_buffer *packed,
                                              tqkv_buffer *norms, tqkv_buffer *dst,
                                              tqkv_type dst_type, uint32_t num_kv_heads,
                                              uint32_t head_dim, uint32_t cache_capacity,
                                              uint64_t first, uint32_t n_positions,
                                              float scale_factor_d512, uint32_t bits)
{
    mlx_cache c = {"dequantize_kv_range", num_kv_heads, head_dim, cache_capacity, bits, packed,
                   norms};
    if (num_kv_heads == 0 || head_dim == 0)
        return TQKV_OK;
    tqkv_status status = dispatch_check(e, registry, device);
    if (status == TQKV_OK && !is_type(dst_type))
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "%s: dst has no such type", c.name);
    if (status == TQKV_OK)
        status = check_factor(e, c.name, head_dim, scale_factor_d512);
    if (status == TQKV_OK)
        status = check_range(e, &c, n_positions);
    if (status == TQKV_OK)
        status = check_dst(e, c.name, dst, product3(num_kv_heads, head_dim, n_positions),
                           dst_type);
    if (status != TQKV_OK || n_positions == 0)
        return status;
    uint32_t each = dst_type == TQKV_F32 ? 4 : 8; /* values an item, 16 bytes */
    uint64_t chunks = (uint64_t)n_positions * (head_dim / each), per_group = 4 * ITEMS;
    launch l = {.buffers = {packed, norms, dst}, .n_buffers = 4,
                .groups = {(uint32_t)((chunks + per_group - 1) / per_group), num_kv_heads, 1},
                .n_items = ITEMS, .local_bytes = 256 * sizeof(float)};
    char options[64];
    snprintf(options, sizeof options, "GROUP_SIZE=%d MLX_BITS=%u MLX_DIM=%u MLX_EACH=%u", ITEMS,
             bits, head_dim, each);
    status = launch_find(&l, e, registry, "mlx_dequantize_range", options);
    if (status != TQKV_OK)
        return status;
    mlx_range_params p = {head_dim, num_kv_heads, (uint)(first % cache_capacity), n_positions,
                          cache_capacity, norms_per_position(head_dim), scale_factor_d512, bits,
                          dst_type, (uint)buffer_is_aligned(dst, 0, 16),
                          (uint)buffer_is_aligned(packed, 0, 4)};
    return launch_record(&l, e, &p, sizeof p);
}

static tqkv_status quantize(tqkv_encoder *e, tqkv_registry *registry, tqkv_device *device,
                            tqkv_buffer *src, tqkv_type src_type, tqkv_buffer *signs,
                            const mlx_cache *c, uint64_t first, uint32_t n_positions)
{
    tqkv_status status = dispatch_check(e, registry, device);
    if (status == TQKV_OK && !is_type(src_type))
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "%s: src has no such type", c->name);
    if (status == TQKV_OK)
        status = check_range(e, c, n_positions);
    if (status == TQKV_OK)
        status = dispatch_check_buffer(
            e, src, 0,
            product3(product3(c->heads, c->head_dim, n_positions), type_size(src_type), 1),
            type_size(src_type), "hadamard_quantize_kv: src");
    if (status == TQKV_OK && signs)
        status = dispatch_check_buffer(e, signs, 0, (c->head_dim + 31) / 32 * 4, 4,
                                       "hadamard_quantize_kv: signs");
    if (status != TQKV_OK || n_positions == 0)
        return status;
    uint32_t blocks = norms_per_position(c->head_dim);
    launch l = {.buffers = {src, c->packed, c->norms, signs}, .n_buffers = 4,
                .groups = {n_positions, c->heads, 1}, .n_items = 64,
                .local_bytes = (c->head_dim + 17 * blocks) * 8};
    status = launch_find(&l, e, registry, "hadamard_quantize_kv", NULL);
    if (status != TQKV_OK)
        return status;
    mlx_quantize_params p = {c->head_dim, c->heads, (uint)(first % c->capacity), n_positions,
                             c->capacity, blocks, c->bits, signs != NULL, src_type};
    return launch_record(&l, e, &p, sizeof p);
}

tqkv_status tqkv_dispatch_hadamard_quantize_kv(tqkv_encoder *e, tqkv_registry *registry,
                                               tqkv_device *device, tqkv_buffer *src,
                                               tqkv_type src_type, tqkv_buffer *packed,
                                               tqkv_buffer *norms, tqkv_buffer *signs,
                                               uint32_t num_kv_heads, uint32_t head_dim,
                                               uint32_t cache_capacity, uint64_t first,
                                               uint32_t n_positions)
{
    mlx_cache c = {"hadamard_quantize_kv", num_kv_heads, head_dim, cache_capacity, 4, packed,
                   norms};
    if (num_kv_heads == 0 || head_dim == 0)
        return TQKV_OK;
    return quantize(e, registry, device, src, src_type, signs, &c, first, n_positions);
}

tqkv_status tqkv_dispatch_hadamard_quantize_kv_hb(tqkv_encoder *e, tqkv_registry *registry,
                                                  tqkv_device *device, tqkv_buffer *src,
                                                  tqkv_type src_type, tqkv_buffer *packed,
                                                  tqkv_buffer *norms, tqkv_buffer *signs,
                                                  uint32_t num_kv_heads, uint32_t head_dim,
                                                  uint32_t cache_capacity, uint64_t first,
                                                  uint32_t n_positions, uint32_t codebook_bits)
{
    mlx_cache c = {"hadamard_quantize_kv_hb", num_kv_heads, head_dim, cache_capacity,
                   codebook_bits, packed, norms};
    if (num_kv_heads == 0 || head_dim == 0)
        return TQKV_OK;
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status == TQKV_OK)
        status = check_bits(e, c.name, codebook_bits, 0);
    if (status != TQKV_OK)
        return status;
    return quantize(e, registry, device, src, src_type, signs, &c, first, n_positions);
}

tqkv_status tqkv_dispatch_requantize(tqkv_encoder *e, tqkv_registry *registry, tqkv_device *device,
                                     tqkv_buffer *src, tqkv_buffer *dst, uint64_t n, uint32_t bits)
{
    tqkv_status status = dispatch_check(e, registry, device);
    if (status == TQKV_OK)
        status = check_bits(e, "requantize", bits, 1);
    if (status != TQKV_OK || n == 0)
        return status;
    status = dispatch_check_buffer(e, src, 0, product3(n, 4, 1), 4, "requantize: src");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, dst, 0, product3(n, 4, 1), 4, "requantize: dst");
    if (status != TQKV_OK)
        return status;
    launch l = {.buffers = {src, dst}, .n_buffers = 2, .n_items = ITEMS,
                .local_bytes = 512 * sizeof(float)};
    status = launch_set_groups(&l, e, (n + 16 * ITEMS - 1) / (16 * ITEMS));
    char options[48];
    snprintf(options, sizeof options, "GROUP_SIZE=%d REQUANTIZE_BITS=%u", ITEMS, bits);
    if (status == TQKV_OK)
        status = launch_find(&l, e, registry, "requantize_to_f32_hb", options);
    if (status != TQKV_OK)
        return status;
    requantize_params p = {n, bits,
                           (uint)(buffer_is_aligned(dst, 0, 16) && buffer_is_aligned(src, 0, 16))};
    return launch_record(&l, e, &p, sizeof p);
}
