/*
 * tqkv - a transformer's key/value cache in 2 to 8 bits a value
 *
 * A row is one head's key or value at one position: its codes and one scale. This
 * header makes rows from values (encode) and values from rows (decode), describes
 * the formats a row can have, and reads and writes files of rows and of pages.
 * Caches keep rows in pages of 64 that share a mean (tqkv_page.h).
 * doc/format.md specifies every byte.
 *
 * Conventions, for every function unless its comment says otherwise:
 *
 * - Errors are values. A call that does not return TQKV_OK has left its
 *   outputs and its state as they were. Nothing here prints, aborts or exits.
 * - A null pointer where an object or array is needed gives
 *   TQKV_ERROR_ARGUMENT; arrays of no elements may be null.
 * - Everything is re-entrant. Distinct objects may be used from distinct
 *   threads at the same time, and a const object from many.
 * - Arrays need no alignment beyond that of their C type; codes and scales
 *   inside rows are bytes and need none.
 * - Sizes and strides are in bytes where their name says so, otherwise in
 *   elements. Sizes are checked for overflow.
 * - Results are the same bytes on every processor, given the default
 *   floating-point environment (round to nearest, subnormals kept); arrays of
 *   numbers have the processor's byte order, and the library builds only where
 *   that is little-endian.
 * - The codec allocates no memory and uses at most 128 KiB of stack.
 */
#ifndef TQKV_H
#define TQKV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(TQKV_STATIC) || !defined(__GNUC__)
#define TQKV_API
#else
#define TQKV_API __attribute__((visibility("default")))
#endif

#define TQKV_VERSION_MAJOR 0
#define TQKV_VERSION_MINOR 1
#define TQKV_VERSION_PATCH 0
#define TQKV_VERSION "0.1.0"

/* The version of the library that is running, as in TQKV_VERSION. */
TQKV_API const char *tqkv_version(void);

/* ------------------------------------------------------------------ */
/* Status                                                             */
/* ------------------------------------------------------------------ */

typedef enum tqkv_status {
    TQKV_OK = 0,
    TQKV_ERROR_ARGUMENT,       /* a null pointer, or a value outside its range */
    TQKV_ERROR_HEAD_DIM_RANGE, /* head_dim is not from 16 to 1024 */
    TQKV_ERROR_HEAD_DIM_STEP,  /* head_dim is not a multiple of 16 */
    TQKV_ERROR_HEAD_DIM_ODD,   /* odd part of head_dim is not 1, 3, 5, 7 or 9 */
    TQKV_ERROR_HEAD_DIM_POWER, /* an mlx format needs a power of two */
    TQKV_ERROR_FORMAT_NAME,    /* no format has this name */
    TQKV_ERROR_FORMAT,         /* a format's fields contradict each other */
    TQKV_ERROR_BITS,           /* an mlx codebook has 4, 5, 6 or 8 bits */
    TQKV_ERROR_OVERFLOW,       /* a size does not fit its type */
    TQKV_ERROR_BUFFER,         /* an output buffer is too small */
    TQKV_ERROR_MEMORY,         /* out of memory */
    TQKV_ERROR_IO,             /* a read or write callback failed */
    TQKV_ERROR_TRUNCATED,      /* the data ends early */
    TQKV_ERROR_MAGIC,          /* not a file of this kind */
    TQKV_ERROR_ENDIAN,         /* written with the bytes of each number reversed */
    TQKV_ERROR_VERSION,        /* a version that this library does not know */
    TQKV_ERROR_CHECKSUM,       /* a checksum does not match: the data is damaged */
    TQKV_ERROR_CORRUPT,        /* checksummed, but contradicts itself */
    TQKV_ERROR_PROFILE,        /* profile and data differ in shape */
    TQKV_ERROR_STATE,          /* calls in an order that the object forbids */
    TQKV_ERROR_GONE,           /* tokens that are needed have been overwritten */
    TQKV_ERROR_MODEL,          /* data of another model */
    TQKV_ERROR_NO_DEVICE,      /* no such device, or a driver is missing */
    TQKV_ERROR_DEVICE,         /* a device or its driver failed */
    TQKV_ERROR_COMPILE         /* a kernel does not compile */
} tqkv_status;

/* One English sentence without a full stop; never null, also for values that
 * are no status. The string is static. */
TQKV_API const char *tqkv_status_string(tqkv_status status);

/* ------------------------------------------------------------------ */
/* Numbers                                                            */
/* ------------------------------------------------------------------ */

typedef enum tqkv_type {
    TQKV_F32 = 0,
    TQKV_F16 = 1, /* IEEE binary16, as uint16_t */
    TQKV_BF16 = 2 /* the upper half of an f32, as uint16_t */
} tqkv_type;

/* Converts n numbers to or from f32, rounding to nearest even; NaN stays NaN.
 * Half-precision arrays need no alignment. The arrays must not overlap, unless
 * both are f32. */
TQKV_API tqkv_status tqkv_to_f32(const void *src, tqkv_type type, size_t n,
                                 float *dst);
TQKV_API tqkv_status tqkv_from_f32(const float *src, size_t n, void *dst,
                                   tqkv_type type);

/* ------------------------------------------------------------------ */
/* Formats                                                            */
/* ------------------------------------------------------------------ */

typedef enum tqkv_codebook {
    /* Additive trellis code ("tq"): value i is decoded from the 8-bit window
     * of the row's cyclic bit stream at bit i * bits, as
     * (a[window >> 4] + b[window & 15]) * scale; with 3 bits from its own
     * symbol and the two before it, as (t0[u(i)] + t1[u(i-1)] + t2[u(i-2)]) *
     * scale. Trellis-coded quantisation:
     * Marcellin and Fischer, IEEE Trans. Commun. 38 (1990); bit-shift
     * trellis: Tseng et al., QTIP (2024). */
    TQKV_CODEBOOK_TRELLIS = 1,
    /* Scalar Lloyd-Max codes for N(0,1) ("lm"): Max, IRE Trans. Inf. Theory
     * 6 (1960). */
    TQKV_CODEBOOK_LLOYD_MAX = 2,
    /* The tables and scales of mlx-native's TurboQuant kernels ("mlx"). */
    TQKV_CODEBOOK_MLX = 3
} tqkv_codebook;

typedef enum tqkv_layout {
    /* Codes and scale of a row lie together: tq and lm. */
    TQKV_LAYOUT_ROW = 1,
    /* Codes in one array, f32 norms in another: mlx. */
    TQKV_LAYOUT_SPLIT = 2
} tqkv_layout;

typedef enum tqkv_rotation {
    /* Rows are rotated already, or shall not be. */
    TQKV_ROTATION_NONE = 0,
    /* The orthonormal Hadamard matrix of order head_dim: Sylvester's for
     * powers of two, otherwise Paley's of order 12, 20, 28 or 36 times
     * Sylvester's (doc/format.md). */
    TQKV_ROTATION_HADAMARD = 1,
    /* The same after a fixed sequence of sign flips. */
    TQKV_ROTATION_SIGNED_HADAMARD = 2
} tqkv_rotation;

/* What a row is. Fill it by tqkv_format_parse, or by hand and check it with
 * tqkv_format_check; every function checks the format it is given. */
typedef struct tqkv_format {
    uint16_t bits;     /* of a value */
    uint16_t head_dim; /* values in a row */
    uint8_t codebook;  /* tqkv_codebook */
    uint8_t layout;    /* tqkv_layout */
    uint8_t rotation;  /* tqkv_rotation */
    uint8_t reserved;  /* 0 */
} tqkv_format;

enum { TQKV_MAX_HEAD_DIM = 1024, TQKV_FORMAT_NAME_SIZE = 24 };

/* Reads a format's name:
 *   tq2 to tq8;   lm2, lm3, lm4;   mlx4, mlx5, mlx6, mlx8 (head_dim a power of two).
 * After the name, "s" flips signs before the rotation (tq4s) and "n" does not
 * rotate (tq4n); mlx takes neither. */
TQKV_API tqkv_status tqkv_format_parse(const char *name, uint32_t head_dim,
                                       tqkv_format *format);

/* Writes the name that tqkv_format_parse reads, ended by a zero byte, into
 * name[size]. TQKV_FORMAT_NAME_SIZE bytes are always enough. */
TQKV_API tqkv_status tqkv_format_name(const tqkv_format *format, char *name,
                                      size_t size);

/* TQKV_OK, or what is wrong with the format. */
TQKV_API tqkv_status tqkv_format_check(const tqkv_format *format);

/* Bytes of one row: its codes; its scale (f16, or f32 norms for mlx); and
 * both together. */
TQKV_API tqkv_status tqkv_format_code_bytes(const tqkv_format *format,
                                            size_t *bytes);
TQKV_API tqkv_status tqkv_format_scale_bytes(const tqkv_format *format,
                                             size_t *bytes);
TQKV_API tqkv_status tqkv_format_row_bytes(const tqkv_format *format,
                                           size_t *bytes);

/* ------------------------------------------------------------------ */
/* Profiles                                                           */
/* ------------------------------------------------------------------ */

/* A balance, [head_dim] finite and positive numbers, stretches the values of keys, and
 * queries are divided by it: each value of a key then has the precision that the queries
 * need. A row of key k has the codes of balance * k, element by element. */

/* The balances of a model: one for each layer and KV head. */
typedef struct tqkv_profile tqkv_profile;

enum { TQKV_MAX_FINGERPRINT = 255 };

/* A profile that changes nothing: balances of 1. fingerprint says in up to
 * TQKV_MAX_FINGERPRINT bytes of UTF-8 which model it is for; null is
 * the empty text. Free it with tqkv_profile_free. */
TQKV_API tqkv_status tqkv_profile_create(uint32_t n_layers, uint32_t n_heads,
                                         uint32_t head_dim,
                                         const char *fingerprint,
                                         tqkv_profile **profile);
TQKV_API void tqkv_profile_free(tqkv_profile *profile); /* null is fine */

TQKV_API uint32_t tqkv_profile_n_layers(const tqkv_profile *profile);
TQKV_API uint32_t tqkv_profile_n_heads(const tqkv_profile *profile);
TQKV_API uint32_t tqkv_profile_head_dim(const tqkv_profile *profile);
TQKV_API const char *tqkv_profile_fingerprint(const tqkv_profile *profile);

/* The balance of one head, which belongs to the profile and lives as long as it
 * does. Those of a layer's heads lie one after the other, as in tqkv_operand. */
TQKV_API tqkv_status tqkv_profile_balance(const tqkv_profile *profile,
                                          uint32_t layer, uint32_t head,
                                          const float **balance);

/* Sets one head's balance, copying it. Not while another thread reads the
 * profile. */
TQKV_API tqkv_status tqkv_profile_set(tqkv_profile *profile, uint32_t layer,
                                      uint32_t head, const float *balance);

/* Fits one head's balance from keys as the cache sees them (after RoPE) and the queries
 * of all query heads that read it: keys[n_keys][head_dim] at a distance of key_stride
 * elements from row to row (0: head_dim), at consecutive positions, 64 a page; queries
 * likewise. balance_i = (E q_i^2 / E r_i^2)^(1/4), bounded and normalised to leave the keys'
 * mean square as it is, or 1 where n_queries is 0, and the same on every machine. r is what
 * will be coded: the key, or if has_means is not 0 what the mean of its page (tqkv_page.h)
 * leaves of it. Rows that are not finite are left out. Needs at least one finite key. */
TQKV_API tqkv_status tqkv_profile_fit(tqkv_profile *profile, uint32_t layer,
                                      uint32_t head, int has_means,
                                      const float *keys, size_t n_keys,
                                      size_t key_stride, const float *queries,
                                      size_t n_queries, size_t query_stride);

/* The file form (doc/format.md), checksummed. _size says how many bytes
 * _write needs; _read refuses damaged, foreign and contradictory data. */
TQKV_API tqkv_status tqkv_profile_size(const tqkv_profile *profile,
                                       size_t *bytes);
TQKV_API tqkv_status tqkv_profile_write(const tqkv_profile *profile,
                                        void *data, size_t size);
TQKV_API tqkv_status tqkv_profile_read(const void *data, size_t size,
                                       tqkv_profile **profile);

/* ------------------------------------------------------------------ */
/* Rows                                                               */
/* ------------------------------------------------------------------ */

/* Where rows lie. Row r has its codes at codes + r * code_stride, its scale at
 * scales + r * scale_stride; strides are in bytes. */
typedef struct tqkv_rows {
    uint8_t *codes, *scales;
    size_t code_stride, scale_stride;
} tqkv_rows;

/* Rows one after the other from base, stride bytes apart (0: row_bytes):
 * codes, then scale. */
TQKV_API tqkv_status tqkv_rows_at(const tqkv_format *format, void *base,
                                  size_t stride, tqkv_rows *rows);

/* Encodes n_rows rows of head_dim values of the given type, src_stride
 * elements from row to row (0: head_dim). balance is [head_dim], finite and
 * positive (TQKV_ERROR_PROFILE otherwise), or null for 1.
 *
 * Every input has a defined result: NaN counts as 0 and magnitudes beyond
 * 2^40 as 2^40; a row whose scale is beyond f16 gets the largest f16; a row
 * whose scale rounds to 0 becomes all zero bits, which decode to 0.
 *
 * src and the rows must not overlap. */
TQKV_API tqkv_status tqkv_encode(const tqkv_format *format,
                                 const float *balance, const void *src, tqkv_type type,
                                 size_t src_stride, size_t n_rows,
                                 const tqkv_rows *rows);

typedef enum tqkv_domain {
    TQKV_ORIGINAL = 0, /* as given to tqkv_encode */
    TQKV_ROTATED = 1   /* before the inverse rotation and balance:
                          what attention multiplies with rotated queries */
} tqkv_domain;

/* Decodes n_rows rows to f32, dst_stride elements from row to row (0:
 * head_dim), with the balance that they were encoded with. Any bytes are some
 * row, whatever they are. */
TQKV_API tqkv_status tqkv_decode(const tqkv_format *format,
                                 const float *balance, const tqkv_rows *rows, size_t n_rows,
                                 tqkv_domain domain, float *dst,
                                 size_t dst_stride);

/* Rotates n_rows rows of f32 as tqkv_encode would; for queries. src and dst
 * may be the same array with the same stride. */
TQKV_API tqkv_status tqkv_rotate(const tqkv_format *format, const float *src,
                                 size_t src_stride, size_t n_rows, float *dst,
                                 size_t dst_stride);

/* ------------------------------------------------------------------ */
/* The reference layout of mlx-native                                 */
/* ------------------------------------------------------------------ */

/* packed: [n_kv_heads][capacity][head_dim / 2] bytes for 4 bits, otherwise
 * [n_kv_heads][capacity][head_dim]; norms: [n_kv_heads][capacity]
 * [max(head_dim / 256, 1)] f32. Position p lies in slot p % capacity. */
typedef struct tqkv_mlx_shape {
    uint32_t bits; /* 4, 5, 6 or 8 */
    uint32_t n_kv_heads, head_dim, capacity;
} tqkv_mlx_shape;

/* Bytes of packed and elements of norms. */
TQKV_API tqkv_status tqkv_mlx_sizes(const tqkv_mlx_shape *shape,
                                    size_t *packed_bytes, size_t *n_norms);

/* hadamard_quantize_kv: encodes src[n_positions][n_kv_heads][head_dim] to the
 * positions from first on. n_positions is at most capacity. As in the
 * reference, no heads or no head_dim is a success that does nothing. */
TQKV_API tqkv_status tqkv_mlx_encode(const tqkv_mlx_shape *shape,
                                     const float *src, size_t first,
                                     size_t n_positions, uint8_t *packed,
                                     float *norms);

/* tq_dequantize_kv and tq_dequantize_hb_kv, for one position or more: writes
 * dst[n_positions][n_kv_heads][head_dim], rotated domain. dst_elements is the
 * room in dst. scale_factor_d512 divides the block norms where head_dim is
 * over 256; it must be finite and not 0. */
TQKV_API tqkv_status tqkv_mlx_decode(const tqkv_mlx_shape *shape,
                                     const uint8_t *packed, const float *norms,
                                     size_t first, size_t n_positions,
                                     float scale_factor_d512, float *dst,
                                     size_t dst_elements);

/* requantize_to_f32_hb: each of n rotated, normalised values becomes its
 * nearest centroid (NaN becomes the lowest). src and dst may be the same. */
TQKV_API tqkv_status tqkv_mlx_requantize(uint32_t bits, const float *src,
                                         size_t n, float *dst);

/* ------------------------------------------------------------------ */
/* Containers: files of rows or of pages                              */
/* ------------------------------------------------------------------ */

/* How bytes come and go. Both return the number of bytes done; less than
 * asked for is an error for write, and the end of the data for read. */
typedef size_t (*tqkv_write_function)(void *context, const void *data,
                                      size_t size);
typedef size_t (*tqkv_read_function)(void *context, void *data, size_t size);

/* Rows in the order [n_layers][n_tokens][n_heads], also where the file has them in pages
 * (tqkv_page.h): of each layer and head, 64 tokens a page, fewer in the last. One section
 * has the pages of all heads and at most 16 MiB; TQKV_ERROR_OVERFLOW where it would not
 * suffice. */
typedef struct tqkv_container_info {
    tqkv_format format;
    uint64_t n_layers, n_tokens, n_heads; /* each at least 1 */
    uint8_t type;           /* tqkv_type that the values had */
    uint8_t has_layer_axis; /* 1 if the array had a leading layer axis */
    uint8_t has_profile;    /* set by the writer and the reader */
    uint8_t is_paged;       /* 1 for pages */
} tqkv_container_info;

typedef struct tqkv_writer tqkv_writer;
typedef struct tqkv_reader tqkv_reader;

/* Writes the header, and the profile if there is one, which is copied. Free
 * with tqkv_writer_free, after tqkv_writer_finish for a whole container. Once writing has
 * failed, what was written is no container, and every further append and finish gives that
 * error again. */
TQKV_API tqkv_status tqkv_writer_create(const tqkv_container_info *info,
                                        const tqkv_profile *profile,
                                        tqkv_write_function write,
                                        void *context, tqkv_writer **writer);
/* Encodes the next n_rows rows of values of the given type and writes them as
 * one or more sections; rows of pages are kept until their 64 tokens are there. More rows
 * than the header announced are refused. */
TQKV_API tqkv_status tqkv_writer_append(tqkv_writer *writer, const void *src,
                                        tqkv_type type, size_t n_rows);
/* The same of rows that are encoded already (on a device, say), one after the other
 * as in the container: codes, then scale. TQKV_ERROR_STATE for pages. */
TQKV_API tqkv_status tqkv_writer_append_rows(tqkv_writer *writer, const void *rows,
                                             size_t n_rows);
/* Writes the end. Fewer rows than announced: TQKV_ERROR_STATE. */
TQKV_API tqkv_status tqkv_writer_finish(tqkv_writer *writer);
TQKV_API void tqkv_writer_free(tqkv_writer *writer); /* null is fine */

/* Reads and checks the header and the profile. Once reading has failed, which may have taken
 * any number of bytes from `read`, every further _next gives that error again. */
TQKV_API tqkv_status tqkv_reader_create(tqkv_read_function read, void *context,
                                        tqkv_reader **reader);
TQKV_API const tqkv_container_info *tqkv_reader_info(const tqkv_reader *reader);
/* Null if there is none; belongs to the reader. */
TQKV_API const tqkv_profile *tqkv_reader_profile(const tqkv_reader *reader);
/* Decodes up to max_rows further rows to dst[rows][head_dim]; *n_rows says
 * how many, 0 at the end, when the whole container has been checked. A
 * damaged section gives an error and no rows. */
TQKV_API tqkv_status tqkv_reader_next(tqkv_reader *reader, float *dst,
                                      size_t max_rows, size_t *n_rows);
/* The same without decoding: the rows as they are, checksummed. TQKV_ERROR_STATE for
 * pages. */
TQKV_API tqkv_status tqkv_reader_next_rows(tqkv_reader *reader, void *rows, size_t max_rows,
                                           size_t *n_rows);
TQKV_API void tqkv_reader_free(tqkv_reader *reader); /* null is fine */

/* ------------------------------------------------------------------ */
/* Processor                                                          */
/* ------------------------------------------------------------------ */

enum {
    TQKV_CPU_AVX2 = 1 << 0,       /* with FMA and F16C */
    TQKV_CPU_AVX512 = 1 << 1,     /* F, BW, DQ and VL */
    TQKV_CPU_AVX512VBMI = 1 << 2, /* VBMI and VNNI on top of it */
    TQKV_CPU_NEON = 1 << 3,
    TQKV_CPU_DOTPROD = 1 << 4
};

/* What the processor has and tqkv uses, less what is masked. */
TQKV_API uint32_t tqkv_cpu_features(void);

/* Uses only features whose bit is set in mask, from the next call on; ~0 lifts
 * it. For tests and measurements; any thread may call it at any time: all
 * kernels of the codec give the same results, those of attention the same
 * within its bounds. */
TQKV_API void tqkv_cpu_mask(uint32_t mask);

/* Name of the best kernels in use: "scalar", "avx2", "avx512", "avx512vbmi",
 * "neon", "neon-dotprod". */
TQKV_API const char *tqkv_isa_name(void);

#ifdef __cplusplus
}
#endif

#endif /* TQKV_H */
