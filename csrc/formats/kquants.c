/* Q2_K to Q6_K: super blocks of 256 weights, whose groups have integer scales under f16 factors.
 *
 *   Q2_K  16 bytes of scales (low nibbles) and mins (high ones), one per 16, 64 bytes of codes, f16 d, f16 dmin
 *         w = d * sc * code - dmin * mn
 *   Q3_K  32 bytes of third bits, 64 bytes of low pairs, 12 bytes of 6-bit scales (one per 16), f16 d
 *         w = d * (sc - 32) * (code - 4)
 *   Q4_K  f16 d, f16 dmin, 12 bytes of 6-bit scales and mins, 128 bytes of codes
 *   Q5_K  f16 d, f16 dmin, 12 bytes of the same, 32 bytes of fifth bits, 128 bytes of codes
 *         w = d * sc * code - dmin * mn, a scale and a min per 32
 *   Q6_K  128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales (one per 16), f16 d
 *         w = d * sc * (code - 32)
 *
 * Q2_K and Q3_K: 32 bytes of pairs hold four slices of 32, each two bits above the one before. Q4_K and Q5_K: 32 bytes
 * of codes hold two slices, the first in the low nibbles, the second in the high ones. Bit s of byte i of the third or
 * fifth bits belongs to weight i of slice s. Q6_K: four slices share 64 bytes of nibbles (slices 0, 1 the low ones of
 * bytes 0.. and 32.., slices 2, 3 the high ones) and 32 bytes of pairs. */
#include "families.h"

/* Scale and min of a slice, from the 12 bytes: the first four are whole in bytes 0..7, the others have their low
 * four bits in bytes 8..11 and their upper two atop bytes 0..7. */
static void scale_and_min(const uint8_t *p, int slice, uint16_t *scale, uint16_t *min)
{
    if (slice < 4) {
        scale[0] = p[slice] & 63;
        min[0] = p[4 + slice] & 63;
    } else {
        scale[0] = (uint16_t)((p[4 + slice] & 15) | (p[slice - 4] >> 6) << 4);
        min[0] = (uint16_t)(p[4 + slice] >> 4 | (p[slice] >> 6) << 4);
    }
}

void pl_split_Q2_K(PL_SPLIT_ARGS)
{
    pl_pairs(block + 16, slice, codes);
    for (int g = 0; g < 2; g++) {
        scale[g] = block[2 * slice + g] & 15;
        min[g] = block[2 * slice + g] >> 4;
    }
    factor[0] = pl_u16(block + 80);
    factor[1] = pl_u16(block + 82);
}

/* Scale g: its low nibble is nibble g / 8 of byte g % 8, its upper two bits are pair g / 4 of byte 8 + g % 4. */
void pl_split_Q3_K(PL_SPLIT_ARGS)
{
    const uint8_t *six = block + 96;
    (void)min;
    pl_pairs(block + 32, slice, codes);
    for (int i = 0; i < 32; i++)
        codes[i] |= (uint8_t)((block[i] >> slice & 1) << 2);
    for (int h = 0; h < 2; h++) {
        const int g = 2 * slice + h;
        scale[h] = (uint8_t)(((six[g % 8] >> g / 8 * 4 & 15) | (six[8 + g % 4] >> g / 4 * 2 & 3) << 4) - 32);
    }
    factor[0] = pl_u16(block + 108);
}

void pl_split_Q4_K(PL_SPLIT_ARGS)
{
    const uint8_t *q = block + 16 + slice / 2 * 32;
    for (int i = 0; i < 32; i++)
        codes[i] = q[i] >> slice % 2 * 4 & 15;
    scale_and_min(block + 4, slice, scale, min);
    factor[0] = pl_u16(block);
    factor[1] = pl_u16(block + 2);
}

void pl_split_Q5_K(PL_SPLIT_ARGS)
{
    const uint8_t *high = block + 16, *q = block + 48 + slice / 2 * 32;
    for (int i = 0; i < 32; i++)
        codes[i] = (uint8_t)((q[i] >> slice % 2 * 4 & 15) | (high[i] >> slice & 1) << 4);
    scale_and_min(block + 4, slice, scale, min);
    factor[0] = pl_u16(block);
    factor[1] = pl_u16(block + 2);
}

void pl_split_Q6_K(PL_SPLIT_ARGS)
{
    int half = slice / 4, part = slice % 4;
    const uint8_t *q = block + 64 * half + 32 * (part % 2), *high = block + 128 + 32 * half;
    (void)min;
    for (int i = 0; i < 32; i++)
        codes[i] = (uint8_t)((q[i] >> part / 2 * 4 & 15) | (high[i] >> 2 * part & 3) << 4);
    scale[0] = block[192 + 2 * slice];
    scale[1] = block[193 + 2 * slice];
    factor[0] = pl_u16(block + 208);
}
