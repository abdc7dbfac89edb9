#pragma once
/* A whole row in an item's registers: no exchange between items, no barriers. For
 * rows of 64 and 128 values, where the compiler knows how many (it unrolls). */
enum { PRIVATE_DIM = 128 };

INLINE uint private_dim(const format_params *f)
{
    return f->head_dim < PRIVATE_DIM ? f->head_dim : PRIVATE_DIM;
}

/* Eight numbers from number i of an array that begins at a multiple of 16 bytes, if
 * it is wide. */
INLINE void numbers_load(GLOBAL const uchar *p, uint type, uint i, uint wide, float *x)
{
    if (!wide) {
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] = number_load(p, type, i + j);
    } else if (type == TYPE_F32) {
        uint w[8];
        words_load(p + 4 * i, w);
        words_load(p + 4 * i + 16, w + 4);
        UNROLL for (uint j = 0; j < 8; j++)
            x[j] = as_float(w[j]);
    } else {
        uint w[4];
        words_load(p + 2 * i, w);
        UNROLL for (uint j = 0; j < 4; j++)
        {
            x[2 * j] = type == TYPE_F16 ? f16_to_float((ushort)(w[j] & 0xFFFF))
                                        : as_float(w[j] << 16);
            x[2 * j + 1] = type == TYPE_F16 ? f16_to_float((ushort)(w[j] >> 16))
                                            : as_float(w[j] & 0xFFFF0000u);
        }
    }
}

/* x = H x, of Sylvester's matrix; dim is a power of two. */
INLINE void private_hadamard(float *x, uint dim)
{
    UNROLL for (uint h = 1; h < PRIVATE_DIM; h *= 2)
    {
        if (h < dim) {
            UNROLL for (uint k = 0; k < PRIVATE_DIM / 2; k++)
            {
                uint i = (k & ~(h - 1)) * 2 + (k & (h - 1));
                if (i < dim) {
                    float low = x[i], high = x[i + h];
                    x[i] = low + high;
                    x[i + h] = low - high;
                }
            }
        }
    }
}

/* As team_moments sums. */
INLINE float private_square(const float *x, uint dim)
{
    float lane[16];
    UNROLL for (uint j = 0; j < 16; j++)
        lane[j] = 0;
    UNROLL for (uint i = 0; i < PRIVATE_DIM; i++)
        if (i < dim)
            lane[i % 16] += x[i] * x[i];
    UNROLL for (uint j = 0; j < 4; j++)
        lane[j] = (lane[j] + lane[j + 8]) + (lane[j + 4] + lane[j + 12]);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}
