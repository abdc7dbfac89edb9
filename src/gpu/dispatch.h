/* What all dispatch functions share. */
#ifndef TQKV_GPU_DISPATCH_H
#define TQKV_GPU_DISPATCH_H

#include "gpu/gpu.h"

/* The kernels' parameters, in C. */
typedef unsigned int uint;
typedef unsigned long ulong;
#include "gpu/kernels/params.h"

/* Items of a group where the kernel does not care. */
enum { ITEMS = 128, TILE_ITEMS = 128, LOCAL_BYTES = 32 << 10 };

#define FAILED(e, status, ...) report_error(&(e)->report, status, __VA_ARGS__)

/* Encoder and registry are good, and of this device. */
tqkv_status dispatch_check(tqkv_encoder *e, tqkv_registry *registry, tqkv_device *device);

/* A buffer of this encoder's device, with `bytes` bytes from `offset` on that begin
 * at a multiple of `alignment`; what names it. */
tqkv_status dispatch_check_buffer(tqkv_encoder *e, const tqkv_buffer *b, size_t offset,
                                  uint64_t bytes, size_t alignment, const char *what);
int buffer_is_aligned(const tqkv_buffer *b, size_t offset, size_t alignment);

/* a * b * c in 64 bits; UINT64_MAX if it does not fit, which no buffer has. */
uint64_t product3(uint64_t a, uint64_t b, uint64_t c);
uint64_t sum2(uint64_t a, uint64_t b);

/* A kernel of the registry, and its launch. */
typedef struct launch {
    const tqkv_pipeline *pipeline;
    tqkv_buffer *buffers[TQKV_MAX_BUFFERS];
    uint32_t n_buffers, groups[3], n_items, local_bytes;
    int is_entered; /* the encoder was entered for several commands */
} launch;

tqkv_status launch_find(launch *l, tqkv_encoder *e, tqkv_registry *registry, const char *name,
                        const char *options);
tqkv_status launch_record(const launch *l, tqkv_encoder *e, const void *params, size_t size);

/* n groups in two dimensions: group_y * 65535 + group_x. */
tqkv_status launch_set_groups(launch *l, tqkv_encoder *e, uint64_t n);

/* Parameters of a format (codebook 0: plain numbers of `type`), and a rotation. */
void format_params_set(format_params *p, const tqkv_format *format, unsigned type,
                       float scale_factor);
/* The macros by which a kernel is compiled for a format, each behind its prefix and
 * before a space; returns their length. */
size_t format_options(char *text, size_t size, const char *prefix, const format_params *f);
void rotation_params_set(rotation_params *p, const tqkv_format *format, int inverse);
/* Codes may be read as words. */
int rows_have_words(const format_params *p, const tqkv_buffer *codes, size_t offset,
                    size_t strides);
/* What one team of an encoding kernel needs (dispatch_rows.c). */
typedef struct encoder_team {
    uint32_t n_items, floats /* of its own */, local_bytes;
} encoder_team;

encoder_team encoder_team_of(const format_params *f);

/* Items of a group, a row each, and the memory that they share, where a format's rows can be
 * encoded so on the device (kernels/narrow.h); 0 where not. */
uint32_t narrow_items(const tqkv_device *d, const format_params *f, uint32_t *local_bytes);

/* Rows are decoded by several items each (kernels/decode_lanes.h): on CUDA, and on the host, which
 * tests it. */
int rows_have_lanes(const tqkv_device *d, uint32_t head_dim, const rotation_params *rotation);

int is_type(unsigned type);
static inline size_t type_size(unsigned type)
{
    return type == TQKV_F32 ? 4 : 2;
}

#endif
