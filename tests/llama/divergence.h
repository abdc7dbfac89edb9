/* How far logits are from others. */
#ifndef TQKV_TEST_DIVERGENCE_H
#define TQKV_TEST_DIVERGENCE_H

#include <math.h>

/* KL divergence of softmaxes, from `exact` to `x`. */
static inline double divergence(const float *exact, const float *x, int n)
{
    double sum[2] = {0}, most[2] = {exact[0], x[0]}, kl = 0;
    for (int i = 0; i < n; i++) {
        most[0] = exact[i] > most[0] ? exact[i] : most[0];
        most[1] = x[i] > most[1] ? x[i] : most[1];
    }
    for (int i = 0; i < n; i++) {
        sum[0] += exp(exact[i] - most[0]);
        sum[1] += exp(x[i] - most[1]);
    }
    for (int i = 0; i < n; i++) {
        double p = exact[i] - most[0] - log(sum[0]), q = x[i] - most[1] - log(sum[1]);
        kl += exp(p) * (p - q);
    }
    return kl;
}

#endif
