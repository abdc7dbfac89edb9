#include "attend/plan.h"

#include <math.h>
#include <string.h>

#include "attend/check.h"
#include "format/format.h"
#include "format/levels.h"
#include "format/mlx.h"

static int8_t nearest_level(float value, float per_unit)
{
    return (int8_t)lrintf(value * per_unit);
}

/* ---- windows for AVX-512 ---- */

enum { CHUNK = 16 };

/* Where chunk c begins: the last one ends with the row. */
static unsigned chunk_start(const tile_plan *p, unsigned c)
{
    return c + 1 < p->n_chunks ? c * CHUNK : (unsigned)p->code_bytes - CHUNK;
}

/* The chunk to look for byte b in: the last one wherever it holds it, because a
 * wrapped window needs another from the beginning. */
static uint16_t chunk_of_byte(const tile_plan *p, unsigned b)
{
    return (uint16_t)(b + CHUNK >= p->code_bytes ? p->n_chunks - 1 : b / CHUNK);
}

/* Finds byte b of the row, which may have wrapped around, in the window's
 * chunks; to is its place in the shuffled vector. 0 if it is in neither. */
static int place_byte(const tile_plan *p, window_16 *w, unsigned b, unsigned to)
{
    b %= (unsigned)p->code_bytes;
    for (unsigned i = 0; i <= w->has_second; i++) {
        unsigned start = chunk_start(p, w->chunk[i]);
        if (b >= start && b < start + CHUNK) {
            w->shuffle[i][to] = (uint8_t)(b - start);
            return 1;
        }
    }
    if (w->has_second)
        return 0;
    w->has_second = 1;
    w->chunk[1] = chunk_of_byte(p, b);
    return place_byte(p, w, b, to);
}

/* The 16 windows from value first on; 0 if two chunks cannot hold them. */
static int place_window(const tile_plan *p, unsigned first, window_16 *w)
{
    unsigned bits = p->stream.bits;
    memset(w, 0, sizeof *w);
    memset(w->shuffle, 0x80, sizeof w->shuffle);
    w->chunk[0] = chunk_of_byte(p, first / 8 * bits);
    for (unsigned half = 0; half < 2; half++) {
        unsigned start = (first / 8 + half) * bits;
        for (unsigned b = 0; b <= (7 * bits + 7) / 8; b++)
            if (!place_byte(p, w, start + b, 8 * half + b))
                return 0;
        for (unsigned i = 0; i < 8; i++)
            w->bits[8 * half + i] = (uint8_t)(i * bits);
    }
    return 1;
}

static void place_windows(tile_plan *p)
{
    if (p->code_bytes < CHUNK)
        return;
    p->n_chunks = (unsigned)(p->code_bytes + CHUNK - 1) / CHUNK;
    for (unsigned i = 0; i < p->head_dim; i += 16)
        if (!place_window(p, i, &p->windows[i / 16]))
            return;
    p->has_windows = 1;
}

/* ---- sources ---- */

/* What is level number i of 2^bits: the nearest, or what it leaves. */
typedef int8_t level_function(float value, float per_unit);

static int8_t rest_level(float value, float per_unit)
{
    float rest = value * per_unit - nearest_level(value, per_unit);
    return (int8_t)lrintf(rest * REST_UNIT);
}

static const float *centroids(const tqkv_format *f)
{
    return f->codebook == TQKV_CODEBOOK_MLX ? mlx_codebook(f->bits)
                                            : lloyd_code_of(f->bits)->values;
}

static void set_levels(tile_plan *p, const tqkv_format *f, level_function *level)
{
    unsigned last = (1u << f->bits) - 1;
    const float *values = centroids(f);
    float per_unit = levels_per_unit(f->codebook, f->bits);
    for (unsigned i = 0; p->source == TILE_STREAM && i < 16; i++) {
        p->stream.a[i] = 0; /* no trellis */
        p->stream.b[i] = level(values[i & last], per_unit);
    }
    for (unsigned i = 0; p->source == TILE_BYTES && i < 64; i++)
        p->byte_levels[i] = level(values[i & last], per_unit);
}

static float level_error(const tqkv_format *f)
{
    unsigned n = 1u << f->bits;
    const float *values = centroids(f);
    float square = 0, per_unit = levels_per_unit(f->codebook, f->bits);
    for (unsigned i = 0; i < n; i++) {
        float rest = values[i] * per_unit - nearest_level(values[i], per_unit);
        square += rest * rest;
    }
    return sqrtf(square / (float)n);
}

static void init_scalar_code(tile_plan *p, const tqkv_format *f)
{
    p->level_rms = levels_per_unit(f->codebook, f->bits);
    p->level_error = level_error(f);
    p->unit = 1 / p->level_rms;
    if (f->codebook == TQKV_CODEBOOK_MLX)
        p->unit *= (float)(1 / sqrt((double)f->head_dim));
    p->source = f->bits > 4 ? TILE_BYTES : TILE_STREAM;
    if (p->source == TILE_STREAM) {
        tqkv_format as_stream = *f;
        as_stream.codebook = TQKV_CODEBOOK_LLOYD_MAX;
        stream_plan_init(&p->stream, &as_stream);
    } else {
        p->is_fine = 1; /* these levels' own error leaves no room for another */
    }
    set_levels(p, f, nearest_level);
}

void tile_plan_init_rest(tile_plan *rest, const tile_plan *p, const tqkv_format *f)
{
    *rest = *p;
    rest->unit /= REST_UNIT;
    set_levels(rest, f, rest_level);
}

static void init_float(tile_plan *p, const tqkv_format *f)
{
    p->source = f->codebook ? TILE_FLOAT : TILE_PLAIN;
    p->unit = 1;
    p->mlx_bits = f->bits;
    p->mlx_codebook = f->codebook ? mlx_codebook(p->mlx_bits) : NULL;
}

void tile_plan_init(tile_plan *p, const tqkv_format *f, tqkv_type type)
{
    memset(p, 0, sizeof *p);
    p->head_dim = f->head_dim;
    p->codec = codec_kernels_get();
    p->code_bytes = f->codebook ? format_code_bytes(f)
                                : (size_t)f->head_dim * (type == TQKV_F32 ? 4 : 2);
    p->scale_bytes = f->codebook ? format_scale_bytes(f) : 0;
    if (check_is_float(f)) {
        init_float(p, f);
    } else if (f->codebook != TQKV_CODEBOOK_TRELLIS) {
        init_scalar_code(p, f);
    } else {
        p->source = TILE_STREAM;
        p->unit = 1;
        /* doc/format.md, section 8: rows are normalised by their root mean
         * square or their peak. */
        p->level_rms = f->bits <= 5 ? 37 : 48;
        p->is_fine = f->bits > 6;
        stream_plan_init(&p->stream, f);
    }
    if (p->source == TILE_STREAM && !p->stream.is_planes)
        place_windows(p);
}
