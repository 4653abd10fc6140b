/* The peak rate of the 256-bit vpdpbusd. */
#include "../avx2/simd.h"
#include "dot.h"
#include "fill.h"

#define CHAINS 12 /* two products a cycle with latencies of up to five need ten */

static double i8(int64_t n)
{
    __m256i a[CHAINS], x = _mm256_set1_epi8(1);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 12 /* early: sums stay in registers */
        for (int j = 0; j < CHAINS; j++)
            a[j] = pl_add_dots(a[j], x, x);
    }
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm256_add_epi32(a[0], a[j]);
    return 64.0 * CHAINS * (double)n + (_mm256_extract_epi32(a[0], 0) == 1 ? 1e-3 : 0);
}

void pl_fill_peak_avxvnni(pl_kernels *k)
{
    k->peak.i8 = i8;
    k->peak.wide = NULL;
}
