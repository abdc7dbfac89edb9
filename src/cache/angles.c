/*
 * Powers, cosines and sines of which every bit is defined.
 *
 * The math library's pow, cos and sin are not exactly rounded, and differ from machine to
 * machine in the last bit, which is enough to make another code of a key. What follows uses
 * nothing but additions, multiplications and divisions of doubles, which IEEE 754 rounds
 * exactly, in a fixed order, and frexp and ldexp, which are exact: series after a reduction
 * of the argument. Frequencies are good to 4e-15, relative, cosines and sines to 2e-15
 * for angles up to 2^20 quarter turns, and beyond to the rounding of the angle itself
 * (tests/test_cache_remove.c, which holds them to known bits, too).
 */
#include "cache/angles.h"

#include <math.h>

/* The leading 33 bits of ln 2 and of pi / 2, and what is left, in steps of as many bits
 * (as in fdlibm's e_log.c and e_rem_pio2.c). Multiples of the first up to 2^20 are exact. */
#define LN_2_HIGH 6.93147180369123816490e-01
#define LN_2_LOW 1.90821492927058770002e-10
#define HALF_PI_1 1.57079632673412561417e+00
#define HALF_PI_2 6.07710050630396597660e-11
#define HALF_PI_3 2.02226624879595063154e-21

/* ln m = 2 artanh((m - 1) / (m + 1)) for m around 1; x = 2^exponent m. */
static double natural_logarithm(double x)
{
    int exponent;
    double m = frexp(x, &exponent);
    if (m < 0.70710678118654752440) {
        m *= 2;
        exponent--;
    }
    double t = (m - 1) / (m + 1), t2 = t * t, sum = 0;
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * t2 + 1.0 / k;
    return exponent * LN_2_HIGH + (exponent * LN_2_LOW + 2 * t * sum);
}

/* To the nearest integer, halves away from 0; |x| < 2^62. */
static double nearest_integer(double x)
{
    return (double)(int64_t)(x < 0 ? x - 0.5 : x + 0.5);
}

static double exponential(double x)
{
    if (x > 709 || x < -744)
        return x > 0 ? INFINITY : 0;
    double k = nearest_integer(x / 0.69314718055994530942);
    double r = (x - k * LN_2_HIGH) - k * LN_2_LOW, sum = 1;
    for (int i = 16; i >= 1; i--)
        sum = 1 + sum * r / i;
    return ldexp(sum, (int)k);
}

/* Taylor's series on [-pi/4, pi/4]; the quadrant swaps them. */
static void cosine_and_sine(double angle, double *cosine, double *sine)
{
    if (!(fabs(angle) < 0x1p60)) { /* no position is so far away */
        *cosine = 1;
        *sine = 0;
        return;
    }
    double k = nearest_integer(angle / 1.57079632679489661923);
    double r = ((angle - k * HALF_PI_1) - k * HALF_PI_2) - k * HALF_PI_3, r2 = r * r;
    double c = 1, s = 1;
    for (int i = 20; i >= 2; i -= 2) {
        c = 1 - c * r2 / (i * (i - 1));
        s = 1 - s * r2 / (i * (i + 1));
    }
    s *= r;
    int64_t quadrant = (int64_t)k & 3;
    *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
    *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
}

static uint32_t turned_dims(const tqkv_rope *rope, uint32_t head_dim)
{
    return rope->n_dims ? rope->n_dims : head_dim;
}

int rope_is_valid(const tqkv_rope *rope, uint32_t head_dim)
{
    uint32_t n = turned_dims(rope, head_dim);
    if (n > head_dim || n % 2 || !(rope->base > 0) || !isfinite(rope->base) ||
        !isfinite(rope->scale))
        return 0;
    for (uint32_t i = 0; rope->factors && i < n / 2; i++)
        if (!isfinite(rope->factors[i]) || rope->factors[i] == 0)
            return 0;
    return 1;
}

/* Pair i: delta * scale * base^(-2 i / n) / factors[i], by exp and ln. */
void angles_fill(angle_table *t, const tqkv_rope *rope, uint32_t head_dim, size_t delta)
{
    uint32_t n = turned_dims(rope, head_dim);
    double ln_base = natural_logarithm(rope->base);
    t->n_pairs = n / 2;
    t->interleaved = rope->interleaved;
    for (uint32_t i = 0; i < t->n_pairs; i++) {
        double frequency = exponential(-2.0 * i / n * ln_base) * rope->scale;
        if (rope->factors)
            frequency /= rope->factors[i];
        cosine_and_sine(-(double)delta * frequency, &t->cosine[i], &t->sine[i]);
    }
}

void angles_turn(const angle_table *t, float *x)
{
    for (uint32_t i = 0; i < t->n_pairs; i++) {
        uint32_t a = t->interleaved ? 2 * i : i, b = t->interleaved ? 2 * i + 1 : i + t->n_pairs;
        double low = x[a], high = x[b];
        x[a] = (float)(low * t->cosine[i] - high * t->sine[i]);
        x[b] = (float)(low * t->sine[i] + high * t->cosine[i]);
    }
}
