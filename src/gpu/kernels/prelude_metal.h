/* The Metal shading language. Compile without fast math. It has no double
 * precision: real.h makes do with two floats. */
#include <metal_stdlib>
using namespace metal;
#pragma clang fp contract(off)
#define GLOBAL device
#define LOCAL threadgroup
#define CONSTANT constant const
#define PARAM constant
#define INLINE static inline
#define BARRIER(n_items) threadgroup_barrier(mem_flags::mem_threadgroup)
#define UNROLL _Pragma("unroll")
#define fmaf(a, b, c) metal::fma((float)(a), (float)(b), (float)(c))
#define rintf metal::rint
#define sqrtf metal::precise::sqrt
#define fabsf metal::fabs
#define expf metal::precise::exp
#define tanhf metal::precise::tanh

INLINE uint as_uint(float x)
{
    return as_type<uint>(x);
}

INLINE float as_float(uint x)
{
    return as_type<float>(x);
}

INLINE float f16_to_float(ushort x)
{
    return (float)as_type<half>(x);
}

INLINE ushort f16_from_float(float x)
{
    return as_type<ushort>((half)x);
}

#define ITEM_PARAMETERS \
    uint group_x, uint group_y, uint group_z, uint item, uint n_items, LOCAL uchar *local_memory
#define ITEM_ARGUMENTS group.x, group.y, group.z, item, size.x, (threadgroup uchar *)memory
#ifndef LOCAL_ARGUMENT /* tests have no such attribute */
#define LOCAL_ARGUMENT threadgroup uint *memory [[threadgroup(0)]]
#endif
#define ATTRIBUTES                                                                           \
    LOCAL_ARGUMENT, uint3 group [[threadgroup_position_in_grid]], \
        uint item [[thread_index_in_threadgroup]], uint3 size [[threads_per_threadgroup]]
#define KERNEL2(name, P, T0, a0, T1, a1) \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1); \
    kernel void name(device T0 *a0 [[buffer(0)]], device T1 *a1 [[buffer(1)]], constant P &p \
            [[buffer(2)]], ATTRIBUTES) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1)

#define KERNEL4(name, P, T0, a0, T1, a1, T2, a2, T3, a3) \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3); \
    kernel void name(device T0 *a0 [[buffer(0)]], device T1 *a1 [[buffer(1)]], device T2 *a2 \
            [[buffer(2)]], device T3 *a3 [[buffer(3)]], constant P &p [[buffer(4)]], \
            ATTRIBUTES) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3)

#define KERNEL8(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7) \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device T6 *a6, \
            device T7 *a7); \
    kernel void name(device T0 *a0 [[buffer(0)]], device T1 *a1 [[buffer(1)]], device T2 *a2 \
            [[buffer(2)]], device T3 *a3 [[buffer(3)]], device T4 *a4 [[buffer(4)]], device T5 \
            *a5 [[buffer(5)]], device T6 *a6 [[buffer(6)]], device T7 *a7 [[buffer(7)]], \
            constant P &p [[buffer(8)]], ATTRIBUTES) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device T6 *a6, \
            device T7 *a7)

#define KERNEL9(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8) \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device T6 *a6, \
            device T7 *a7, device T8 *a8); \
    kernel void name(device T0 *a0 [[buffer(0)]], device T1 *a1 [[buffer(1)]], device T2 *a2 \
            [[buffer(2)]], device T3 *a3 [[buffer(3)]], device T4 *a4 [[buffer(4)]], device T5 \
            *a5 [[buffer(5)]], device T6 *a6 [[buffer(6)]], device T7 *a7 [[buffer(7)]], \
            device T8 *a8 [[buffer(8)]], constant P &p \
            [[buffer(9)]], ATTRIBUTES) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7, a8); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device T6 *a6, \
            device T7 *a7, device T8 *a8)

#define KERNEL12(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8, T9, a9, T10, a10, T11, a11) \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device T6 *a6, \
            device T7 *a7, device T8 *a8, device T9 *a9, device T10 *a10, device T11 *a11); \
    kernel void name(device T0 *a0 [[buffer(0)]], device T1 *a1 [[buffer(1)]], device T2 *a2 \
            [[buffer(2)]], device T3 *a3 [[buffer(3)]], device T4 *a4 [[buffer(4)]], device T5 \
            *a5 [[buffer(5)]], device T6 *a6 [[buffer(6)]], device T7 *a7 [[buffer(7)]], device \
            T8 *a8 [[buffer(8)]], device T9 *a9 [[buffer(9)]], device T10 *a10 [[buffer(10)]], \
            device T11 *a11 [[buffer(11)]], constant P &p [[buffer(12)]], ATTRIBUTES) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device T1 \
            *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device T6 *a6, \
            device T7 *a7, device T8 *a8, device T9 *a9, device T10 *a10, device T11 *a11)

#define KERNEL16(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, \
        a7, T8, a8, T9, a9, T10, a10, T11, a11, T12, a12, T13, a13, T14, a14, T15, a15) \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device \
            T1 *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device \
            T6 *a6, device T7 *a7, device T8 *a8, device T9 *a9, device T10 *a10, device \
            T11 *a11, device T12 *a12, device T13 *a13, device T14 *a14, device T15 \
            *a15); \
    kernel void name(device T0 *a0 [[buffer(0)]], device T1 *a1 [[buffer(1)]], device T2 \
            *a2 [[buffer(2)]], device T3 *a3 [[buffer(3)]], device T4 *a4 [[buffer(4)]], \
            device T5 *a5 [[buffer(5)]], device T6 *a6 [[buffer(6)]], device T7 *a7 \
            [[buffer(7)]], device T8 *a8 [[buffer(8)]], device T9 *a9 [[buffer(9)]], \
            device T10 *a10 [[buffer(10)]], device T11 *a11 [[buffer(11)]], device T12 \
            *a12 [[buffer(12)]], device T13 *a13 [[buffer(13)]], device T14 *a14 \
            [[buffer(14)]], device T15 *a15 [[buffer(15)]], constant P &p \
            [[buffer(16)]], ATTRIBUTES) \
    { \
        name##_items(ITEM_ARGUMENTS, &p, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, \
                a11, a12, a13, a14, a15); \
    } \
    INLINE void name##_items(ITEM_PARAMETERS, constant const P *p, device T0 *a0, device \
            T1 *a1, device T2 *a2, device T3 *a3, device T4 *a4, device T5 *a5, device \
            T6 *a6, device T7 *a7, device T8 *a8, device T9 *a9, device T10 *a10, device \
            T11 *a11, device T12 *a12, device T13 *a13, device T14 *a14, device T15 \
            *a15)
