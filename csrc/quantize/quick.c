/* The quick search: PL_FIT_GROUPS groups at a time by the kernel `fit`, which tries a few scales for each; what super
 * formats round to integers is not searched again. Columns have no weights. */
#include "fit.h"

#include <math.h>
#include <string.h>

int pl_quick_has(const pl_quantizer *q)
{
    return q->plain || q->super || q->run == pl_quantize_MXFP4 || q->run == pl_quantize_Q8_0;
}

typedef float four __attribute__((vector_size(16)));
typedef int32_t places __attribute__((vector_size(16)));
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* which has clang's only since GCC 12 */
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif

/* x (4, n) -> four lanes of (n, PL_FIT_GROUPS), of which out is the first. */
static void to_lanes(const float *x, int n, float *restrict out)
{
    for (int i = 0; i < n; i += 4) {
        four v[4];
        for (int j = 0; j < 4; j++)
            memcpy(&v[j], x + n * j + i, sizeof v[j]);
        const four a = SHUFFLE(v[0], v[1], 0, 4, 1, 5), b = SHUFFLE(v[2], v[3], 0, 4, 1, 5);
        const four c = SHUFFLE(v[0], v[1], 2, 6, 3, 7), d = SHUFFLE(v[2], v[3], 2, 6, 3, 7);
        const four rows[4] = {SHUFFLE(a, b, 0, 1, 4, 5), SHUFFLE(a, b, 2, 3, 6, 7), SHUFFLE(c, d, 0, 1, 4, 5),
                              SHUFFLE(c, d, 2, 3, 6, 7)};
        for (int j = 0; j < 4; j++)
            memcpy(out + PL_FIT_GROUPS * (i + j), &rows[j], sizeof rows[j]);
    }
}

/* Scales and mins of up to PL_FIT_GROUPS groups. 0, or -1 where their squares are beyond float32. */
static int fit_groups(const pl_fit *f, const pl_kernels *k, const float *x, int groups, float *d, float *m)
{
    float lanes[32 * PL_FIT_GROUPS], rest[4 * 32];
    const size_t bytes = sizeof *x * (size_t)f->n;
    if (groups < PL_FIT_GROUPS) /* zeros beyond the last one */
        memset(lanes, 0, PL_FIT_GROUPS * bytes);
    int g = 0;
    for (; g + 4 <= groups; g += 4)
        to_lanes(x + f->n * g, f->n, lanes + g);
    if (g < groups) {
        memset(rest, 0, sizeof rest);
        memcpy(rest, x + f->n * g, (size_t)(groups - g) * bytes);
        to_lanes(rest, f->n, lanes + g);
    }
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

/* a where the mask is set, else b. */
static inline four pick(places mask, four a, four b)
{
    return (four)((mask & (places)a) | (~mask & (places)b));
}

/* The one of v (n, a multiple of 4) that is largest by its size. */
static float largest_of(const float *v, int n)
{
    four low, high, next;
    memcpy(&low, v, sizeof low);
    high = low;
    for (int i = 4; i < n; i += 4) {
        memcpy(&next, v + i, sizeof next);
        low = pick(next < low, next, low);
        high = pick(next > high, next, high);
    }
    float least = low[0], most = high[0];
    for (int i = 1; i < 4; i++) {
        least = low[i] < least ? low[i] : least;
        most = high[i] > most ? high[i] : most;
    }
    return -least > most ? least : most;
}

/* v (groups) in units of `factor` -> whole numbers lo .. hi, and in v what they stand for. */
static void to_whole(float *restrict v, int groups, float factor, float lo, float hi, int *restrict whole)
{
    const float per = pl_inverse_of(factor);
    for (int g = 0; g < groups; g++) {
        const float n = pl_nearest(v[g] * per, lo, hi);
        whole[g] = (int)n;
        v[g] = factor * n;
    }
}

/* A super block whose groups have the scales d and mins m, which become those of the block. */
static int quick_super(const pl_super_kind *kind, const pl_fit *f, const pl_kernels *k, const float *x, float *d,
                       float *m, uint8_t *out)
{
    const int groups = PL_SUPER / f->n, largest = kind->sc_lo < 0 ? kind->sc_lo : kind->sc_hi;
    pl_super s;
    const float factor = pl_rounded(largest_of(d, groups) / (float)largest, &s.d);
    if (!isfinite(factor))
        return -1;
    to_whole(d, groups, factor, (float)kind->sc_lo, (float)kind->sc_hi, s.sc);
    if (kind->has_min) { /* none is above 0 */
        const float factor_min = pl_rounded(largest_of(m, groups) / (float)-kind->sc_hi, &s.dmin);
        if (!isfinite(factor_min))
            return -1;
        to_whole(m, groups, -factor_min, 0, (float)kind->sc_hi, s.mn);
    }
    k->fit_codes(f, groups, x, d, m, s.code);
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

/* The bytes of pl_quantize_Q8_0: its scale needs no search. */
static int quick_q8_0(const pl_quantizer *q, const pl_kernels *k, const float *x, int64_t blocks, uint8_t *out)
{
    const pl_fit f = {.n = PL_BLOCK, .lo = -127, .hi = 127};
    static const float none[PL_FIT_GROUPS] = {0};
    for (int64_t i = 0; i < blocks; i += PL_FIT_GROUPS, x += PL_FIT_GROUPS * PL_BLOCK) {
        const int count = blocks - i < PL_FIT_GROUPS ? (int)(blocks - i) : PL_FIT_GROUPS;
        uint8_t codes[PL_FIT_GROUPS * PL_BLOCK];
        uint16_t scale[PL_FIT_GROUPS];
        float d[PL_FIT_GROUPS];
        for (int j = 0; j < count; j++) {
            const float most = pl_largest(x + j * PL_BLOCK, PL_BLOCK);
            if (!(most / 127.0f < 65520.0f))
                return -1;
            d[j] = pl_rounded(most / 127.0f, &scale[j]);
        }
        k->fit_codes(&f, count, x, d, none, codes);
        for (int j = 0; j < count; j++, out += q->block_bytes) {
            pl_put_u16(out, scale[j]);
            for (int n = 0; n < PL_BLOCK; n++)
                out[2 + n] = (uint8_t)(codes[j * PL_BLOCK + n] - 127);
        }
    }
    return 0;
}

int pl_quick(const pl_quantizer *q, const pl_kernels *k, const float *x, int64_t blocks, uint8_t *out)
{
    if (q->run == pl_quantize_MXFP4)
        return quick_mxfp4(q, k, x, blocks, out);
    if (q->run == pl_quantize_Q8_0)
        return quick_q8_0(q, k, x, blocks, out);
    const pl_super_kind *super = q->super;
    const pl_book *b = super ? &super->book : &q->plain->book;
    const int two_bits = b->lo == 0 && b->hi == 3; /* one centred try: nearly as good as two */
    const pl_fit f = {.kind = !super           ? q->plain->kind
                              : super->has_min ? PL_FIT_NEGATIVE_MIN
                                               : PL_FIT_NO_MIN,
                      .n = super ? super->group : PL_BLOCK,
                      .lo = (int)b->lo,
                      .hi = (int)b->hi,
                      .table = b->table,
                      .middle = b->middle,
                      .tries = b->table || two_bits ? 1 : 2, /* a table's codes take as long again */
                      .spread = {two_bits ? 0.6f * b->spread : 0, 0.5f * b->spread},
                      .centred = two_bits,
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
