/* Q2_K .. Q6_K and IQ4_XS: codes, integer scales and factors -> the bytes of a super block.
 *
 *   Q2_K  16 bytes (scale in the low nibble, min in the high one), 64 bytes of pairs, f16 d, f16 dmin
 *   Q3_K  32 bytes of third bits, 64 bytes of pairs, 12 bytes of 6-bit scales (+ 32), f16 d
 *   IQ4_XS f16 d, u16 upper pairs of the scales (+ 32), 4 bytes of their lower nibbles, 128 bytes of codes
 * Pairs: byte i of 32 holds those of weights i, 32 + i, 64 + i, 96 + i of its half of the block. The scales of Q3_K:
 * nibble of scale j in byte j % 8 (low for j < 8), its upper pair in byte 8 + j % 4, bits 2 (j / 4).
 * For Q4_K, Q5_K, Q6_K see formats/kquants.c. Source: gguf-py's quants.py (facts only). */
#include "fit.h"

#include <string.h>

#define PL_ALONE __attribute__((noinline)) /* one copy for all formats */

static inline uint64_t eight(const uint8_t *codes)
{
    uint64_t word;
    memcpy(&word, codes, sizeof word);
    return word;
}

/* Pairs of bits of all codes. */
static PL_ALONE void pairs(const pl_super *s, int shift, uint8_t *restrict out)
{
    const uint64_t pair = 0x0303030303030303;
    for (int i = 0; i < 64; i += 8) {
        const uint8_t *code = s->code + 128 * (i / 32) + i % 32;
        uint64_t found = 0;
        for (int j = 0; j < 4; j++)
            found |= (eight(code + 32 * j) >> shift & pair) << 2 * j;
        memcpy(out + i, &found, sizeof found);
    }
}

/* A bit of all codes: that of weight 32 j + i is bit j of byte i. */
static PL_ALONE void plane(const pl_super *s, int shift, uint8_t *restrict out)
{
    const uint64_t bit = 0x0101010101010101;
    for (int i = 0; i < 32; i += 8) {
        uint64_t found = 0;
        for (int j = 0; j < 8; j++)
            found |= (eight(s->code + 32 * j + i) >> shift & bit) << j;
        memcpy(out + i, &found, sizeof found);
    }
}

/* Low nibbles: each 32 bytes hold two slices, `apart` slices from each other. */
static PL_ALONE void nibbles(const pl_super *s, int apart, uint8_t *restrict out)
{
    for (int i = 0; i < 4; i++) {
        const int slice = i / apart * 2 * apart + i % apart;
        const uint8_t *low = s->code + 32 * slice, *high = low + 32 * apart;
        for (int b = 0; b < 32; b++)
            out[32 * i + b] = (uint8_t)((low[b] & 15) | (high[b] & 15) << 4);
    }
}

static void put_q2_k(const pl_super *s, uint8_t *out)
{
    for (int g = 0; g < 16; g++)
        out[g] = (uint8_t)(s->sc[g] | s->mn[g] << 4);
    pairs(s, 0, out + 16);
    pl_put_u16(out + 80, s->d);
    pl_put_u16(out + 82, s->dmin);
}

static void put_q3_k(const pl_super *s, uint8_t *out)
{
    plane(s, 2, out);
    pairs(s, 0, out + 32);
    memset(out + 96, 0, 12);
    for (int j = 0; j < 16; j++) {
        const int sc = s->sc[j] + 32;
        out[96 + j % 8] |= (uint8_t)((sc & 15) << j / 8 * 4);
        out[104 + j % 4] |= (uint8_t)((sc >> 4) << j / 4 * 2);
    }
    pl_put_u16(out + 108, s->d);
}

/* The factors and the 12 bytes of 6-bit scales and mins of Q4_K and Q5_K. */
static void scales_and_mins(const pl_super *s, uint8_t *out)
{
    pl_put_u16(out, s->d);
    pl_put_u16(out + 2, s->dmin);
    out += 4;
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(s->sc[j] | (s->sc[4 + j] >> 4) << 6);
        out[4 + j] = (uint8_t)(s->mn[j] | (s->mn[4 + j] >> 4) << 6);
        out[8 + j] = (uint8_t)((s->sc[4 + j] & 15) | (s->mn[4 + j] & 15) << 4);
    }
}

static void put_q4_k(const pl_super *s, uint8_t *out)
{
    scales_and_mins(s, out);
    nibbles(s, 1, out + 16);
}

static void put_q5_k(const pl_super *s, uint8_t *out)
{
    scales_and_mins(s, out);
    plane(s, 4, out + 16);
    nibbles(s, 1, out + 48);
}

static void put_q6_k(const pl_super *s, uint8_t *out)
{
    nibbles(s, 2, out);
    pairs(s, 4, out + 128);
    for (int j = 0; j < 16; j++)
        out[192 + j] = (uint8_t)(int8_t)s->sc[j];
    pl_put_u16(out + 208, s->d);
}

static void put_iq4_xs(const pl_super *s, uint8_t *out)
{
    pl_put_u16(out, s->d);
    memset(out + 2, 0, 6);
    for (int j = 0; j < 8; j++) {
        const int sc = s->sc[j] + 32;
        out[2 + j / 4] |= (uint8_t)((sc >> 4) << j % 4 * 2);
        out[4 + j / 2] |= (uint8_t)((sc & 15) << j % 2 * 4);
    }
    for (int j = 0; j < 8; j++)
        pl_put_nibbles(s->code + 32 * j, out + 8 + 16 * j);
}

const pl_super_kind pl_kind_Q2_K = {{0, 3, 0.35f, 0, 0}, 16, 1, 0, 15, 0, put_q2_k};
const pl_super_kind pl_kind_Q3_K = {{-4, 3, 0.4f, 0, 0}, 16, 0, -32, 31, 1, put_q3_k};
const pl_super_kind pl_kind_Q4_K = {{0, 15, 0.12f, 0, 0}, 32, 1, 0, 63, 0, put_q4_k};
const pl_super_kind pl_kind_Q5_K = {{0, 31, 0.06f, 0, 0}, 32, 1, 0, 63, 0, put_q5_k};
const pl_super_kind pl_kind_Q6_K = {{-32, 31, 0.05f, 0, 0}, 16, 0, -128, 127, 0, put_q6_k};
const pl_super_kind pl_kind_IQ4_XS = {{-127, 113, 0.15f, pl_iq4_values, pl_iq4_middle}, 32, 0, -32, 31, 0, put_iq4_xs};
