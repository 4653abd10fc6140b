/* The quick search for scales, for every tier: PL_FIT_GROUPS groups of weights, a lane for each.
 *
 * Written once, in vectors of the compiler's own. The file that includes this defines PL_VEC, the floats of a vector,
 * PL_VEC_MIN and PL_VEC_MAX of two vectors, and, where the processor has them, PL_VEC_FROM_F16 of the bytes at an
 * address, and what else is asked for by name below. No step is fused, except squares of whole numbers, which are exact
 * either way, and nothing is added across lanes, so that every tier has the same bits. */
#ifndef PL_KERNELS_FIT_H
#define PL_KERNELS_FIT_H

#include <math.h>
#include <string.h>

#include "common.h"

typedef float pl_fit_vec __attribute__((vector_size(4 * PL_VEC)));
typedef int32_t pl_fit_mask __attribute__((vector_size(4 * PL_VEC)));
typedef uint8_t pl_fit_bytes __attribute__((vector_size(PL_VEC)));
typedef float pl_fit_at __attribute__((vector_size(4 * PL_VEC), aligned(4), may_alias)); /* in memory */

enum { PL_FIT_AT_ONCE = 2 }; /* vectors: while one waits for what it needs, the other computes */

#ifndef PL_VEC_ADD_SQUARE /* of whole numbers, exact with and without fusing */
#define PL_VEC_ADD_SQUARE(sum, a) ((sum) + (a) * (a))
#endif

#ifndef PL_VEC_ROUND /* to the nearest whole number, ties to an even one; |a| < 2^22 */
#define PL_VEC_ROUND(a) ((a) + PL_ROUNDER - PL_ROUNDER)
#endif

#ifndef PL_VEC_TO_BYTES /* the lowest byte of each lane */
PL_INLINE void pl_fit_to_bytes(pl_fit_mask lanes, uint8_t *bytes)
{
    const pl_fit_bytes lowest = __builtin_convertvector(lanes, pl_fit_bytes);
    memcpy(bytes, &lowest, sizeof lowest);
}
#define PL_VEC_TO_BYTES(lanes, bytes) pl_fit_to_bytes(lanes, bytes)
#endif

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

/* a in every lane. */
PL_INLINE pl_fit_vec pl_fit_all(float a)
{
    return a - (pl_fit_vec){0}; /* unlike a + 0, a itself to a compiler */
}

/* a where the mask is set, else b. */
PL_INLINE pl_fit_vec pl_fit_pick(pl_fit_mask mask, pl_fit_vec a, pl_fit_vec b)
{
#ifdef PL_VEC_PICK
    return PL_VEC_PICK(mask, a, b);
#else
    return (pl_fit_vec)((mask & (pl_fit_mask)a) | (~mask & (pl_fit_mask)b));
#endif
}

/* a / b, 0 where b is 0. */
PL_INLINE pl_fit_vec pl_fit_ratio(pl_fit_vec a, pl_fit_vec b)
{
    const pl_fit_vec zero = {0};
    const pl_fit_mask none = b == zero;
    return pl_fit_pick(none, zero, a / pl_fit_pick(none, zero + 1.0f, b));
}

/* A table of sixteen values, for a search by halves: what is compared first, second (of two borders, places 0 and 4),
 * third (of four), and last, and the values of even and of odd codes. */
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
    const pl_fit_vec lo = pl_fit_all((float)f->lo), hi = pl_fit_all((float)f->hi);
    if (!t)
        return PL_VEC_ROUND(PL_VEC_MIN(PL_VEC_MAX(v, lo), hi));
    pl_fit_mask odd;
    const pl_fit_mask i = pl_fit_place(t, v, &odd);
    return pl_fit_pick(odd, PL_VEC_LOOKUP(t->odd, i), PL_VEC_LOOKUP(t->even, i));
}

/* Least squares for the codes nearest to x * inverse - first, where that is better than what was found. total: of x;
 * all but x, for each of PL_FIT_AT_ONCE vectors. */
PL_INLINE void pl_fit_try(int has_min, const pl_fit *f, const pl_fit_table *t, const float *x, const pl_fit_vec *total,
                          const pl_fit_vec *inverse, const pl_fit_vec *first, pl_fit_best *best)
{
    const int n = f->n;
    const pl_fit_vec zero = {0};
    pl_fit_vec q[PL_FIT_AT_ONCE], qq[PL_FIT_AT_ONCE], xq[PL_FIT_AT_ONCE];
    for (int j = 0; j < PL_FIT_AT_ONCE; j++)
        q[j] = qq[j] = xq[j] = zero;
    for (int i = 0; i < n; i++, x += PL_FIT_GROUPS)
        for (int j = 0; j < PL_FIT_AT_ONCE; j++) {
            const pl_fit_vec v = *(const pl_fit_at *)(x + PL_VEC * j);
            const pl_fit_vec at = has_min ? v * inverse[j] - first[j] : v * inverse[j];
            const pl_fit_vec code = pl_fit_nearest(f, t, at);
            if (has_min)
                q[j] += code;
            qq[j] = PL_VEC_ADD_SQUARE(qq[j], code);
            xq[j] += v * code;
        }
    for (int j = 0; j < PL_FIT_AT_ONCE; j++) {
        pl_fit_vec d, gain, m = zero;
        if (has_min) {
            const pl_fit_vec limit = pl_fit_all(f->kind == PL_FIT_ANY_MIN ? INFINITY : 0);
            const pl_fit_vec det = qq[j] * (float)n - q[j] * q[j], min = qq[j] * total[j] - q[j] * xq[j];
            const pl_fit_mask use = (det > zero + 0.5f) & (min <= limit); /* det: a whole number */
            const pl_fit_vec per = pl_fit_ratio(zero + 1.0f, pl_fit_pick(use, det, qq[j]));
            d = pl_fit_pick(use, xq[j] * (float)n - q[j] * total[j], xq[j]) * per;
            m = pl_fit_pick(use, min * per, zero);
            gain = d * xq[j] + m * total[j];
        } else {
            d = pl_fit_ratio(xq[j], qq[j]);
            gain = d * xq[j];
        }
        const pl_fit_mask better = gain > best[j].gain;
        best[j].gain = pl_fit_pick(better, gain, best[j].gain);
        best[j].d = pl_fit_pick(better, d, best[j].d);
        best[j].m = pl_fit_pick(better, m, best[j].m);
    }
}

/* PL_FIT_AT_ONCE vectors of groups; nonzero if a value is out of range. */
PL_INLINE int pl_fit_lanes(int has_min, const pl_fit *f, const pl_fit_table *t, const float *x, float *d, float *m)
{
    const int n = f->n;
    const pl_fit_vec zero = {0};
    pl_fit_vec low[PL_FIT_AT_ONCE], high[PL_FIT_AT_ONCE], total[PL_FIT_AT_ONCE], usual[PL_FIT_AT_ONCE];
    pl_fit_vec inverse[PL_FIT_AT_ONCE], first[PL_FIT_AT_ONCE], start[PL_FIT_AT_ONCE];
    pl_fit_best best[PL_FIT_AT_ONCE];
    for (int j = 0; j < PL_FIT_AT_ONCE; j++)
        low[j] = high[j] = total[j] = *(const pl_fit_at *)(x + PL_VEC * j);
    for (int i = 1; i < n; i++)
        for (int j = 0; j < PL_FIT_AT_ONCE; j++) {
            const pl_fit_vec v = *(const pl_fit_at *)(x + PL_FIT_GROUPS * i + PL_VEC * j);
            low[j] = PL_VEC_MIN(low[j], v);
            high[j] = PL_VEC_MAX(high[j], v);
            total[j] += v;
        }
    for (int j = 0; j < PL_FIT_AT_ONCE; j++) {
        start[j] = zero;
        if (has_min)
            start[j] = f->kind == PL_FIT_ANY_MIN ? low[j] : PL_VEC_MIN(low[j], zero);
        pl_fit_vec span = has_min ? high[j] - start[j] : pl_fit_pick(-low[j] > high[j], low[j], high[j]);
        const pl_fit_mask tiny =
            (span < zero + PL_LEAST_AMAX) & (span > zero - PL_LEAST_AMAX); /* no scale is so small */
        span = pl_fit_pick(tiny, zero, span);
        usual[j] = pl_fit_ratio(zero + (float)(has_min ? f->hi : f->lo), span); /* lo: what is largest takes it */
        const pl_fit_vec none = start[j] * total[j] * 2.0f - start[j] * start[j] * (float)n; /* codes that are all 0 */
        best[j] = (pl_fit_best){none, zero, start[j]};
    }
    for (int i = 0; i < f->tries + f->repeats; i++) {
        for (int j = 0; j < PL_FIT_AT_ONCE; j++) {
            if (i < f->tries) {
                inverse[j] = usual[j] * (1.0f + f->spread[i]);
                first[j] = start[j] * inverse[j] + (f->centred ? 0.5f * f->hi * f->spread[i] : 0);
            } else {
                inverse[j] = pl_fit_ratio(zero + 1.0f, best[j].d);
                first[j] = best[j].m * inverse[j];
            }
        }
        pl_fit_try(has_min, f, t, x, total, inverse, first, best);
    }
    pl_fit_mask right = zero == zero;
    for (int j = 0; j < PL_FIT_AT_ONCE; j++) {
        *(pl_fit_at *)(d + PL_VEC * j) = best[j].d;
        *(pl_fit_at *)(m + PL_VEC * j) = best[j].m;
        right &= (low[j] > zero - PL_FIT_MOST) & (high[j] < zero + PL_FIT_MOST) & (total[j] == total[j]); /* no NaN */
    }
    int32_t lanes[PL_VEC], wrong = 0;
    memcpy(lanes, &right, sizeof lanes);
    for (int l = 0; l < PL_VEC; l++)
        wrong |= ~lanes[l];
    return wrong;
}

static int pl_fit_groups(const pl_fit *f, const float *x, float *d, float *m)
{
    const int step = PL_FIT_AT_ONCE * PL_VEC;
    pl_fit_table t; /* filled where there is a table */
    t.first = 0;
    int wrong = 0;
    if (f->table)
        pl_fit_divide(f, &t);
    for (int l = 0; l < PL_FIT_GROUPS; l += step, x += step, d += step, m += step) {
        if (f->table)
            wrong |= pl_fit_lanes(0, f, &t, x, d, m);
        else if (f->kind == PL_FIT_NO_MIN)
            wrong |= pl_fit_lanes(0, f, NULL, x, d, m);
        else
            wrong |= pl_fit_lanes(1, f, NULL, x, d, m);
    }
    return wrong;
}

PL_INLINE void pl_fit_codes_of(const pl_fit *f, const pl_fit_table *t, int groups, const float *x, const float *d,
                               const float *m, uint8_t *codes)
{
    const int n = f->n;
    const pl_fit_vec zero = {0}, lo = pl_fit_all((float)f->lo), hi = pl_fit_all((float)f->hi),
                     rounder = pl_fit_all(PL_ROUNDER);
    const pl_fit_mask least = (pl_fit_mask)rounder + f->lo;
    float inverse[PL_FIT_GROUPS] = {0};
    memcpy(inverse, d, sizeof *d * (size_t)groups);
    for (int g = 0; g < groups; g += PL_VEC) {
        pl_fit_at *at = (pl_fit_at *)(inverse + g);
        const pl_fit_vec v = 1.0f / *at;
        *at = pl_fit_pick(v - v == zero, v, zero); /* finite, or 0 */
    }
    for (int g = 0; g < groups; g++, x += n, codes += n) {
        const pl_fit_vec per = pl_fit_all(inverse[g]), first = pl_fit_all(m[g]);
        for (int i = 0; i < n; i += PL_VEC) {
            const pl_fit_vec at = (*(const pl_fit_at *)(x + i) - first) * per;
            pl_fit_mask code, odd;
            if (t) {
                code = pl_fit_place(t, at, &odd);
                code += code - odd;
            } else {
                code = (pl_fit_mask)(PL_VEC_MIN(PL_VEC_MAX(at, lo), hi) + rounder) - least;
            }
            PL_VEC_TO_BYTES(code, codes + i);
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
