/* Attention in bf16, the parts that the tiers that multiply bf16 share: queries and probabilities rounded, and exp. */
#ifndef PL_AVX512BF16_ROUND_H
#define PL_AVX512BF16_ROUND_H

#include "../avx512/vmath.h"
/* uses the lanes of vmath.h */
#include "../attend.h"

/* Bytes of a page's keys: pairs of d, of which the last of an odd d ends with 0. */
PL_INLINE size_t bf16_k_bytes(int d)
{
    return ((size_t)d + 1) / 2 * PL_PAGE * 4;
}

/* 16 floats -> bf16, in the low halves. */
PL_INLINE __m256i narrow(__m512 x)
{
    return (__m256i)_mm512_cvtneps_pbh(x);
}

/* Floats d0 .. d0 + 2 * n - 1 of a row of dk -> n pairs; 0 beyond the row. */
PL_INLINE void round_query(const float *q, int d0, int dk, uint32_t *to, int n)
{
    for (int i = 0; i < n; i += 8) {
        const __m512 x = _mm512_maskz_loadu_ps(pl_first(dk - d0 - 2 * i), q + d0 + 2 * i);
        _mm256_storeu_si256((__m256i *)(to + i), narrow(x));
    }
}

/* 2^x within 3e-6, an error that bf16 does not show: a polynomial of the rest that vreduce leaves of x, times 2 to the
 * floor of x, which vscalef takes. NaN stays NaN. */
PL_INLINE __m512 exp2_16(__m512 x)
{
    const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(0.013534167f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.052011464f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24144275f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69300383f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0000026f));
    return _mm512_scalef_ps(p, x);
}

/* Dot products s of groups [first, last) -> p = exp(score - top) in bf16; their sums are of what p holds. */
PL_INLINE pl_lanes weigh(const pl_attend_page *a, float *s, void *p, int first, int last, uint64_t sees, float top,
                         const int all)
{
    const __m512i ones = _mm512_set1_epi32(0x3f803f80);
    const __m512 scale = _mm512_set1_ps(pl_attend_scale(a) * PL_LOG2_E), t = _mm512_set1_ps(-PL_LOG2_E * top);
    __m512 lane = _mm512_setzero_ps();
    for (int g = first & ~1; g < last; g += 2) { /* two groups fill a vector; what is not computed is not seen */
        __m512 e[2];
        for (int i = 0; i < 2; i++) {
            e[i] = exp2_16(_mm512_fmadd_ps(_mm512_loadu_ps(s + PL_SLOTS * (g + i)), scale, t));
            if (!all)
                e[i] = _mm512_maskz_mov_ps((__mmask16)(sees >> PL_SLOTS * (g + i)), e[i]);
        }
        const __m512i pairs = (__m512i)_mm512_cvtne2ps_pbh(e[1], e[0]);
        _mm512_storeu_si512((uint32_t *)p + PL_SLOTS / 2 * g, pairs);
        lane = _mm512_dpbf16_ps(lane, (__m512bh)pairs, (__m512bh)ones);
    }
    return lane;
}

#endif
