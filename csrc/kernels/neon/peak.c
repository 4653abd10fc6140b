/* What NEON with dot products can do at most. Chains depend on themselves, so that no compiler closes them. */
#include "fill.h"
#include "simd.h"

#define CHAINS 16 /* four products a cycle with latencies of up to four need sixteen */

static uint64_t read_all(const void *p, size_t bytes)
{
    uint64x2_t a[8];
    for (int j = 0; j < 8; j++)
        a[j] = vdupq_n_u64(0);
    for (size_t i = 0; i < bytes; i += 8 * 16)
        for (int j = 0; j < 8; j++)
            a[j] = veorq_u64(a[j], vreinterpretq_u64_u8(vld1q_u8((const uint8_t *)p + i + 16 * j)));
    for (int j = 1; j < 8; j++)
        a[0] = veorq_u64(a[0], a[j]);
    return vgetq_lane_u64(a[0], 0) ^ vgetq_lane_u64(a[0], 1);
}

static double i8(int64_t n)
{
    int32x4_t a[CHAINS];
    const int8x16_t x = vdupq_n_s8(1);
    for (int j = 0; j < CHAINS; j++)
        a[j] = vdupq_n_s32(0);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = vdotq_s32(a[j], x, x);
    for (int j = 1; j < CHAINS; j++)
        a[0] = vaddq_s32(a[0], a[j]);
    return 32.0 * CHAINS * (double)n + (vaddvq_s32(a[0]) == 1 ? 1e-3 : 0);
}

static double f32(int64_t n)
{
    float32x4_t a[CHAINS];
    const float32x4_t x = vdupq_n_f32(0.5f), y = vdupq_n_f32(1.0f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = vdupq_n_f32((float)j);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = vfmaq_f32(x, a[j], y);
    for (int j = 1; j < CHAINS; j++)
        a[0] = vaddq_f32(a[0], a[j]);
    return 8.0 * CHAINS * (double)n + (vaddvq_f32(a[0]) == 1 ? 1e-3 : 0);
}

void pl_fill_peak_neon(pl_kernels *k)
{
    k->peak = (pl_peak){read_all, i8, NULL, f32};
}
