/* exp and functions made from it, four lanes at once: the steps (and the bits) of scalar/vmath.h. */
#ifndef PL_VMATH_NEON_H
#define PL_VMATH_NEON_H

#include <arm_neon.h>
#include <stdint.h>

#include "../common.h"

#define PL_VECTORS 8 /* of the 32 lanes of sums over long rows */

static inline float32x4_t pl_exp4(float32x4_t x)
{
    const float32x4_t rounder = vdupq_n_f32(PL_ROUNDER), one = vdupq_n_f32(1.0f);
    const uint32x4_t zero = vcleq_f32(x, vdupq_n_f32(PL_EXP_LEAST));
    x = vminq_f32(x, vdupq_n_f32(PL_EXP_MOST)); /* NaN where x is NaN */
    const float32x4_t t = vaddq_f32(vmulq_f32(x, vdupq_n_f32(PL_LOG2_E)), rounder), n = vsubq_f32(t, rounder);
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(PL_LN2_HI));
    r = vfmsq_f32(r, n, vdupq_n_f32(PL_LN2_LO));
    float32x4_t p = vdupq_n_f32(PL_EXP_6);
    p = vfmaq_f32(vdupq_n_f32(PL_EXP_5), p, r);
    p = vfmaq_f32(vdupq_n_f32(PL_EXP_4), p, r);
    p = vfmaq_f32(vdupq_n_f32(PL_EXP_3), p, r);
    p = vfmaq_f32(vdupq_n_f32(PL_EXP_2), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    const int32x4_t e = vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(rounder)), half = vshrq_n_s32(e, 1);
    const int32x4_t a = vaddq_s32(vshlq_n_s32(half, 23), vreinterpretq_s32_f32(one));
    const int32x4_t b = vaddq_s32(vshlq_n_s32(vsubq_s32(e, half), 23), vreinterpretq_s32_f32(one));
    p = vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), zero));
}

static inline float32x4_t pl_tanh4(float32x4_t x)
{
    const uint32x4_t sign = vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x80000000u));
    const float32x4_t a = vabsq_f32(x), one = vdupq_n_f32(1.0f), z = vmulq_f32(x, x);
    float32x4_t p = vdupq_n_f32(PL_TANH_4);
    p = vfmaq_f32(vdupq_n_f32(PL_TANH_3), p, z);
    p = vfmaq_f32(vdupq_n_f32(PL_TANH_2), p, z);
    p = vfmaq_f32(vdupq_n_f32(PL_TANH_1), p, z);
    p = vfmaq_f32(vdupq_n_f32(PL_TANH_0), p, z);
    p = vfmaq_f32(a, vmulq_f32(p, z), a);
    const float32x4_t e = vaddq_f32(pl_exp4(vaddq_f32(a, a)), one);
    const float32x4_t large = vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), e));
    const float32x4_t y = vbslq_f32(vcltq_f32(a, vdupq_n_f32(PL_TANH_SMALL)), p, large);
    return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(y), sign));
}

static inline float32x4_t pl_silu4(float32x4_t g)
{
    return vdivq_f32(g, vaddq_f32(vdupq_n_f32(1.0f), pl_exp4(vnegq_f32(g))));
}

static inline float32x4_t pl_gelu4(float32x4_t g)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    const float32x4_t cube = vfmaq_f32(one, vmulq_f32(g, g), vdupq_n_f32(PL_GELU_CUBE));
    const float32x4_t z2 = vmulq_f32(vmulq_f32(g, vdupq_n_f32(PL_GELU_TWICE)), cube);
    return vdivq_f32(g, vaddq_f32(one, pl_exp4(vnegq_f32(z2))));
}

/* Mask of the first n lanes (n <= 0: none, n >= 4: all). */
static inline uint32x4_t pl_first(int n)
{
    static const int32_t lanes[4] = {0, 1, 2, 3};
    return vcgtq_s32(vdupq_n_s32(n), vld1q_s32(lanes));
}

/* Lane j takes j + 2, + 1. */
static inline float pl_sum4(float32x4_t v)
{
    const float32x2_t s = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}

/* The 32 lanes of eight vectors: lane j takes j + 16, + 8, + 4, then as above. */
static inline float pl_sum_lanes(const float32x4_t *lane)
{
    float32x4_t by4[4];
    for (int j = 0; j < 4; j++)
        by4[j] = vaddq_f32(lane[j], lane[j + 4]);
    return pl_sum4(vaddq_f32(vaddq_f32(by4[0], by4[2]), vaddq_f32(by4[1], by4[3])));
}

/* ---- sixteen lanes, for attend.h
 * ---------------------------------------------------------------------------------- */

#define PL_EXP_ROWS 4
typedef struct pl_lanes {
    float32x4_t v[4];
} pl_lanes;

PL_INLINE pl_lanes pl_lanes_load(const float *p)
{
    return (pl_lanes){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}

PL_INLINE void pl_lanes_store(float *p, pl_lanes x)
{
    for (int c = 0; c < 4; c++)
        vst1q_f32(p + 4 * c, x.v[c]);
}

PL_INLINE pl_lanes pl_lanes_all(float x)
{
    return (pl_lanes){{vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}};
}

PL_INLINE pl_lanes pl_lanes_add(pl_lanes a, pl_lanes b)
{
    for (int c = 0; c < 4; c++)
        a.v[c] = vaddq_f32(a.v[c], b.v[c]);
    return a;
}

PL_INLINE pl_lanes pl_lanes_scale(pl_lanes x, float by)
{
    for (int c = 0; c < 4; c++)
        x.v[c] = vmulq_n_f32(x.v[c], by);
    return x;
}

/* Bits 4c .. 4c + 3, a lane each. */
PL_INLINE uint32x4_t pl_lanes_mask(uint32_t bits, int c)
{
    const uint32x4_t bit = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(bits >> 4 * c), bit);
}

PL_INLINE pl_lanes pl_lanes_larger(pl_lanes a, pl_lanes b, uint32_t bits)
{
    for (int c = 0; c < 4; c++) {
        const uint32x4_t more = vcgtq_f32(b.v[c], a.v[c]);
        a.v[c] = vbslq_f32(bits == 0xffff ? more : vandq_u32(more, pl_lanes_mask(bits, c)), b.v[c], a.v[c]);
    }
    return a;
}

PL_INLINE pl_lanes pl_lanes_keep(pl_lanes x, uint32_t bits)
{
    for (int c = 0; c < 4; c++)
        x.v[c] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.v[c]), pl_lanes_mask(bits, c)));
    return x;
}

PL_INLINE pl_lanes pl_lanes_tanh(pl_lanes x)
{
    return (pl_lanes){{pl_tanh4(x.v[0]), pl_tanh4(x.v[1]), pl_tanh4(x.v[2]), pl_tanh4(x.v[3])}};
}

PL_INLINE pl_lanes pl_lanes_exp(pl_lanes x, float top)
{
    for (int c = 0; c < 4; c++)
        x.v[c] = pl_exp4(vsubq_f32(x.v[c], vdupq_n_f32(top)));
    return x;
}

PL_INLINE pl_lanes pl_lanes_exp_of(pl_lanes x, float top, uint32_t bits)
{
    return pl_lanes_keep(pl_lanes_exp(x, top), bits);
}

PL_INLINE float pl_lanes_max(pl_lanes x)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}

PL_INLINE float pl_lanes_sum(pl_lanes x)
{
    return pl_sum4(vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3])));
}

PL_INLINE void pl_exp_rows(float *x)
{
    vst1q_f32(x, pl_exp4(vld1q_f32(x)));
}

#endif
