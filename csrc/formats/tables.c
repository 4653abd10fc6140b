/* Formats whose 4-bit codes stand for the values of a table (formats.h).
 *
 *   IQ4_NL  f16 d, 16 bytes of codes, as Q4_0                                   w = d * IQ4[code]
 *   IQ4_XS  256 weights: f16 d, u16 of upper pairs of scales, 4 bytes of their low nibbles, 128 bytes of codes
 *           w = d * (sc - 32) * IQ4[code], a scale per 32, whose codes are 16 bytes as those of Q4_0
 *   MXFP4   e8m0 d, 16 bytes of codes, as Q4_0                                  w = d / 2 * FP4[code]
 *   NVFP4   64 weights: 4 bytes of unsigned e4m3, a scale per 16, then 8 bytes of codes for each of these
 *           w = d / 2 * FP4[code]; a byte holds code i in its low nibble and code 8 + i in its high one
 *
 * MXFP4: OCP Microscaling Formats (MX) Specification 1.0. */
#include "families.h"

void pl_split_IQ4_NL(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    pl_nibbles(block + 2, codes);
    scale[0] = pl_u16(block);
}

void pl_split_IQ4_XS(PL_SPLIT_ARGS)
{
    const int low = block[4 + slice / 2] >> slice % 2 * 4 & 15, high = pl_u16(block + 2) >> 2 * slice & 3;
    (void)min;
    pl_nibbles(block + 8 + 16 * slice, codes);
    scale[0] = (uint8_t)((low | high << 4) - 32);
    factor[0] = pl_u16(block);
}

void pl_split_MXFP4(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    pl_nibbles(block + 1, codes);
    scale[0] = block[0];
}

/* Half of a scale in f16, which holds it exactly; 0x7f, a NaN, counts as 0, and the sign bit is not read. */
static uint16_t half_of_e4m3(uint8_t x)
{
    const int exponent = x >> 3 & 15, fraction = x & 7;
    if (x == 0x7f)
        return 0;
    return pl_f32_to_f16((float)(exponent ? (8 + fraction) << exponent : 2 * fraction) * 0x1p-11f);
}

void pl_split_NVFP4(PL_SPLIT_ARGS)
{
    (void)min, (void)factor;
    for (int g = 0; g < 2; g++) {
        const int part = 2 * slice + g;
        const uint8_t *q = block + 4 + 8 * part;
        scale[g] = half_of_e4m3(block[part]);
        for (int i = 0; i < 8; i++) {
            codes[16 * g + i] = q[i] & 15;
            codes[16 * g + 8 + i] = q[i] >> 4;
        }
    }
}
