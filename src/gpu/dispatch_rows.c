/* Encoding and decoding rows of any format. */
#include <stdio.h>

#include "format/format.h"
#include "format/trellis.h"
#include "gpu/dispatch.h"

tqkv_status tqkv_gpu_rows_at(const tqkv_format *format, tqkv_buffer *buffer, size_t offset,
                             size_t stride, tqkv_gpu_rows *rows)
{
    tqkv_status status = handle_check(buffer, HANDLE_BUFFER);
    if (status != TQKV_OK)
        return status;
    status = tqkv_format_check(format);
    if (status == TQKV_OK && !rows)
        status = TQKV_ERROR_ARGUMENT;
    if (status != TQKV_OK)
        return device_failed(buffer->device, status, "rows: %s", tqkv_status_string(status));
    size_t codes = format_code_bytes(format), row = codes + format_scale_bytes(format);
    if (stride == 0)
        stride = row;
    if (stride < row || offset > buffer->bytes)
        return device_failed(buffer->device, TQKV_ERROR_BUFFER,
                             "rows of %zu bytes at %zu, %zu apart, in a buffer of %zu", row, offset,
                             stride, buffer->bytes);
    *rows = (tqkv_gpu_rows){.codes = buffer, .scales = buffer, .code_offset = offset,
                            .scale_offset = offset + codes, .code_stride = stride,
                            .scale_stride = stride};
    return TQKV_OK;
}

/* One call, of either direction. */
typedef struct rows_call {
    tqkv_encoder *e;
    tqkv_registry *registry;
    const tqkv_format *format;
    tqkv_buffer *balance;
    tqkv_buffer *values;
    tqkv_type type;
    size_t n_rows;
    const tqkv_gpu_rows *rows;
    rows_params p;
} rows_call;

/* Bytes from the first to the last of n rows. */
static uint64_t extent(uint64_t stride, uint64_t n, uint64_t row)
{
    return sum2(product3(stride, n - 1, 1), row);
}

static tqkv_status check_stride(tqkv_encoder *e, size_t stride, size_t n, size_t row,
                                const char *what)
{
    return n > 1 && stride < row ? FAILED(e, TQKV_ERROR_BUFFER, "%s: rows overlap", what) : TQKV_OK;
}

static tqkv_status check_rows(rows_call *c)
{
    const tqkv_gpu_rows *r = c->rows;
    tqkv_encoder *e = c->e;
    size_t codes = format_code_bytes(c->format), scale = format_scale_bytes(c->format);
    tqkv_status status = check_stride(e, r->code_stride, c->n_rows, codes, "codes");
    if (status == TQKV_OK)
        status = check_stride(e, r->scale_stride, c->n_rows, scale, "scales");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, r->codes, r->code_offset,
                                       extent(r->code_stride, c->n_rows, codes), 1, "codes");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, r->scales, r->scale_offset,
                                       extent(r->scale_stride, c->n_rows, scale), 1, "scales");
    return status;
}

static tqkv_status check_call(rows_call *c, size_t stride)
{
    tqkv_encoder *e = c->e;
    tqkv_status status = tqkv_format_check(c->format);
    if (status != TQKV_OK)
        return FAILED(e, status, "%s", tqkv_status_string(status));
    if (c->format->head_dim > TQKV_GPU_MAX_HEAD_DIM)
        return FAILED(e, TQKV_ERROR_HEAD_DIM_RANGE, "head_dim is over %d", TQKV_GPU_MAX_HEAD_DIM);
    if (!c->rows || !is_type(c->type))
        return FAILED(e, TQKV_ERROR_ARGUMENT, "an argument is null or outside its range");
    if (c->n_rows == 0)
        return TQKV_OK;
    size_t row = c->format->head_dim * type_size(c->type);
    c->p.n_rows = c->n_rows;
    c->p.value_stride = product3(stride ? stride : c->format->head_dim, type_size(c->type), 1);
    c->p.code_stride = c->rows->code_stride;
    c->p.scale_stride = c->rows->scale_stride;
    c->p.value_type = c->type;
    c->p.has_balance = c->balance != NULL;
    status = check_stride(e, c->p.value_stride, c->n_rows, row, "numbers");
    if (status == TQKV_OK)
        status = dispatch_check_buffer(e, c->values, 0,
                                       extent(c->p.value_stride, c->n_rows, row),
                                       type_size(c->type), "numbers");
    if (status == TQKV_OK)
        status = check_rows(c);
    if (status == TQKV_OK && c->balance)
        status = dispatch_check_buffer(e, c->balance, 0, c->format->head_dim * 4ull, 4, "balance");
    format_params_set(&c->p.format, c->format, 0, 1);
    return status;
}

/* The kernel for this format, and its buffers in the order that both directions
 * share but for numbers, which come first (encode) or last (decode). */
static tqkv_status find_kernel(rows_call *c, launch *l, const char *name, uint32_t group,
                               uint32_t min_groups)
{
    char options[192];
    size_t length = format_options(options, sizeof options, "FORMAT", &c->p.format);
    length += (size_t)snprintf(options + length, sizeof options - length, "GROUP_SIZE=%u", group);
    if (min_groups)
        snprintf(options + length, sizeof options - length, " MIN_GROUPS=%u", min_groups);
    return launch_find(l, c->e, c->registry, name, options);
}

static tqkv_status record(rows_call *c, launch *l, int is_encode)
{
    const tqkv_gpu_rows *r = c->rows;
    tqkv_buffer *codes = NULL, *scales = NULL;
    tqkv_status status = tqkv_buffer_view(r->codes, r->code_offset,
                                          r->codes->bytes - r->code_offset, &codes);
    if (status == TQKV_OK)
        status = tqkv_buffer_view(r->scales, r->scale_offset, r->scales->bytes - r->scale_offset,
                                  &scales);
    tqkv_buffer *encode[] = {c->values, codes, scales, c->balance};
    tqkv_buffer *decode[] = {codes, scales, c->balance, c->values};
    memcpy(l->buffers, is_encode ? encode : decode, sizeof encode);
    l->n_buffers = 4;
    if (status != TQKV_OK)
        FAILED(c->e, status, "out of host memory");
    else
        status = launch_record(l, c->e, &c->p, sizeof c->p);
    tqkv_buffer_free(codes);
    tqkv_buffer_free(scales);
    return status;
}

/* ---- encoding ---- */

encoder_team encoder_team_of(const format_params *f)
{
    uint32_t dim = f->head_dim, bits = f->bits;
    encoder_team t = {32, 2 * dim + 64, 0};
    if (f->kind == TQKV_CODEBOOK_MLX) {
        /* the row, and behind it the reals of mlx_row_encode */
        uint32_t bytes = 32 * 4 + dim * 4 + (dim + 17 * mlx_norms_per_position(dim)) * 8;
        return (encoder_team){64, 0, bytes};
    }
    if (f->kind == TQKV_CODEBOOK_TRELLIS && bits < 8) {
        /* survivors of the row, or of the lead-in where that is longer */
        uint32_t pairs = trellis_nodes(bits) / 2, steps = bits < 4 && dim < 32 ? 32 : dim;
        t.n_items = pairs < 32 ? pairs : 32;
        t.floats += 4 * pairs + (steps * pairs * (bits > 4 ? 2 : 1) + 3) / 4;
    }
    t.floats |= 1; /* teams in different banks */
    t.local_bytes = 32 * 4 + t.floats * 4;
    return t;
}

uint32_t narrow_items(const tqkv_device *d, const format_params *f, uint32_t *local_bytes)
{
    /* As in kernels/narrow.h. WANTED: three groups of 64 rows of 128 share a multiprocessor
     * from sm_90 on. */
    enum { TABLES = 1716, COLUMN = 9, WANTED = 76 << 10, LEAST_ITEMS = 8 };
    uint32_t most = d->tensor_memory >= WANTED ? WANTED : LOCAL_BYTES, n = 64;
    if (f->kind != TQKV_CODEBOOK_TRELLIS || f->bits != 4)
        return 0;
    while (n >= LEAST_ITEMS && TABLES + COLUMN * n * f->head_dim > most)
        n /= 2;
    *local_bytes = TABLES + COLUMN * n * f->head_dim;
    return n >= LEAST_ITEMS ? n : 0;
}

/* Items a row and rows a group, so that the group's memory suffices. */
static void place_teams(rows_call *c, launch *l)
{
    encoder_team t = encoder_team_of(&c->p.format);
    uint32_t teams = t.floats ? 32 / t.n_items : 1;
    while (teams > 1 && 32 * 4 + teams * t.floats * 4 > LOCAL_BYTES)
        teams /= 2;
    l->n_items = t.floats ? 32 : t.n_items;
    c->p.lanes = l->n_items / teams;
    c->p.team_floats = t.floats;
    l->local_bytes = t.floats ? 32 * 4 + teams * t.floats * 4 : t.local_bytes;
}

/* Rows that an item can keep in registers, where the kernel is compiled for them;
 * and on the host, which tests it. */
static int is_private(const rows_call *c)
{
    const tqkv_format *f = c->format;
    const backend *b = c->e->device->backend;
    return b->has_row_items && (f->head_dim == 64 || f->head_dim == 128) &&
           f->rotation != TQKV_ROTATION_NONE && !c->balance;
}

tqkv_status tqkv_dispatch_encode(tqkv_encoder *e, tqkv_registry *registry,
                                 const tqkv_format *format, tqkv_buffer *balance, tqkv_buffer *src,
                                 tqkv_type src_type, size_t src_stride, size_t n_rows,
                                 const tqkv_gpu_rows *rows)
{
    static const char *const kernels[] = {NULL, "encode_trellis", "encode_lloyd", "encode_mlx"};
    rows_call c = {e, registry, format, balance, src, src_type, n_rows, rows, {0}};
    launch l = {0};
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status == TQKV_OK)
        status = dispatch_check(e, registry, e->device);
    if (status == TQKV_OK)
        status = check_call(&c, src_stride);
    if (status != TQKV_OK || n_rows == 0)
        return status;
    const char *kernel = kernels[format->codebook];
    uint32_t per_group;
    rotation_params_set(&c.p.rotation, format, 0);
    if (is_private(&c) && format->codebook == TQKV_CODEBOOK_LLOYD_MAX && format->bits == 4 &&
        buffer_is_aligned(rows->codes, rows->code_offset, 16) && rows->code_stride % 16 == 0) {
        kernel = "encode_lloyd_private";
        c.p.wide = buffer_is_aligned(src, 0, 16) && c.p.value_stride % 16 == 0;
        l.n_items = per_group = ITEMS;
        l.local_bytes = 32 * sizeof(int);
    } else if (narrow_items(e->device, &c.p.format, &l.local_bytes)) {
        kernel = "encode_narrow";
        c.p.wide = buffer_is_aligned(src, 0, 16) && c.p.value_stride % 16 == 0;
        c.p.format.words = (uint)rows_have_words(&c.p.format, rows->codes, rows->code_offset,
                                                 rows->code_stride);
        l.n_items = per_group = narrow_items(e->device, &c.p.format, &l.local_bytes);
    } else {
        place_teams(&c, &l);
        per_group = l.n_items / c.p.lanes;
    }
    status = launch_set_groups(&l, e, (n_rows + per_group - 1) / per_group);
    if (status == TQKV_OK)
        status = find_kernel(&c, &l, kernel, l.n_items, 0);
    return status == TQKV_OK ? record(&c, &l, 1) : status;
}

/* ---- decoding ---- */

int rows_have_lanes(const tqkv_device *d, uint32_t dim, const rotation_params *r)
{
    /* Elsewhere lanes exchange through local memory, which is no gain, and takes PoCL minutes to
     * compile. */
    int is_served = d->backend->specialises || d->backend == &backend_host;
    return is_served && r->order == 1 && dim >= 32 && (dim & (dim - 1)) == 0;
}

tqkv_status tqkv_dispatch_decode(tqkv_encoder *e, tqkv_registry *registry,
                                 const tqkv_format *format, tqkv_buffer *balance,
                                 const tqkv_gpu_rows *rows, size_t n_rows, tqkv_domain domain,
                                 tqkv_buffer *dst, tqkv_type dst_type, size_t dst_stride)
{
    rows_call c = {e, registry, format, balance, dst, dst_type, n_rows, rows, {0}};
    launch l = {.n_items = ITEMS};
    tqkv_status status = handle_check(e, HANDLE_ENCODER);
    if (status == TQKV_OK)
        status = dispatch_check(e, registry, e->device);
    if (status == TQKV_OK && domain != TQKV_ORIGINAL && domain != TQKV_ROTATED)
        status = FAILED(e, TQKV_ERROR_ARGUMENT, "no such domain");
    if (status == TQKV_OK)
        status = check_call(&c, dst_stride);
    if (status != TQKV_OK || n_rows == 0)
        return status;
    uint32_t dim = format->head_dim;
    c.p.format.words = (uint)rows_have_words(&c.p.format, rows->codes, rows->code_offset,
                                             rows->code_stride);
    const char *kernel = "decode_rows";
    uint32_t min_groups = 0;
    c.p.wide = buffer_is_aligned(dst, 0, 16) && c.p.value_stride % 16 == 0;
    l.local_bytes = 256 * sizeof(float);
    rotation_params_set(&c.p.rotation, format, 1);
    if (domain == TQKV_ROTATED) {
        uint64_t chunks = product3(n_rows, dim / 8, 1);
        status = launch_set_groups(&l, e, (chunks + 4 * ITEMS - 1) / (4 * ITEMS));
    } else if (rows_have_lanes(e->device, dim, &c.p.rotation)) {
        uint64_t per_group = 4 * ITEMS * 32 / dim; /* kernels/decode_lanes.h: dim / 32 items a row */
        kernel = "decode_rows_lanes";
        /* 56 registers, and more items at a time; lm4 goes faster with more registers. */
        min_groups = format->codebook == TQKV_CODEBOOK_TRELLIS ? 9 : 0;
        l.local_bytes = (256 + 32 + 8 * ITEMS) * sizeof(float);
        status = launch_set_groups(&l, e, (n_rows + per_group - 1) / per_group);
    } else {
        kernel = "decode_rows_original";
        l.n_items = dim / 8 < 32 ? dim / 8 : 32;
        l.local_bytes = (uint32_t)(256 + 2 * dim) * sizeof(float);
        status = launch_set_groups(&l, e, n_rows);
    }
    if (status == TQKV_OK)
        status = find_kernel(&c, &l, kernel, l.n_items, min_groups);
    return status == TQKV_OK ? record(&c, &l, 0) : status;
}
