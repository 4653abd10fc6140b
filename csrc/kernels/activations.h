/* The activations of a feed-forward network for every tier: y = act(g) * u.
 *
 * Written once, in the compiler's vector types and the tier's exp of sixteen lanes (vmath.h), and included by the
 * tier's rows.c. No step is fused, so that every tier gives the same bits. */
#ifndef PL_ACTIVATIONS_H
#define PL_ACTIVATIONS_H

#include <string.h>

#include "common.h"

typedef float pl_a16 __attribute__((vector_size(64)));
typedef int32_t pl_a16i __attribute__((vector_size(64)));
typedef float pl_a16_at __attribute__((vector_size(64), aligned(4), may_alias)); /* in memory, never a variable */

PL_INLINE pl_a16 pl_a16_exp(pl_a16 x)
{
    pl_lanes lanes;
    memcpy(&lanes, &x, sizeof lanes);
    lanes = pl_lanes_exp(lanes, 0.0f);
    memcpy(&x, &lanes, sizeof x);
    return x;
}

PL_INLINE pl_a16 pl_a16_all(float x)
{
    return (pl_a16){0} + x;
}

/* a where the mask is set, else b. */
PL_INLINE pl_a16 pl_a16_pick(pl_a16i mask, pl_a16 a, pl_a16 b)
{
    return (pl_a16)((mask & (pl_a16i)a) | (~mask & (pl_a16i)b));
}

PL_INLINE pl_a16 pl_a16_sigmoid(pl_a16 x)
{
    return 1.0f / (1.0f + pl_a16_exp(-x));
}

/* sums[0] x^0 + ... + sums[n - 1] x^(n - 1) */
PL_INLINE pl_a16 pl_a16_polynomial(pl_a16 x, const float *sums, const int n)
{
    pl_a16 y = x * sums[n - 1] + sums[n - 2];
    for (int i = n - 3; i >= 0; i--)
        y = y * x + sums[i];
    return y;
}

/* x Phi(x) (Hendrycks & Gimpel 2016): Phi(-a) = e^(-a^2 / 2) t P(t) with t = 1 / (1 + 0.35 a), P minimax of degree 8
 * (3.2e-8 relative for a <= 14, beyond which the result is 0). */
PL_INLINE pl_a16 pl_a16_gelu(pl_a16 x)
{
    static const float sums[9] = {0.139621404f, 0.139861871f,  0.119832861f, 0.105508031f, -0.0231099f,
                                  0.159174255f, -0.255714339f, 0.143971739f, -0.029145939f};
    const pl_a16 a = (pl_a16)((pl_a16i)x & 0x7fffffff), t = 1.0f / (1.0f + 0.35f * a);
    const pl_a16 below = pl_a16_polynomial(t, sums, 9) * t * pl_a16_exp(x * x * -0.5f);
    return x * pl_a16_pick(x < 0.0f, below, 1.0f - below);
}

/* xIELU (Huang & Schlag 2024): p[0] x^2 + p[2] x above 0, else p[1] (e^x' - 1 - x) + p[2] x with x' = min(x, p[3]).
 * The series is used where e^x - 1 - x would lose its digits. */
PL_INLINE pl_a16 pl_a16_xielu(pl_a16 x, const float *p)
{
    static const float sums[9] = {1.0f / 2,    1.0f / 6,     1.0f / 24,     1.0f / 120,    1.0f / 720,
                                  1.0f / 5040, 1.0f / 40320, 1.0f / 362880, 1.0f / 3628800};
    const pl_a16 least = pl_a16_pick(x > p[3], pl_a16_all(p[3]), x);
    const pl_a16 near = least * least * pl_a16_polynomial(least, sums, 9) + (least - x);
    const pl_a16 bent = pl_a16_pick(least > -1.0f, near, pl_a16_exp(least) - 1.0f - x);
    return pl_a16_pick(x > 0.0f, x * x * p[0], bent * p[1]) + x * p[2];
}

/* gpt-oss (OpenAI 2025): g sigmoid(1.702 g) (u + 1). */
PL_INLINE pl_a16 pl_step_oai(pl_a16 g, pl_a16 u, const float *p)
{
    (void)p;
    return g * pl_a16_sigmoid(g * 1.702f) * (u + 1.0f);
}

PL_INLINE pl_a16 pl_step_gelu(pl_a16 g, pl_a16 u, const float *p)
{
    (void)p;
    return pl_a16_gelu(g) * u;
}

PL_INLINE pl_a16 pl_step_relu2(pl_a16 g, pl_a16 u, const float *p)
{
    (void)p;
    const pl_a16 x = pl_a16_pick(g < 0.0f, pl_a16_all(0.0f), g);
    return x * x * u;
}

PL_INLINE pl_a16 pl_step_sigmoid(pl_a16 g, pl_a16 u, const float *p)
{
    (void)p;
    return pl_a16_sigmoid(g) * u;
}

PL_INLINE pl_a16 pl_step_none(pl_a16 g, pl_a16 u, const float *p)
{
    (void)p;
    return g * u;
}

PL_INLINE pl_a16 pl_step_xielu(pl_a16 g, pl_a16 u, const float *p)
{
    return pl_a16_xielu(g, p) * u;
}

typedef pl_a16 (*pl_act_step)(pl_a16 g, pl_a16 u, const float *p);

PL_INLINE void pl_act_map(pl_act_step step, const float *g, const float *u, const float *p, int n, float *y)
{
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const pl_a16 a = *(const pl_a16_at *)(g + i), b = u ? (pl_a16) * (const pl_a16_at *)(u + i) : pl_a16_all(1.0f);
        *(pl_a16_at *)(y + i) = step(a, b, p);
    }
    if (i < n) {
        pl_a16 a = {0}, b = pl_a16_all(1.0f);
        const size_t bytes = sizeof(float) * (size_t)(n - i);
        memcpy(&a, g + i, bytes);
        if (u)
            memcpy(&b, u + i, bytes);
        a = step(a, b, p);
        memcpy(y + i, &a, bytes);
    }
}

#define PL_ACTIVATION(name)                                                                                            \
    static void pl_act_##name(const float *g, const float *u, const float *p, int n, float *y)                         \
    {                                                                                                                  \
        pl_act_map(pl_step_##name, g, u, p, n, y);                                                                     \
    }
PL_ACTIVATION(gelu)
PL_ACTIVATION(relu2)
PL_ACTIVATION(sigmoid)
PL_ACTIVATION(none)
PL_ACTIVATION(oai)
PL_ACTIVATION(xielu)
#undef PL_ACTIVATION

static void pl_clip(const float *x, float least, float most, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] < least ? least : x[i] > most ? most : x[i];
}

/* Enters them in the table; a tier adds those that it writes itself. */
PL_INLINE void pl_put_activations(pl_kernels *k)
{
    k->glu[PL_ACT_GELU] = pl_act_gelu;
    k->glu[PL_ACT_RELU2] = pl_act_relu2;
    k->glu[PL_ACT_SIGMOID] = pl_act_sigmoid;
    k->glu[PL_ACT_NONE] = pl_act_none;
    k->glu[PL_ACT_OAI] = pl_act_oai;
    k->glu[PL_ACT_XIELU] = pl_act_xielu;
    k->clip = pl_clip;
}

#endif
