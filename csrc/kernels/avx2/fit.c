/* The quick search for scales, AVX2. */
#include <immintrin.h>

#define PL_VEC 8
#define PL_VEC_MIN(a, b) ((pl_fit_vec)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define PL_VEC_MAX(a, b) ((pl_fit_vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define PL_VEC_ADD_SQUARE(sum, a) ((pl_fit_vec)_mm256_fmadd_ps((__m256)(a), (__m256)(a), (__m256)(sum)))
#define PL_VEC_PICK(mask, a, b) ((pl_fit_vec)_mm256_blendv_ps((__m256)(b), (__m256)(a), (__m256)(mask)))
#define PL_VEC_ROUND(a) ((pl_fit_vec)_mm256_round_ps((__m256)(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define PL_VEC_LOOKUP(t, i) ((pl_fit_vec)_mm256_permutevar8x32_ps(_mm256_load_ps(t), (__m256i)(i)))
#define PL_VEC_TO_BYTES(lanes, bytes) to_bytes((__m256i)(lanes), bytes)
#define PL_VEC_FOURS(p, apart)                                                                                         \
    ((pl_fit_vec)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps((p) + (apart)), 1))
#define PL_VEC_FROM_F16(p) ((pl_fit_vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))
#define PL_VEC_FROM_U16(p) ((pl_fit_mask)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))))

static inline void to_bytes(__m256i lanes, void *bytes)
{
    const __m256i lowest = _mm256_shuffle_epi8(lanes, _mm256_set1_epi32(0x0c080400));
    _mm_storel_epi64(bytes, _mm_unpacklo_epi32(_mm256_castsi256_si128(lowest), _mm256_extracti128_si256(lowest, 1)));
}

#include "../fit.h"
#include "fill.h"

void pl_fill_fit_avx2(pl_kernels *k)
{
    k->from_f16 = pl_fit_from_f16;
    k->from_bf16 = pl_fit_from_bf16;
    k->fit = pl_fit_groups;
    k->fit_codes = pl_fit_codes;
    k->fit_whole = pl_fit_whole;
}
