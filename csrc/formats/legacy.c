/* Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights, each
 *
 *   Q4_0  f16 d,        16 bytes of codes           w = d * (code - 8)
 *   Q4_1  f16 d, f16 m, 16 bytes of codes           w = d * code + m
 *   Q5_0  f16 d,        u32 fifth bits, 16 bytes    w = d * (code - 16)
 *   Q5_1  f16 d, f16 m, u32 fifth bits, 16 bytes    w = d * code + m
 *   Q8_0  f16 d,        32 signed bytes             w = d * byte
 *
 * Byte i of the 4-bit codes holds code i in its low nibble and code 16 + i in its high one;
 * bit i of the fifth bits belongs to code i. */
#include "families.h"

static void nibbles(const uint8_t *q, uint8_t *codes)
{
    for (int i = 0; i < 16; i++) {
        codes[i] = q[i] & 15;
        codes[16 + i] = q[i] >> 4;
    }
}

static void fifth_bits(const uint8_t *qh, uint8_t *codes)
{
    for (int i = 0; i < 32; i++)
        codes[i] |= (uint8_t)((qh[i / 8] >> i % 8 & 1) << 4);
}

void pl_split_q4_0(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    nibbles(block + 2, codes);
    scale[0] = pl_u16(block);
}

void pl_split_q4_1(PL_SPLIT_ARGS)
{
    (void)slice, (void)factor;
    nibbles(block + 4, codes);
    scale[0] = pl_u16(block);
    min[0] = pl_u16(block + 2);
}

void pl_split_q5_0(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    nibbles(block + 6, codes);
    fifth_bits(block + 2, codes);
    scale[0] = pl_u16(block);
}

void pl_split_q5_1(PL_SPLIT_ARGS)
{
    (void)slice, (void)factor;
    nibbles(block + 8, codes);
    fifth_bits(block + 4, codes);
    scale[0] = pl_u16(block);
    min[0] = pl_u16(block + 2);
}

void pl_split_q8_0(PL_SPLIT_ARGS)
{
    (void)slice, (void)min, (void)factor;
    for (int i = 0; i < 32; i++)
        codes[i] = block[2 + i] ^ 0x80;
    scale[0] = pl_u16(block);
}

/* One loop for the five: split, then s * (code - offset), then + m where the format has mins. */
static inline void decode(pl_format_id id, const uint8_t *src, float *dst, int64_t k)
{
    const pl_format *f = pl_format_get(id);
    for (int64_t i = 0; i < k; i += 32, src += f->block_bytes, dst += 32) {
        uint8_t codes[32];
        uint16_t scale[2], min[1], factor[2];
        f->split(src, 0, codes, scale, min, factor);
        float s = pl_f16_to_f32(scale[0]), m = f->flags & PL_HAS_MIN ? pl_f16_to_f32(min[0]) : 0;
        for (int j = 0; j < 32; j++) {
            float w = s * (float)(codes[j] - f->offset);
            dst[j] = f->flags & PL_HAS_MIN ? w + m : w; /* adding 0 would turn -0 into 0 */
        }
    }
}

void pl_decode_q4_0(const uint8_t *src, float *dst, int64_t k)
{
    decode(PL_Q4_0, src, dst, k);
}
void pl_decode_q4_1(const uint8_t *src, float *dst, int64_t k)
{
    decode(PL_Q4_1, src, dst, k);
}
void pl_decode_q5_0(const uint8_t *src, float *dst, int64_t k)
{
    decode(PL_Q5_0, src, dst, k);
}
void pl_decode_q5_1(const uint8_t *src, float *dst, int64_t k)
{
    decode(PL_Q5_1, src, dst, k);
}
void pl_decode_q8_0(const uint8_t *src, float *dst, int64_t k)
{
    decode(PL_Q8_0, src, dst, k);
}
