/* Float formats, and blocks of 32 weights with scales of their own (formats/legacy.c has the layouts; IQ4_NL is Q4_0's
 * with a table; MXFP4: an e8m0 scale, then 16 bytes of codes, whose high bit is the sign). */
#include "fit.h"

#include <math.h>
#include <string.h>

const float pl_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const float pl_iq4_middle[15] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};

int pl_quantize_F32(PL_QUANTIZE_ARGS)
{
    (void)q, (void)w;
    memcpy(out, x, sizeof *x);
    return isfinite(x[0]) ? 0 : -1;
}

int pl_quantize_F16(PL_QUANTIZE_ARGS)
{
    (void)q, (void)w;
    pl_put_u16(out, pl_f32_to_f16(x[0]));
    return fabsf(x[0]) < 65520.0f ? 0 : -1;
}

int pl_quantize_BF16(PL_QUANTIZE_ARGS)
{
    const uint16_t bits = pl_f32_to_bf16(x[0]);
    (void)q, (void)w;
    pl_put_u16(out, bits);
    return isfinite(pl_bf16_to_f32(bits)) ? 0 : -1;
}

/* As pl_assign, for the d that f16 has: the nearest, or the next larger one where that is better; its bits -> scale. */
static float assign_rounded(const pl_book *b, const float *x, const float *w, float d, float m, uint16_t *scale,
                            float *q)
{
    float error = pl_assign(b, x, w, PL_BLOCK, pl_factor(d, 0, scale), m, q);
    if (pl_rounds_up(d)) {
        float other[PL_BLOCK];
        uint16_t up;
        const float found = pl_assign(b, x, w, PL_BLOCK, pl_factor(d, 1, &up), m, other);
        if (found < error) {
            error = found;
            *scale = up;
            memcpy(q, other, sizeof other);
        }
    }
    return error;
}

int pl_quantize_plain(PL_QUANTIZE_ARGS)
{
    const pl_plain_kind *k = q->plain;
    float d, m, values[PL_BLOCK], other[PL_BLOCK];
    uint8_t codes[PL_BLOCK];
    if (!(pl_largest(x, PL_BLOCK) < PL_FIT_MOST))
        return -1;
    pl_fit_one(&k->book, x, w, PL_BLOCK, k->kind, &d, &m);
    const uint16_t min = pl_f32_to_f16(m);
    uint16_t scale;
    m = pl_f16_to_f32(min);
    if (!(fabsf(d) < 65520.0f) || !isfinite(m))
        return -1;
    const float error = assign_rounded(&k->book, x, w, d, m, &scale, values);
    /* All may be better as 0, for which the table has no code. */
    if (k->book.table && pl_is_coarse(scale) && pl_assign(&k->book, x, w, PL_BLOCK, 0, 0, other) <= error)
        scale = 0;
    for (int i = 0; i < PL_BLOCK; i++)
        codes[i] = pl_code(&k->book, values[i]);
    k->put(scale, min, codes, out);
    return 0;
}

void pl_put_nibbles(const uint8_t *codes, uint8_t *out)
{
    for (int i = 0; i < 16; i++)
        out[i] = (uint8_t)((codes[i] & 15) | (codes[16 + i] & 15) << 4);
}

/* Bit i of the result: bit 4 of code i. */
static void fifth_bits(const uint8_t *codes, uint8_t *out)
{
    for (int i = 0; i < 4; i++) { /* a product moves the bit of byte j of the eight to bit 56 + j */
        uint64_t eight;
        memcpy(&eight, codes + 8 * i, sizeof eight);
        out[i] = (uint8_t)((eight >> 4 & 0x0101010101010101) * 0x0102040810204080 >> 56);
    }
}

static void put_4(uint16_t d, uint16_t m, const uint8_t *codes, uint8_t *out)
{
    (void)m;
    pl_put_u16(out, d);
    pl_put_nibbles(codes, out + 2);
}

static void put_4_min(uint16_t d, uint16_t m, const uint8_t *codes, uint8_t *out)
{
    pl_put_u16(out, d);
    pl_put_u16(out + 2, m);
    pl_put_nibbles(codes, out + 4);
}

static void put_5(uint16_t d, uint16_t m, const uint8_t *codes, uint8_t *out)
{
    (void)m;
    pl_put_u16(out, d);
    fifth_bits(codes, out + 2);
    pl_put_nibbles(codes, out + 6);
}

static void put_5_min(uint16_t d, uint16_t m, const uint8_t *codes, uint8_t *out)
{
    pl_put_u16(out, d);
    pl_put_u16(out + 2, m);
    fifth_bits(codes, out + 4);
    pl_put_nibbles(codes, out + 8);
}

const pl_plain_kind pl_kind_Q4_0 = {{-8, 7, 0.18f, 0, 0}, PL_FIT_NO_MIN, put_4};
const pl_plain_kind pl_kind_Q4_1 = {{0, 15, 0.12f, 0, 0}, PL_FIT_ANY_MIN, put_4_min};
const pl_plain_kind pl_kind_Q5_0 = {{-16, 15, 0.1f, 0, 0}, PL_FIT_NO_MIN, put_5};
const pl_plain_kind pl_kind_Q5_1 = {{0, 31, 0.06f, 0, 0}, PL_FIT_ANY_MIN, put_5_min};
const pl_plain_kind pl_kind_IQ4_NL = {{-127, 113, 0.15f, pl_iq4_values, pl_iq4_middle}, PL_FIT_NO_MIN, put_4};

int pl_quantize_Q8_0(PL_QUANTIZE_ARGS)
{
    const float most = pl_largest(x, PL_BLOCK);
    (void)q; /* eight bits: the scale that spans the block is as good as any */
    if (!(most / 127.0f < 65520.0f))
        return -1;
    const pl_book book = {-127, 127, 0, NULL, NULL};
    float values[PL_BLOCK];
    uint16_t bits;
    assign_rounded(&book, x, w, most / 127.0f, 0, &bits, values);
    pl_put_u16(out, bits);
    for (int i = 0; i < PL_BLOCK; i++)
        out[2 + i] = (uint8_t)(int8_t)(int)values[i];
    return 0;
}

/* MXFP4: codes for the scale 2^exponent -> the error in units of the scale's square. */
static float mxfp4_codes(const float *x, const float *w, int exponent, uint8_t *codes)
{
    static const float values[8] = {0, 1, 2, 3, 4, 6, 8, 12}, middle[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};
    float error = 0;
    for (int i = 0; i < PL_BLOCK; i++) {
        const float v = ldexpf(x[i], -exponent), a = fabsf(v);
        int code = 0;
        for (int j = 0; j < 7; j++)
            code += a > middle[j];
        const float e = a - values[code];
        error += w[i] * e * e;
        codes[i] = (uint8_t)(code | (code && v < 0) << 3);
    }
    return error;
}

int pl_quantize_MXFP4(PL_QUANTIZE_ARGS)
{
    const float most = pl_largest(x, PL_BLOCK);
    uint8_t codes[PL_BLOCK], best[PL_BLOCK] = {0};
    int exponent = 0, found = 0;
    float least = INFINITY;
    (void)q;
    if (!isfinite(most))
        return -1;
    frexpf(most, &exponent); /* most = fraction in [1/2, 1) times 2^exponent; 12 is the greatest value */
    exponent = exponent < -125 ? -125 : exponent; /* of smaller values the least scale is the best */
    for (int e = exponent - 5; most > 0 && e <= exponent - 3; e++) {
        const int stored = e + 128; /* the byte stands for 2^(byte - 128), at most 253: codes count halves */
        if (stored < 0)
            continue;
        const float error = ldexpf(mxfp4_codes(x, w, e, codes), 2 * (e - exponent));
        if (error < least) {
            least = error;
            found = stored;
            memcpy(best, codes, sizeof best);
        }
    }
    out[0] = (uint8_t)found;
    pl_put_nibbles(best, out + 1);
    return 0;
}
