/* The peak rates of NEON. Each chain depends on itself, so that no compiler can fold it; sixteen cover a latency of
 * four cycles on processors that start four a cycle. */
#include "fill.h"
#include "simd.h"

#define CHAINS 16

static uint64_t read_all(const void *p, size_t bytes, int turns)
{
    (void)turns;
    const uint8_t *from = p;
    uint8x16_t a[8];
    for (int j = 0; j < 8; j++)
        a[j] = vdupq_n_u8(0);
    for (size_t i = 0; i < bytes; i += 8 * 16)
        for (int j = 0; j < 8; j++)
            a[j] = veorq_u8(a[j], vld1q_u8(from + i + 16 * j));
    for (int j = 1; j < 8; j++)
        a[0] = veorq_u8(a[0], a[j]);
    const uint64x2_t v = vreinterpretq_u64_u8(a[0]);
    return vgetq_lane_u64(v, 0) ^ vgetq_lane_u64(v, 1);
}

static double i8(int64_t n)
{
    int32x4_t a[CHAINS];
    const int8x16_t x = vdupq_n_s8(1);
    for (int j = 0; j < CHAINS; j++)
        a[j] = vdupq_n_s32(j);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = vdotq_s32(a[j], x, x);
    for (int j = 1; j < CHAINS; j++)
        a[0] = vaddq_s32(a[0], a[j]);
    return 32.0 * CHAINS * (double)n + (vgetq_lane_s32(a[0], 0) == 1 ? 1e-3 : 0);
}

static double f32(int64_t n)
{
    float32x4_t a[CHAINS], x = vdupq_n_f32(0.5f), one = vdupq_n_f32(1.0f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = vdupq_n_f32((float)j);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = vfmaq_f32(one, a[j], x);
    for (int j = 1; j < CHAINS; j++)
        a[0] = vaddq_f32(a[0], a[j]);
    return 8.0 * CHAINS * (double)n + (vgetq_lane_f32(a[0], 0) == 1 ? 1e-3 : 0);
}

void pl_fill_peak_neon(pl_kernels *k)
{
    k->peak = (pl_peak){read_all, i8, NULL, NULL, f32};
}
