/* CUDA C++, by NVRTC or nvcc. */
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong; /* 64 bits on the systems that have CUDA and this */
#define GLOBAL
#define LOCAL
#define CONSTANT __constant__ const
#define PARAM
#define INLINE static __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define HAS_DOUBLE 1
#ifndef EMULATED
#define HAS_WARPS 1 /* 32 items in step, which read each other's registers */
#endif
#ifndef INFINITY
#define INFINITY __uint_as_float(0x7F800000u)
#endif

/* A group of one warp needs no more than the warp's own barrier. */
#define BARRIER(n_items)     \
    do {                     \
        if (n_items <= 32)   \
            __syncwarp();    \
        else                 \
            __syncthreads(); \
    } while (0)

INLINE uint as_uint(float x)
{
    return __float_as_uint(x);
}

INLINE float as_float(uint x)
{
    return __uint_as_float(x);
}

#ifndef EMULATED /* tests on a processor have their own */
INLINE float f16_to_float(ushort x)
{
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

INLINE ushort f16_from_float(float x)
{
    ushort y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#endif

#ifdef GROUP_SIZE
#define ITEM_COUNT GROUP_SIZE
#ifdef MIN_GROUPS /* of a multiprocessor at a time: so many registers fewer */
#define BOUNDS __launch_bounds__(GROUP_SIZE, MIN_GROUPS)
#else
#define BOUNDS __launch_bounds__(GROUP_SIZE)
#endif
#else
#define ITEM_COUNT blockDim.x
#define BOUNDS
#endif
#define ITEM_PARAMETERS \
    uint group_x, uint group_y, uint group_z, uint item, uint n_items, LOCAL uchar *local_memory
#define ITEM_ARGUMENTS \
    blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, ITEM_COUNT, (uchar *)shared_memory
extern __shared__ ulong2 shared_memory[];
/* A kernel of two buffers may have one buffer for both. */
#define KERNEL2(name, P, T0, a0, T1, a1) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1); \
    extern "C" __global__ BOUNDS void name(T0 *a0, T1 *a1, const P \
            p) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 \
            *a1)

#define KERNEL4(name, P, T0, a0, T1, a1, T2, a2, T3, a3) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3); \
    extern "C" __global__ BOUNDS void name(T0 *__restrict__ a0, T1 *__restrict__ a1, T2 \
            *__restrict__ a2, T3 *__restrict__ a3, const P p) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *__restrict__ a0, T1 \
            *__restrict__ a1, T2 *__restrict__ a2, T3 *__restrict__ a3)

#define KERNEL8(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7); \
    extern "C" __global__ BOUNDS void name(T0 *__restrict__ a0, T1 *__restrict__ a1, T2 \
            *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ a4, T5 *__restrict__ a5, \
            T6 *__restrict__ a6, T7 *__restrict__ a7, const P p) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *__restrict__ a0, T1 \
            *__restrict__ a1, T2 *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ a4, \
            T5 *__restrict__ a5, T6 *__restrict__ a6, T7 *__restrict__ a7)

#define KERNEL9(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8); \
    extern "C" __global__ BOUNDS void name(T0 *__restrict__ a0, T1 *__restrict__ a1, T2 \
            *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ a4, T5 *__restrict__ a5, \
            T6 *__restrict__ a6, T7 *__restrict__ a7, T8 *__restrict__ a8, const P p) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7, a8); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *__restrict__ a0, T1 \
            *__restrict__ a1, T2 *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ a4, \
            T5 *__restrict__ a5, T6 *__restrict__ a6, T7 *__restrict__ a7, T8 *__restrict__ \
            a8)

#define KERNEL12(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8, T9, a9, T10, a10, T11, a11) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8, T9 *a9, T10 *a10, T11 *a11); \
    extern "C" __global__ BOUNDS void name(T0 *__restrict__ a0, T1 *__restrict__ a1, T2 \
            *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ a4, T5 *__restrict__ a5, T6 \
            *__restrict__ a6, T7 *__restrict__ a7, T8 *__restrict__ a8, T9 *__restrict__ a9, \
            T10 *__restrict__ a10, T11 *__restrict__ a11, const P p) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *__restrict__ a0, T1 *__restrict__ \
            a1, T2 *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ a4, T5 *__restrict__ \
            a5, T6 *__restrict__ a6, T7 *__restrict__ a7, T8 *__restrict__ a8, T9 *__restrict__ \
            a9, T10 *__restrict__ a10, T11 *__restrict__ a11)

#define KERNEL16(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, \
        a7, T8, a8, T9, a9, T10, a10, T11, a11, T12, a12, T13, a13, T14, a14, T15, a15) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 \
            *a3, T4 *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8, T9 *a9, T10 *a10, T11 *a11, T12 \
            *a12, T13 *a13, T14 *a14, T15 *a15); \
    extern "C" __global__ BOUNDS void name(T0 *__restrict__ a0, T1 *__restrict__ a1, T2 \
            *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ a4, T5 *__restrict__ \
            a5, T6 *__restrict__ a6, T7 *__restrict__ a7, T8 *__restrict__ a8, T9 \
            *__restrict__ a9, T10 *__restrict__ a10, T11 *__restrict__ a11, T12 \
            *__restrict__ a12, T13 *__restrict__ a13, T14 *__restrict__ a14, T15 \
            *__restrict__ a15, const P p) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, \
                a11, a12, a13, a14, a15); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, T0 *__restrict__ a0, T1 \
            *__restrict__ a1, T2 *__restrict__ a2, T3 *__restrict__ a3, T4 *__restrict__ \
            a4, T5 *__restrict__ a5, T6 *__restrict__ a6, T7 *__restrict__ a7, T8 \
            *__restrict__ a8, T9 *__restrict__ a9, T10 *__restrict__ a10, T11 \
            *__restrict__ a11, T12 *__restrict__ a12, T13 *__restrict__ a13, T14 \
            *__restrict__ a14, T15 *__restrict__ a15)
