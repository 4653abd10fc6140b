/* Matrix products on quantised weights, without VNNI: vpmaddubsw multiplies unsigned codes by signed ones and adds pairs
 * into int16. How many such sums an int16 holds, |y| <= 127:
 *     4 bits: 8 * 2 * 15 * 127 = 30,480     5 bits: 4 * 2 * 31 * 127 = 31,496     6 bits: 2 * 2 * 63 * 127 = 32,004
 *     8 bits: as signed codes, |w| by y with w's sign: 2 * 128 * 127 = 32,512, one
 * Then vpmaddwd widens; for the high term it also multiplies by 254. */
#include "simd.h"

enum { SIGNED_BYTES = 1 };

/* Eight sums of 4-bit codes fit. */
PL_INLINE int narrow(int bits, int terms)
{
    return bits == 4 && terms == 1;
}

/* v by 16 codes y, times `factor`: int32 sums of sixteen rows (keep16: the int16 ones, no factor). */
PL_INLINE void dot(int bits, __m256i v[2][4], const uint8_t *y, int keep16, int factor, __m256i d[2])
{
    const int fit = bits == 8 ? 1 : bits == 6 ? 2 : 4;
    for (int j = 0; j < 4; j += fit) {
        __m256i sum[2];
        for (int i = j; i < j + fit; i++) {
            __m256i a = _mm256_set1_epi32(pl_load_i32(y + 4 * i));
            for (int half = 0; half < 2; half++) {
                __m256i t = bits == 8
                                ? _mm256_maddubs_epi16(_mm256_abs_epi8(v[half][i]), _mm256_sign_epi8(a, v[half][i]))
                                : _mm256_maddubs_epi16(v[half][i], a);
                sum[half] = i == j ? t : _mm256_add_epi16(sum[half], t);
            }
        }
        for (int half = 0; half < 2; half++) {
            __m256i t = keep16 ? sum[half] : _mm256_madd_epi16(sum[half], _mm256_set1_epi16((short)factor));
            d[half] = j == 0 ? t : _mm256_add_epi32(d[half], t);
        }
    }
}

#include "matmul_int.h"

void pl_fill_matmul_int_avx2(pl_kernels *k)
{
    fill_matmul_int(k);
}
