/* Small inline helpers of the AVX2 kernels. */
#ifndef PL_AVX2_SIMD_H
#define PL_AVX2_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "../common.h"

PL_INLINE __m256i pl_load256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

PL_INLINE void pl_store256(void *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

PL_INLINE __m128i pl_load128(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

PL_INLINE int32_t pl_load_i32(const void *p)
{
    int32_t i;
    memcpy(&i, p, sizeof i);
    return i;
}

/* Eight f16 -> float32 */
PL_INLINE __m256 pl_load_f16(const void *p)
{
    return _mm256_cvtph_ps(pl_load128(p));
}

/* Eight bytes -> float32, unsigned and signed */
PL_INLINE __m256 pl_load_u8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

PL_INLINE __m256 pl_load_i8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* Eight bytes of e8m0 -> 2^(e - 128), of which the two least are subnormal */
PL_INLINE __m256 pl_load_e8m0_half(const void *p)
{
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256i least = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, least, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

/* ---- this folder's parts of the matrix family, put together by matmul.c ---------------------------------------- */

void pl_fill_matmul_int_avx2(pl_kernels *k);
void pl_fill_matmul_float_avx2(pl_kernels *k);

#endif
