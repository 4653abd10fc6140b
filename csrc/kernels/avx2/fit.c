/* The quick search for scales, AVX2. */
#include <immintrin.h>

#define PL_VEC 8
#define PL_VEC_MIN(a, b) ((pl_fit_vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define PL_VEC_MAX(a, b) ((pl_fit_vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define PL_VEC_LOOKUP(t, i) ((pl_fit_vec)_mm256_permutevar8x32_ps(_mm256_load_ps(t), (__m256i)(i)))

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_avx2(pl_kernels *k)
{
    k->fit = pl_fit_sixteen;
    k->fit_codes = pl_fit_codes;
}
