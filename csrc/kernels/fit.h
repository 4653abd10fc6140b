/* The quick search for scales, for every tier: PL_FIT_GROUPS groups of weights, a lane for each.
 *
 * Written once, in vectors of the compiler's own. The file that includes this defines PL_VEC, the floats of a vector,
 * PL_VEC_MIN and PL_VEC_MAX of two vectors, and, where the processor has it, PL_VEC_FROM_F16 of the bytes at an address.
 * No step is fused and nothing is added across lanes, so that every tier has the same bits. */
#ifndef PL_KERNELS_FIT_H
#define PL_KERNELS_FIT_H

#include <string.h>

#include "common.h"

typedef float pl_fit_vec __attribute__((vector_size(4 * PL_VEC)));
typedef int32_t pl_fit_mask __attribute__((vector_size(4 * PL_VEC)));
typedef uint8_t pl_fit_bytes __attribute__((vector_size(PL_VEC)));
typedef float pl_fit_at __attribute__((vector_size(4 * PL_VEC), aligned(4), may_alias)); /* in memory */

typedef struct pl_fit_best {
    pl_fit_vec gain, d, m; /* gain: by how much the squared error is below that of zeros */
} pl_fit_best;

#ifdef PL_VEC_FROM_F16
static void pl_fit_from_f16(const uint8_t *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += PL_VEC)
        *(pl_fit_at *)(y + i) = PL_VEC_FROM_F16(x + 2 * i);
}
#endif

/* a where the mask is set, else b. */
PL_INLINE pl_fit_vec pl_fit_pick(pl_fit_mask mask, pl_fit_vec a, pl_fit_vec b)
{
    return (pl_fit_vec)((mask & (pl_fit_mask)a) | (~mask & (pl_fit_mask)b));
}

/* a / b, 0 where b is 0. */
PL_INLINE pl_fit_vec pl_fit_ratio(pl_fit_vec a, pl_fit_vec b)
{
    const pl_fit_vec zero = {0};
    const pl_fit_mask none = b == zero;
    return pl_fit_pick(none, zero, a / pl_fit_pick(none, zero + 1.0f, b));
}

/* A table of sixteen values, for a search by halves: what is compared first, second (of two borders, places 0 and 4), third
 * (of four), and last, and the values of even and of odd codes. */
typedef struct pl_fit_table {
    _Alignas(64) float second[16], third[16], last[16], even[16], odd[16]; /* eight each, and what fills a vector */
    float first;
} pl_fit_table;

PL_INLINE void pl_fit_divide(const pl_fit *f, pl_fit_table *t)
{
    t->first = f->middle[7];
    for (int i = 0; i < 8; i++) {
        t->second[i] = f->middle[i % 4 ? 0 : 2 * i + 3];
        t->third[i] = f->middle[i % 2 ? 0 : 2 * i + 1];
        t->last[i] = f->middle[2 * i];
        t->even[i] = f->table[2 * i];
        t->odd[i] = f->table[2 * i + 1];
    }
}

#ifndef PL_VEC_LOOKUP /* (vector) t[i], t: 8 floats, aligned as a vector is */
PL_INLINE pl_fit_vec pl_fit_lookup(const float *t, pl_fit_mask i)
{
    pl_fit_vec found;
    for (int l = 0; l < PL_VEC; l++)
        found[l] = t[i[l]];
    return found;
}
#define PL_VEC_LOOKUP(t, i) pl_fit_lookup(t, i)
#endif

/* Half of the code nearest to v; odd: whether it is odd. */
PL_INLINE pl_fit_mask pl_fit_place(const pl_fit_table *t, pl_fit_vec v, pl_fit_mask *odd)
{
    const pl_fit_vec zero = {0};
    pl_fit_mask i = (v > zero + t->first) & 4;
    i |= (v > PL_VEC_LOOKUP(t->second, i)) & 2;
    i |= (v > PL_VEC_LOOKUP(t->third, i)) & 1;
    *odd = v > PL_VEC_LOOKUP(t->last, i);
    return i;
}

/* What the code nearest to v stands for. t: NULL: for itself. */
PL_INLINE pl_fit_vec pl_fit_nearest(const pl_fit *f, const pl_fit_table *t, pl_fit_vec v)
{
    const pl_fit_vec zero = {0}, lo = zero + (float)f->lo, hi = zero + (float)f->hi;
    if (!t)
        return PL_VEC_MIN(PL_VEC_MAX(v, lo), hi) + PL_ROUNDER - PL_ROUNDER;
    pl_fit_mask odd;
    const pl_fit_mask i = pl_fit_place(t, v, &odd);
    return pl_fit_pick(odd, PL_VEC_LOOKUP(t->odd, i), PL_VEC_LOOKUP(t->even, i));
}

/* Least squares for the codes nearest to (x - start) * inverse, where that is better than what was found. total: of x. */
PL_INLINE void pl_fit_try(const pl_fit_kind kind, const pl_fit *f, const pl_fit_table *t, const float *x,
                          pl_fit_vec total, pl_fit_vec inverse, pl_fit_vec start, pl_fit_best *best)
{
    const int n = f->n;
    const pl_fit_vec zero = {0}, first = start * inverse;
    pl_fit_vec q = zero, qq = zero, xq = zero;
    for (int i = 0; i < n; i++) {
        const pl_fit_vec v = *(const pl_fit_at *)(x + PL_FIT_GROUPS * i);
        const pl_fit_vec at = kind == PL_FIT_NO_MIN ? v * inverse : v * inverse - first;
        const pl_fit_vec code = pl_fit_nearest(f, t, at);
        if (kind != PL_FIT_NO_MIN)
            q += code;
        qq += code * code;
        xq += v * code;
    }
    pl_fit_vec d, m = zero;
    if (kind == PL_FIT_NO_MIN) {
        d = pl_fit_ratio(xq, qq);
    } else {
        const pl_fit_vec det = qq * (float)n - q * q, min = qq * total - q * xq;
        pl_fit_mask use = det > zero + 0.5f; /* a whole number */
        if (kind == PL_FIT_NEGATIVE_MIN)
            use &= min <= zero;
        const pl_fit_vec per = pl_fit_ratio(zero + 1.0f, pl_fit_pick(use, det, qq));
        d = pl_fit_pick(use, xq * (float)n - q * total, xq) * per;
        m = pl_fit_pick(use, min * per, zero);
    }
    const pl_fit_vec gain = (d * xq + m * total) * 2.0f - (d * d * qq + d * m * q * 2.0f + m * m * (float)n);
    const pl_fit_mask better = gain > best->gain;
    best->gain = pl_fit_pick(better, gain, best->gain);
    best->d = pl_fit_pick(better, d, best->d);
    best->m = pl_fit_pick(better, m, best->m);
}

/* Lanes of groups; nonzero if a value is out of range. */
PL_INLINE int pl_fit_lanes(const pl_fit_kind kind, const pl_fit *f, const pl_fit_table *t, const float *x, float *d,
                           float *m)
{
    const int n = f->n;
    const pl_fit_vec zero = {0};
    pl_fit_vec low = *(const pl_fit_at *)x, high = low, total = low, start = zero, usual;
    for (int i = 1; i < n; i++) {
        const pl_fit_vec v = *(const pl_fit_at *)(x + PL_FIT_GROUPS * i);
        low = PL_VEC_MIN(low, v);
        high = PL_VEC_MAX(high, v);
        total += v;
    }
    if (kind != PL_FIT_NO_MIN)
        start = kind == PL_FIT_NEGATIVE_MIN ? PL_VEC_MIN(low, start) : low;
    pl_fit_vec span = kind == PL_FIT_NO_MIN ? pl_fit_pick(-low > high, low, high) : high - start;
    span = pl_fit_pick((span < zero + PL_LEAST_AMAX) & (span > zero - PL_LEAST_AMAX), zero,
                       span); /* no scale is so small */
    usual =
        pl_fit_ratio(zero + (float)(kind == PL_FIT_NO_MIN ? f->lo : f->hi), span); /* lo: what is largest takes it */
    pl_fit_best best = {start * total * 2.0f - start * start * (float)n, zero, start}; /* codes that are all 0 */
    pl_fit_vec inverse = usual * (1.0f + f->spread[0]), from = start;
    for (int i = 1; i <= f->tries + f->repeats; i++) {
        pl_fit_try(kind, f, t, x, total, inverse, from, &best);
        if (i < f->tries) {
            inverse = usual * (1.0f + f->spread[i]);
        } else {
            inverse = pl_fit_ratio(zero + 1.0f, best.d);
            from = best.m;
        }
    }
    *(pl_fit_at *)d = best.d;
    *(pl_fit_at *)m = best.m;
    const pl_fit_mask right = (low > zero - PL_FIT_MOST) & (high < zero + PL_FIT_MOST) & (total == total); /* no NaN */
    int32_t lanes[PL_VEC], wrong = 0;
    memcpy(lanes, &right, sizeof lanes);
    for (int l = 0; l < PL_VEC; l++)
        wrong |= ~lanes[l];
    return wrong;
}

static int pl_fit_groups(const pl_fit *f, const float *x, float *d, float *m)
{
    pl_fit_table t; /* filled where there is a table */
    t.first = 0;
    int wrong = 0;
    if (f->table)
        pl_fit_divide(f, &t);
    for (int l = 0; l < PL_FIT_GROUPS; l += PL_VEC, x += PL_VEC, d += PL_VEC, m += PL_VEC) {
        if (f->table)
            wrong |= pl_fit_lanes(PL_FIT_NO_MIN, f, &t, x, d, m);
        else if (f->kind == PL_FIT_NO_MIN)
            wrong |= pl_fit_lanes(PL_FIT_NO_MIN, f, NULL, x, d, m);
        else if (f->kind == PL_FIT_ANY_MIN)
            wrong |= pl_fit_lanes(PL_FIT_ANY_MIN, f, NULL, x, d, m);
        else
            wrong |= pl_fit_lanes(PL_FIT_NEGATIVE_MIN, f, NULL, x, d, m);
    }
    return wrong;
}

PL_INLINE void pl_fit_codes_of(const pl_fit *f, const pl_fit_table *t, int groups, const float *x, const float *d,
                               const float *m, uint8_t *codes)
{
    const int n = f->n;
    const pl_fit_vec zero = {0}, lo = zero + (float)f->lo;
    float inverse[PL_FIT_GROUPS];
    for (int g = 0; g < groups; g++) {
        const float v = 1.0f / d[g];
        inverse[g] = v - v == 0 ? v : 0; /* finite, or 0 */
    }
    for (int g = 0; g < groups; g++, x += n, codes += n) {
        const pl_fit_vec per = zero + inverse[g], first = zero + m[g];
        for (int i = 0; i < n; i += PL_VEC) {
            const pl_fit_vec at = (*(const pl_fit_at *)(x + i) - first) * per;
            pl_fit_mask code, odd;
            if (t) {
                code = pl_fit_place(t, at, &odd);
                code += code - odd;
            } else {
                code = __builtin_convertvector(pl_fit_nearest(f, NULL, at) - lo, pl_fit_mask);
            }
            const pl_fit_bytes bytes = __builtin_convertvector(code, pl_fit_bytes);
            memcpy(codes + i, &bytes, sizeof bytes);
        }
    }
}

static void pl_fit_codes(const pl_fit *f, int groups, const float *x, const float *d, const float *m, uint8_t *codes)
{
    pl_fit_table t; /* filled where there is a table */
    t.first = 0;
    if (f->table) {
        pl_fit_divide(f, &t);
        pl_fit_codes_of(f, &t, groups, x, d, m, codes);
    } else {
        pl_fit_codes_of(f, NULL, groups, x, d, m, codes);
    }
}

#endif
