/* Q1_0, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, and INT4, which no file holds (quantize/integers.c makes it): blocks of 32
 * weights (Q1_0 128, Q2_0 64), each
 *
 *   Q1_0  f16 d,        16 bytes of bits            w = d * (2 * bit - 1)
 *   Q2_0  f16 d,        16 bytes of pairs of bits   w = d * (code - 1)
 *   Q4_0  f16 d,        16 bytes of codes           w = d * (code - 8)
 *   Q4_1  f16 d, f16 m, 16 bytes of codes           w = d * code + m
 *   Q5_0  f16 d,        u32 fifth bits, 16 bytes    w = d * (code - 16)
 *   Q5_1  f16 d, f16 m, u32 fifth bits, 16 bytes    w = d * code + m
 *   Q8_0  f16 d,        32 signed bytes             w = d * byte
 *   INT4  f16 d, u8 z,  16 bytes of codes           w = d * code - d * z
 *
 * Bits and pairs of bits lie in the order of the weights, the first in the lowest.
 * Byte i of the 4-bit codes holds code i in its low nibble and code 16 + i in its high one;
 * bit i of the fifth bits belongs to code i. */
#include "families.h"

static void fifth_bits(const uint8_t *qh, uint8_t *codes)
{
    for (int i = 0; i < 32; i++)
        codes[i] |= (uint8_t)((qh[i / 8] >> i % 8 & 1) << 4);
}

void pl_split_Q4_0(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    pl_nibbles(block + 2, codes);
    scale[0] = pl_u16(block);
}

void pl_split_Q4_1(PL_SPLIT_ARGS)
{
    (void)slice, (void)factor;
    pl_nibbles(block + 4, codes);
    scale[0] = pl_u16(block);
    min[0] = pl_u16(block + 2);
}

void pl_split_Q5_0(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    pl_nibbles(block + 6, codes);
    fifth_bits(block + 2, codes);
    scale[0] = pl_u16(block);
}

void pl_split_Q5_1(PL_SPLIT_ARGS)
{
    (void)slice, (void)factor;
    pl_nibbles(block + 8, codes);
    fifth_bits(block + 4, codes);
    scale[0] = pl_u16(block);
    min[0] = pl_u16(block + 2);
}

void pl_split_Q8_0(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    for (int i = 0; i < 32; i++)
        codes[i] = block[2 + i] ^ 0x80;
    scale[0] = pl_u16(block);
}

void pl_split_Q1_0(PL_SPLIT_ARGS)
{
    (void)min, (void)factor;
    for (int i = 0; i < 32; i++) /* the codes of -1 and 1 among three values */
        codes[i] = (uint8_t)((block[2 + 4 * slice + i / 8] >> i % 8 & 1) << 1);
    scale[0] = pl_u16(block);
}

void pl_split_Q2_0(PL_SPLIT_ARGS)
{
    (void)min, (void)factor;
    for (int i = 0; i < 32; i++)
        codes[i] = block[2 + 8 * slice + i / 4] >> i % 4 * 2 & 3;
    scale[0] = pl_u16(block);
}

void pl_split_INT4(PL_SPLIT_ARGS)
{
    (void)slice, (void)factor;
    pl_nibbles(block + 3, codes);
    scale[0] = pl_u16(block);
    min[0] = block[2];
}
