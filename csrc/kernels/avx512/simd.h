/* Small inline helpers of the AVX-512 matrix kernels. */
#ifndef PL_AVX512_SIMD_H
#define PL_AVX512_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "../common.h"

PL_INLINE __m512i pl_load512(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* Four bytes of memory in every lane. */
PL_INLINE __m512i pl_broadcast(const void *p)
{
    int32_t i;
    memcpy(&i, p, sizeof i);
    return _mm512_set1_epi32(i);
}

PL_INLINE __m512 pl_broadcast_ps(const void *p)
{
    return _mm512_castsi512_ps(pl_broadcast(p));
}

/* acc + unsigned bytes by the four signed ones at p. Written in assembly, because gcc does not fold the broadcast into
 * the instruction: separate ones take twice the micro-ops and registers. */
PL_INLINE __m512i pl_dot_broadcast(__m512i acc, __m512i codes, const void *p)
{
    typedef struct four {
        uint8_t bytes[4];
    } four;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(codes), "m"(*(const four *)p));
    return acc;
}

/* Sixteen f16 -> float32 */
PL_INLINE __m512 pl_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Sixteen bytes -> float32, unsigned and signed */
PL_INLINE __m512 pl_load_u8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

PL_INLINE __m512 pl_load_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* Sixteen bytes of e8m0 -> 2^(e - 128), of which the two least are subnormal */
PL_INLINE __m512 pl_load_e8m0_half(const void *p)
{
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __mmask16 least = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, least, _mm512_set1_epi32(0x00200000), e));
}

/* How many of n rows of x go next: twelve, or such that few parts follow; each number has its own code. */
static inline int pl_part_of(int n)
{
    static const uint8_t part[18] = {0, 1, 2, 3, 4, 3, 6, 4, 8, 6, 6, 8, 12, 8, 8, 8, 8, 8};
    return n < 18 ? part[n] : 12;
}

/* ---- this folder's parts of the matrix family, put together by matmul.c ---------------------------------------- */

void pl_fill_pack_avx512(pl_kernels *k);
void pl_fill_matmul_int_avx512(pl_kernels *k);
void pl_fill_matmul_float_avx512(pl_kernels *k);

#endif
