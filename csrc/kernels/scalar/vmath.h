/* exp and what is made of it, without libm. Every tier takes these very steps, so that elementwise kernels
 * give the same bits everywhere; where NaN is concerned, NaN everywhere. */
#ifndef PL_VMATH_SCALAR_H
#define PL_VMATH_SCALAR_H

#include <stdint.h>
#include <string.h>

#include "../common.h"

static inline uint32_t pl_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float pl_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* round(a * b + c), one rounding. The product of two floats is exact in double; the sum is rounded to odd there
 * (Boldo & Melquiond 2008), after which rounding it to float is the only rounding that counts: 53 >= 24 + 2 bits. */
static inline float pl_fma1(float a, float b, float c)
{
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    const double p = (double)a * b, d = c, s = p + d;
    const double t = s - p, err = (p - (s - t)) + (d - t); /* exact where finite (Knuth's two-sum) */
    uint64_t u;
    memcpy(&u, &s, sizeof u);
    if ((err < 0 || err > 0) && !(u & 1)) { /* inexact and even: step towards what was lost */
        u += (err > 0) == (s > 0) ? 1 : (uint64_t)-1;
        double odd;
        memcpy(&odd, &u, sizeof odd);
        return (float)odd;
    }
    return (float)s;
#endif
}

static inline float pl_exp1(float x)
{
    if (x <= PL_EXP_LEAST)
        return 0.0f;
    x = x > PL_EXP_MOST ? PL_EXP_MOST : x;
    const float t = x * PL_LOG2_E + PL_ROUNDER, n = t - PL_ROUNDER;
    float r = pl_fma1(n, -PL_LN2_HI, x);
    r = pl_fma1(n, -PL_LN2_LO, r);
    float p = PL_EXP_6;
    p = pl_fma1(p, r, PL_EXP_5);
    p = pl_fma1(p, r, PL_EXP_4);
    p = pl_fma1(p, r, PL_EXP_3);
    p = pl_fma1(p, r, PL_EXP_2);
    p = pl_fma1(p, r, 1.0f);
    p = pl_fma1(p, r, 1.0f);
    const int32_t e = (int32_t)(pl_bits(t) - pl_bits(PL_ROUNDER)), half = e >> 1;
    return p * pl_float((uint32_t)(half + 127) << 23) * pl_float((uint32_t)(e - half + 127) << 23);
}

static inline float pl_tanh1(float x)
{
    const uint32_t sign = pl_bits(x) & 0x80000000u;
    const float a = pl_float(pl_bits(x) ^ sign);
    if (a < PL_TANH_SMALL) {
        const float z = x * x;
        float p = PL_TANH_4;
        p = pl_fma1(p, z, PL_TANH_3);
        p = pl_fma1(p, z, PL_TANH_2);
        p = pl_fma1(p, z, PL_TANH_1);
        p = pl_fma1(p, z, PL_TANH_0);
        return pl_float(pl_bits(pl_fma1(p * z, a, a)) | sign);
    }
    return pl_float(pl_bits(1.0f - 2.0f / (pl_exp1(a + a) + 1.0f)) | sign);
}

/* silu(g) = g / (1 + e^-g); gelu_tanh(g) = g / (1 + e^-2z), for (1 + tanh z) / 2 = 1 / (1 + e^-2z). */
static inline float pl_silu1(float g)
{
    return g / (1.0f + pl_exp1(-g));
}

static inline float pl_gelu1(float g)
{
    const float z2 = g * PL_GELU_TWICE * pl_fma1(g * g, PL_GELU_CUBE, 1.0f);
    return g / (1.0f + pl_exp1(-z2));
}

/* Of the lanes of a long row. */
static inline float pl_sum_lanes(float *lane)
{
    for (int half = PL_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0];
}

#endif
