/* The quick search for scales, AVX2. */
#include <immintrin.h>

#define PL_VEC 8
#define PL_VEC_MIN(a, b) ((pl_fit_vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define PL_VEC_MAX(a, b) ((pl_fit_vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define PL_VEC_LOOKUP(t, i) ((pl_fit_vec)_mm256_permutevar8x32_ps(_mm256_load_ps(t), (__m256i)(i)))
#define PL_VEC_FROM_F16(p) ((pl_fit_vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_avx2(pl_kernels *k)
{
    k->from_f16 = pl_fit_from_f16;
    k->fit = pl_fit_groups;
    k->fit_codes = pl_fit_codes;
}
