/* A step's new keys and values into a cache, all heads of all sequences in one launch: a row
 * a group. A kernel for each codebook; the host names the rows that are of it. */
#include "encode_row.h"
#include "place.h"
#include "encode_trellis.c"
#include "encode_lloyd.c"
#include "encode_mlx.c"

/* A group's row, and whether its token exists. */
INLINE bool append_task(PARAM const append_params *p, uint row, bool is_key,
                        GLOBAL const uchar *source, GLOBAL uchar *codes, GLOBAL uchar *scales,
                        GLOBAL const float *balances, GLOBAL const uint *pages,
                        GLOBAL const uint *lengths, row_task *k)
{
    PARAM const operand_params *o = is_key ? &p->keys : &p->values;
    uint dim = o->format.head_dim, n = is_key ? row : row - p->n_each;
    uint head = n % p->n_kv_heads, i = n / p->n_kv_heads % p->n_positions,
         sequence = n / p->n_kv_heads / p->n_positions;
    uint length = p->has_lengths ? lengths[sequence] : p->n_tokens;
    length = length < p->n_tokens ? length : p->n_tokens;
    bool exists = length + i >= p->n_positions;
    place at = token_place(&p->places, pages, sequence, exists ? length + i - p->n_positions : 0);
    k->src = source + (ulong)n * dim * (p->value_type == TYPE_F32 ? 4 : 2);
    k->codes = codes + code_offset(o, sequence, head, at);
    k->scales = scales + scale_offset(o, sequence, head, at);
    k->has_balance = is_key && p->has_balances;
    k->balance = k->has_balance ? balances + (ulong)head * dim : balances;
    k->value_type = p->value_type;
    k->sign = 0;
    return exists;
}

/* A padding group, with no row of its own, takes the last one's, and returns. */
#define APPEND_BEGIN                                                                         \
    uint row = p->first_row + group_y * 65535 + group_x, last = p->first_row + p->n_rows - 1; \
    bool is_key = (row < last ? row : last) < p->n_each;                                     \
    format_params f = is_key ? p->keys.format : p->values.format;                            \
    row_task k;                                                                              \
    team t = team_of(&f, p->lanes, p->team_floats, row, last + 1, item, n_items, local_memory); \
    bool exists =                                                                            \
        append_task(p, (uint)t.row, is_key, is_key ? keys : values, is_key ? key_codes : value_codes, \
                    is_key ? key_scales : value_scales, balances, pages, lengths, &k);       \
    if (!exists || !t.is_active) /* the group's only row */                                  \
        return;

KERNEL9(append_trellis, append_params, const uchar, keys, const uchar, values, uchar, key_codes,
        uchar, key_scales, uchar, value_codes, uchar, value_scales, const float, balances,
        const uint, pages, const uint, lengths)
{
    APPEND_BEGIN
    trellis_row_encode(&t, &f, &k, &p->rotation, item);
}

KERNEL9(append_lloyd, append_params, const uchar, keys, const uchar, values, uchar, key_codes,
        uchar, key_scales, uchar, value_codes, uchar, value_scales, const float, balances,
        const uint, pages, const uint, lengths)
{
    APPEND_BEGIN
    lloyd_row_encode(&t, &f, &k, &p->rotation);
}

KERNEL9(append_mlx, append_params, const uchar, keys, const uchar, values, uchar, key_codes,
        uchar, key_scales, uchar, value_codes, uchar, value_scales, const float, balances,
        const uint, pages, const uint, lengths)
{
    APPEND_BEGIN
    mlx_task_encode(&t, &f, &k, item);
}
