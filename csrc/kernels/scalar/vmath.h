/* exp and functions made from it, without libm. Every tier takes exactly these steps, so that elementwise kernels
 * give the same bits everywhere; a NaN is a NaN everywhere. */
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

/* The sum of the lanes of a long row. */
static inline float pl_sum_lanes(float *lane)
{
    for (int half = PL_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0];
}

/* ---- sixteen lanes, for attend.h
 * ---------------------------------------------------------------------------------- */

#define PL_EXP_ROWS 1
typedef struct pl_lanes {
    float v[16];
} pl_lanes;

PL_INLINE pl_lanes pl_lanes_load(const float *p)
{
    pl_lanes x;
    memcpy(x.v, p, sizeof x.v);
    return x;
}

PL_INLINE void pl_lanes_store(float *p, pl_lanes x)
{
    memcpy(p, x.v, sizeof x.v);
}

PL_INLINE pl_lanes pl_lanes_all(float f)
{
    pl_lanes x;
    for (int j = 0; j < 16; j++)
        x.v[j] = f;
    return x;
}

PL_INLINE pl_lanes pl_lanes_add(pl_lanes x, pl_lanes y)
{
    for (int j = 0; j < 16; j++)
        x.v[j] += y.v[j];
    return x;
}

PL_INLINE pl_lanes pl_lanes_scale(pl_lanes x, float by)
{
    for (int j = 0; j < 16; j++)
        x.v[j] *= by;
    return x;
}

PL_INLINE pl_lanes pl_lanes_larger(pl_lanes x, pl_lanes y, uint32_t bits)
{
    for (int j = 0; j < 16; j++)
        x.v[j] = bits >> j & 1 && y.v[j] > x.v[j] ? y.v[j] : x.v[j];
    return x;
}

PL_INLINE pl_lanes pl_lanes_tanh(pl_lanes x)
{
    for (int j = 0; j < 16; j++)
        x.v[j] = pl_tanh1(x.v[j]);
    return x;
}

PL_INLINE pl_lanes pl_lanes_exp(pl_lanes x, float top)
{
    for (int j = 0; j < 16; j++)
        x.v[j] = pl_exp1(x.v[j] - top);
    return x;
}

PL_INLINE pl_lanes pl_lanes_exp_of(pl_lanes x, float top, uint32_t bits)
{
    for (int j = 0; j < 16; j++)
        x.v[j] = bits >> j & 1 ? pl_exp1(x.v[j] - top) : 0;
    return x;
}

PL_INLINE float pl_lanes_max(pl_lanes x)
{
    for (int j = 1; j < 16; j++)
        x.v[0] = x.v[j] > x.v[0] ? x.v[j] : x.v[0];
    return x.v[0];
}

PL_INLINE float pl_lanes_sum(pl_lanes x)
{
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++)
            x.v[j] += x.v[j + half];
    return x.v[0];
}

PL_INLINE void pl_exp_rows(float *x)
{
    *x = pl_exp1(*x);
}

#endif
