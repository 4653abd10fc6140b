/* The peak rate of smmla: 2 x 2 x 8 products per instruction. */
#include "../neon/simd.h"
#include "fill.h"

#define CHAINS 16

static double i8(int64_t n)
{
    int32x4_t a[CHAINS];
    const int8x16_t x = vdupq_n_s8(1);
    for (int j = 0; j < CHAINS; j++)
        a[j] = vdupq_n_s32(j);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = vmmlaq_s32(a[j], x, x);
    for (int j = 1; j < CHAINS; j++)
        a[0] = vaddq_s32(a[0], a[j]);
    return 64.0 * CHAINS * (double)n + (vgetq_lane_s32(a[0], 0) == 1 ? 1e-3 : 0);
}

void pl_fill_peak_i8mm(pl_kernels *k)
{
    k->peak.i8 = i8;
}
