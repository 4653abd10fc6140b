/* The peak rates of AVX2. Each chain depends on itself, so that no compiler can fold it; twelve cover the latencies. */
#include "../prefetch.h"
#include "fill.h"
#include "simd.h"

#define CHAINS 12

static uint64_t read_all(const void *p, size_t bytes, int turns)
{
    __m256i a[8];
    for (int j = 0; j < 8; j++)
        a[j] = _mm256_setzero_si256();
    for (size_t i = 0; i < bytes; i += 8 * 32) {
        if (turns)
            pl_ask_window((const char *)p + i, i, 4);
        for (int j = 0; j < 8; j++)
            a[j] = _mm256_xor_si256(a[j], pl_load256((const char *)p + i + 32 * j));
    }
    for (int j = 1; j < 8; j++)
        a[0] = _mm256_xor_si256(a[0], a[j]);
    return (uint64_t)_mm256_extract_epi64(a[0], 0) ^ (uint64_t)_mm256_extract_epi64(a[0], 1) ^
           (uint64_t)_mm256_extract_epi64(a[0], 2) ^ (uint64_t)_mm256_extract_epi64(a[0], 3);
}

/* 32 products in two instructions. An int16 holds eight such sums of 4-bit codes, which two more instructions then
 * widen: those are left out, because they are a twentieth. Codes of five and six bits widen more often, and stay
 * further below. */
static double i8(int64_t n)
{
    enum { SUMS = 8 }; /* a sum waits for one cycle alone; more would not fit into the registers */
    __m256i a[SUMS], x = _mm256_set1_epi8(1), y = x;
    for (int j = 0; j < SUMS; j++)
        a[j] = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 8 /* early: sums stay in registers */
        for (int j = 0; j < SUMS; j++) {
            __asm__("" : "+x"(x)); /* might differ every time: keeps the product in the loop */
            a[j] = _mm256_add_epi16(a[j], _mm256_maddubs_epi16(x, y));
        }
    }
    for (int j = 1; j < SUMS; j++)
        a[0] = _mm256_add_epi16(a[0], a[j]);
    return 64.0 * SUMS * (double)n + (_mm256_extract_epi32(a[0], 0) == 1 ? 1e-3 : 0);
}

/* With codes of eight bits, two products fill an int16: each sum is widened before it is added, in a third
 * instruction. */
static double wide(int64_t n)
{
    enum { SUMS = 8 };
    __m256i a[SUMS], x = _mm256_set1_epi8(1), y = x, ones = _mm256_set1_epi16(1);
    for (int j = 0; j < SUMS; j++)
        a[j] = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 8 /* early: sums stay in registers */
        for (int j = 0; j < SUMS; j++) {
            __asm__("" : "+x"(x)); /* as above */
            a[j] = _mm256_add_epi32(a[j], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
        }
    }
    for (int j = 1; j < SUMS; j++)
        a[0] = _mm256_add_epi32(a[0], a[j]);
    return 64.0 * SUMS * (double)n + (_mm256_extract_epi32(a[0], 0) == 1 ? 1e-3 : 0);
}

static double f32(int64_t n)
{
    __m256 a[CHAINS], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(1.0f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 12 /* early: sums stay in registers */
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm256_fmadd_ps(a[j], x, y);
    }
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    return 16.0 * CHAINS * (double)n + (_mm256_cvtss_f32(a[0]) == 1 ? 1e-3 : 0);
}

void pl_fill_peak_avx2(pl_kernels *k)
{
    k->peak = (pl_peak){read_all, i8, wide, NULL, f32};
}
