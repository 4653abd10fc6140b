/* The peak rates of AVX-512 with VNNI. Each chain depends on itself, so that no compiler can fold it. */
#include "../prefetch.h"
#include "fill.h"
#include "simd.h"

#define CHAINS 16 /* two products a cycle with latencies of up to five need ten */

static uint64_t read_all(const void *p, size_t bytes, int turns)
{
    __m512i a[8];
    for (int j = 0; j < 8; j++)
        a[j] = _mm512_setzero_si512();
    for (size_t i = 0; i < bytes; i += 8 * 64) {
        if (turns)
            pl_ask_window((const char *)p + i, i, 8);
        for (int j = 0; j < 8; j++)
            a[j] = _mm512_xor_si512(a[j], pl_load512((const char *)p + i + 64 * j));
    }
    for (int j = 1; j < 8; j++)
        a[0] = _mm512_xor_si512(a[0], a[j]);
    return (uint64_t)_mm512_reduce_add_epi64(a[0]);
}

static double i8(int64_t n)
{
    __m512i a[CHAINS], x = _mm512_set1_epi8(1);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm512_dpbusd_epi32(a[j], x, x);
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm512_add_epi32(a[0], a[j]);
    return 128.0 * CHAINS * (double)n + (_mm512_reduce_add_epi32(a[0]) == 1 ? 1e-3 : 0);
}

static double f32(int64_t n)
{
    __m512 a[CHAINS], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(1.0f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm512_fmadd_ps(a[j], x, y);
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    return 32.0 * CHAINS * (double)n + (_mm512_cvtss_f32(a[0]) == 1 ? 1e-3 : 0);
}

void pl_fill_peak_avx512(pl_kernels *k)
{
    k->peak = (pl_peak){read_all, i8, NULL, NULL, f32};
}
