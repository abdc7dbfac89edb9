#pragma once
/* Numbers of 16 and 32 bits in memory, and what inputs count as. */
#define LARGEST_INPUT 1099511627776.0f /* 2^40 */
enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 2 };

INLINE ushort bf16_from_float(float x)
{
    uint bits = as_uint(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (ushort)(bits >> 16 | 0x40u);
    return (ushort)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

INLINE float number_load(GLOBAL const uchar *p, uint type, uint i)
{
    if (type == TYPE_F32)
        return ((GLOBAL const float *)p)[i];
    ushort x = ((GLOBAL const ushort *)p)[i];
    return type == TYPE_F16 ? f16_to_float(x) : as_float((uint)x << 16);
}

INLINE void number_store(GLOBAL uchar *p, uint type, uint i, float x)
{
    if (type == TYPE_F32)
        ((GLOBAL float *)p)[i] = x;
    else
        ((GLOBAL ushort *)p)[i] = type == TYPE_F16 ? f16_from_float(x) : bf16_from_float(x);
}

INLINE float finite_input(float x)
{
    return x > LARGEST_INPUT ? LARGEST_INPUT : x < -LARGEST_INPUT ? -LARGEST_INPUT : x == x ? x : 0;
}

INLINE void words_load(GLOBAL const uchar *p, uint *w)
{
#if defined(__CUDACC__)
    uint4 four = *(const uint4 *)p;
    w[0] = four.x;
    w[1] = four.y;
    w[2] = four.z;
    w[3] = four.w;
#else
    for (uint i = 0; i < 4; i++)
        w[i] = ((GLOBAL const uint *)p)[i];
#endif
}

INLINE uint word_load(GLOBAL const uchar *p, uint is_aligned)
{
    if (is_aligned)
        return *(GLOBAL const uint *)p;
    return (uint)p[0] | (uint)p[1] << 8 | (uint)p[2] << 16 | (uint)p[3] << 24;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(EMULATED)
INLINE uint f16_pair(float low, float high)
{
    uint pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* NaN becomes the one that has no sign and no other bits. */
INLINE uint bf16_pair(float low, float high)
{
    uint pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#else
INLINE uint f16_pair(float low, float high)
{
    return (uint)f16_from_float(low) | (uint)f16_from_float(high) << 16;
}

INLINE uint bf16_pair(float low, float high)
{
    return (uint)bf16_from_float(low) | (uint)bf16_from_float(high) << 16;
}
#endif

INLINE void words_store(GLOBAL uchar *p, uint a, uint b, uint c, uint d)
{
#if defined(__CUDACC__)
    *(uint4 *)p = make_uint4(a, b, c, d);
#elif defined(__OPENCL_VERSION__)
    *(GLOBAL uint4 *)p = (uint4)(a, b, c, d);
#elif defined(__METAL_VERSION__)
    *(GLOBAL uint4 *)p = uint4(a, b, c, d);
#else
    GLOBAL uint *w = (GLOBAL uint *)p;
    w[0] = a;
    w[1] = b;
    w[2] = c;
    w[3] = d;
#endif
}

/* Eight numbers, the first number i of an array; wide says that the array
 * begins at a multiple of 16 bytes, and i is one of 8. */
INLINE void numbers_store(GLOBAL uchar *p, uint type, ulong i, uint wide, const float *x)
{
    if (!wide) {
        p += i * (type == TYPE_F32 ? 4u : 2u);
        for (uint j = 0; j < 8; j++)
            number_store(p, type, j, x[j]);
    } else if (type == TYPE_F32) {
        words_store(p + 4 * i, as_uint(x[0]), as_uint(x[1]), as_uint(x[2]), as_uint(x[3]));
        words_store(p + 4 * i + 16, as_uint(x[4]), as_uint(x[5]), as_uint(x[6]), as_uint(x[7]));
    } else if (type == TYPE_F16) {
        words_store(p + 2 * i, f16_pair(x[0], x[1]), f16_pair(x[2], x[3]), f16_pair(x[4], x[5]),
                    f16_pair(x[6], x[7]));
    } else {
        words_store(p + 2 * i, bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]),
                    bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7]));
    }
}

/* Four times n ints that lie side by side at a multiple of 16 bytes. */
INLINE void ints_load(LOCAL const int *p, uint n, int *x)
{
    UNROLL for (uint i = 0; i < n; i++)
    {
#if defined(__CUDACC__)
        int4 four = ((const int4 *)p)[i];
        x[4 * i] = four.x;
        x[4 * i + 1] = four.y;
        x[4 * i + 2] = four.z;
        x[4 * i + 3] = four.w;
#else
        for (uint j = 0; j < 4; j++)
            x[4 * i + j] = p[4 * i + j];
#endif
    }
}
