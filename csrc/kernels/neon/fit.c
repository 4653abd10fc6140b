/* The quick search for scales, NEON. */
#include <arm_neon.h>

#define PL_VEC 4
#define PL_VEC_MIN(a, b) ((pl_fit_vec)vminq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define PL_VEC_MAX(a, b) ((pl_fit_vec)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define PL_VEC_TO_BYTES(lanes, bytes) to_bytes((uint32x4_t)(lanes), bytes)
#define PL_VEC_FROM_F16(p) ((pl_fit_vec)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))))

static inline void to_bytes(uint32x4_t lanes, void *bytes)
{
    const uint16x4_t half = vmovn_u32(lanes);
    vst1_lane_u32(bytes, vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
}

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_neon(pl_kernels *k)
{
    k->from_f16 = pl_fit_from_f16;
    k->from_bf16 = pl_fit_from_bf16;
    k->fit = pl_fit_groups;
    k->fit_codes = pl_fit_codes;
    k->fit_whole = pl_fit_whole;
}
