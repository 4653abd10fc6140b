/* Matrix products on quantised weights with the 256-bit vpdpbusd: unsigned codes by signed ones, four products at a time
 * into int32. The instruction has two encodings: VEX (AVX-VNNI), and EVEX (AVX512_VNNI with VL, -DPL_EVEX), by which
 * processors without the first test the same code. */
#include "../avx2/simd.h"
#include "dot.h"
#include "fill.h"

enum { SIGNED_BYTES = 0 };

PL_INLINE int narrow(int top, int terms)
{
    (void)top, (void)terms;
    return 0;
}

/* v by 16 codes y, times `factor` (1 or 254 = 256 - 2): int32 sums of sixteen rows. */
PL_INLINE void dot(int top, __m256i v[2][4], const uint8_t *y, int keep16, int factor, __m256i d[2])
{
    (void)top, (void)keep16;
    d[0] = d[1] = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++) {
        __m256i a = _mm256_set1_epi32(pl_load_i32(y + 4 * j));
        for (int half = 0; half < 2; half++)
            d[half] = pl_add_dots(d[half], v[half][j], a);
    }
    if (factor == 254)
        for (int half = 0; half < 2; half++)
            d[half] = _mm256_sub_epi32(_mm256_slli_epi32(d[half], 8), _mm256_slli_epi32(d[half], 1));
}

#include "../avx2/matmul_int.h"

void pl_fill_matmul_avxvnni(pl_kernels *k)
{
    fill_matmul_int(k);
}
