/* Matrix products with quantised weights, using the 256-bit vpdpbusd: unsigned codes by signed ones, four products at a
 * time into int32. The instruction has two encodings: VEX (AVX-VNNI), and EVEX (AVX512_VNNI with VL, -DPL_EVEX), with
 * which the same code can be tested on processors that lack the first. */
#include "../avx2/simd.h"
#include "dot.h"
#include "fill.h"

enum { SIGNED_BYTES = 0, PAIRED = 0 };

PL_INLINE int narrow(int top, int terms)
{
    (void)top, (void)terms;
    return 0;
}

/* v by 16 codes y, times `factor` (1 or PL_TERM): int32 sums of sixteen rows. */
PL_INLINE void dot(int top, __m256i v[2][4], const uint8_t *y, const uint8_t *masks, int keep16, int factor,
                   __m256i d[2])
{
    (void)top, (void)masks, (void)keep16;
    d[0] = d[1] = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++) {
        __m256i a = _mm256_set1_epi32(pl_load_i32(y + 4 * j));
        for (int half = 0; half < 2; half++)
            d[half] = pl_add_dots(d[half], v[half][j], a);
    }
    for (int half = 0; half < 2; half++)
        d[half] = _mm256_mullo_epi32(d[half], _mm256_set1_epi32(factor)); /* a shift, or nothing */
}

/* Scaled formats, step h: its group's dot, with the offset, in d, after the second step both times their scales in t.
 * Dots fit into 16 bits (16 * 4 * 127), so that one product scales and adds them; two terms do not. */
PL_INLINE void scaled_dot(const pl_shape f, int terms, int h, __m256i v[2][4], const __m256i whole[2],
                          const uint8_t *entry, __m256i d[2], __m256i t[2])
{
    const uint8_t *words = entry + 32 * terms;
    __m256i low[2];
    dot(f.top, v, entry + 16 * h, NULL, 0, terms == 2 ? PL_TERM : 1, t);
    if (terms == 2)
        dot(f.top, v, entry + 32 + 16 * h, NULL, 0, 1, low);
    for (int half = 0; half < 2; half++) {
        if (terms == 2)
            t[half] = _mm256_add_epi32(t[half], low[half]);
        if (f.offset)
            t[half] = _mm256_add_epi32(t[half], _mm256_set1_epi32(pl_load_i32(words + 4 + 4 * h)));
        if (terms == 2) {
            const __m256i upper = h ? whole[half] : _mm256_slli_epi32(whole[half], 16);
            t[half] = _mm256_mullo_epi32(t[half], _mm256_srai_epi32(upper, 16));
        }
        if (!h)
            d[half] = t[half];
        else if (terms == 2)
            t[half] = _mm256_add_epi32(d[half], t[half]);
        else
            t[half] = _mm256_madd_epi16(_mm256_blend_epi16(d[half], _mm256_slli_epi32(t[half], 16), 0xaa), whole[half]);
    }
}

#include "../avx2/matmul_int.h"

void pl_fill_matmul_avxvnni(pl_kernels *k)
{
    fill_matmul_int(k);
}
