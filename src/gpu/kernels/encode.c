/* Rows from numbers: tqkv_encode's, bit for bit (doc/format.md, section 8). A
 * group encodes a few rows at a time, with a team of items for each. */
#include "params.h"
#include "kernel_tables.h"
#include "number.h"
#include "mlx_table.h"
#include "hadamard.h"
#include "stream.h"
#include "format_constants.h"
#include "mlx_row.h"
#include "team.h"
#include "viterbi.h"

/* As in src/codec/encode.c. */
#define RMS_GAIN 37.0f
#define PEAK_GAIN 127.0f
enum { LAST_RMS_RATE = 84 };
#define SMALLEST_SQUARE 8.67361737988403547e-19f /* 2^-60 */
#define F16_MAX_SCALE 65504.0f

INLINE ushort scale_of(float xl, float ll, float unit)
{
    if (!(ll > 0) || !(xl > 0))
        return 0;
    float scale = xl / ll * unit;
    return f16_from_float(scale > F16_MAX_SCALE ? F16_MAX_SCALE : scale);
}

/* The row as it will be encoded, in t->x: finite, balanced, less its centre. */
INLINE void row_load(const team *t, PARAM const rows_params *p, GLOBAL const uchar *src,
                     GLOBAL const float *profile, GLOBAL uchar *centres)
{
    uint dim = t->dim, nearest = 0;
    for (uint i = t->lane; i < dim; i += t->lanes) {
        float x = finite_input(number_load(src, p->value_type, i));
        t->x[i] = p->n_centres ? x * profile[i] : x;
    }
    BARRIER(t->n_items);
    float least = INFINITY;
    for (uint c = 0; c < p->n_centres && p->n_centres > 1; c++) {
        for (uint j = t->lane; j < 16; j += t->lanes) {
            float sum = 0;
            for (uint i = j; i < dim; i += 16) {
                float difference = t->x[i] - profile[dim * (1 + c) + i];
                sum += difference * difference;
            }
            t->sums[j] = sum;
        }
        BARRIER(t->n_items);
        float distance = 0;
        for (uint j = 0; j < 16; j++)
            distance += t->sums[j];
        if (distance < least) {
            least = distance;
            nearest = c;
        }
        BARRIER(t->n_items);
    }
    if (p->n_centres) {
        for (uint i = t->lane; i < dim; i += t->lanes)
            t->x[i] = finite_input(t->x[i] - profile[dim * (1 + nearest) + i]);
        if (p->n_centres > 1 && t->lane == 0 && t->is_active)
            centres[t->row * p->centre_stride] = (uchar)nearest;
        BARRIER(t->n_items);
    }
}

/* Rotates; gives the sum of squares, root mean square and unit of the row. */
INLINE void row_rotate(const team *t, PARAM const rows_params *p, float *square, float *root,
                       float *unit)
{
    float peak;
    team_moments(t, square, &peak);
    *unit = 1;
    *root = sqrtf(*square / (float)t->dim);
    if (!p->rotation.active)
        return;
    if (p->rotation.has_signs) {
        for (uint i = t->lane; i < t->dim; i += t->lanes)
            t->x[i] = flipped(&p->rotation, i, t->x[i]);
        BARRIER(t->n_items);
    }
    hadamard(t->x, t->y, t->dim, &p->rotation, t->lane, t->lanes, t->n_items);
    *unit = p->rotation.inverse_root;
    *root = sqrtf(*square);
}

/* t->windows to the stream of codes: byte j has the bits of every value that
 * begin or go on in it. */
INLINE void codes_store(const team *t, const format_params *f, GLOBAL uchar *codes, bool is_zero)
{
    for (uint j = t->lane; j < f->code_bytes && t->is_active; j += t->lanes) {
        uint byte = 0;
        for (uint i = 8 * j * 16 / f->rate; i < t->dim && stream_offset(f->rate, i) < 8 * j + 8;
             i++) {
            uint at = stream_offset(f->rate, i), bits = stream_offset(f->rate, i + 1) - at;
            uint value = t->windows[i] & ((1u << bits) - 1);
            byte |= at >= 8 * j ? value << (at - 8 * j) : value >> (8 * j - at);
        }
        codes[j] = is_zero ? 0 : (uchar)byte;
    }
}

INLINE void scale_store(const team *t, GLOBAL uchar *at, ushort scale16)
{
    if (t->lane == 0 && t->is_active) {
        at[0] = (uchar)scale16;
        at[1] = (uchar)(scale16 >> 8);
    }
}

/* Sums of x * level and level * level, in lanes. */
INLINE void team_project(const team *t, const format_params *f, float *xl, float *ll)
{
    for (uint j = t->lane; j < 16; j += t->lanes) {
        float sum = 0;
        int squares = 0;
        for (uint i = j; i < t->dim; i += 16) {
            int level = team_level(t, stream_bits(f->rate, i) > f->low_bits, t->windows[i]);
            sum += t->x[i] * (float)level;
            squares += level * level;
        }
        t->sums[j] = sum;
        ((LOCAL int *)t->sums)[16 + j] = squares;
    }
    BARRIER(t->n_items);
    int squares = 0;
    for (uint j = 0; j < 16; j++)
        squares += ((LOCAL int *)t->sums)[16 + j];
    *xl = lanes_sum(t->sums);
    *ll = (float)squares;
    BARRIER(t->n_items);
}

KERNEL8(encode_trellis, rows_params, const uchar, src, uchar, codes, uchar, scales, uchar, centres,
        const float, profile, uchar, unused5, uchar, unused6, uchar, unused7)
{
    format_params f = rows_format(p);
    team t = team_of(p, &f, group_x, group_y, item, n_items, local_memory);
    team_tables(&t, &f, item, n_items);
    row_load(&t, p, src + t.row * p->value_stride, profile, centres);
    float square, root, unit, peak;
    row_rotate(&t, p, &square, &root, &unit);
    float gain = 2 * RMS_GAIN / root;
    if (f.rate > LAST_RMS_RATE) {
        float again;
        team_moments(&t, &again, &peak);
        gain = 2 * PEAK_GAIN / peak;
    }
    bool is_zero = !(square >= SMALLEST_SQUARE);
    int limit = f.rate == 128 ? 127 : 288;
    if (f.rate == 128)
        gain = gain / 2;
    for (uint i = t.lane; i < t.dim; i += t.lanes) {
        int target = is_zero ? 0 : (int)rintf(t.x[i] * gain);
        target = target > limit ? limit : target < -limit ? -limit : target;
        t.targets[i] = (short)target;
        t.windows[i] = (uchar)target;
    }
    BARRIER(t.n_items);
    if (f.rate < 128)
        viterbi(&t, &f);
    float xl, ll;
    team_project(&t, &f, &xl, &ll);
    ushort scale16 = is_zero ? 0 : scale_of(xl, ll, unit);
    codes_store(&t, &f, codes + t.row * p->code_stride, scale16 == 0);
    scale_store(&t, scales + t.row * p->scale_stride, scale16);
}

KERNEL8(encode_lloyd, rows_params, const uchar, src, uchar, codes, uchar, scales, uchar, centres,
        const float, profile, uchar, unused5, uchar, unused6, uchar, unused7)
{
    format_params f = rows_format(p);
    team t = team_of(p, &f, group_x, group_y, item, n_items, local_memory);
    row_load(&t, p, src + t.row * p->value_stride, profile, centres);
    float square, root, unit;
    row_rotate(&t, p, &square, &root, &unit);
    bool is_zero = !(square >= SMALLEST_SQUARE);
    float gain = 1024.0f / root;
    int tv = 0, vv = 0;
    uint half_count = 1u << (f.bits - 1);
    for (uint i = t.lane; i < t.dim; i += t.lanes) {
        int target = is_zero ? 0 : (int)rintf(t.x[i] * gain);
        target = target > 32767 ? 32767 : target < -32768 ? -32768 : target;
        int magnitude = target < 0 ? -target : target;
        uint above = 0;
        for (uint k = 1; k < half_count; k++)
            above += magnitude > LLOYD_THRESHOLDS[f.bits - 2][k];
        t.windows[i] = (uchar)(target < 0 ? half_count - 1 - above : half_count + above);
        int v = LLOYD_UPPER[f.bits - 2][above];
        tv += magnitude * v;
        vv += v * v;
    }
    LOCAL int *sums = (LOCAL int *)t.sums;
    sums[2 * t.lane] = tv;
    sums[2 * t.lane + 1] = vv;
    BARRIER(t.n_items);
    tv = vv = 0;
    for (uint k = 0; k < t.lanes; k++) {
        tv += sums[2 * k];
        vv += sums[2 * k + 1];
    }
    ushort scale16 = is_zero ? 0 : scale_of((float)tv * 0.25f, (float)vv, root * unit);
    codes_store(&t, &f, codes + t.row * p->code_stride, scale16 == 0);
    scale_store(&t, scales + t.row * p->scale_stride, scale16);
}

KERNEL8(encode_mlx, rows_params, const uchar, src, uchar, codes, uchar, scales, uchar, centres,
        const float, profile, uchar, unused5, uchar, unused6, uchar, unused7)
{
    format_params f = rows_format(p);
    team t = team_of(p, &f, group_x, group_y, item, n_items, local_memory);
    row_load(&t, p, src + t.row * p->value_stride, profile, centres);
    LOCAL real *x = (LOCAL real *)(t.x + f.head_dim);
    for (uint i = item; i < f.head_dim; i += n_items)
        x[i] = real_from(t.x[i]);
    BARRIER(n_items);
    if (t.is_active)
        mlx_row_encode(x, f.head_dim, f.bits, codes + t.row * p->code_stride,
                       scales + t.row * p->scale_stride, item, n_items);
}
