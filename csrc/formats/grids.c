/* Formats whose groups take their values from a grid, or from three values: super blocks of 256 weights.
 *
 *   IQ2_XXS  f16 d; per 32: four bytes that name grid entries of 8 values; u32: four signs of 7 bits, 4 bits of scale
 *   IQ2_XS   f16 d; 32 u16: 9 bits name an entry, 7 bits of signs; a nibble of scale per 16
 *   IQ2_S    f16 d; 32 bytes of names, 32 of signs, 8 of two more bits of names; a nibble of scale per 16
 *   IQ3_XXS  f16 d; 64 bytes that name entries of 4 values; per 32 a u32 as in IQ2_XXS
 *   IQ3_S    f16 d; 64 bytes of names, 8 of a ninth bit, 32 of signs; a nibble of scale per 32
 *   IQ1_S    f16 d; 32 bytes of names; per 32 a u16: four times 3 bits of names, 3 bits of scale, the sign of the shift
 *   IQ1_M    32 bytes of names; 32 nibbles: 3 bits of a name, the sign of the shift; four u16: 3 bits of scale per 16,
 *            and in their upper nibbles f16 d
 *            w = unit * d * (2 * sc + 1) * table[code], unit: IQ2 and IQ1 1/8, IQ3_XXS 1/2, IQ3_S 1; IQ1 adds +-1/8 to
 *            values -1, 0, 1: in eighths +-1, +-7, +-9
 *   TQ1_0    48 bytes of five base-3 digits, 4 of four, f16 d        w = d * (digit - 1)
 *   TQ2_0    64 bytes of pairs of bits, as Q2_K, f16 d               w = d * (code - 1)
 *
 * Codes of a grid are a value's place in it, and 8 for those with a minus. Seven bits of signs leave out the eighth,
 * which makes their number even. */
#include "grids.h"

#include "families.h"

static uint32_t u32(const uint8_t *p)
{
    return (uint32_t)pl_u16(p) | (uint32_t)pl_u16(p + 2) << 16;
}

/* n values of a grid's entry -> codes, with bits 0.. of `signs`. */
static void put(uint8_t *codes, int n, unsigned entry, unsigned signs)
{
    const int width = n == 8 ? 2 : 3;
    for (int j = 0; j < n; j++)
        codes[j] = (uint8_t)((entry >> width * j & ((1u << width) - 1)) | (signs >> j & 1) << 3);
}

/* Seven bits and the eighth. */
static unsigned even(unsigned seven)
{
    unsigned odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    return seven | ((odd ^ odd >> 1) & 1) << 7;
}

void pl_split_IQ2_XXS(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 2 + 8 * slice;
    const uint32_t signs = u32(q + 4);
    (void)min;
    for (int l = 0; l < 4; l++)
        put(codes + 8 * l, 8, pl_grid_IQ2_XXS[q[l]], even(signs >> 7 * l & 127));
    scale[0] = (uint16_t)(2 * (signs >> 28) + 1);
    factor[0] = pl_u16(block);
}

void pl_split_IQ2_XS(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 2 + 8 * slice;
    (void)min;
    for (int l = 0; l < 4; l++) {
        const unsigned both = pl_u16(q + 2 * l);
        put(codes + 8 * l, 8, pl_grid_IQ2_XS[both & 511], even(both >> 9));
    }
    for (int g = 0; g < 2; g++)
        scale[g] = (uint16_t)(2 * (block[66 + slice] >> 4 * g & 15) + 1);
    factor[0] = pl_u16(block);
}

void pl_split_IQ2_S(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 2 + 4 * slice, *signs = q + 32;
    (void)min;
    for (int l = 0; l < 4; l++)
        put(codes + 8 * l, 8, pl_grid_IQ2_S[q[l] | (block[66 + slice] >> 2 * l & 3) << 8], signs[l]);
    for (int g = 0; g < 2; g++)
        scale[g] = (uint16_t)(2 * (block[74 + slice] >> 4 * g & 15) + 1);
    factor[0] = pl_u16(block);
}

void pl_split_IQ3_XXS(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 2 + 8 * slice;
    const uint32_t signs = u32(block + 66 + 4 * slice);
    (void)min;
    for (int l = 0; l < 8; l++)
        put(codes + 4 * l, 4, pl_grid_IQ3_XXS[q[l]], even(signs >> 7 * (l / 2) & 127) >> l % 2 * 4);
    scale[0] = (uint16_t)(2 * (signs >> 28) + 1);
    factor[0] = pl_u16(block);
}

void pl_split_IQ3_S(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 2 + 8 * slice, *signs = block + 74 + 4 * slice;
    (void)min;
    for (int l = 0; l < 8; l++)
        put(codes + 4 * l, 4, pl_grid_IQ3_S[q[l] | (block[66 + slice] >> l & 1) << 8], signs[l / 2] >> l % 2 * 4);
    scale[0] = (uint16_t)(2 * (block[106 + slice / 2] >> slice % 2 * 4 & 15) + 1);
    factor[0] = pl_u16(block);
}

void pl_split_IQ1_S(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 2 + 4 * slice;
    const unsigned high = pl_u16(block + 34 + 2 * slice);
    (void)min;
    for (int l = 0; l < 4; l++)
        put(codes + 8 * l, 8, pl_grid_IQ1_S[q[l] | (high >> 3 * l & 7) << 8], high & 0x8000 ? 255 : 0);
    scale[0] = (uint16_t)(2 * (high >> 12 & 7) + 1);
    factor[0] = pl_u16(block);
}

void pl_split_IQ1_M(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 4 * slice, *high = block + 32 + 2 * slice, *scales = block + 48;
    (void)min;
    for (int l = 0; l < 4; l++) {
        const unsigned nibble = high[l / 2] >> l % 2 * 4 & 15;
        put(codes + 8 * l, 8, pl_grid_IQ1_S[q[l] | (nibble & 7) << 8], nibble & 8 ? 255 : 0);
    }
    for (int h = 0; h < 2; h++) {
        const int g = 2 * slice + h;
        scale[h] = (uint16_t)(2 * (pl_u16(scales + g / 4 * 2) >> g % 4 * 3 & 7) + 1);
    }
    factor[0] = 0;
    for (int i = 0; i < 4; i++)
        factor[0] = (uint16_t)(factor[0] | pl_u16(scales + 2 * i) >> 12 << 4 * i);
}

/* Digit n of a byte: the leading one of byte * 3^n / 256. */
static uint8_t digit(uint8_t byte, int n)
{
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    return (uint8_t)((uint8_t)(byte * power[n]) * 3 >> 8);
}

void pl_split_TQ1_0(PL_SPLIT_ARGS)
{
    (void)min, (void)factor;
    for (int i = 0; i < 32; i++) {
        const int at = 32 * slice + i;
        codes[i] = at < 160   ? digit(block[i], slice)
                   : at < 240 ? digit(block[32 + i % 16], (at - 160) / 16)
                              : digit(block[48 + i % 4], (at - 240) / 4);
    }
    scale[0] = pl_u16(block + 52);
}

void pl_split_TQ2_0(PL_SPLIT_ARGS)
{
    (void)min, (void)factor;
    pl_pairs(block, slice, codes);
    scale[0] = pl_u16(block + 64);
}
