/* The quick search: sixteen groups at a time by the kernel `fit`, which tries a few scales for each; what super formats
 * round to integers is not searched again. Columns have no weights. */
#include "fit.h"

#include <math.h>
#include <string.h>

int pl_quick_has(const pl_quantizer *q)
{
    return q->plain || q->super || q->run == pl_quantize_MXFP4;
}

typedef float four __attribute__((vector_size(16)));
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* which has clang's only since GCC 12 */
typedef int32_t places __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif

/* x (16, n) -> out (n, 16): four by four. */
static void to_lanes(const float *x, int n, float *restrict out)
{
    for (int g = 0; g < PL_FIT_GROUPS; g += 4)
        for (int i = 0; i < n; i += 4) {
            four v[4];
            for (int j = 0; j < 4; j++)
                memcpy(&v[j], x + n * (g + j) + i, sizeof v[j]);
            const four a = SHUFFLE(v[0], v[1], 0, 4, 1, 5), b = SHUFFLE(v[2], v[3], 0, 4, 1, 5);
            const four c = SHUFFLE(v[0], v[1], 2, 6, 3, 7), d = SHUFFLE(v[2], v[3], 2, 6, 3, 7);
            const four rows[4] = {SHUFFLE(a, b, 0, 1, 4, 5), SHUFFLE(a, b, 2, 3, 6, 7), SHUFFLE(c, d, 0, 1, 4, 5),
                                  SHUFFLE(c, d, 2, 3, 6, 7)};
            for (int j = 0; j < 4; j++)
                memcpy(out + PL_FIT_GROUPS * (i + j) + g, &rows[j], sizeof rows[j]);
        }
}

/* Scales and mins of up to 16 groups. 0, or -1 where their squares are beyond float32. */
static int fit_groups(const pl_fit *f, const pl_kernels *k, const float *x, int groups, float *d, float *m)
{
    float lanes[32 * PL_FIT_GROUPS], rest[32 * PL_FIT_GROUPS];
    if (groups < PL_FIT_GROUPS) { /* zeros beyond the last one */
        memset(rest, 0, sizeof rest);
        memcpy(rest, x, sizeof *x * (size_t)(f->n * groups));
        x = rest;
    }
    to_lanes(x, f->n, lanes);
    return k->fit(f, lanes, d, m) ? -1 : 0;
}

static int quick_plain(const pl_quantizer *q, const pl_fit *f, const pl_kernels *k, const float *x, int count,
                       uint8_t *out)
{
    float d[PL_FIT_GROUPS], m[PL_FIT_GROUPS];
    uint16_t scale[PL_FIT_GROUPS], min[PL_FIT_GROUPS];
    uint8_t codes[PL_FIT_GROUPS * PL_BLOCK];
    if (fit_groups(f, k, x, count, d, m))
        return -1;
    for (int i = 0; i < count; i++) {
        d[i] = pl_rounded(d[i], &scale[i]);
        m[i] = pl_rounded(m[i], &min[i]);
        if (!isfinite(d[i]) || !isfinite(m[i]))
            return -1;
    }
    k->fit_codes(f, count, x, d, m, codes);
    for (int i = 0; i < count; i++)
        q->plain->put(scale[i], min[i], codes + i * PL_BLOCK, out + i * q->block_bytes);
    return 0;
}

/* A super block whose groups have the scales d and mins m. */
static int quick_super(const pl_super_kind *kind, const pl_fit *f, const pl_kernels *k, const float *x, const float *d,
                       const float *m, uint8_t *out)
{
    const int groups = PL_SUPER / f->n, largest = kind->sc_lo < 0 ? kind->sc_lo : kind->sc_hi;
    float most = 0, most_min = 0, scales[PL_GROUPS], mins[PL_GROUPS];
    pl_super s;
    for (int g = 0; g < groups; g++) {
        most = fabsf(d[g]) > fabsf(most) ? d[g] : most;
        most_min = -m[g] > most_min ? -m[g] : most_min;
    }
    const float factor = pl_rounded(most / (float)largest, &s.d);
    const float factor_min = pl_rounded(most_min / (float)kind->sc_hi, &s.dmin);
    if (!isfinite(factor) || !isfinite(factor_min))
        return -1;
    const float per = pl_inverse_of(factor), per_min = pl_inverse_of(factor_min);
    for (int g = 0; g < groups; g++) {
        s.sc[g] = (int)pl_nearest(d[g] * per, (float)kind->sc_lo, (float)kind->sc_hi);
        s.mn[g] = (int)pl_nearest(-m[g] * per_min, 0, (float)kind->sc_hi);
        scales[g] = factor * (float)s.sc[g];
        mins[g] = -(factor_min * (float)s.mn[g]);
    }
    k->fit_codes(f, groups, x, scales, mins, s.code);
    kind->put(&s, out);
    return 0;
}

/* Its scale follows from the largest value, which may be up to 14.5 for 12: of weights in a bell curve, the error is then
 * 0.1 % above that of the best scale. */
static int quick_mxfp4(const pl_quantizer *q, const pl_kernels *k, const float *x, int64_t blocks, uint8_t *out)
{
    static const float table[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, INFINITY};
    static const float middle[15] = {-10,  -7,   -5,   -3.5f, -2.5f, -1.5f, -0.5f,   0.5f,
                                     1.5f, 2.5f, 3.5f, 5,     7,     10,    INFINITY};
    static const uint8_t stored[16] = {15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7, 7};
    static const float ones[PL_BLOCK] = {[0 ... PL_BLOCK - 1] = 1.0f};
    const pl_fit f = {.n = PL_BLOCK, .table = table, .middle = middle};
    static const float none[PL_FIT_GROUPS] = {0};
    for (int64_t i = 0; i < blocks; i += PL_FIT_GROUPS) {
        const int count = blocks - i < PL_FIT_GROUPS ? (int)(blocks - i) : PL_FIT_GROUPS;
        uint8_t codes[PL_FIT_GROUPS * PL_BLOCK];
        float d[PL_FIT_GROUPS];
        int exponent[PL_FIT_GROUPS];
        for (int j = 0; j < count; j++) {
            const float most = pl_largest(x + j * PL_BLOCK, PL_BLOCK), fraction = frexpf(most, &exponent[j]);
            if (!isfinite(most))
                return -1;
            exponent[j] -= 4 - (fraction > 14.5f / 16);
            d[j] = ldexpf(1.0f, exponent[j]);
        }
        k->fit_codes(&f, count, x, d, none, codes);
        for (int j = 0; j < count; j++, x += PL_BLOCK, out += q->block_bytes) {
            if (exponent[j] < -120) { /* of which the reciprocal may be infinite */
                if (q->run(q, x, ones, out))
                    return -1;
                continue;
            }
            uint8_t *code = codes + j * PL_BLOCK;
            for (int n = 0; n < PL_BLOCK; n++)
                code[n] = stored[code[n]];
            out[0] = (uint8_t)(exponent[j] + 128);
            pl_put_nibbles(code, out + 1);
        }
    }
    return 0;
}

int pl_quick(const pl_quantizer *q, const pl_kernels *k, const float *x, int64_t blocks, uint8_t *out)
{
    if (q->run == pl_quantize_MXFP4)
        return quick_mxfp4(q, k, x, blocks, out);
    const pl_super_kind *super = q->super;
    const pl_book *b = super ? &super->book : &q->plain->book;
    const pl_fit f = {.kind = !super           ? q->plain->kind
                              : super->has_min ? PL_FIT_NEGATIVE_MIN
                                               : PL_FIT_NO_MIN,
                      .n = super ? super->group : PL_BLOCK,
                      .lo = (int)b->lo,
                      .hi = (int)b->hi,
                      .table = b->table,
                      .middle = b->middle,
                      .tries = b->table ? 1 : 2, /* a table's codes take as long again */
                      .spread = {0, 0.5f * b->spread},
                      .repeats = 1};
    const int groups = q->block / f.n, most = PL_FIT_GROUPS / groups;
    float d[PL_FIT_GROUPS], m[PL_FIT_GROUPS];
    for (int64_t i = 0; i < blocks; i += most, x += most * q->block, out += most * q->block_bytes) {
        const int count = blocks - i < most ? (int)(blocks - i) : most;
        if (!super && quick_plain(q, &f, k, x, count, out))
            return -1;
        if (super && fit_groups(&f, k, x, groups * count, d, m))
            return -1;
        for (int j = 0; super && j < count; j++)
            if (quick_super(super, &f, k, x + j * PL_SUPER, d + groups * j, m + groups * j, out + j * q->block_bytes))
                return -1;
    }
    return 0;
}
