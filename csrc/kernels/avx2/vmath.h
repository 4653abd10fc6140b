/* exp and functions made from it, eight lanes at once: the steps (and the bits) of scalar/vmath.h. */
#ifndef PL_VMATH_AVX2_H
#define PL_VMATH_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "../common.h"

static inline __m256 pl_exp8(__m256 x)
{
    const __m256 rounder = _mm256_set1_ps(PL_ROUNDER), one = _mm256_set1_ps(1.0f);
    const __m256 zero = _mm256_cmp_ps(x, _mm256_set1_ps(PL_EXP_LEAST), _CMP_LE_OQ);
    x = _mm256_min_ps(_mm256_set1_ps(PL_EXP_MOST), x); /* the second operand where x is NaN */
    const __m256 t = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(PL_LOG2_E)), rounder), n = _mm256_sub_ps(t, rounder);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(PL_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(PL_LN2_LO), r);
    __m256 p = _mm256_set1_ps(PL_EXP_6);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PL_EXP_5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PL_EXP_4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PL_EXP_3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(PL_EXP_2));
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    const __m256i e = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(rounder)),
                  half = _mm256_srai_epi32(e, 1);
    const __m256i a = _mm256_add_epi32(_mm256_slli_epi32(half, 23), _mm256_castps_si256(one));
    const __m256i b = _mm256_add_epi32(_mm256_slli_epi32(_mm256_sub_epi32(e, half), 23), _mm256_castps_si256(one));
    p = _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
    return _mm256_andnot_ps(zero, p);
}

static inline __m256 pl_tanh8(__m256 x)
{
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f)), a = _mm256_xor_ps(x, sign), one = _mm256_set1_ps(1.0f);
    const __m256 small = _mm256_cmp_ps(a, _mm256_set1_ps(PL_TANH_SMALL), _CMP_LT_OQ), z = _mm256_mul_ps(x, x);
    __m256 p = _mm256_set1_ps(PL_TANH_4);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(PL_TANH_3));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(PL_TANH_2));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(PL_TANH_1));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(PL_TANH_0));
    p = _mm256_fmadd_ps(_mm256_mul_ps(p, z), a, a);
    const __m256 e = _mm256_add_ps(pl_exp8(_mm256_add_ps(a, a)), one);
    const __m256 large = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), e));
    return _mm256_or_ps(_mm256_blendv_ps(large, p, small), sign);
}

static inline __m256 pl_silu8(__m256 g)
{
    const __m256 e = pl_exp8(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));
    return _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

static inline __m256 pl_gelu8(__m256 g)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 cube = _mm256_fmadd_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(PL_GELU_CUBE), one);
    const __m256 z2 = _mm256_mul_ps(_mm256_mul_ps(g, _mm256_set1_ps(PL_GELU_TWICE)), cube);
    return _mm256_div_ps(g, _mm256_add_ps(one, pl_exp8(_mm256_xor_ps(z2, _mm256_set1_ps(-0.0f)))));
}

/* Mask of the first n lanes (n <= 0: none, n >= 8: all), for loads and stores of tails. */
static inline __m256i pl_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Lane j takes j + 4, + 2, + 1. */
static inline float pl_sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* The 32 lanes of four vectors: lane j takes j + 16, + 8, then as above. */
static inline float pl_sum_lanes(const __m256 *lane)
{
    return pl_sum8(_mm256_add_ps(_mm256_add_ps(lane[0], lane[2]), _mm256_add_ps(lane[1], lane[3])));
}

/* ---- sixteen lanes, for attend.h
 * ---------------------------------------------------------------------------------- */

#define PL_EXP_ROWS 8
typedef struct pl_lanes {
    __m256 v[2];
} pl_lanes;

PL_INLINE pl_lanes pl_lanes_load(const float *p)
{
    return (pl_lanes){{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}};
}

PL_INLINE void pl_lanes_store(float *p, pl_lanes x)
{
    _mm256_storeu_ps(p, x.v[0]);
    _mm256_storeu_ps(p + 8, x.v[1]);
}

PL_INLINE pl_lanes pl_lanes_all(float x)
{
    return (pl_lanes){{_mm256_set1_ps(x), _mm256_set1_ps(x)}};
}

PL_INLINE pl_lanes pl_lanes_add(pl_lanes a, pl_lanes b)
{
    return (pl_lanes){{_mm256_add_ps(a.v[0], b.v[0]), _mm256_add_ps(a.v[1], b.v[1])}};
}

PL_INLINE pl_lanes pl_lanes_scale(pl_lanes x, float by)
{
    return (pl_lanes){{_mm256_mul_ps(x.v[0], _mm256_set1_ps(by)), _mm256_mul_ps(x.v[1], _mm256_set1_ps(by))}};
}

/* Bits 8 * half .. 8 * half + 7, a lane each. */
PL_INLINE __m256 pl_lanes_mask(uint32_t bits, const int half)
{
    const __m256i bit = _mm256_slli_epi32(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), 8 * half);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), bit), bit));
}

PL_INLINE pl_lanes pl_lanes_larger(pl_lanes a, pl_lanes b, uint32_t bits)
{
    for (int half = 0; half < 2; half++) {
        const __m256 most = _mm256_max_ps(b.v[half], a.v[half]);
        a.v[half] = bits == 0xffff ? most : _mm256_blendv_ps(a.v[half], most, pl_lanes_mask(bits, half));
    }
    return a;
}

PL_INLINE pl_lanes pl_lanes_keep(pl_lanes x, uint32_t bits)
{
    for (int half = 0; half < 2; half++)
        x.v[half] = _mm256_and_ps(x.v[half], pl_lanes_mask(bits, half));
    return x;
}

PL_INLINE pl_lanes pl_lanes_tanh(pl_lanes x)
{
    return (pl_lanes){{pl_tanh8(x.v[0]), pl_tanh8(x.v[1])}};
}

PL_INLINE pl_lanes pl_lanes_exp(pl_lanes x, float top)
{
    const __m256 t = _mm256_set1_ps(top);
    return (pl_lanes){{pl_exp8(_mm256_sub_ps(x.v[0], t)), pl_exp8(_mm256_sub_ps(x.v[1], t))}};
}

PL_INLINE pl_lanes pl_lanes_exp_of(pl_lanes x, float top, uint32_t bits)
{
    return pl_lanes_keep(pl_lanes_exp(x, top), bits);
}

PL_INLINE float pl_lanes_max(pl_lanes x)
{
    const __m256 best = _mm256_max_ps(x.v[0], x.v[1]);
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(best), _mm256_extractf128_ps(best, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

PL_INLINE float pl_lanes_sum(pl_lanes x)
{
    return pl_sum8(_mm256_add_ps(x.v[0], x.v[1]));
}

PL_INLINE void pl_exp_rows(float *x)
{
    _mm256_storeu_ps(x, pl_exp8(_mm256_loadu_ps(x)));
}

#endif
