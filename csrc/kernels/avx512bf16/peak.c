/* The peak rate of products of bf16. */
#include <immintrin.h>

#include "fill.h"

#define CHAINS 16

static double bf16(int64_t n)
{
    /* Pairs of products that cancel: sums stay the same, but no compiler knows it. */
    const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f80bf80), y = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 a[CHAINS];
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm512_dpbf16_ps(a[j], x, y);
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    return 64.0 * CHAINS * (double)n + (_mm512_cvtss_f32(a[0]) == 1 ? 1e-3 : 0);
}

void pl_fill_peak_avx512bf16(pl_kernels *k)
{
    k->peak.bf16 = bf16;
}
