/* What NaN and huge numbers count as. */
#ifndef TQKV_COMMON_FINITE_H
#define TQKV_COMMON_FINITE_H

/* The largest magnitude of a value, key, query or number in a profile. */
#define LARGEST_INPUT 0x1p40f

/* NaN is 0, and no magnitude is over limit. */
static inline float made_finite(float x, float limit)
{
    return x > limit ? limit : x < -limit ? -limit : x == x ? x : 0;
}

#endif
