/* The quick search for scales, AVX-512. */
#include <immintrin.h>

#define PL_VEC 16
#define PL_VEC_MIN(a, b) ((pl_fit_vec)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define PL_VEC_MAX(a, b) ((pl_fit_vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define PL_VEC_LOOKUP(t, i) ((pl_fit_vec)_mm512_permutexvar_ps((__m512i)(i), _mm512_load_ps(t)))

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_avx512(pl_kernels *k)
{
    k->fit = pl_fit_sixteen;
    k->fit_codes = pl_fit_codes;
}
