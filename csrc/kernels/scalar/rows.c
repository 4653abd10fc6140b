/* Rows of activations, scalar reference. */
#include "../common.h"
#include "../layer_norm.h"
#include "fill.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../activations.h"

static float round_even(float x) /* |x| < 2^22 */
{
    return (x + PL_ROUNDER) - PL_ROUNDER;
}

/* Codes and sums of one block of 32; inv = 0 gives zeros even of NaN. */
static void quantize_block(const float *x, float inv, int8_t *hi, int8_t *lo, int16_t *sum_hi, int16_t *sum_lo)
{
    for (int g = 0; g < 2; g++) {
        int total_hi = 0, total_lo = 0;
        for (int i = 16 * g; i < 16 * g + 16; i++) {
            const float t = inv == 0 ? 0.0f : x[i] * inv;
            const int c = (int)round_even(lo ? t * PL_TERM : t);
            const int h = lo ? (c + PL_TERM / 2) >> PL_TERM_BITS : c;
            hi[i] = (int8_t)h;
            total_hi += h;
            if (lo) {
                lo[i] = (int8_t)(c - PL_TERM * h);
                total_lo += lo[i];
            }
        }
        sum_hi[g] = (int16_t)total_hi;
        if (lo)
            sum_lo[g] = (int16_t)total_lo;
    }
}

static void quantize(const float *x, int k, int terms, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                     int16_t *sums_lo)
{
    for (int b = 0; b < k / PL_BLOCK; b++, x += PL_BLOCK) {
        uint32_t top = 0; /* compared as integers, NaN > infinity > the rest */
        for (int i = 0; i < PL_BLOCK; i++) {
            const uint32_t u = pl_bits(x[i]) & 0x7fffffffu;
            top = u > top ? u : top;
        }
        const float amax = pl_float(top);
        float inv = 127.0f / amax;
        s[b] = amax / 127.0f;
        if (amax < PL_LEAST_AMAX)
            s[b] = inv = 0;
        else if (top >= 0x7f800000u)
            inv = 0;
        quantize_block(x, inv, q + PL_BLOCK * b, terms > 1 ? q_lo + PL_BLOCK * b : NULL, sums + 2 * b,
                       terms > 1 ? sums_lo + 2 * b : NULL);
    }
}

static void to_bf16(const float *x, int n, uint16_t *y)
{
    for (int i = 0; i < n; i++)
        y[i] = pl_f32_to_bf16(x[i]);
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    float lane[PL_LANES] = {0};
    for (int i = 0; i < n; i++)
        lane[i % PL_LANES] += x[i] * x[i];
    const float r = 1.0f / __builtin_sqrtf(pl_sum_lanes(lane) / (float)n + eps);
    for (int i = 0; i < n; i++)
        y[i] = w ? x[i] * r * w[i] : x[i] * r;
}

static void add(const float *x, const float *y, int n, float *z)
{
    for (int i = 0; i < n; i++)
        z[i] = x[i] + y[i];
}

static void scale(const float *x, float a, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = a * x[i];
}

static void glu_silu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    for (int i = 0; i < n; i++)
        y[i] = pl_silu1(g[i]) * (u ? u[i] : 1.0f);
}

static void glu_gelu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    for (int i = 0; i < n; i++)
        y[i] = pl_gelu1(g[i]) * (u ? u[i] : 1.0f);
}

static void rope(float *x, const float *cos, const float *sin, int n_rot, int halves)
{
    const int n = n_rot / 2, step = halves ? 1 : 2, far = halves ? n : 1;
    for (int i = 0; i < n; i++) {
        const float a = x[step * i], b = x[step * i + far];
        x[step * i] = a * cos[i] - b * sin[i];
        x[step * i + far] = a * sin[i] + b * cos[i];
    }
}

static void softcap(const float *x, float cap, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = cap * pl_tanh1(x[i] / cap);
}

void pl_fill_rows_scalar(pl_kernels *k)
{
    k->quantize = quantize;
    k->to_bf16 = to_bf16;
    k->rms_norm = rms_norm;
    k->layer_norm = pl_layer_norm;
    pl_put_activations(k);
    k->add = add;
    k->scale = scale;
    k->glu[PL_ACT_SILU] = glu_silu;
    k->glu[PL_ACT_GELU_TANH] = glu_gelu;
    k->rope = rope;
    k->softcap = softcap;
}
