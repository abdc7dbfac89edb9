#pragma once
/* Real numbers finer than float, which the reference's codes are defined by:
 * double where there is one, otherwise the sum of two floats (48 bits; Dekker,
 * Numer. Math. 18 (1971), and Joldes, Muller and Popescu, ACM TOMS 44 (2017)). */
#ifdef HAS_DOUBLE
typedef double real;

INLINE real real_from(float x)
{
    return (real)x;
}

INLINE float real_to_float(real x)
{
    return (float)x;
}

INLINE real real_add(real a, real b)
{
    return a + b;
}

INLINE real real_sub(real a, real b)
{
    return a - b;
}

INLINE real real_mul(real a, real b)
{
    return a * b;
}

INLINE real real_div(real a, real b)
{
    return a / b;
}

INLINE real real_sqrt(real a)
{
    return sqrt(a);
}

INLINE bool real_greater(real a, real b)
{
    return a > b;
}
#else
typedef struct real {
    float high, low;
} real;

INLINE real real_of(float high, float low)
{
    real r;
    r.high = high;
    r.low = low;
    return r;
}

/* |a| >= |b|, or a is 0. */
INLINE real fast_two_sum(float a, float b)
{
    float sum = a + b;
    return real_of(sum, b - (sum - a));
}

INLINE real two_sum(float a, float b)
{
    float sum = a + b, part = sum - a;
    return real_of(sum, (a - (sum - part)) + (b - part));
}

INLINE real real_from(float x)
{
    return real_of(x, 0);
}

INLINE float real_to_float(real x)
{
    return x.high;
}

INLINE real real_add(real a, real b)
{
    real high = two_sum(a.high, b.high), low = two_sum(a.low, b.low);
    real sum = fast_two_sum(high.high, high.low + low.high);
    return fast_two_sum(sum.high, low.low + sum.low);
}

INLINE real real_sub(real a, real b)
{
    return real_add(a, real_of(-b.high, -b.low));
}

INLINE real real_mul(real a, real b)
{
    float high = a.high * b.high, low = fmaf(a.high, b.high, -high);
    low = low + fmaf(a.high, b.low, a.low * b.high);
    return fast_two_sum(high, low);
}

INLINE real real_div(real a, real b)
{
    float first = a.high / b.high;
    real rest = real_sub(a, real_mul(b, real_from(first)));
    float second = rest.high / b.high;
    rest = real_sub(rest, real_mul(b, real_from(second)));
    real sum = fast_two_sum(first, second);
    return real_add(sum, real_from(rest.high / b.high));
}

INLINE real real_sqrt(real a)
{
    if (!(a.high > 0))
        return real_from(0);
    float root = sqrtf(a.high);
    real rest = real_sub(a, real_mul(real_from(root), real_from(root)));
    return fast_two_sum(root, rest.high / (2 * root));
}

INLINE bool real_greater(real a, real b)
{
    return a.high > b.high || (a.high == b.high && a.low > b.low);
}
#endif
