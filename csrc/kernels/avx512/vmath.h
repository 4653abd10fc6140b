/* exp and functions made from it, 16 lanes at once: the steps (and the bits) of scalar/vmath.h. */
#ifndef PL_VMATH_AVX512_H
#define PL_VMATH_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "../common.h"

static inline __m512 pl_exp16(__m512 x)
{
    const __m512 rounder = _mm512_set1_ps(PL_ROUNDER), one = _mm512_set1_ps(1.0f);
    const __mmask16 some = _mm512_cmp_ps_mask(x, _mm512_set1_ps(PL_EXP_LEAST), _CMP_NLE_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(PL_EXP_MOST), x); /* the second operand where x is NaN */
    const __m512 t = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(PL_LOG2_E)), rounder), n = _mm512_sub_ps(t, rounder);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(PL_LN2_HI), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(PL_LN2_LO), r);
    __m512 p = _mm512_set1_ps(PL_EXP_6);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PL_EXP_5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PL_EXP_4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PL_EXP_3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(PL_EXP_2));
    p = _mm512_fmadd_ps(p, r, one);
    p = _mm512_fmadd_ps(p, r, one);
    return _mm512_maskz_scalef_ps(some, p, n); /* rounds once, as the two factors do */
}

static inline __m512 pl_negate(__m512 x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

static inline __m512 pl_tanh16(__m512 x)
{
    const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f)), a = _mm512_xor_ps(x, sign), one = _mm512_set1_ps(1.0f);
    const __mmask16 small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(PL_TANH_SMALL), _CMP_LT_OQ);
    const __m512 z = _mm512_mul_ps(x, x);
    __m512 p = _mm512_set1_ps(PL_TANH_4);
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(PL_TANH_3));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(PL_TANH_2));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(PL_TANH_1));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(PL_TANH_0));
    p = _mm512_fmadd_ps(_mm512_mul_ps(p, z), a, a);
    const __m512 e = _mm512_add_ps(pl_exp16(_mm512_add_ps(a, a)), one);
    const __m512 large = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), e));
    return _mm512_or_ps(_mm512_mask_mov_ps(large, small, p), sign);
}

static inline __m512 pl_silu16(__m512 g)
{
    return _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), pl_exp16(pl_negate(g))));
}

static inline __m512 pl_gelu16(__m512 g)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 cube = _mm512_fmadd_ps(_mm512_mul_ps(g, g), _mm512_set1_ps(PL_GELU_CUBE), one);
    const __m512 z2 = _mm512_mul_ps(_mm512_mul_ps(g, _mm512_set1_ps(PL_GELU_TWICE)), cube);
    return _mm512_div_ps(g, _mm512_add_ps(one, pl_exp16(pl_negate(z2))));
}

/* Mask of the first n lanes (n <= 0: none, n >= 16: all), for loads and stores of tails. */
static inline __mmask16 pl_first(int n)
{
    return (__mmask16)(n <= 0 ? 0 : n >= 16 ? 0xffff : (1 << n) - 1);
}

/* Lane j takes j + 8, + 4, + 2, + 1. */
static inline float pl_sum16(__m512 v)
{
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* The largest of 16, none of which is NaN. */
static inline float pl_max16(__m512 v)
{
    const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* The 32 lanes of two vectors: lane j takes j + 16, then as above. */
static inline float pl_sum_lanes(const __m512 *lane)
{
    return pl_sum16(_mm512_add_ps(lane[0], lane[1]));
}

/* ---- sixteen lanes, for attend.h
 * ---------------------------------------------------------------------------------- */

#define PL_EXP_ROWS 16
typedef __m512 pl_lanes;

PL_INLINE pl_lanes pl_lanes_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

PL_INLINE void pl_lanes_store(float *p, pl_lanes x)
{
    _mm512_storeu_ps(p, x);
}

PL_INLINE pl_lanes pl_lanes_all(float x)
{
    return _mm512_set1_ps(x);
}

PL_INLINE pl_lanes pl_lanes_add(pl_lanes a, pl_lanes b)
{
    return _mm512_add_ps(a, b);
}

PL_INLINE pl_lanes pl_lanes_scale(pl_lanes x, float by)
{
    return _mm512_mul_ps(x, _mm512_set1_ps(by));
}

PL_INLINE pl_lanes pl_lanes_larger(pl_lanes a, pl_lanes b, uint32_t bits)
{
    return _mm512_mask_max_ps(a, (__mmask16)bits, b, a);
}

PL_INLINE pl_lanes pl_lanes_keep(pl_lanes x, uint32_t bits)
{
    return _mm512_maskz_mov_ps((__mmask16)bits, x);
}

PL_INLINE pl_lanes pl_lanes_tanh(pl_lanes x)
{
    return pl_tanh16(x);
}

PL_INLINE pl_lanes pl_lanes_exp(pl_lanes x, float top)
{
    return pl_exp16(_mm512_sub_ps(x, _mm512_set1_ps(top)));
}

PL_INLINE pl_lanes pl_lanes_exp_of(pl_lanes x, float top, uint32_t bits)
{
    return pl_lanes_keep(pl_lanes_exp(x, top), bits);
}

PL_INLINE float pl_lanes_max(pl_lanes x)
{
    return pl_max16(x);
}

PL_INLINE float pl_lanes_sum(pl_lanes x)
{
    return pl_sum16(x);
}

PL_INLINE void pl_exp_rows(float *x)
{
    _mm512_storeu_ps(x, pl_exp16(_mm512_loadu_ps(x)));
}

PL_INLINE __m512 pl_meet(__m512 a, __m512 b, const int sum)
{
    return sum ? _mm512_add_ps(a, b) : _mm512_max_ps(a, b);
}

/* Lane r: the sum, or the largest, of x[r], of up to eight rows, whose lanes are combined in the order of pl_sum16. */
PL_INLINE __m512 pl_meet_eight(const __m512 *x, const int rows, const int sum)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512 two[4], four[2];
    for (int i = 0; i < 4; i++) {
        const __m512 a = x[2 * i < rows ? 2 * i : 0], b = x[2 * i + 1 < rows ? 2 * i + 1 : 0];
        two[i] = pl_meet(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee), sum);
    }
    for (int i = 0; i < 2; i++)
        four[i] = pl_meet(_mm512_shuffle_f32x4(two[2 * i], two[2 * i + 1], 0x88),
                          _mm512_shuffle_f32x4(two[2 * i], two[2 * i + 1], 0xdd), sum);
    const __m512d a = _mm512_castps_pd(four[0]), b = _mm512_castps_pd(four[1]);
    const __m512 all =
        pl_meet(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)), sum);
    return _mm512_permutexvar_ps(order, pl_meet(all, _mm512_movehdup_ps(all), sum));
}

/* The same of up to sixteen rows. */
PL_INLINE __m512 pl_meet_rows(const __m512 *x, const int rows, const int sum)
{
    if (rows == 1)
        return _mm512_set1_ps(sum ? pl_sum16(x[0]) : pl_max16(x[0]));
    const __m512 low = pl_meet_eight(x, rows, sum);
    if (rows <= 8)
        return low;
    return _mm512_insertf32x8(low, _mm512_castps512_ps256(pl_meet_eight(x + 8, rows - 8, sum)), 1);
}

#define PL_ROWS_TOGETHER
PL_INLINE void pl_rows_fade(const pl_lanes *best, float by, const float *old, float *top, float *fade, const int rows)
{
    const __m512 before = _mm512_maskz_loadu_ps(pl_first(rows), old);
    const __m512 now = _mm512_max_ps(_mm512_mul_ps(pl_meet_rows(best, rows, 0), _mm512_set1_ps(by)), before);
    _mm512_storeu_ps(top, now);
    _mm512_storeu_ps(fade, pl_exp16(_mm512_sub_ps(before, now)));
}

PL_INLINE void pl_rows_sum(const pl_lanes *x, const float *fade, float *sum, const int rows)
{
    const __m512 before = _mm512_mul_ps(_mm512_maskz_loadu_ps(pl_first(rows), sum), _mm512_loadu_ps(fade));
    _mm512_mask_storeu_ps(sum, pl_first(rows), _mm512_add_ps(before, pl_meet_rows(x, rows, 1)));
}

#endif
