/*
 * tqkv - kernels on GPUs, and on the host as a device like them
 *
 * An engine that has GPU memory of its own encodes, decodes and attends on rows
 * (tqkv.h) there; one without a GPU library uses the devices, buffers and encoders
 * here. The functions tqkv_dispatch_... up to tqkv_dispatch_flash_attn_vec_hb have
 * names, arguments and results of mlx-native's; those behind work on every format.
 *
 * Drivers are opened at run time: CUDA (libcuda.so.1, with NVRTC or a module that
 * nvcc made), OpenCL 1.2 (libOpenCL.so.1), Metal on Apple systems, and "host",
 * which runs the same kernels compiled as C on the processor.
 *
 * The conventions of tqkv.h hold, and these:
 *
 * - Handles count their users: a buffer lives until the encoders that recorded it
 *   have finished, a registry until what was recorded with its kernels is done, a
 *   device until its last buffer, encoder, event, graph and registry that compiled for
 *   it is freed. So handles may be freed in any order, each once, and not be used after;
 *   a freed handle that is still in memory gives TQKV_ERROR_STATE.
 * - Handles of different devices do not mix: TQKV_ERROR_ARGUMENT.
 * - Devices and registries may be used from any number of threads at a time, and
 *   so may buffers whose contents nobody changes. An encoder, event or graph
 *   belongs to one thread at a time; a second one that comes upon the first inside
 *   an encoder gets TQKV_ERROR_STATE.
 * - Where a call fails, a message says why, until the next one: the encoder's or
 *   registry's that it was given, otherwise the device's, of a buffer or event its
 *   device's. There is none where that handle itself is null or freed, or where
 *   there is nowhere to copy a message to. A call that succeeds may leave one, too:
 *   of a file that could not be kept, or of a kernel that another one stands in for.
 * - Encoding is the same bytes on every device and the (little-endian) processor,
 *   decoding too; but that OpenCL devices whose divisions are not correctly rounded
 *   may differ in a scale's last bit.
 * - Attention is within 1e-3 of double precision over the decoded rows, as long as
 *   logits are within +-100. On NVIDIA GPUs from sm_80 on, tensor cores serve most
 *   cases (doc/gpu.md says which): there lm4 and mlx4, whose levels become integers,
 *   are within 1.1e-2, and 5e-3 is the bound where one token weighs as much as
 *   thousands of others together.
 * - The same call gives the same bits every time, on one device with one registry
 *   (where there is no compiler, other kernels serve). doc/gpu.md says which changes
 *   beside a query change its bits.
 */
#ifndef TQKV_GPU_H
#define TQKV_GPU_H

#include "tqkv_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tqkv_device tqkv_device;
typedef struct tqkv_buffer tqkv_buffer;
typedef struct tqkv_registry tqkv_registry;
typedef struct tqkv_pipeline tqkv_pipeline;
typedef struct tqkv_encoder tqkv_encoder;
typedef struct tqkv_event tqkv_event;
typedef struct tqkv_graph tqkv_graph;

/* ------------------------------------------------------------------ */
/* Devices                                                            */
/* ------------------------------------------------------------------ */

typedef struct tqkv_device_info {
    char name[32];         /* "cuda:0", "opencl:1.0", "metal:0", "host" */
    char description[128]; /* as the driver calls it */
    char driver[128];      /* its version */
    uint64_t memory;       /* bytes */
    uint64_t max_buffer;   /* bytes of one buffer */
    uint32_t max_group;    /* items of a group */
    uint32_t group_memory; /* bytes that a group shares */
    uint32_t n_units;      /* multiprocessors, cores */
    uint32_t reserved;
} tqkv_device_info;

/* Describes up to max devices; *n is how many there are, and may be larger.
 * Drivers that are missing or do not work have none; "host" is always there, and
 * the last. */
TQKV_API tqkv_status tqkv_device_list(tqkv_device_info *infos, size_t max, size_t *n);

/* Opens a device by name: as listed, "cuda" for "cuda:0", "opencl" for
 * "opencl:0.0", "metal" for "metal:0".
 * native: null, or the context to work in, which must outlive the device: a
 * CUcontext (null: the primary one, that of the CUDA runtime), a cl_context.
 * Without such a device TQKV_ERROR_NO_DEVICE; then message, if not null, gets up
 * to size bytes that say what is missing. */
TQKV_API tqkv_status tqkv_device_open(const char *name, void *native, tqkv_device **device,
                                      char *message, size_t size);
TQKV_API void tqkv_device_free(tqkv_device *device); /* null is fine */

TQKV_API tqkv_status tqkv_device_get_info(const tqkv_device *device, tqkv_device_info *info);

/* Why the last call failed that was given this device, or a buffer or event of it, and no
 * encoder or registry: a copy of up to size bytes, zero-ended. */
TQKV_API tqkv_status tqkv_device_message(const tqkv_device *device, char *message, size_t size);

/* ------------------------------------------------------------------ */
/* Buffers                                                            */
/* ------------------------------------------------------------------ */

/* Device memory of `bytes` bytes, at least 1, of undefined contents. */
TQKV_API tqkv_status tqkv_buffer_create(tqkv_device *device, size_t bytes, tqkv_buffer **buffer);

/* Memory that the caller owns and keeps until the buffer is freed and what was
 * recorded with it is done: a CUdeviceptr, a cl_mem, an id<MTLBuffer>, a pointer. */
TQKV_API tqkv_status tqkv_buffer_wrap(tqkv_device *device, void *native, size_t bytes,
                                      tqkv_buffer **buffer);

/* A part of a buffer, which it keeps alive. */
TQKV_API tqkv_status tqkv_buffer_view(tqkv_buffer *buffer, size_t offset, size_t bytes,
                                      tqkv_buffer **view);
TQKV_API void tqkv_buffer_free(tqkv_buffer *buffer); /* null is fine */
TQKV_API size_t tqkv_buffer_size(const tqkv_buffer *buffer); /* 0 for null */

/* Copies between host memory and the buffer, and returns when done. They do not
 * wait for encoders: tqkv_encoder_wait does. */
TQKV_API tqkv_status tqkv_buffer_upload(tqkv_buffer *buffer, size_t offset, const void *src,
                                        size_t bytes);
TQKV_API tqkv_status tqkv_buffer_download(tqkv_buffer *buffer, size_t offset, void *dst,
                                          size_t bytes);

/* The buffer's contents at *memory, until unmapped, which brings back what was
 * written if will_write was not 0. One map at a time. Where unmap fails the map is as it was,
 * to be unmapped again, or given up by freeing the buffer; of what was written any part may
 * have arrived. */
TQKV_API tqkv_status tqkv_buffer_map(tqkv_buffer *buffer, int will_write, void **memory);
TQKV_API tqkv_status tqkv_buffer_unmap(tqkv_buffer *buffer);

/* ------------------------------------------------------------------ */
/* Kernels                                                            */
/* ------------------------------------------------------------------ */

typedef struct tqkv_registry_config {
    /* Folder for compiled kernels, which must exist; null for none. A file in it
     * is used only if it belongs to this user (or root), nobody else may write to
     * it, and its checksum and key (source, options, device, driver) are right;
     * otherwise the kernel is compiled again. A folder that cannot be written to
     * does no harm, but leaves a message. */
    const char *cache_folder;
    /* A CUDA module with all kernels (scripts/build-cuda-module.sh) for machines without NVRTC; copied. */
    const void *cuda_module;
    size_t cuda_module_size;
} tqkv_registry_config;

/* The library's kernels, compiled for a device when first used there; config may be
 * null. One registry serves all devices, and keeps those alive that it compiled for, or
 * tried to. */
TQKV_API tqkv_status tqkv_registry_create(const tqkv_registry_config *config,
                                          tqkv_registry **registry);
TQKV_API void tqkv_registry_free(tqkv_registry *registry); /* null is fine */
TQKV_API tqkv_status tqkv_registry_message(const tqkv_registry *registry, char *message,
                                           size_t size);

/* The text of all built-in kernels, to compile without a registry: prelude first;
 * language "cuda", "opencl" or "metal". Static. */
TQKV_API tqkv_status tqkv_kernel_source(const char *language, const char **prelude,
                                        const char **kernels);

/* Registers a kernel of one's own by name: source in the kernels' common language
 * (doc/gpu.md), copied, in front of which the prelude of the device's language is put. A
 * name may be registered once, and not those of built-in kernels. On the host there is no compiler: give `host` a
 * function, or null if the kernel shall not run there. */
typedef void (*tqkv_host_kernel)(const uint32_t *group, uint32_t item, uint32_t n_items,
                                 uint8_t *local_memory, const void *params,
                                 void *const *buffers);
TQKV_API tqkv_status tqkv_registry_register_source(tqkv_registry *registry, const char *name,
                                                   const char *source, tqkv_host_kernel host);

/* The compiled kernel, which belongs to the registry. options: macros to define,
 * "A=1 B=2", or null. A source that does not compile: TQKV_ERROR_COMPILE, and the
 * compiler's log is the registry's message. No compiler: TQKV_ERROR_NO_DEVICE. Both hold for
 * as long as the registry does: it does not try again, and says the same at once. */
TQKV_API tqkv_status tqkv_registry_get_pipeline(tqkv_registry *registry, const char *name,
                                                const char *options, tqkv_device *device,
                                                const tqkv_pipeline **pipeline);

/* ------------------------------------------------------------------ */
/* Encoders                                                           */
/* ------------------------------------------------------------------ */

/* An encoder records dispatches and copies, in order, each of which sees what those
 * before it wrote. native: null for a stream of its own, or the caller's, who keeps
 * it: a CUstream, cl_command_queue (with profiling, for events) or
 * id<MTLCommandBuffer>, whose other work comes before and after in the same order.
 * CU_STREAM_PER_THREAD is at each call the calling thread's, CU_STREAM_LEGACY the default
 * stream. Create it before a capture of that CUstream begins, in the thread that captures; graphs that the caller captures from it may be
 * launched until the device is freed, one at a time. */
TQKV_API tqkv_status tqkv_encoder_create(tqkv_device *device, void *native,
                                         tqkv_encoder **encoder);
TQKV_API void tqkv_encoder_free(tqkv_encoder *encoder); /* null is fine; waits */
TQKV_API tqkv_status tqkv_encoder_message(const tqkv_encoder *encoder, char *message,
                                          size_t size);

enum { TQKV_MAX_BUFFERS = 24, TQKV_MAX_PARAMS = 2048 };

/* Records a kernel: `buffers` as it declares them (null where it needs none), its
 * parameter struct, groups along three axes, items of a group, and bytes of memory
 * that a group shares. */
TQKV_API tqkv_status tqkv_encoder_dispatch(tqkv_encoder *encoder, const tqkv_pipeline *pipeline,
                                           tqkv_buffer *const *buffers, size_t n_buffers,
                                           const void *params, size_t params_size,
                                           const uint32_t groups[3], uint32_t n_items,
                                           uint32_t local_bytes);
TQKV_API tqkv_status tqkv_encoder_copy(tqkv_encoder *encoder, tqkv_buffer *src, size_t src_offset,
                                       tqkv_buffer *dst, size_t dst_offset, size_t bytes);

/* Starts what was recorded since the last submit; waits until all that was
 * submitted is done. After an error of submit what was recorded is dropped, and any number of
 * its first commands may have been started: what they write has no defined contents. */
TQKV_API tqkv_status tqkv_encoder_submit(tqkv_encoder *encoder);
TQKV_API tqkv_status tqkv_encoder_wait(tqkv_encoder *encoder);

/* Times on the device: record is a command like others; _elapsed needs both events
 * to have happened (TQKV_ERROR_STATE otherwise). */
TQKV_API tqkv_status tqkv_event_create(tqkv_device *device, tqkv_event **event);
TQKV_API void tqkv_event_free(tqkv_event *event);
TQKV_API tqkv_status tqkv_encoder_record(tqkv_encoder *encoder, tqkv_event *event);
TQKV_API tqkv_status tqkv_event_elapsed(tqkv_event *from, tqkv_event *to, double *seconds);

/* Takes what was recorded since the last submit as a graph (on CUDA a CUDA graph),
 * to be launched any number of times, in order with the encoder's other work. Its
 * parameters are fixed; buffers' contents are not. No events inside. Where finish_graph fails
 * what was recorded is still there, to be submitted or tried again.
 * A launch first submits what was recorded. Where either fails nothing is left recorded, as
 * after an error of submit, and the graph may be launched again. */
TQKV_API tqkv_status tqkv_encoder_finish_graph(tqkv_encoder *encoder, tqkv_graph **graph);
TQKV_API tqkv_status tqkv_graph_launch(tqkv_graph *graph, tqkv_encoder *encoder);
TQKV_API void tqkv_graph_free(tqkv_graph *graph); /* null is fine; after its launches are done */

/* ------------------------------------------------------------------ */
/* The reference's dispatches                                         */
/* ------------------------------------------------------------------ */

/* Arguments, checks and results are those of mlx-native, but that every buffer is
 * checked against the shapes, read_pos against the capacity, and that a
 * scale_factor_d512 of 0 or NaN is refused where it is used. No heads or no
 * head_dim is a success that does nothing. */

/* packed: [n_kv_heads][capacity][head_dim / 2] bytes; norms: [n_kv_heads][capacity]
 * [max(head_dim / 256, 1)] f32; dst: [n_kv_heads][head_dim] f32, rotated domain. */
TQKV_API tqkv_status tqkv_dispatch_dequantize_kv(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *packed,
    tqkv_buffer *norms, tqkv_buffer *dst, uint32_t num_kv_heads, uint32_t head_dim,
    uint32_t cache_capacity, uint32_t read_pos, float scale_factor_d512);
/* packed: [n_kv_heads][capacity][head_dim] bytes; codebook_bits 5, 6 or 8. */
TQKV_API tqkv_status tqkv_dispatch_dequantize_hb_kv(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *packed,
    tqkv_buffer *norms, tqkv_buffer *dst, uint32_t num_kv_heads, uint32_t head_dim,
    uint32_t cache_capacity, uint32_t read_pos, float scale_factor_d512, uint32_t codebook_bits);

/* n_positions positions from `first` on, around the ring: dst[n_positions]
 * [n_kv_heads][head_dim] of any type; bits 4, 5, 6 or 8. */
TQKV_API tqkv_status tqkv_dispatch_dequantize_kv_range(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *packed,
    tqkv_buffer *norms, tqkv_buffer *dst, tqkv_type dst_type, uint32_t num_kv_heads,
    uint32_t head_dim, uint32_t cache_capacity, uint64_t first, uint32_t n_positions,
    float scale_factor_d512, uint32_t bits);

/* Encodes src[n_positions][n_kv_heads][head_dim] to the positions from `first` on, in
 * slots position % capacity. signs: head_dim / 32 words whose bits flip values before
 * the rotation (none: null). bits 4, and in _hb 5, 6 or 8. */
TQKV_API tqkv_status tqkv_dispatch_hadamard_quantize_kv(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *src,
    tqkv_type src_type, tqkv_buffer *packed, tqkv_buffer *norms, tqkv_buffer *signs,
    uint32_t num_kv_heads, uint32_t head_dim, uint32_t cache_capacity, uint64_t first,
    uint32_t n_positions);
TQKV_API tqkv_status tqkv_dispatch_hadamard_quantize_kv_hb(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *src,
    tqkv_type src_type, tqkv_buffer *packed, tqkv_buffer *norms, tqkv_buffer *signs,
    uint32_t num_kv_heads, uint32_t head_dim, uint32_t cache_capacity, uint64_t first,
    uint32_t n_positions, uint32_t codebook_bits);

/* requantize_to_f32_hb: n rotated, normalised f32 to their nearest centroids; src and
 * dst may be the same. bits 4, 5, 6 or 8. */
TQKV_API tqkv_status tqkv_dispatch_requantize(tqkv_encoder *encoder, tqkv_registry *registry,
                                              tqkv_device *device, tqkv_buffer *src,
                                              tqkv_buffer *dst, uint64_t n, uint32_t bits);

/* Attention of num_heads queries, q[num_heads][head_dim] f32, to the kv_seq_len
 * newest tokens of a cache, the oldest of them in slot ring_start; dst as q. Nothing
 * is rotated. */
typedef struct tqkv_flash_attn_vec_params {
    uint32_t num_heads, num_kv_heads, head_dim;
    uint32_t kv_seq_len, kv_capacity;
    float scale;
    uint32_t mask_type;      /* 0 none, 1 causal (the same for one query), 2 sliding window */
    uint32_t sliding_window; /* tokens that mask_type 2 sees */
    float softcap;           /* 0: none */
    uint32_t ring_start;
    float scale_factor_d512; /* of codes over 256 values */
} tqkv_flash_attn_vec_params;

/* Bytes of the workspace that these three need. */
TQKV_API tqkv_status tqkv_flash_attn_vec_workspace(const tqkv_device *device,
                                                   const tqkv_flash_attn_vec_params *params,
                                                   size_t *bytes);
/* k, v: [num_kv_heads][kv_capacity][head_dim], f32 or f16 (or bf16). */
TQKV_API tqkv_status tqkv_dispatch_flash_attn_vec(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *q,
    tqkv_buffer *k, tqkv_buffer *v, tqkv_type kv_type, tqkv_buffer *dst, tqkv_buffer *workspace,
    const tqkv_flash_attn_vec_params *params);
/* As dequantize_kv and dequantize_hb_kv have it. */
TQKV_API tqkv_status tqkv_dispatch_flash_attn_vec_tq(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *q,
    tqkv_buffer *k_packed, tqkv_buffer *k_norms, tqkv_buffer *v_packed, tqkv_buffer *v_norms,
    tqkv_buffer *dst, tqkv_buffer *workspace, const tqkv_flash_attn_vec_params *params);
TQKV_API tqkv_status tqkv_dispatch_flash_attn_vec_hb(
    tqkv_encoder *encoder, tqkv_registry *registry, tqkv_device *device, tqkv_buffer *q,
    tqkv_buffer *k_packed, tqkv_buffer *k_norms, tqkv_buffer *v_packed, tqkv_buffer *v_norms,
    tqkv_buffer *dst, tqkv_buffer *workspace, const tqkv_flash_attn_vec_params *params,
    uint32_t codebook_bits);

/* ------------------------------------------------------------------ */
/* Rows of any format                                                 */
/* ------------------------------------------------------------------ */

enum { TQKV_GPU_MAX_HEAD_DIM = 512 };

/* Where rows lie: row r has its codes at code_offset + r * code_stride of the buffer
 * `codes`, its scale at scale_offset + r * scale_stride of `scales`, which may be the
 * same buffer. Rows whose code offset and strides are multiples of 4 are faster. */
typedef struct tqkv_gpu_rows {
    tqkv_buffer *codes, *scales;
    size_t code_offset, scale_offset;
    size_t code_stride, scale_stride;
} tqkv_gpu_rows;

/* tqkv_rows_at for a buffer. */
TQKV_API tqkv_status tqkv_gpu_rows_at(const tqkv_format *format, tqkv_buffer *buffer,
                                      size_t offset, size_t stride, tqkv_gpu_rows *rows);

/* tqkv_encode and tqkv_decode, bit for bit. balance: null, or [head_dim] f32, which are
 * not checked. Strides of numbers are in elements (0: head_dim). */
TQKV_API tqkv_status tqkv_dispatch_encode(tqkv_encoder *encoder, tqkv_registry *registry,
                                          const tqkv_format *format, tqkv_buffer *balance,
                                          tqkv_buffer *src, tqkv_type src_type,
                                          size_t src_stride, size_t n_rows,
                                          const tqkv_gpu_rows *rows);
TQKV_API tqkv_status tqkv_dispatch_decode(tqkv_encoder *encoder, tqkv_registry *registry,
                                          const tqkv_format *format, tqkv_buffer *balance,
                                          const tqkv_gpu_rows *rows, size_t n_rows,
                                          tqkv_domain domain, tqkv_buffer *dst,
                                          tqkv_type dst_type, size_t dst_stride);

/* Bytes from one head, page, sequence or layer to the next. */
typedef struct tqkv_gpu_strides {
    size_t codes, scales, means;
} tqkv_gpu_strides;

/* Keys or values: the row of head h, slot s, sequence b begins at
 *   code_offset + b * sequence.codes + s * code_stride + h * head.codes,
 * or with pages, where n is the number of the page that has the slot,
 *   code_offset + n * page.codes + s % page_size * code_stride + h * head.codes.
 * Codebook 0: plain numbers of `type` in the buffer `codes`. */
typedef struct tqkv_gpu_operand {
    tqkv_format format;
    uint8_t type; /* tqkv_type, for plain numbers */
    tqkv_gpu_rows rows;
    /* layer: for the calls that take several layers at a time (tqkv_gpu_pages). */
    tqkv_gpu_strides head, page, sequence, layer;
    /* Sealed pages (tqkv_page.h) with one mean each: that of page n and head h begins at
     *   mean_offset + n * page.means + h * head.means
     * of the buffer `means`, head_dim + 2 bytes. The sign of a row's scale is then its
     * choice. Null: rows have no choice. page_size has to be TQKV_PAGE_TOKENS. Means that
     * begin at multiples of 16 bytes, in a buffer that goes on for head_dim + 16 bytes from there,
     * are faster. */
    tqkv_buffer *means;
    size_t mean_offset;
    tqkv_buffer *balances; /* keys: [n_kv_heads][head_dim] f32, or null */
    float scale_factor_d512; /* mlx over 256 values; 0 counts as 1 */
    int is_rotated; /* queries and outputs are in the rows' domain: rotate nothing */
} tqkv_gpu_operand;

/* Pages that wait to be sealed: plain numbers, n_pages pages of TQKV_PAGE_TOKENS rows. Keys
 * and values as an operand lays them out, without means and balances. */
typedef struct tqkv_gpu_staged {
    tqkv_gpu_operand keys, values;
    uint32_t n_pages;
} tqkv_gpu_staged;

/* Attention as tqkv_attention.h defines it, for several sequences at a time, each one set of
 * tokens; with head_dims up to TQKV_GPU_MAX_HEAD_DIM. Scale and softcap are finite, and not cut
 * to a range here.
 *
 *   One token more of 3 sequences, 32 query heads to 8 KV heads of 128, pages of tq4:
 *   tqkv_gpu_attention a = {
 *       .n_sequences = 3, .n_queries = 1, .n_heads = 32, .n_kv_heads = 8,
 *       .queries = q, .out = out, .query_type = TQKV_F16, .out_type = TQKV_F16,
 *       .n_tokens = 8192, .lengths = lengths,
 *       .pages = table, .page_size = TQKV_PAGE_TOKENS, .pages_stride = 128, .n_pages = 400,
 *       .scale = 1 / sqrtf(128)};
 *   tqkv_gpu_pages_at(&tq4, buffer, 0, 8, &a.keys);    and a.values likewise
 */
typedef struct tqkv_gpu_attention {
    /* n_queries: of each sequence; with query_starts the most of any. */
    uint32_t n_sequences, n_queries, n_heads, n_kv_heads;
    /* queries[sequence][i][head][.] of query_type, out likewise of out_type. */
    tqkv_buffer *queries, *out;
    tqkv_type query_type, out_type;
    /* Sequences with different numbers of queries: n_sequences + 1 numbers (u32) on the
     * device, of which number s says where sequence s begins in queries, out, state and mask,
     * which then are [n_query_rows][head]. A sequence may have none. What exceeds
     * n_query_rows or n_queries is left out. Null: n_queries each, n_query_rows is not looked
     * at. */
    tqkv_buffer *query_starts;
    uint32_t n_query_rows;
    /* [sequence][i][head][2] f32: largest logit, and sum of exp(logit - largest);
     * or null. */
    tqkv_buffer *state;
    /* Tokens are at positions first_position and following; the first query is at
     * `position`, unless there are lengths: n_sequences numbers of tokens (u32), up
     * to n_tokens, whose last are those of the queries. */
    uint64_t position, first_position;
    uint32_t n_tokens;
    tqkv_buffer *lengths;
    uint64_t first_slot;
    uint32_t capacity; /* of a ring, or 0 */
    /* [n_sequences][pages_stride] u32, or null. Each number is below n_pages: of what
     * lies on the device, the caller sees to that. With TQKV_PAGE_STAGED set it is the number
     * of a staged page. */
    tqkv_buffer *pages;
    uint32_t page_size, pages_stride, n_pages;
    tqkv_gpu_operand keys, values;
    const tqkv_gpu_staged *staged; /* or null */
    float scale, softcap;
    int causal;
    uint64_t window;
    tqkv_buffer *slopes; /* [n_heads] f32: ALiBi by positions, or null */
    /* Added to the logits of query row r (of all sequences, from 0 on), head h and token t of
     * its sequence: element r * mask_row_stride + h * mask_head_stride + t, of mask_type F32 or
     * F16. Minus infinity, and NaN, hide the token. mask_head_stride 0: one mask for all
     * heads; mask_row_stride 0: one for all query rows of a launch. Null for none. */
    tqkv_buffer *mask;
    tqkv_type mask_type;
    size_t mask_row_stride, mask_head_stride;
    tqkv_buffer *mask_slopes; /* [n_heads] f32, finite, not negative: times the mask; or null */
    tqkv_buffer *sinks; /* [n_heads] f32, or null */
    int is_portable; /* the kernel in floats, also where there is one for tensor cores */
} tqkv_gpu_attention;

/* One result of several over parts of the tokens, as of a sequence that is split over devices:
 * outs[n_parts][n_rows][head_dim] and states[n_parts][n_rows][2], f32, each part as attention
 * gave it (with sinks in one of them at most), brought to this device. out has out_type; state
 * may be null. The parts are not written, and may not overlap the result. */
TQKV_API tqkv_status tqkv_dispatch_merge(tqkv_encoder *encoder, tqkv_registry *registry,
                                         uint32_t n_parts, uint32_t n_rows, uint32_t head_dim,
                                         tqkv_buffer *outs, tqkv_buffer *states,
                                         tqkv_buffer *out, tqkv_type out_type,
                                         tqkv_buffer *state);

/* Encodes a step's new rows into a cache that `a` lays out, keys and values of all heads in
 * one launch (two where their codebooks, head sizes or rotations differ): keys[n_sequences]
 * [n_positions][n_kv_heads][head_dim] of `type`, and values likewise, to the last
 * n_positions tokens of each sequence. n_tokens, or lengths, count them; what a shorter
 * sequence has too many of is left out. Keys go by their balances. Queries, outputs and what
 * else concerns only attention are not looked at. */
TQKV_API tqkv_status tqkv_dispatch_append(tqkv_encoder *encoder, tqkv_registry *registry,
                                          const tqkv_gpu_attention *a, uint32_t n_positions,
                                          tqkv_buffer *keys, tqkv_buffer *values,
                                          tqkv_type type);

/* Bytes of workspace for these shapes. Buffers may be any that are not null where the call will
 * have one: which of them there are counts, and how large a mask is and where it begins. */
TQKV_API tqkv_status tqkv_gpu_attend_workspace(const tqkv_device *device,
                                               const tqkv_gpu_attention *a, size_t *bytes);
TQKV_API tqkv_status tqkv_dispatch_attend(tqkv_encoder *encoder, tqkv_registry *registry,
                                          const tqkv_gpu_attention *a, tqkv_buffer *workspace);

/* ------------------------------------------------------------------ */
/* Pages (tqkv_page.h)                                                */
/* ------------------------------------------------------------------ */

/* Lays out pages with a mean as attention reads them fastest: [page][head] blocks of
 * *bytes bytes, each the codes of 64 rows, their scales, the mean, and zeros up to a multiple
 * of 16. */
TQKV_API tqkv_status tqkv_gpu_page_bytes(const tqkv_format *format, size_t *bytes);
/* An operand of pages laid out so, from `offset` of the buffer on. All of it is set; its
 * layer stride is 0. */
TQKV_API tqkv_status tqkv_gpu_pages_at(const tqkv_format *format, tqkv_buffer *buffer,
                                       size_t offset, uint32_t n_kv_heads,
                                       tqkv_gpu_operand *operand);
/* Staged pages, [page][head] blocks of 64 rows of head_dim plain numbers. */
TQKV_API tqkv_status tqkv_gpu_staged_at(uint32_t head_dim, tqkv_type type, tqkv_buffer *buffer,
                                        size_t offset, uint32_t n_kv_heads,
                                        tqkv_gpu_operand *operand);

/* The pages of layers that are alike: of layer l, every address is l times the operand's
 * `layer` strides further, balances at l * n_kv_heads * head_dim. Page numbers count for all layers
 * alike. Sealed pages have a mean each, or operands without `means` none. */
typedef struct tqkv_gpu_pages {
    uint32_t n_layers, n_kv_heads;
    tqkv_gpu_operand keys, values;
    uint32_t n_pages;
    tqkv_gpu_staged staged;
} tqkv_gpu_pages;

/* New rows, keys and values of all heads of one layer or of all of them:
 * keys[layer][i][head][.] of `type`, strides in elements from layer to layer, row to row and head
 * to head (all 0: without gaps), values likewise. */
typedef struct tqkv_gpu_new_rows {
    uint32_t n_rows;
    tqkv_buffer *keys, *values;
    tqkv_type type;
    size_t key_layer_stride, key_row_stride, key_head_stride;
    size_t value_layer_stride, value_row_stride, value_head_stride;
    /* n_rows numbers (u32) on the device: row i goes to row places[i] % 64 of page
     * places[i] / 64; ~0 leaves it out, and so does a page that is not there. Two rows to one
     * place: undefined which. */
    tqkv_buffer *places;
} tqkv_gpu_new_rows;

/* Copies rows into staged pages (places count staged pages), converted to the pages' type. */
TQKV_API tqkv_status tqkv_dispatch_stage(tqkv_encoder *encoder, tqkv_registry *registry,
                                         const tqkv_gpu_pages *pages, uint32_t first_layer,
                                         uint32_t n_layers, const tqkv_gpu_new_rows *rows);
/* tqkv_page_write for each row, bit for bit: into sealed pages, whose means stay. */
TQKV_API tqkv_status tqkv_dispatch_write(tqkv_encoder *encoder, tqkv_registry *registry,
                                         const tqkv_gpu_pages *pages, uint32_t first_layer,
                                         uint32_t n_layers, const tqkv_gpu_new_rows *rows);

/* tqkv_page_seal, bit for bit, for all heads of all layers, keys and values. jobs[max_jobs][4]
 * u32 on the device: the staged page, the page it becomes, and the lower and upper 32 bits of
 * the set of rows that are there. count: one u32 on the device, how many of them there are, up
 * to max_jobs; null: max_jobs. A job whose pages are not there, or of no rows, is
 * left out. So a launch in a graph seals what has become full since the last, which may be
 * nothing. */
TQKV_API tqkv_status tqkv_dispatch_seal(tqkv_encoder *encoder, tqkv_registry *registry,
                                        const tqkv_gpu_pages *pages, tqkv_buffer *jobs,
                                        tqkv_buffer *count, uint32_t max_jobs);

/* Pages as plain numbers, which other kernels read: page_numbers[n_numbers] (u32, on the
 * device; with TQKV_PAGE_STAGED: of staged pages) of one layer, all heads, keys and
 * values. Row r of page page_numbers[i] and head h becomes head_dim numbers of `type` in the
 * original domain (tqkv_page_read's, rounded to the type), row_stride * (64 i + r) + head_stride * h
 * elements behind the beginning of `keys`, or of `values`. Either may be null. Numbers of pages that are
 * not there give zeros. */
TQKV_API tqkv_status tqkv_dispatch_read(tqkv_encoder *encoder, tqkv_registry *registry,
                                        const tqkv_gpu_pages *pages, uint32_t layer,
                                        tqkv_buffer *page_numbers, uint32_t n_numbers,
                                        tqkv_buffer *keys, tqkv_buffer *values, tqkv_type type,
                                        size_t row_stride, size_t head_stride);

#ifdef __cplusplus
}
#endif

#endif /* TQKV_GPU_H */
