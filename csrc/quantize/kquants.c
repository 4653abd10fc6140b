/* Q2_K .. Q6_K and IQ4_XS: codes, integer scales and factors into the bytes of a super block.
 *
 *   Q2_K  16 bytes (scale in the low nibble, min in the high one), 64 bytes of pairs, f16 d, f16 dmin
 *   Q3_K  32 bytes of third bits, 64 bytes of pairs, 12 bytes of 6-bit scales (+ 32), f16 d
 *   IQ4_XS f16 d, u16 upper pairs of the scales (+ 32), 4 bytes of their lower nibbles, 128 bytes of codes
 * Pairs: byte i of 32 holds those of weights i, 32 + i, 64 + i, 96 + i of its half of the block. The scales of Q3_K:
 * nibble of scale j in byte j % 8 (low for j < 8), its upper pair in byte 8 + j % 4, bits 2 (j / 4).
 * For Q4_K, Q5_K, Q6_K see formats/kquants.c. Source: gguf-py's quants.py (facts only). */
#include "fit.h"

#include <string.h>

/* Code of weight i, counted from the book's least value. */
static uint8_t code_at(const pl_super_kind *k, const pl_super *s, int i)
{
    return pl_code(&k->book, s->q[i]);
}

static void pairs(const pl_super_kind *k, const pl_super *s, int shift, uint8_t *out)
{
    memset(out, 0, PL_SUPER / 4);
    for (int i = 0; i < PL_SUPER; i++)
        out[i / 128 * 32 + i % 32] |= (uint8_t)((code_at(k, s, i) >> shift & 3) << i % 128 / 32 * 2);
}

static const pl_super_kind q2 = {{0, 3, 0.35f, 0, 0}, 16, 1, 0, 15};

int pl_quantize_Q2_K(PL_QUANTIZE_ARGS)
{
    pl_super s;
    if (pl_fit_super(&q2, x, w, &s))
        return -1;
    for (int g = 0; g < 16; g++)
        out[g] = (uint8_t)(s.sc[g] | s.mn[g] << 4);
    pairs(&q2, &s, 0, out + 16);
    pl_put_u16(out + 80, s.d);
    pl_put_u16(out + 82, s.dmin);
    return 0;
}

static const pl_super_kind q3 = {{-4, 3, 0.4f, 0, 0}, 16, 0, -32, 31};

int pl_quantize_Q3_K(PL_QUANTIZE_ARGS)
{
    pl_super s;
    if (pl_fit_super(&q3, x, w, &s))
        return -1;
    memset(out, 0, 32);
    memset(out + 96, 0, 12);
    for (int i = 0; i < PL_SUPER; i++)
        out[i % 32] |= (uint8_t)((code_at(&q3, &s, i) >> 2) << i / 32);
    pairs(&q3, &s, 0, out + 32);
    for (int j = 0; j < 16; j++) {
        const int sc = s.sc[j] + 32;
        out[96 + j % 8] |= (uint8_t)((sc & 15) << j / 8 * 4);
        out[104 + j % 4] |= (uint8_t)((sc >> 4) << j / 4 * 2);
    }
    pl_put_u16(out + 108, s.d);
    return 0;
}

/* The 12 bytes of 6-bit scales and mins of Q4_K and Q5_K. */
static void scales_and_mins(const pl_super *s, uint8_t *out)
{
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(s->sc[j] | (s->sc[4 + j] >> 4) << 6);
        out[4 + j] = (uint8_t)(s->mn[j] | (s->mn[4 + j] >> 4) << 6);
        out[8 + j] = (uint8_t)((s->sc[4 + j] & 15) | (s->mn[4 + j] & 15) << 4);
    }
}

/* Low nibbles: 32 bytes hold two slices of 32. */
static void nibbles(const pl_super_kind *k, const pl_super *s, uint8_t *out)
{
    for (int i = 0; i < PL_SUPER / 2; i++) {
        const int at = i / 32 * 64 + i % 32;
        out[i] = (uint8_t)((code_at(k, s, at) & 15) | (code_at(k, s, at + 32) & 15) << 4);
    }
}

static const pl_super_kind q4 = {{0, 15, 0.12f, 0, 0}, 32, 1, 0, 63};

int pl_quantize_Q4_K(PL_QUANTIZE_ARGS)
{
    pl_super s;
    if (pl_fit_super(&q4, x, w, &s))
        return -1;
    pl_put_u16(out, s.d);
    pl_put_u16(out + 2, s.dmin);
    scales_and_mins(&s, out + 4);
    nibbles(&q4, &s, out + 16);
    return 0;
}

static const pl_super_kind q5 = {{0, 31, 0.06f, 0, 0}, 32, 1, 0, 63};

int pl_quantize_Q5_K(PL_QUANTIZE_ARGS)
{
    pl_super s;
    if (pl_fit_super(&q5, x, w, &s))
        return -1;
    pl_put_u16(out, s.d);
    pl_put_u16(out + 2, s.dmin);
    scales_and_mins(&s, out + 4);
    memset(out + 16, 0, 32);
    for (int i = 0; i < PL_SUPER; i++)
        out[16 + i % 32] |= (uint8_t)((code_at(&q5, &s, i) >> 4) << i / 32);
    nibbles(&q5, &s, out + 48);
    return 0;
}

static const pl_super_kind q6 = {{-32, 31, 0.05f, 0, 0}, 16, 0, -128, 127};

int pl_quantize_Q6_K(PL_QUANTIZE_ARGS)
{
    pl_super s;
    if (pl_fit_super(&q6, x, w, &s))
        return -1;
    memset(out + 128, 0, 64);
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 64; i++) {
            const int at = half * 128 + i;
            out[64 * half + i] = (uint8_t)((code_at(&q6, &s, at) & 15) | (code_at(&q6, &s, at + 64) & 15) << 4);
        }
        for (int i = 0; i < 128; i++)
            out[128 + 32 * half + i % 32] |= (uint8_t)((code_at(&q6, &s, half * 128 + i) >> 4) << i / 32 * 2);
    }
    for (int j = 0; j < 16; j++)
        out[192 + j] = (uint8_t)(int8_t)s.sc[j];
    pl_put_u16(out + 208, s.d);
    return 0;
}

static const pl_super_kind iq4 = {{-127, 113, 0.15f, pl_iq4_values, pl_iq4_middle}, 32, 0, -32, 31};

int pl_quantize_IQ4_XS(PL_QUANTIZE_ARGS)
{
    pl_super s;
    if (pl_fit_super(&iq4, x, w, &s))
        return -1;
    pl_put_u16(out, s.d);
    memset(out + 2, 0, 6);
    for (int j = 0; j < 8; j++) {
        const int sc = s.sc[j] + 32;
        out[2 + j / 4] |= (uint8_t)((sc >> 4) << j % 4 * 2);
        out[4 + j / 2] |= (uint8_t)((sc & 15) << j % 2 * 4);
    }
    for (int i = 0; i < PL_SUPER / 2; i++) {
        const int at = i / 16 * 32 + i % 16;
        out[8 + i] = (uint8_t)(code_at(&iq4, &s, at) | code_at(&iq4, &s, at + 16) << 4);
    }
    return 0;
}
