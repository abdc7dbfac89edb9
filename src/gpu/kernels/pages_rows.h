#pragma once
/* Rows that become those of pages: tqkv_page_seal and tqkv_page_write, bit for bit (doc/format.md,
 * section 10). */
#include "encode_row.h"
#include "pages.h"

/* Rows of one head of one page, of keys or of values. */
typedef struct page_task {
    GLOBAL const uchar *from; /* row 0 of the staged page, or the new row */
    GLOBAL uchar *codes, *scales, *mean; /* of the page */
    GLOBAL const float *balance;
    ulong present; /* bit r: row r is there */
    uint row;      /* written: the new row's */
    uint is_key, part;
    bool exists;
} page_task;

/* What number n of the launch has to do: its parts, heads, sides, layers, and jobs or rows, the
 * first of them fastest. What comes from the device is only used once it is known to be in its
 * range. */
INLINE page_task page_task_of(PARAM const pages_params *p, ulong n, GLOBAL const uchar *key_from,
                              GLOBAL const uchar *value_from, GLOBAL uchar *key_codes,
                              GLOBAL uchar *key_scales, GLOBAL uchar *key_means,
                              GLOBAL uchar *value_codes, GLOBAL uchar *value_scales,
                              GLOBAL uchar *value_means, GLOBAL const float *balances,
                              GLOBAL const uint *list, GLOBAL const uint *count)
{
    page_task k;
    uint page = 0, staged = 0;
    k.part = (uint)(n % p->parts);
    n /= p->parts;
    uint head = (uint)(n % p->n_kv_heads);
    n /= p->n_kv_heads;
    k.is_key = p->first_side + (uint)(n % p->n_sides) == 0;
    n /= p->n_sides;
    uint layer = p->first_layer + (uint)(n % p->n_layers);
    n /= p->n_layers;
    uint job = (uint)n;
    k.exists = n < p->n_jobs && !(p->has_count && job >= count[0]);
    k.present = 0;
    k.row = 0;
    if (k.exists && p->is_write) {
        uint at = list[job];
        page = at / PAGE_TOKENS;
        k.row = at % PAGE_TOKENS;
        k.exists = at != NO_PLACE && page < p->n_pages;
    } else if (k.exists) {
        staged = list[4 * job];
        page = list[4 * job + 1];
        k.present = list[4 * job + 2] | (ulong)list[4 * job + 3] << 32;
        k.exists = staged < p->n_staged && page < p->n_pages && k.present != 0;
    }
    page = k.exists ? page : 0;
    staged = k.exists ? staged : 0;
    PARAM const pages_side *s = k.is_key ? &p->keys : &p->values;
    ulong from = p->is_write ? (layer - p->first_layer) * s->from_layer + head * s->from_head +
                                   (k.exists ? job : 0) * (ulong)s->from_row
                             : staged_at(s, layer, head, staged);
    k.from = (k.is_key ? key_from : value_from) + from;
    k.codes = (k.is_key ? key_codes : value_codes) + page_codes_at(s, layer, head, page);
    k.scales = (k.is_key ? key_scales : value_scales) + page_scales_at(s, layer, head, page);
    k.mean = k.is_key ? key_means : value_means;
    if (s->has_mean)
        k.mean += page_mean_at(s, layer, head, page);
    k.balance = balances;
    if (s->has_balance)
        k.balance += ((ulong)layer * p->n_kv_heads + head) * s->format.head_dim;
    return k;
}

/* Number i of eight rows. */
INLINE void rows_load(GLOBAL const uchar *from, uint stride, uint type, uint i, float *x)
{
    if (type == TYPE_F32) {
        UNROLL for (uint r = 0; r < 8; r++)
            x[r] = ((GLOBAL const float *)(from + (ulong)r * stride))[i];
    } else {
        ushort halves[8];
        UNROLL for (uint r = 0; r < 8; r++)
            halves[r] = ((GLOBAL const ushort *)(from + (ulong)r * stride))[i];
        UNROLL for (uint r = 0; r < 8; r++)
            x[r] = type == TYPE_F16 ? f16_to_float(halves[r]) : as_float((uint)halves[r] << 16);
    }
}

/* The mean of a page's rows that are to be sealed, or that the page has, or zeros where it has
 * none, in mean[dim], by all items of a group together. The group of part 0 writes a new one's
 * bytes. peaks has room for a float of each item. Ends behind a barrier. */
INLINE void page_mean(PARAM const pages_side *s, const page_task *k, uint is_write,
                      LOCAL float *mean, LOCAL float *peaks, uint item, uint n_items)
{
    uint dim = s->format.head_dim, n = s->has_mean && !is_write ? dim : 0;
    float count = 0, peak = 0;
    for (uint r = 0; r < PAGE_TOKENS; r++)
        count += (float)(uint)(k->present >> r & 1);
    for (uint i = item; i < n; i += n_items) {
        float sum = 0;
        for (uint r = 0; r < PAGE_TOKENS; r += 8) {
            float x[8];
            rows_load(k->from + (ulong)r * s->from_row, s->from_row, s->from_type, i, x);
            UNROLL for (uint j = 0; j < 8; j++)
                sum = k->present >> (r + j) & 1 ? sum + finite_input(x[j]) : sum;
        }
        mean[i] = sum / count;
        float magnitude = fabsf(mean[i]);
        peak = magnitude > peak ? magnitude : peak;
    }
    peaks[item] = peak;
    BARRIER(n_items);
    for (uint i = 0; i < n_items; i++)
        peak = peaks[i] > peak ? peaks[i] : peak;
    float wanted = peak / 127.0f;
    ushort scale16 = f16_from_float(wanted > F16_MAX_SCALE ? F16_MAX_SCALE : wanted);
    float scale = f16_to_float(scale16), own = s->has_mean && is_write ? page_mean_scale(k->mean, dim) : 0;
    for (uint i = item; i < dim; i += n_items) {
        float level = n && scale16 ? rintf(mean[i] / scale) : 0;
        level = level > 127.0f ? 127.0f : level < -127.0f ? -127.0f : level;
        mean[i] = (float)(int)level * scale;
        if (s->has_mean && is_write)
            mean[i] = page_mean_value(k->mean[i], own);
        if (n && k->part == 0)
            k->mean[i] = (uchar)(int)level;
    }
    if (n && k->part == 0 && item == 0) {
        k->mean[dim] = (uchar)scale16;
        k->mean[dim + 1] = (uchar)(scale16 >> 8);
    }
    BARRIER(n_items);
}
