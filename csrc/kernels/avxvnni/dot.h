/* The 256-bit vpdpbusd in the encoding that this build of the folder is for. */
#ifndef PL_AVXVNNI_DOT_H
#define PL_AVXVNNI_DOT_H

#include "../avx2/simd.h"

/* acc + unsigned codes by signed ones, four at a time. */
PL_INLINE __m256i pl_add_dots(__m256i acc, __m256i codes, __m256i y)
{
#ifdef PL_EVEX
    return _mm256_dpbusd_epi32(acc, codes, y);
#else
    return _mm256_dpbusd_avx_epi32(acc, codes, y);
#endif
}

#endif
