#pragma once
INLINE float mlx_centroid(uint bits, uint index)
{
    if (bits == 4)
        return MLX_4[index & 15];
    if (bits == 5)
        return MLX_5[index & 31];
    return bits == 6 ? MLX_6[index & 63] : MLX_8[index & 255];
}
