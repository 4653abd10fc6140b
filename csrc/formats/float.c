/* F32, F16, BF16, and the conversions between them. Bits are moved with memcpy: the sources need no alignment. */
#include <string.h>

#include "families.h"

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float pl_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) /* infinity; a NaN becomes quiet, as in hardware */
        return from_bits(sign | 0x7f800000 | (fraction ? 0x400000 | fraction << 13 : 0));
    if (exponent == 0) { /* fraction * 2^-24, exact */
        float f = (float)fraction * 0x1p-24f;
        return from_bits(sign | to_bits(f));
    }
    return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t pl_f32_to_f16(float f)
{
    uint32_t u = to_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) {   /* below 2^-14: count units of 2^-24 */
        if (a < 0x33000000) /* below 2^-25 */
            return (uint16_t)sign;
        uint32_t fraction = (a & 0x7fffff) | 0x800000, shift = 126 - (a >> 23);
        uint32_t half = 1u << (shift - 1), rest = fraction & (2 * half - 1), n = fraction >> shift;
        n += rest > half || (rest == half && (n & 1));
        return (uint16_t)(sign | n);
    }
    a += 0xfff + (a >> 13 & 1); /* a carry walks into the exponent, as it must */
    return (uint16_t)(sign | (a - 0x38000000) >> 13);
}

float pl_bf16_to_f32(uint16_t h)
{
    return from_bits((uint32_t)h << 16);
}

uint16_t pl_f32_to_bf16(float f)
{
    uint32_t u = to_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float pl_e8m0_half(uint8_t e)
{
    return from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23); /* 2^-128 and 2^-127 are subnormal */
}

void pl_decode_float(const pl_format *f, const uint8_t *src, float *dst, int64_t k)
{
    if (f->id == PL_F32)
        memcpy(dst, src, (size_t)k * sizeof *dst);
    else if (f->id == PL_F16)
        for (int64_t i = 0; i < k; i++)
            dst[i] = pl_f16_to_f32(pl_u16(src + 2 * i));
    else
        for (int64_t i = 0; i < k; i++)
            dst[i] = pl_bf16_to_f32(pl_u16(src + 2 * i));
}
