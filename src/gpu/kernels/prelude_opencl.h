/* OpenCL C 1.2. */
#pragma OPENCL FP_CONTRACT OFF
#define GLOBAL __global
#define LOCAL __local
#define CONSTANT __constant
#define PARAM
#define INLINE static inline
#define BARRIER(n_items) barrier(CLK_LOCAL_MEM_FENCE)
#define UNROLL
#define fmaf fma
#define rintf rint
#define sqrtf sqrt
#define fabsf fabs
#define expf exp
#define tanhf tanh

INLINE float f16_to_float(ushort x)
{
    return vload_half(0, (const half *)&x);
}

INLINE ushort f16_from_float(float x)
{
    ushort y;
    vstore_half_rte(x, 0, (half *)&y);
    return y;
}

#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#define HAS_DOUBLE 1
#endif

/* Buffers come as a pointer and an offset, because sub-buffers have to be aligned. */
#define ITEM_PARAMETERS \
    uint group_x, uint group_y, uint group_z, uint item, uint n_items, LOCAL uchar *local_memory
#define ITEM_ARGUMENTS                                                                       \
    (uint)get_group_id(0), (uint)get_group_id(1), (uint)get_group_id(2), (uint)get_local_id(0), \
        (uint)get_local_size(0), (LOCAL uchar *)memory
#define BUFFER(i) __global uchar *b##i, ulong o##i
#define AT(T, i) (GLOBAL T *)(b##i + o##i)
/* A kernel of two buffers may have one buffer for both. */
#define KERNEL2(name, P, T0, a0, T1, a1) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *a0, GLOBAL T1 *a1); \
    __kernel void name(BUFFER(0), BUFFER(1), P p, LOCAL ulong2 *memory) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, AT(T0, 0), AT(T1, 1)); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *a0, GLOBAL T1 \
            *a1)

#define KERNEL4(name, P, T0, a0, T1, a1, T2, a2, T3, a3) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *a0, GLOBAL T1 *a1, GLOBAL \
            T2 *a2, GLOBAL T3 *a3); \
    __kernel void name(BUFFER(0), BUFFER(1), BUFFER(2), BUFFER(3), P p, LOCAL ulong2 *memory) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, AT(T0, 0), AT(T1, 1), AT(T2, 2), AT(T3, 3)); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *restrict a0, GLOBAL T1 \
            *restrict a1, GLOBAL T2 *restrict a2, GLOBAL T3 *restrict a3)

#define KERNEL8(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *a0, GLOBAL T1 *a1, GLOBAL \
            T2 *a2, GLOBAL T3 *a3, GLOBAL T4 *a4, GLOBAL T5 *a5, GLOBAL T6 *a6, GLOBAL T7 \
            *a7); \
    __kernel void name(BUFFER(0), BUFFER(1), BUFFER(2), BUFFER(3), BUFFER(4), BUFFER(5), \
            BUFFER(6), BUFFER(7), P p, LOCAL ulong2 *memory) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, AT(T0, 0), AT(T1, 1), AT(T2, 2), AT(T3, 3), AT(T4, \
                4), AT(T5, 5), AT(T6, 6), AT(T7, 7)); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *restrict a0, GLOBAL T1 \
            *restrict a1, GLOBAL T2 *restrict a2, GLOBAL T3 *restrict a3, GLOBAL T4 *restrict \
            a4, GLOBAL T5 *restrict a5, GLOBAL T6 *restrict a6, GLOBAL T7 *restrict a7)

#define KERNEL9(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *a0, GLOBAL T1 *a1, GLOBAL \
            T2 *a2, GLOBAL T3 *a3, GLOBAL T4 *a4, GLOBAL T5 *a5, GLOBAL T6 *a6, GLOBAL T7 *a7, \
            GLOBAL T8 *a8); \
    __kernel void name(BUFFER(0), BUFFER(1), BUFFER(2), BUFFER(3), BUFFER(4), BUFFER(5), \
            BUFFER(6), BUFFER(7), BUFFER(8), P p, LOCAL ulong2 *memory) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, AT(T0, 0), AT(T1, 1), AT(T2, 2), AT(T3, 3), AT(T4, \
                4), AT(T5, 5), AT(T6, 6), AT(T7, 7), AT(T8, 8)); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *restrict a0, GLOBAL T1 \
            *restrict a1, GLOBAL T2 *restrict a2, GLOBAL T3 *restrict a3, GLOBAL T4 *restrict \
            a4, GLOBAL T5 *restrict a5, GLOBAL T6 *restrict a6, GLOBAL T7 *restrict a7, GLOBAL \
            T8 *restrict a8)

#define KERNEL12(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8, T9, a9, T10, a10, T11, a11) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *a0, GLOBAL T1 *a1, GLOBAL \
            T2 *a2, GLOBAL T3 *a3, GLOBAL T4 *a4, GLOBAL T5 *a5, GLOBAL T6 *a6, GLOBAL T7 *a7, \
            GLOBAL T8 *a8, GLOBAL T9 *a9, GLOBAL T10 *a10, GLOBAL T11 *a11); \
    __kernel void name(BUFFER(0), BUFFER(1), BUFFER(2), BUFFER(3), BUFFER(4), BUFFER(5), \
            BUFFER(6), BUFFER(7), BUFFER(8), BUFFER(9), BUFFER(10), BUFFER(11), P p, LOCAL \
            ulong2 *memory) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, AT(T0, 0), AT(T1, 1), AT(T2, 2), AT(T3, 3), AT(T4, 4), \
            AT(T5, 5), AT(T6, 6), AT(T7, 7), AT(T8, 8), AT(T9, 9), AT(T10, 10), AT(T11, 11)); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *restrict a0, GLOBAL T1 \
            *restrict a1, GLOBAL T2 *restrict a2, GLOBAL T3 *restrict a3, GLOBAL T4 *restrict \
            a4, GLOBAL T5 *restrict a5, GLOBAL T6 *restrict a6, GLOBAL T7 *restrict a7, GLOBAL \
            T8 *restrict a8, GLOBAL T9 *restrict a9, GLOBAL T10 *restrict a10, GLOBAL T11 \
            *restrict a11)

#define KERNEL16(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, \
        a7, T8, a8, T9, a9, T10, a10, T11, a11, T12, a12, T13, a13, T14, a14, T15, a15) \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *a0, GLOBAL T1 *a1, \
            GLOBAL T2 *a2, GLOBAL T3 *a3, GLOBAL T4 *a4, GLOBAL T5 *a5, GLOBAL T6 *a6, \
            GLOBAL T7 *a7, GLOBAL T8 *a8, GLOBAL T9 *a9, GLOBAL T10 *a10, GLOBAL T11 \
            *a11, GLOBAL T12 *a12, GLOBAL T13 *a13, GLOBAL T14 *a14, GLOBAL T15 *a15); \
    __kernel void name(BUFFER(0), BUFFER(1), BUFFER(2), BUFFER(3), BUFFER(4), BUFFER(5), \
            BUFFER(6), BUFFER(7), BUFFER(8), BUFFER(9), BUFFER(10), BUFFER(11), \
            BUFFER(12), BUFFER(13), BUFFER(14), BUFFER(15), P p, LOCAL ulong2 *memory) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, AT(T0, 0), AT(T1, 1), AT(T2, 2), AT(T3, 3), \
                AT(T4, 4), AT(T5, 5), AT(T6, 6), AT(T7, 7), AT(T8, 8), AT(T9, 9), \
                AT(T10, 10), AT(T11, 11), AT(T12, 12), AT(T13, 13), AT(T14, 14), AT(T15, \
                15)); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, const P *p, GLOBAL T0 *restrict a0, GLOBAL \
            T1 *restrict a1, GLOBAL T2 *restrict a2, GLOBAL T3 *restrict a3, GLOBAL T4 \
            *restrict a4, GLOBAL T5 *restrict a5, GLOBAL T6 *restrict a6, GLOBAL T7 \
            *restrict a7, GLOBAL T8 *restrict a8, GLOBAL T9 *restrict a9, GLOBAL T10 \
            *restrict a10, GLOBAL T11 *restrict a11, GLOBAL T12 *restrict a12, GLOBAL \
            T13 *restrict a13, GLOBAL T14 *restrict a14, GLOBAL T15 *restrict a15)
