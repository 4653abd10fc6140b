/* The quick search for scales, for every tier: PL_FIT_GROUPS groups of weights, a lane for each.
 *
 * Written once, in the compiler's vector types. The file that includes this defines PL_VEC, the floats of a vector,
 * PL_VEC_MIN and PL_VEC_MAX of two vectors, and, if the processor has them, PL_VEC_FROM_F16 of the bytes at an
 * address, and the other macros that #ifndef tests for below. No step is fused, except squares of whole numbers, which
 * are exact either way, and nothing is added across lanes, so that every tier gives the same bits. */
#ifndef PL_KERNELS_FIT_H
#define PL_KERNELS_FIT_H

#include <math.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "../formats/formats.h"
#include "common.h"

typedef float pl_fit_vec __attribute__((vector_size(4 * PL_VEC)));
typedef int32_t pl_fit_mask __attribute__((vector_size(4 * PL_VEC)));
typedef uint8_t pl_fit_bytes __attribute__((vector_size(PL_VEC)));
typedef uint16_t pl_fit_halves __attribute__((vector_size(2 * PL_VEC)));
typedef float pl_fit_four __attribute__((vector_size(16)));
typedef int32_t pl_fit_signs __attribute__((vector_size(16)));
typedef float pl_fit_at __attribute__((vector_size(4 * PL_VEC), aligned(4), may_alias)); /* in memory */

enum { PL_FIT_AT_ONCE = 2 }; /* vectors: while one waits for its operands, the other computes */
enum { PL_FIT_STEP = PL_FIT_AT_ONCE * PL_VEC };

#ifndef PL_VEC_ADD_SQUARE /* of whole numbers, exact with and without fusing */
#define PL_VEC_ADD_SQUARE(sum, a) ((sum) + (a) * (a))
#endif

#ifndef PL_VEC_FOURS /* fours of floats: the l-th of the vector is p[apart * l ..] */
#define PL_VEC_FOURS(p, apart) (*(const pl_fit_at *)(p))
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

#ifndef PL_VEC_FROM_U16 /* a whole number of 16 bits for each lane */
PL_INLINE pl_fit_mask pl_fit_from_u16(const uint8_t *x)
{
    pl_fit_halves numbers;
    memcpy(&numbers, x, sizeof numbers);
    return __builtin_convertvector(numbers, pl_fit_mask);
}
#define PL_VEC_FROM_U16(x) pl_fit_from_u16(x)
#endif

/* Four floats -> f16, and back. */
#ifdef __F16C__
PL_INLINE void pl_fit_to_f16(pl_fit_four v, uint16_t *f16)
{
    _mm_storel_epi64((__m128i *)f16, _mm_cvtps_ph((__m128)v, _MM_FROUND_TO_NEAREST_INT));
}
PL_INLINE pl_fit_four pl_fit_four_from_f16(const uint16_t *f16)
{
    return (pl_fit_four)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)f16));
}
#else
PL_INLINE void pl_fit_to_f16(pl_fit_four v, uint16_t *f16)
{
    for (int i = 0; i < 4; i++)
        f16[i] = pl_f32_to_f16(v[i]);
}
PL_INLINE pl_fit_four pl_fit_four_from_f16(const uint16_t *f16)
{
    return (pl_fit_four){pl_f16_to_f32(f16[0]), pl_f16_to_f32(f16[1]), pl_f16_to_f32(f16[2]), pl_f16_to_f32(f16[3])};
}
#endif

typedef struct pl_fit_best {
    pl_fit_vec gain, d, m; /* gain: by how much the squared error is below that of zeros */
} pl_fit_best;

static void pl_fit_from_bf16(const uint8_t *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += PL_VEC)
        *(pl_fit_at *)(y + i) = (pl_fit_vec)(PL_VEC_FROM_U16(x + 2 * i) << 16);
}

#ifdef PL_VEC_FROM_F16
static void pl_fit_from_f16(const uint8_t *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += PL_VEC)
        *(pl_fit_at *)(y + i) = PL_VEC_FROM_F16(x + 2 * i);
}
#endif

/* PL_FIT_SHUFFLE(a, b, i, j, m, n): each four lanes in the same way, from the same four of a (0 to 3) and b (4 to
 * 7). */
#define PL_FIT_LANE(l, i) ((i) < 4 ? 4 * (l) + (i) : PL_VEC + 4 * (l) + (i) - 4)
#define PL_FIT_FOUR(l, i, j, m, n) PL_FIT_LANE(l, i), PL_FIT_LANE(l, j), PL_FIT_LANE(l, m), PL_FIT_LANE(l, n)
#if PL_VEC == 4
#define PL_FIT_LANES(...) PL_FIT_FOUR(0, __VA_ARGS__)
#elif PL_VEC == 8
#define PL_FIT_LANES(...) PL_FIT_FOUR(0, __VA_ARGS__), PL_FIT_FOUR(1, __VA_ARGS__)
#else
#define PL_FIT_LANES(...)                                                                                              \
    PL_FIT_FOUR(0, __VA_ARGS__), PL_FIT_FOUR(1, __VA_ARGS__), PL_FIT_FOUR(2, __VA_ARGS__), PL_FIT_FOUR(3, __VA_ARGS__)
#endif
#ifdef __clang__
#define PL_FIT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, PL_FIT_LANES(__VA_ARGS__))
#else /* GCC has clang's only since version 12 */
#define PL_FIT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (pl_fit_mask){PL_FIT_LANES(__VA_ARGS__)})
#endif

/* PL_VEC groups x (PL_VEC, n) -> a lane for each: out (n), rows `apart` floats apart. */
PL_INLINE void pl_fit_turn(const float *x, int n, float *out, int apart)
{
    for (int i = 0; i < n; i += 4, x += 4, out += 4 * apart) {
        const pl_fit_vec v0 = PL_VEC_FOURS(x, 4 * n), v1 = PL_VEC_FOURS(x + n, 4 * n);
        const pl_fit_vec v2 = PL_VEC_FOURS(x + 2 * n, 4 * n), v3 = PL_VEC_FOURS(x + 3 * n, 4 * n);
        const pl_fit_vec a = PL_FIT_SHUFFLE(v0, v1, 0, 4, 1, 5), b = PL_FIT_SHUFFLE(v2, v3, 0, 4, 1, 5);
        const pl_fit_vec c = PL_FIT_SHUFFLE(v0, v1, 2, 6, 3, 7), d = PL_FIT_SHUFFLE(v2, v3, 2, 6, 3, 7);
        *(pl_fit_at *)out = PL_FIT_SHUFFLE(a, b, 0, 1, 4, 5);
        *(pl_fit_at *)(out + apart) = PL_FIT_SHUFFLE(a, b, 2, 3, 6, 7);
        *(pl_fit_at *)(out + 2 * apart) = PL_FIT_SHUFFLE(c, d, 0, 1, 4, 5);
        *(pl_fit_at *)(out + 3 * apart) = PL_FIT_SHUFFLE(c, d, 2, 3, 6, 7);
    }
}

/* a in every lane. */
PL_INLINE pl_fit_vec pl_fit_all(float a)
{
    return a - (pl_fit_vec){0}; /* unlike a + 0, a compiler can take this for a itself */
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

/* A table of sixteen values, for a binary search: the borders compared first, second (two, at places 0 and 4), third
 * (four) and last, and the values of even and of odd codes. */
typedef struct pl_fit_table {
    _Alignas(64) float second[16], third[16], last[16], even[16], odd[16]; /* eight each, padded to a vector */
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

/* The value of the code nearest to v; t NULL: the code itself. */
PL_INLINE pl_fit_vec pl_fit_nearest(const pl_fit *f, const pl_fit_table *t, pl_fit_vec v)
{
    const pl_fit_vec lo = pl_fit_all((float)f->lo), hi = pl_fit_all((float)f->hi);
    if (!t)
        return PL_VEC_ROUND(PL_VEC_MIN(PL_VEC_MAX(v, lo), hi));
    pl_fit_mask odd;
    const pl_fit_mask i = pl_fit_place(t, v, &odd);
    return pl_fit_pick(odd, PL_VEC_LOOKUP(t->odd, i), PL_VEC_LOOKUP(t->even, i));
}

/* Least squares for the codes nearest to x * inverse - first, kept if better than the best so far. within: none is
 * beyond the codes' range, except by rounding in groups whose span is less than 1e-5 of their distance from zero.
 * total: the sum of x. total, inverse, first and best: one for each of PL_FIT_AT_ONCE vectors. */
PL_INLINE void pl_fit_try(int has_min, int within, const pl_fit *f, const pl_fit_table *t, const float *x,
                          const pl_fit_vec *total, const pl_fit_vec *inverse, const pl_fit_vec *first,
                          pl_fit_best *best)
{
    const int n = f->n;
    const pl_fit_vec zero = {0};
    pl_fit_vec q[PL_FIT_AT_ONCE], qq[PL_FIT_AT_ONCE], xq[PL_FIT_AT_ONCE];
    for (int j = 0; j < PL_FIT_AT_ONCE; j++)
        q[j] = qq[j] = xq[j] = zero;
    for (int i = 0; i < n; i++, x += PL_FIT_STEP)
        for (int j = 0; j < PL_FIT_AT_ONCE; j++) {
            const pl_fit_vec v = *(const pl_fit_at *)(x + PL_VEC * j);
            const pl_fit_vec at = has_min ? v * inverse[j] - first[j] : v * inverse[j];
            const pl_fit_vec code = within ? PL_VEC_ROUND(at) : pl_fit_nearest(f, t, at);
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

/* The search for PL_FIT_AT_ONCE vectors of groups; nonzero if a value is out of range. */
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
            const pl_fit_vec v = *(const pl_fit_at *)(x + PL_FIT_STEP * i + PL_VEC * j);
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
        usual[j] = pl_fit_ratio(zero + (float)(has_min ? f->hi : f->lo), span); /* lo: the code of the largest */
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
        if (has_min && i < f->tries && f->centred && f->spread[i] >= 0 && 0.5f * (float)f->hi * f->spread[i] < 0.49f)
            pl_fit_try(has_min, 1, f, t, x, total, inverse, first, best);
        else
            pl_fit_try(has_min, 0, f, t, x, total, inverse, first, best);
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

static int pl_fit_groups(const pl_fit *f, int groups, const float *x, float *d, float *m)
{
    _Alignas(64) float lanes[32 * PL_FIT_STEP], rest[32 * PL_VEC];
    pl_fit_table t; /* filled if there is a table */
    t.first = 0;
    int wrong = 0;
    if (f->table)
        pl_fit_divide(f, &t);
    for (; groups > 0; d += PL_FIT_STEP, m += PL_FIT_STEP) {
        for (int j = 0; j < PL_FIT_AT_ONCE; j++, groups -= PL_VEC) {
            const float *from = x;
            if (groups < PL_VEC) { /* zeros beyond the last one */
                memset(rest, 0, sizeof rest);
                if (groups > 0)
                    memcpy(rest, x, sizeof *x * (size_t)(f->n * groups));
                from = rest;
            } else {
                x += f->n * PL_VEC;
            }
            pl_fit_turn(from, f->n, lanes + PL_VEC * j, PL_FIT_STEP);
        }
        if (f->table)
            wrong |= pl_fit_lanes(0, f, &t, lanes, d, m);
        else if (f->kind == PL_FIT_NO_MIN)
            wrong |= pl_fit_lanes(0, f, NULL, lanes, d, m);
        else
            wrong |= pl_fit_lanes(1, f, NULL, lanes, d, m);
    }
    return wrong;
}

PL_INLINE void pl_fit_codes_of(const pl_fit *f, const pl_fit_table *t, int n, int groups, const float *x,
                               const float *d, const float *m, uint8_t *codes)
{
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
    pl_fit_table t; /* filled if there is a table */
    t.first = 0;
    if (f->table) {
        pl_fit_divide(f, &t);
        pl_fit_codes_of(f, &t, 32, groups, x, d, m, codes);
    } else if (f->n == 16) {
        pl_fit_codes_of(f, NULL, 16, groups, x, d, m, codes);
    } else {
        pl_fit_codes_of(f, NULL, 32, groups, x, d, m, codes);
    }
}

/* The one of v (n, a multiple of 4) that is largest in magnitude. */
PL_INLINE float pl_fit_largest(const float *v, int n)
{
    pl_fit_four low, high, next;
    memcpy(&low, v, sizeof low);
    high = low;
    for (int i = 4; i < n; i += 4) {
        memcpy(&next, v + i, sizeof next);
        const pl_fit_signs less = low > next, more = next > high;
        low = (pl_fit_four)((less & (pl_fit_signs)next) | (~less & (pl_fit_signs)low));
        high = (pl_fit_four)((more & (pl_fit_signs)next) | (~more & (pl_fit_signs)high));
    }
    float least = low[0], most = high[0];
    for (int i = 1; i < 4; i++) {
        least = low[i] < least ? low[i] : least;
        most = high[i] > most ? high[i] : most;
    }
    return -least > most ? least : most;
}

static int pl_fit_whole(int blocks, int n, int largest, int lo, int hi, float *restrict v, uint16_t *restrict factors,
                        int *restrict whole)
{
    enum { MOST = PL_FIT_WHOLE / 8 };
    const pl_fit_four zero = {0};
    float most[MOST] = {0}, factor[PL_FIT_WHOLE], per[PL_FIT_WHOLE];
    uint16_t f16[MOST];
    pl_fit_signs wrong = zero != zero;
    for (int b = 0; b < blocks; b++)
        most[b] = pl_fit_largest(v + n * b, n);
    for (int b = 0; b < blocks; b += 4) {
        pl_fit_four unit, inverse;
        memcpy(&unit, most + b, sizeof unit);
        pl_fit_to_f16(unit / (float)largest, f16 + b);
        unit = pl_fit_four_from_f16(f16 + b);
        inverse = 1.0f / unit;
        const pl_fit_signs finite = inverse - inverse == zero;
        wrong |= unit - unit != zero;
        for (int j = 0; j < 4 && b + j < blocks; j++)
            for (int i = n * (b + j); i < n * (b + j) + n; i++) {
                factor[i] = unit[j];
                per[i] = finite[j] ? inverse[j] : 0;
            }
    }
    memcpy(factors, f16, sizeof *f16 * (size_t)blocks);
    for (int i = 0; i < n * blocks; i++) {
        float at = v[i] * per[i];
        at = at < (float)lo ? (float)lo : at;
        at = at > (float)hi ? (float)hi : at;
        const float code = at + PL_ROUNDER - PL_ROUNDER;
        whole[i] = (int)code;
        v[i] = factor[i] * code;
    }
    return wrong[0] | wrong[1] | wrong[2] | wrong[3];
}

#endif
