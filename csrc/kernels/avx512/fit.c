/* The quick search for scales, AVX-512. */
#include <immintrin.h>

#define PL_VEC 16
#define PL_VEC_MIN(a, b) ((pl_fit_vec)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define PL_VEC_MAX(a, b) ((pl_fit_vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define PL_VEC_ADD_SQUARE(sum, a) ((pl_fit_vec)_mm512_fmadd_ps((__m512)(a), (__m512)(a), (__m512)(sum)))
#define PL_VEC_PICK(mask, a, b)                                                                                        \
    ((pl_fit_vec)_mm512_ternarylogic_epi32((__m512i)(mask), (__m512i)(a), (__m512i)(b), 0xca))
#define PL_VEC_ROUND(a) ((pl_fit_vec)_mm512_roundscale_ps((__m512)(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define PL_VEC_LOOKUP(t, i) ((pl_fit_vec)_mm512_permutexvar_ps((__m512i)(i), _mm512_load_ps(t)))
#define PL_VEC_FOURS(p, apart) ((pl_fit_vec)fours(p, apart))
#define PL_VEC_FROM_F16(p) ((pl_fit_vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p))))
#define PL_VEC_FROM_U16(p) ((pl_fit_mask)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))))

static inline __m512 fours(const float *p, int apart)
{
    const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(p)), _mm_loadu_ps(p + apart), 1);
    const __m512 three = _mm512_insertf32x4(two, _mm_loadu_ps(p + 2 * apart), 2);
    return _mm512_insertf32x4(three, _mm_loadu_ps(p + 3 * apart), 3);
}

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_avx512(pl_kernels *k)
{
    k->from_f16 = pl_fit_from_f16;
    k->from_bf16 = pl_fit_from_bf16;
    k->fit = pl_fit_groups;
    k->fit_codes = pl_fit_codes;
    k->fit_whole = pl_fit_whole;
}
