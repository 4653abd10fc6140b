/* Rows as long as a vocabulary, NEON: at memory speed, except exp. */
#include "../common.h"
#include "fill.h"
#include "simd.h"
#include "vmath.h"

/* fmax gives NaN where an operand is NaN, so that a NaN anywhere reaches the result. */
static float max(const float *x, int n)
{
    const float32x4_t least = vdupq_n_f32(-__builtin_inff());
    float32x4_t top[4] = {least, least, least, least};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 4; j++)
            top[j] = vmaxq_f32(top[j], vld1q_f32(x + i + 4 * j));
    for (; i + 4 <= n; i += 4)
        top[0] = vmaxq_f32(top[0], vld1q_f32(x + i));
    for (; i < n; i++)
        top[0] = vmaxq_f32(top[0], vdupq_n_f32(x[i]));
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(top[0], top[1]), vmaxq_f32(top[2], top[3])));
}

static double sum_exp(const float *x, int n, float top, float inv_t)
{
    const float32x4_t t = vdupq_n_f32(top), inv = vdupq_n_f32(inv_t);
    double total = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        const int end = n - b < PL_SUM_BLOCK ? n : b + PL_SUM_BLOCK;
        float32x4_t lane[PL_VECTORS];
        int i = b;
        for (int j = 0; j < PL_VECTORS; j++)
            lane[j] = vdupq_n_f32(0);
        for (; i + 32 <= end; i += 32)
            for (int j = 0; j < PL_VECTORS; j++)
                lane[j] = vaddq_f32(lane[j], pl_exp4(vmulq_f32(vsubq_f32(vld1q_f32(x + i + 4 * j), t), inv)));
        for (int j = 0; i < end; i += 4, j++) {
            const float32x4_t v = end - i < 4 ? pl_load_first(x + i, end - i) : vld1q_f32(x + i);
            const uint32x4_t e = vreinterpretq_u32_f32(pl_exp4(vmulq_f32(vsubq_f32(v, t), inv)));
            lane[j] = vaddq_f32(lane[j], vreinterpretq_f32_u32(vandq_u32(e, pl_first(end - i))));
        }
        total += pl_sum_lanes(lane);
    }
    return total;
}

static double sum_exp_dot(const float *x, int n, float top, float inv_t, double *dot)
{
    const float32x4_t t = vdupq_n_f32(top), inv = vdupq_n_f32(inv_t), least = vdupq_n_f32(PL_DOT_LEAST);
    double total = 0;
    *dot = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        const int end = n - b < PL_SUM_BLOCK ? n : b + PL_SUM_BLOCK;
        float32x4_t lane[PL_VECTORS], product[PL_VECTORS];
        int i = b;
        for (int j = 0; j < PL_VECTORS; j++)
            lane[j] = product[j] = vdupq_n_f32(0);
        for (; i + 32 <= end; i += 32)
            for (int j = 0; j < PL_VECTORS; j++) {
                const float32x4_t d = vmulq_f32(vsubq_f32(vld1q_f32(x + i + 4 * j), t), inv), e = pl_exp4(d);
                lane[j] = vaddq_f32(lane[j], e);
                product[j] = vaddq_f32(product[j], vmulq_f32(e, vmaxq_f32(d, least)));
            }
        for (int j = 0; i < end; i += 4, j++) {
            const float32x4_t v = end - i < 4 ? pl_load_first(x + i, end - i) : vld1q_f32(x + i);
            const float32x4_t d = vmulq_f32(vsubq_f32(v, t), inv);
            const uint32x4_t bits = vandq_u32(vreinterpretq_u32_f32(pl_exp4(d)), pl_first(end - i));
            const float32x4_t e = vreinterpretq_f32_u32(bits);
            lane[j] = vaddq_f32(lane[j], e);
            product[j] = vaddq_f32(product[j], vmulq_f32(e, vmaxq_f32(d, least)));
        }
        total += pl_sum_lanes(lane);
        *dot += pl_sum_lanes(product);
    }
    return total;
}

static void moments(const float *x, int n, float top, double *sum, double *squares)
{
    const float64x2_t t = vdupq_n_f64(top), least = vdupq_n_f64(-__builtin_inf());
    float64x2_t sums[8], products[8];
    double s[16], q[16];
    int i = 0;
    for (int j = 0; j < 8; j++)
        sums[j] = products[j] = vdupq_n_f64(0);
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 8; j++) {
            float64x2_t d = vsubq_f64(vcvt_f64_f32(vld1_f32(x + i + 2 * j)), t);
            d = vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(d), vcgtq_f64(d, least)));
            sums[j] = vaddq_f64(sums[j], d);
            products[j] = vaddq_f64(products[j], vmulq_f64(d, d));
        }
    for (int j = 0; j < 8; j++) {
        vst1q_f64(s + 2 * j, sums[j]);
        vst1q_f64(q + 2 * j, products[j]);
    }
    pl_moments_from(i, x, n, top, s, q, sum, squares);
}

static int collect(const float *x, int n, float least, int32_t *out, int room)
{
    const float32x4_t bound = vdupq_n_f32(least);
    int found = 0;
    for (int i = 0; i < n;) {
        int end = n - i < 16 ? n : i + 16;
        if (end == i + 16) { /* hits are rare: sixteen values without one are passed over */
            uint32x4_t hit = vdupq_n_u32(0);
            for (int j = 0; j < 4; j++)
                hit = vorrq_u32(hit, vcgeq_f32(vld1q_f32(x + i + 4 * j), bound));
            if (!vmaxvq_u32(hit)) {
                i = end;
                continue;
            }
            if (found >= room) {
                uint32x4_t ones = vdupq_n_u32(0);
                for (int j = 0; j < 4; j++)
                    ones = vsubq_u32(ones, vcgeq_f32(vld1q_f32(x + i + 4 * j), bound));
                found += (int)vaddvq_u32(ones);
                i = end;
                continue;
            }
        }
        found = pl_collect_from(i, found, x, end, least, out, room);
        i = end;
    }
    return found;
}

static void exp_row(const float *x, int n, float *y)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, pl_exp4(vld1q_f32(x + i)));
    if (i < n)
        pl_store_first(y + i, pl_exp4(pl_load_first(x + i, n - i)), n - i);
}

static void softmax(float *x, int n)
{
    const float highest = max(x, n), r = (float)(1.0 / sum_exp(x, n, highest, 1.0f));
    const float32x4_t top = vdupq_n_f32(highest);
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(x + i, vmulq_n_f32(pl_exp4(vsubq_f32(vld1q_f32(x + i), top)), r));
    if (i < n)
        pl_store_first(x + i, vmulq_n_f32(pl_exp4(vsubq_f32(pl_load_first(x + i, n - i), top)), r), n - i);
}

void pl_fill_vocab_neon(pl_kernels *k)
{
    k->max = max;
    k->sum_exp = sum_exp;
    k->sum_exp_dot = sum_exp_dot;
    k->moments = moments;
    k->collect = collect;
    k->softmax = softmax;
    k->exp = exp_row;
}
