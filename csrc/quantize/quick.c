/* The quick search: PL_FIT_GROUPS groups at a time by the kernel `fit`, which tries a few scales for each. After super
 * formats have rounded scales to integers, nothing is searched again. Columns have no importance. */
#include "fit.h"

#include <math.h>
#include <string.h>

static const float ones[PL_SUPER] = {[0 ... PL_SUPER - 1] = 1.0f};

int pl_quick_has(const pl_quantizer *q)
{
    return q->plain || q->super || q->run == pl_quantize_MXFP4 || q->run == pl_quantize_Q8_0;
}

static int quick_plain(const pl_quantizer *q, const pl_fit *f, const pl_kernels *k, const float *x, int count,
                       uint8_t *out)
{
    float d[PL_FIT_GROUPS], m[PL_FIT_GROUPS];
    uint16_t scale[PL_FIT_GROUPS], min[PL_FIT_GROUPS];
    uint8_t codes[PL_FIT_GROUPS * PL_BLOCK];
    if (k->fit(f, count, x, d, m)) /* squares beyond float32 */
        return -1;
    for (int i = 0; i < count; i++) {
        d[i] = pl_factor(d[i], 0, &scale[i]);
        min[i] = pl_f32_to_f16(m[i]);
        m[i] = pl_f16_to_f32(min[i]);
        if (!isfinite(d[i]) || !isfinite(m[i]))
            return -1;
    }
    k->fit_codes(f, count, x, d, m, codes);
    for (int i = 0; i < count; i++, x += PL_BLOCK, out += q->block_bytes)
        if (!pl_is_coarse(scale[i]) || !pl_largest(x, PL_BLOCK))
            q->plain->put(scale[i], min[i], codes + i * PL_BLOCK, out);
        else if (q->run(q, x, ones, out))
            return -1;
    return 0;
}

static int quick_super(const pl_quantizer *q, const pl_fit *f, const pl_kernels *k, const float *x, int count,
                       uint8_t *out)
{
    const pl_super_kind *kind = q->super;
    const int groups = PL_SUPER / f->n, n = groups * count, lo = kind->sc_lo, hi = kind->sc_hi;
    float v[PL_FIT_WHOLE], *d = v, *m = v + PL_FIT_GROUPS; /* scales, then mins */
    int whole[PL_FIT_WHOLE];
    uint16_t factor[PL_FIT_WHOLE / 8];
    pl_super s;
    if (k->fit(f, n, x, d, m))
        return -1;
    if (kind->has_min) /* scales and mins have a factor each, and the same range of whole numbers */
        m = memmove(v + n, m, sizeof *m * (size_t)n);
    if (k->fit_whole(kind->has_min ? 2 * count : count, groups, lo < 0 ? lo : hi, lo, hi, v, factor, whole))
        return -1;
    for (int i = 0; i < count; i++, d += groups, m += groups, x += PL_SUPER, out += q->block_bytes) {
        s.d = factor[i];
        memcpy(s.sc, whole + groups * i, sizeof *whole * (size_t)groups);
        if (kind->has_min) {
            s.dmin = factor[count + i] ^ 0x8000; /* no min is above 0 */
            memcpy(s.mn, whole + n + groups * i, sizeof *whole * (size_t)groups);
        }
        if (pl_is_coarse(factor[i]) && pl_largest(x, PL_SUPER) > 0) {
            if (q->run(q, x, ones, out))
                return -1;
            continue;
        }
        k->fit_codes(f, groups, x, d, m, s.code);
        kind->put(&s, out);
    }
    return 0;
}

/* Its scale follows from the largest value, which may be up to 14.5 for 12: for normally distributed weights, the error
 * is then 0.1 % above that of the best scale. For zeros 2^-4. */
static int mxfp4_exponent(float most)
{
    int32_t bits;
    memcpy(&bits, &most, sizeof bits);
    return most == 0 ? -4 : (bits >> 23) - 130 + ((bits & 0x7fffff) > 0x680000); /* 14.5: 1.8125 * 2^3 */
}

static int quick_mxfp4(const pl_quantizer *q, const pl_kernels *k, const float *x, int64_t blocks, uint8_t *out)
{
    static const float table[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, INFINITY};
    static const float middle[15] = {-10,  -7,   -5,   -3.5f, -2.5f, -1.5f, -0.5f,   0.5f,
                                     1.5f, 2.5f, 3.5f, 5,     7,     10,    INFINITY};
    const pl_fit f = {.n = PL_BLOCK, .table = table, .middle = middle};
    static const float none[PL_FIT_GROUPS] = {0};
    for (int64_t i = 0; i < blocks; i += PL_FIT_GROUPS) {
        const int count = blocks - i < PL_FIT_GROUPS ? (int)(blocks - i) : PL_FIT_GROUPS;
        uint8_t codes[PL_FIT_GROUPS * PL_BLOCK];
        float d[PL_FIT_GROUPS];
        int exponent[PL_FIT_GROUPS];
        for (int j = 0; j < count; j++) {
            const float most = pl_largest(x + j * PL_BLOCK, PL_BLOCK);
            if (!isfinite(most))
                return -1;
            exponent[j] = mxfp4_exponent(most);
            d[j] = ldexpf(1.0f, exponent[j]);
        }
        k->fit_codes(&f, count, x, d, none, codes);
        for (int n = 0; n < count * PL_BLOCK; n++) { /* by size, with the sign as the highest bit */
            const uint8_t below = (uint8_t)(15 - codes[n]), above = (uint8_t)(codes[n] - 7);
            codes[n] = codes[n] < 7 ? below : above < 7 ? above : 7;
        }
        for (int j = 0; j < count; j++, x += PL_BLOCK, out += q->block_bytes) {
            if (exponent[j] < -120) { /* of which the reciprocal may be infinite */
                if (q->run(q, x, ones, out))
                    return -1;
                continue;
            }
            out[0] = (uint8_t)(exponent[j] + 128);
            pl_put_nibbles(codes + j * PL_BLOCK, out + 1);
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
            d[j] = pl_factor(most / 127.0f, 0, &scale[j]);
        }
        k->fit_codes(&f, count, x, d, none, codes);
        for (int j = 0; j < count; j++, out += q->block_bytes) {
            if (pl_is_coarse(scale[j])) {
                q->run(q, x + j * PL_BLOCK, ones, out);
                continue;
            }
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
                      .tries = b->table || two_bits ? 1 : 2, /* a table's codes take twice as long */
                      .spread = {two_bits ? 0.6f * b->spread : 0, 0.5f * b->spread},
                      .centred = two_bits,
                      .repeats = 1};
    const int most = PL_FIT_GROUPS * f.n / q->block;
    for (int64_t i = 0; i < blocks; i += most, x += most * q->block, out += most * q->block_bytes) {
        const int count = blocks - i < most ? (int)(blocks - i) : most;
        if (super ? quick_super(q, &f, k, x, count, out) : quick_plain(q, &f, k, x, count, out))
            return -1;
    }
    return 0;
}
