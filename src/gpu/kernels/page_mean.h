#pragma once
/* A page's mean: signed levels, and behind them the f16 that they are multiplied with
 * (src/page/mean.h). A scale that sealing does not write counts as 0. */
INLINE float page_mean_scale(GLOBAL const uchar *mean, uint dim)
{
    uint scale16 = mean[dim] | (uint)mean[dim + 1] << 8;
    return scale16 < 0x7C00 ? f16_to_float((ushort)scale16) : 0;
}

INLINE float page_mean_level(uint level)
{
    return (float)(level < 128 ? (int)level : (int)level - 256);
}

INLINE float page_mean_value(uint level, float scale)
{
    return page_mean_level(level) * scale;
}
