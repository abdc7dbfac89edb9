#include <math.h>
#include <string.h>

#include "codec/kernels.h"
#include "codec/row.h"
#include "common/f16.h"
#include "common/finite.h"

/* Levels for a row's root mean square, up to 5 bits, and for its largest
 * magnitude, above: finer codes lose more to overload than to a coarser step.
 * The tables are trained for these gains (tools/train_trellis.c). */
#define RMS_GAIN 37.0f
#define PEAK_GAIN 127.0f
enum { LAST_RMS_BITS = 5 };

/* Under this sum of squares every scale rounds to 0 in f16. */
#define SMALLEST_SQUARE 0x1p-60f

float row_clean(const codec_kernels *k, unsigned n, float *x)
{
    float square, peak;
    k->moments(x, n, &square, &peak);
    if (square <= LARGEST_INPUT * LARGEST_INPUT) /* false for NaN */
        return square;
    for (unsigned i = 0; i < n; i++)
        x[i] = made_finite(x[i], LARGEST_INPUT);
    k->moments(x, n, &square, &peak);
    return square;
}

/* The least-squares scale xl / ll, times the unit of x, in f16. 0 makes a row
 * of zeros. */
static uint16_t scale_of(float xl, float ll, float unit)
{
    if (!(ll > 0) || !(xl > 0))
        return 0;
    float scale = xl / ll * unit;
    return f16_from_f32(scale > F16_MAX ? F16_MAX : scale);
}

/* Codes of a row and its scale in units of x; root is its root mean square. */
static uint16_t encode_trellis(row_encoder *e, const float *x, float root, float unit,
                               uint8_t *codes)
{
    const codec_kernels *k = e->codec.kernels;
    const stream_plan *stream = &e->codec.stream;
    unsigned n = stream->head_dim;
    uint8_t symbols[MAX_DIM];
    int8_t levels[MAX_DIM];
    int16_t targets[MAX_DIM];
    float gain = 2 * RMS_GAIN / root, square, peak;
    if (stream->bits > LAST_RMS_BITS) {
        k->moments(x, n, &square, &peak);
        gain = 2 * PEAK_GAIN / peak;
    }
    if (stream->bits == 8) {
        k->quantize(x, n, gain / 2, 127, targets);
        for (unsigned i = 0; i < n; i++)
            symbols[i] = (uint8_t)targets[i];
    } else {
        k->quantize(x, n, gain, TARGET_LIMIT, targets);
        k->viterbi(&e->trellis, targets, symbols, e->survivors);
    }
    codes_pack(k, symbols, stream, codes);
    k->levels(codes, stream, levels);
    float xl;
    int32_t ll;
    k->project_levels(x, levels, n, &xl, &ll);
    return scale_of(xl, (float)ll, unit);
}

static uint16_t encode_lloyd(row_encoder *e, const float *x, float root, float unit,
                             uint8_t *codes)
{
    const codec_kernels *k = e->codec.kernels;
    uint8_t index[MAX_DIM];
    int32_t tv, vv;
    k->lloyd_index(x, e->codec.stream.head_dim, (float)LLOYD_UNIT / root, e->codec.lloyd, index,
                   &tv, &vv);
    codes_pack(k, index, &e->codec.stream, codes);
    float units = (float)LLOYD_VALUE_UNIT / LLOYD_UNIT; /* exact */
    return scale_of((float)tv * units, (float)vv, root * unit);
}

tqkv_status row_encoder_init(row_encoder *e, const tqkv_format *format, const float *balance,
                             const tqkv_rows *rows, size_t n_rows)
{
    tqkv_status status = row_codec_init(&e->codec, format, balance, rows, n_rows);
    if (status == TQKV_OK && format->codebook == TQKV_CODEBOOK_TRELLIS)
        trellis_plan_init(&e->trellis, format);
    return status;
}

/* The rotation is left unnormalised, sqrt(n) too large, which gain and scale make up
 * for: the root mean square of H x is then |x|. */
static uint16_t encode_stream(row_encoder *e, float *x, float square, uint8_t *codes)
{
    const row_codec *c = &e->codec;
    unsigned n = c->format.head_dim;
    float unit = 1, root;
    if (c->rotation.active) {
        if (c->rotation.has_signs)
            flip_signs(&c->rotation, x);
        c->kernels->hadamard(x, &c->rotation, 0, 1);
        unit = c->rotation.inverse_root;
        root = sqrtf(square);
    } else {
        root = sqrtf(square / (float)n);
    }
    if (square < SMALLEST_SQUARE)
        return 0;
    return c->lloyd ? encode_lloyd(e, x, root, unit, codes)
                    : encode_trellis(e, x, root, unit, codes);
}

void row_encode(row_encoder *e, float *x, float square, uint8_t *codes, uint8_t *scale)
{
    const row_codec *c = &e->codec;
    if (!c->mlx_codebook) {
        uint16_t half = encode_stream(e, x, square, codes);
        if (half == 0)
            memset(codes, 0, c->code_bytes);
        scale[0] = (uint8_t)half;
        scale[1] = (uint8_t)(half >> 8);
        return;
    }
    float norms[MAX_DIM / 256];
    c->kernels->mlx_encode(x, c->format.head_dim, c->format.bits, c->mlx_codebook, codes,
                           norms);
    memcpy(scale, norms, c->scale_bytes);
}

tqkv_status tqkv_encode(const tqkv_format *format, const float *balance, const void *src,
                        tqkv_type type, size_t src_stride, size_t n_rows, const tqkv_rows *rows)
{
    row_encoder e;
    tqkv_status status = row_encoder_init(&e, format, balance, rows, n_rows);
    if (status != TQKV_OK)
        return status;
    if (type != TQKV_F32 && type != TQKV_F16 && type != TQKV_BF16)
        return TQKV_ERROR_ARGUMENT;
    size_t stride;
    status = row_extent(format, src_stride, n_rows,
                        type == TQKV_F32 ? sizeof(float) : sizeof(uint16_t),
                        &stride);
    if (status != TQKV_OK || n_rows == 0)
        return status;
    if (!src)
        return TQKV_ERROR_ARGUMENT;
    const codec_kernels *k = e.codec.kernels;
    for (size_t r = 0; r < n_rows; r++) {
        float x[MAX_DIM];
        tqkv_to_f32((const uint8_t *)src + r * stride, type, format->head_dim, x);
        float square = row_clean(k, format->head_dim, x);
        if (balance) {
            balance_row(balance, format->head_dim, x);
            square = row_clean(k, format->head_dim, x);
        }
        row_encode(&e, x, square, rows->codes + r * rows->code_stride,
                   rows->scales + r * rows->scale_stride);
    }
    return TQKV_OK;
}
