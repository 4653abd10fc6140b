/* Private to quantize/: the search for a block's scale and min. */
#ifndef PL_QUANTIZE_FIT_H
#define PL_QUANTIZE_FIT_H

#include <math.h>

#include "../kernels/kernels.h"
#include "quantize.h"

#define PL_SUPER 256
#define PL_GROUPS 16 /* most groups of a super block */

/* The values that codes stand for: the integers lo .. hi, or those of a table. */
typedef struct pl_book {
    float lo, hi;
    float spread;                /* half the width of the range of scales tried, as a fraction of the usual scale */
    const float *table, *middle; /* (16) ascending values, (15) the borders between them; or NULL */
} pl_book;

/* The values q (n) of x nearest to (x - m) / d. Returns the weighted squared error of d * q + m. */
float pl_assign(const pl_book *b, const float *x, const float *w, int n, float d, float m, float *q);
/* Least squares: w (x - d q - m)^2 is as small as the search can make it. n: a multiple of 8. */
void pl_fit_one(const pl_book *b, const float *x, const float *w, int n, pl_fit_kind kind, float *d, float *m);
/* Largest absolute value of x (n); NaN and infinity give infinity. */
float pl_largest(const float *x, int n);
/* 1 / d; 0 if d is 0 or so small that the quotient is not finite. */
static inline float pl_inverse_of(float d)
{
    const float inverse = 1.0f / d;
    return d != 0.0f && isfinite(inverse) ? inverse : 0.0f;
}

/* What distinguishes formats with a scale (and min) in f16 for 32 weights. */
typedef struct pl_plain_kind {
    pl_book book;
    pl_fit_kind kind;
    void (*put)(uint16_t d, uint16_t m, const uint8_t *codes, uint8_t *out); /* the block's bytes */
} pl_plain_kind;

typedef struct pl_super {
    uint16_t d, dmin; /* f16 */
    int sc[PL_GROUPS], mn[PL_GROUPS];
    float q[PL_SUPER]; /* during the search */
    uint8_t code[PL_SUPER];
} pl_super;

/* What distinguishes super formats. */
typedef struct pl_super_kind {
    pl_book book;
    int group;                                    /* weights that share a scale */
    int has_min;                                  /* w = d sc q - dmin mn */
    int sc_lo, sc_hi;                             /* the integers that a scale may be */
    int by_square;                                /* errors are weighted by the weight's square, see super.c */
    void (*put)(const pl_super *s, uint8_t *out); /* the block's bytes */
} pl_super_kind;

/* Whether a factor in f16 has so few steps of the smallest numbers that codes, and integers, depend on its rounding. */
#define PL_COARSE 8
static inline int pl_is_coarse(uint16_t factor)
{
    return (factor & 0x7fff) < PL_COARSE;
}
/* v as f16, its bits, and what they stand for: the nearest, or, of those that are coarse, with `up` the next larger one,
 * as codes and integers may be smaller, but not larger than the format allows. */
float pl_factor(float v, int up, uint16_t *bits);
/* Whether `up` makes a difference: which of the two is better depends on the weights. */
int pl_rounds_up(float v);
/* The nearest integer of lo .. hi, |lo| and |hi| < 2^22, by pushing the fraction out of the mantissa. */
static inline float pl_nearest(float v, float lo, float hi)
{
    v = v < lo ? lo : v;
    v = v > hi ? hi : v;
    return v + 12582912.0f - 12582912.0f;
}
/* Blocks of x -> out, each group fitted by the kernel `fit` alone: a few scales, no importance. */
int pl_quick(const pl_quantizer *q, const pl_kernels *k, const float *x, int64_t blocks, uint8_t *out);
/* Whether pl_quick can make the quantiser's format. */
int pl_quick_has(const pl_quantizer *q);

/* Values that the codes of IQ4_NL and IQ4_XS stand for, and the borders between them. */
extern const float pl_iq4_values[16], pl_iq4_middle[15];

static inline void pl_put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* 32 codes -> 16 bytes, the first 16 in their low halves. */
void pl_put_nibbles(const uint8_t *codes, uint8_t *out);

/* Number of the value q in the book. */
static inline uint8_t pl_code(const pl_book *b, float q)
{
    if (!b->table)
        return (uint8_t)(int)(q - b->lo);
    int i = 0;
    while (b->table[i] < q)
        i++;
    return (uint8_t)i;
}

#define PL_QUANTIZE_ARGS const pl_quantizer *q, const float *x, const float *w, uint8_t *out
/* name, number in GGUF files, weights of a block, its bytes: those with a function of their own */
#define PL_QUANTIZERS(DO)                                                                                              \
    DO(F32, 0, 1, 4)                                                                                                   \
    DO(F16, 1, 1, 2)                                                                                                   \
    DO(BF16, 30, 1, 2)                                                                                                 \
    DO(Q8_0, 8, 32, 34)                                                                                                \
    DO(MXFP4, 39, 32, 17)
#define PL_PLAIN_QUANTIZERS(DO)                                                                                        \
    DO(Q4_0, 2, 32, 18)                                                                                                \
    DO(Q4_1, 3, 32, 20)                                                                                                \
    DO(Q5_0, 6, 32, 22)                                                                                                \
    DO(Q5_1, 7, 32, 24)                                                                                                \
    DO(IQ4_NL, 20, 32, 18)
#define PL_SUPER_QUANTIZERS(DO)                                                                                        \
    DO(Q2_K, 10, 256, 84)                                                                                              \
    DO(Q3_K, 11, 256, 110)                                                                                             \
    DO(Q4_K, 12, 256, 144)                                                                                             \
    DO(Q5_K, 13, 256, 176)                                                                                             \
    DO(Q6_K, 14, 256, 210)                                                                                             \
    DO(IQ4_XS, 23, 256, 136)
#define PL_QUANTIZE_OF(name, ...) int pl_quantize_##name(PL_QUANTIZE_ARGS);
PL_QUANTIZERS(PL_QUANTIZE_OF)
#undef PL_QUANTIZE_OF
int pl_quantize_plain(PL_QUANTIZE_ARGS);
int pl_quantize_super(PL_QUANTIZE_ARGS);
#define PL_KIND_OF(name, ...) extern const pl_plain_kind pl_kind_##name;
PL_PLAIN_QUANTIZERS(PL_KIND_OF)
#undef PL_KIND_OF
#define PL_KIND_OF(name, ...) extern const pl_super_kind pl_kind_##name;
PL_SUPER_QUANTIZERS(PL_KIND_OF)
#undef PL_KIND_OF

#endif
