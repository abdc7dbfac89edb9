/* C: the host device, and the test of the text on any machine. */
#include <math.h>
#include <stdbool.h>

#include "common/f16.h"
#include "gpu/host/items.h"

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
#define GLOBAL
#define LOCAL
#define CONSTANT static const
#define PARAM
#define INLINE static inline
#define BARRIER(n_items) items_barrier()
#define UNROLL
#define HAS_DOUBLE 1
#define as_uint f32_bits
#define as_float f32_from_bits
#define f16_to_float f16_to_f32
#define f16_from_float f16_from_f32

#define ITEM_PARAMETERS \
    uint group_x, uint group_y, uint group_z, uint item, uint n_items, LOCAL uchar *local_memory
#define HOST_PARAMETERS                                                              \
    const uint32_t *group, uint32_t item, uint32_t n_items, uint8_t *local_memory,   \
        const void *p, void *const *b
#define ITEM_ARGUMENTS group[0], group[1], group[2], item, n_items, local_memory
#define KERNEL2(name, P, T0, a0, T1, a1) \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1); \
    static void name(HOST_PARAMETERS) \
    { \
        name##_items(ITEM_ARGUMENTS, p, b[0], b[1]); \
    } \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1)

#define KERNEL4(name, P, T0, a0, T1, a1, T2, a2, T3, a3) \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3); \
    static void name(HOST_PARAMETERS) \
    { \
        name##_items(ITEM_ARGUMENTS, p, b[0], b[1], b[2], b[3]); \
    } \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3)

#define KERNEL8(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7) \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7); \
    static void name(HOST_PARAMETERS) \
    { \
        name##_items(ITEM_ARGUMENTS, p, b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]); \
    } \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7)

#define KERNEL9(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8) \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8); \
    static void name(HOST_PARAMETERS) \
    { \
        name##_items(ITEM_ARGUMENTS, p, b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8]); \
    } \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8)

#define KERNEL12(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, a7, T8, \
        a8, T9, a9, T10, a10, T11, a11) \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8, T9 *a9, T10 *a10, T11 *a11); \
    static void name(HOST_PARAMETERS) \
    { \
        name##_items(ITEM_ARGUMENTS, p, b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], \
            b[9], b[10], b[11]); \
    } \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 *a3, T4 \
            *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8, T9 *a9, T10 *a10, T11 *a11)

#define KERNEL16(name, P, T0, a0, T1, a1, T2, a2, T3, a3, T4, a4, T5, a5, T6, a6, T7, \
        a7, T8, a8, T9, a9, T10, a10, T11, a11, T12, a12, T13, a13, T14, a14, T15, a15) \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 \
            *a3, T4 *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8, T9 *a9, T10 *a10, T11 *a11, T12 \
            *a12, T13 *a13, T14 *a14, T15 *a15); \
    static void name(HOST_PARAMETERS) \
    { \
        name##_items(ITEM_ARGUMENTS, p, b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], \
                b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]); \
    } \
    static void name##_items(ITEM_PARAMETERS, const P *p, T0 *a0, T1 *a1, T2 *a2, T3 \
            *a3, T4 *a4, T5 *a5, T6 *a6, T7 *a7, T8 *a8, T9 *a9, T10 *a10, T11 *a11, T12 \
            *a12, T13 *a13, T14 *a14, T15 *a15)
