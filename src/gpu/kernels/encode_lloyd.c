/* lm: the nearest centroids, compared in integers. */
#include "encode_row.h"

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
