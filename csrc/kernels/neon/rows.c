/* Rows of activations, NEON: the scalar reference's bits. */
#include "../common.h"
#include "../layer_norm.h"
#include "fill.h"
#include "simd.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../activations.h"

/* Eight vectors of integers -> 32 codes, their last bytes. */
PL_INLINE void store_codes(const int32x4_t c[8], int8_t *q, int16_t *sums)
{
    for (int h = 0; h < 2; h++) {
        const int16x8_t a = vcombine_s16(vmovn_s32(c[4 * h]), vmovn_s32(c[4 * h + 1]));
        const int16x8_t b = vcombine_s16(vmovn_s32(c[4 * h + 2]), vmovn_s32(c[4 * h + 3]));
        const int8x16_t codes = vcombine_s8(vmovn_s16(a), vmovn_s16(b));
        vst1q_s8(q + 16 * h, codes);
        sums[h] = vaddlvq_s8(codes);
    }
}

PL_INLINE uint32_t top_bits(const float32x4_t v[8])
{
    uint32x4_t top = vdupq_n_u32(0);
    for (int i = 0; i < 8; i++)
        top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    return vmaxvq_u32(top);
}

PL_INLINE void quantize_blocks(const float *x, int blocks, int two, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                               int16_t *sums_lo)
{
    for (int b = 0; b < blocks; b++, x += PL_BLOCK) {
        float32x4_t v[8];
        for (int i = 0; i < 8; i++)
            v[i] = vld1q_f32(x + 4 * i);
        const uint32_t top = top_bits(v);
        float amax, inv;
        memcpy(&amax, &top, sizeof amax);
        inv = 127.0f / amax;
        s[b] = amax / 127.0f;
        if (amax < PL_LEAST_AMAX)
            s[b] = inv = 0;
        else if (top >= 0x7f800000u) /* infinity or NaN: codes of zero, the scale is not finite */
            inv = 0;
        int32x4_t c[8];
        for (int i = 0; i < 8; i++) {
            v[i] = inv == 0 ? vdupq_n_f32(0) : vmulq_n_f32(v[i], inv);
            c[i] = vcvtnq_s32_f32(two ? vmulq_n_f32(v[i], PL_TERM) : v[i]);
        }
        if (two)
            store_codes(c, q_lo + PL_BLOCK * b, sums_lo + 2 * b);
        for (int i = 0; i < 8 && two; i++)
            c[i] = vshrq_n_s32(vaddq_s32(c[i], vdupq_n_s32(PL_TERM / 2)), PL_TERM_BITS);
        store_codes(c, q + PL_BLOCK * b, sums + 2 * b);
    }
}

static void quantize(const float *x, int k, int terms, int8_t *q, int8_t *q_lo, float *s, int16_t *sums,
                     int16_t *sums_lo)
{
    if (terms > 1)
        quantize_blocks(x, k / PL_BLOCK, 1, q, q_lo, s, sums, sums_lo);
    else
        quantize_blocks(x, k / PL_BLOCK, 0, q, NULL, s, sums, NULL);
}

/* Round to nearest even: add 0x7fff and the bit that will be last. A NaN is made quiet instead. */
PL_INLINE uint16x4_t bf16_bits(float32x4_t x)
{
    const uint32x4_t u = vreinterpretq_u32_f32(x), last = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(u, vaddq_u32(last, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}

static void to_bf16(const float *x, int n, uint16_t *y)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(y + i, bf16_bits(vld1q_f32(x + i)));
    for (; i < n; i++)
        y[i] = pl_f32_to_bf16(x[i]);
}

/* ---- elementwise: z = f(x, y, c), the last few through a padded vector ------------------------------------------- */

typedef float32x4_t (*step)(float32x4_t x, float32x4_t y, float32x4_t c);

PL_INLINE void map(step f, const float *x, const float *y, float c, int n, float *z)
{
    const float32x4_t all = vdupq_n_f32(c);
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(z + i, f(vld1q_f32(x + i), vld1q_f32(y + i), all));
    if (i < n)
        pl_store_first(z + i, f(pl_load_first(x + i, n - i), pl_load_first(y + i, n - i), all), n - i);
}

PL_INLINE float32x4_t step_add(float32x4_t x, float32x4_t y, float32x4_t c)
{
    (void)c;
    return vaddq_f32(x, y);
}

PL_INLINE float32x4_t step_scale(float32x4_t x, float32x4_t y, float32x4_t c)
{
    (void)y;
    return vmulq_f32(c, x);
}

PL_INLINE float32x4_t step_scale_by(float32x4_t x, float32x4_t y, float32x4_t c)
{
    return vmulq_f32(vmulq_f32(x, c), y);
}

PL_INLINE float32x4_t step_silu(float32x4_t g, float32x4_t u, float32x4_t c)
{
    (void)c;
    return vmulq_f32(pl_silu4(g), u);
}

PL_INLINE float32x4_t step_silu_alone(float32x4_t g, float32x4_t u, float32x4_t c)
{
    (void)u, (void)c;
    return pl_silu4(g);
}

PL_INLINE float32x4_t step_gelu(float32x4_t g, float32x4_t u, float32x4_t c)
{
    (void)c;
    return vmulq_f32(pl_gelu4(g), u);
}

PL_INLINE float32x4_t step_gelu_alone(float32x4_t g, float32x4_t u, float32x4_t c)
{
    (void)u, (void)c;
    return pl_gelu4(g);
}

PL_INLINE float32x4_t step_softcap(float32x4_t x, float32x4_t y, float32x4_t cap)
{
    (void)y;
    return vmulq_f32(cap, pl_tanh4(vdivq_f32(x, cap)));
}

static void add(const float *x, const float *y, int n, float *z)
{
    map(step_add, x, y, 0, n, z);
}

static void scale(const float *x, float a, int n, float *y)
{
    map(step_scale, x, x, a, n, y);
}

static void glu_silu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    if (u)
        map(step_silu, g, u, 0, n, y);
    else
        map(step_silu_alone, g, g, 0, n, y);
}

static void glu_gelu(const float *g, const float *u, const float *p, int n, float *y)
{
    (void)p;
    if (u)
        map(step_gelu, g, u, 0, n, y);
    else
        map(step_gelu_alone, g, g, 0, n, y);
}

static void softcap(const float *x, float cap, int n, float *y)
{
    map(step_softcap, x, x, cap, n, y);
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    float32x4_t lane[PL_VECTORS];
    int i = 0;
    for (int j = 0; j < PL_VECTORS; j++)
        lane[j] = vdupq_n_f32(0);
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < PL_VECTORS; j++) {
            const float32x4_t v = vld1q_f32(x + i + 4 * j);
            lane[j] = vaddq_f32(lane[j], vmulq_f32(v, v));
        }
    for (int j = 0; i < n; i += 4, j++) {
        const float32x4_t v = n - i < 4 ? pl_load_first(x + i, n - i) : vld1q_f32(x + i);
        lane[j] = vaddq_f32(lane[j], vmulq_f32(v, v));
    }
    const float r = 1.0f / __builtin_sqrtf(pl_sum_lanes(lane) / (float)n + eps);
    if (w)
        map(step_scale_by, x, w, r, n, y);
    else
        map(step_scale, x, x, r, n, y);
}

/* ---- rotation ---------------------------------------------------------------------------------------------------- */

PL_INLINE float32x4_t turn(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t s, float32x4_t *far)
{
    *far = vaddq_f32(vmulq_f32(a, s), vmulq_f32(b, c));
    return vsubq_f32(vmulq_f32(a, c), vmulq_f32(b, s));
}

static void rope(float *x, const float *cos, const float *sin, int n_rot, int halves)
{
    const int n = n_rot / 2, apart = halves ? 1 : 2, far = halves ? n : 1;
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        const float32x4_t c = vld1q_f32(cos + i), s = vld1q_f32(sin + i);
        if (halves) {
            float32x4_t b = vld1q_f32(x + n + i);
            vst1q_f32(x + i, turn(vld1q_f32(x + i), b, c, s, &b));
            vst1q_f32(x + n + i, b);
        } else {
            float32x4x2_t v = vld2q_f32(x + 2 * i);
            v.val[0] = turn(v.val[0], v.val[1], c, s, &v.val[1]);
            vst2q_f32(x + 2 * i, v);
        }
    }
    for (; i < n; i++) {
        const float a = x[apart * i], b = x[apart * i + far];
        x[apart * i] = a * cos[i] - b * sin[i];
        x[apart * i + far] = a * sin[i] + b * cos[i];
    }
}

void pl_fill_rows_neon(pl_kernels *k)
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
