/* Small inline helpers of the NEON kernels. */
#ifndef PL_NEON_SIMD_H
#define PL_NEON_SIMD_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "../common.h"

/* Four halves -> float32: f16, and bf16 */
PL_INLINE float32x4_t pl_load_f16(const void *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

PL_INLINE float32x4_t pl_load_bf16(const void *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

/* Eight bytes -> integers of 32 bits; float32, unsigned and signed */
PL_INLINE void pl_load_u8_u32(const void *p, uint32x4_t v[2])
{
    const uint16x8_t w = vmovl_u8(vld1_u8(p));
    v[0] = vmovl_u16(vget_low_u16(w));
    v[1] = vmovl_high_u16(w);
}

/* Eight pairs of bytes -> their first (high = 0) or second ones, as words of 16 bits; unsigned and signed */
PL_INLINE uint16x8_t pl_load_pairs_u8(const void *p, int high)
{
    const uint16x8_t w = vreinterpretq_u16_u8(vld1q_u8(p));
    return high ? vshrq_n_u16(w, 8) : vandq_u16(w, vdupq_n_u16(255));
}

PL_INLINE int16x8_t pl_load_pairs_i8(const void *p, int high)
{
    const int16x8_t w = vreinterpretq_s16_u8(vld1q_u8(p));
    return vshrq_n_s16(high ? w : vshlq_n_s16(w, 8), 8);
}

PL_INLINE void pl_load_u8(const void *p, float32x4_t v[2])
{
    uint32x4_t w[2];
    pl_load_u8_u32(p, w);
    v[0] = vcvtq_f32_u32(w[0]);
    v[1] = vcvtq_f32_u32(w[1]);
}

PL_INLINE void pl_load_i8_s32(const void *p, int32x4_t v[2])
{
    const int16x8_t w = vmovl_s8(vld1_s8(p));
    v[0] = vmovl_s16(vget_low_s16(w));
    v[1] = vmovl_high_s16(w);
}

PL_INLINE void pl_load_i8(const void *p, float32x4_t v[2])
{
    int32x4_t w[2];
    pl_load_i8_s32(p, w);
    v[0] = vcvtq_f32_s32(w[0]);
    v[1] = vcvtq_f32_s32(w[1]);
}

/* Eight bytes of e8m0 -> 2^(e - 128), of which the two least are subnormal */
PL_INLINE void pl_load_e8m0_half(const void *p, float32x4_t v[2])
{
    uint32x4_t e[2];
    pl_load_u8_u32(p, e);
    for (int c = 0; c < 2; c++) {
        const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e[c], vdupq_n_u32(1)), 23);
        const uint32x4_t least = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e[c]));
        v[c] = vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e[c], vdupq_n_u32(2)), least, normal));
    }
}

/* The last n floats of a row, 0 < n < 4, and zeros. */
PL_INLINE float32x4_t pl_load_first(const float *p, int n)
{
    float part[4] = {0};
    for (int i = 0; i < n; i++)
        part[i] = p[i];
    return vld1q_f32(part);
}

PL_INLINE void pl_store_first(float *p, float32x4_t v, int n)
{
    float part[4];
    vst1q_f32(part, v);
    for (int i = 0; i < n; i++)
        p[i] = part[i];
}

/* ---- this folder's parts of the matrix family, put together by matmul.c ---------------------------------------- */

void pl_fill_matmul_int_neon(pl_kernels *k);
void pl_fill_matmul_float_neon(pl_kernels *k);

#endif
