/* Matrix products with quantised weights, without VNNI: vpmaddubsw multiplies unsigned codes by signed ones and adds
 * pairs into int16. How many such sums an int16 holds, |y| <= 128, by the greatest code:
 *     3: 42, 7: 18, 15: 8, 18: 7, 24: 5, 30, 31: 4, 62, 63: 2, 86: 1
 *     above 127: as signed codes, y by w if y >= 0, |y| by -w - 1 otherwise: -2 * 128 * 128 = -32,768 at least, one
 * Then vpmaddwd widens; for the high term it also multiplies by PL_TERM. */
#include "simd.h"

enum { SIGNED_BYTES = 1, PAIRED = 1 };

/* How many sums of two products fit. */
PL_INLINE int fit(int top)
{
    return top > 127 ? 1 : 32767 / (2 * 128 * top);
}

/* Eight sums fit, those of a block. */
PL_INLINE int narrow(int top, int terms)
{
    return fit(top) >= 8 && terms == 1;
}

/* v by 16 codes y, times `factor`: int32 sums of sixteen rows (keep16: the int16 ones, no factor). */
PL_INLINE void dot(int top, __m256i v[2][4], const uint8_t *y, const uint8_t *masks, int keep16, int factor,
                   __m256i d[2])
{
    const int some = fit(top) < 4 ? fit(top) : 4;
    for (int j = 0; j < 4; j += some) {
        __m256i sum[2];
        for (int i = j; i < j + some; i++) {
            const __m256i a = _mm256_set1_epi32(pl_load_i32(y + 4 * i));
            const __m256i mask = top < 128 ? a : _mm256_set1_epi32(pl_load_i32(masks + 4 * i));
            for (int half = 0; half < 2; half++) {
                const __m256i b = v[half][i];
                const __m256i t =
                    top < 128 ? _mm256_maddubs_epi16(b, a) : _mm256_maddubs_epi16(a, _mm256_xor_si256(b, mask));
                sum[half] = i == j ? t : _mm256_add_epi16(sum[half], t);
            }
        }
        for (int half = 0; half < 2; half++) {
            __m256i t = keep16 ? sum[half] : _mm256_madd_epi16(sum[half], _mm256_set1_epi16((short)factor));
            d[half] = j == 0 ? t : _mm256_add_epi32(d[half], t);
        }
    }
}

/* Scaled formats, step h: 16-bit sums of both groups in d, after the second step their scaled sum in t. Those of 32 k
 * and the offset (codes of 3 bits: 14,336 and 8,192) fit. Two terms are scaled in each step, the first by PL_TERM as
 * well: 8,192 at most. */
PL_INLINE void scaled_dot(const pl_shape f, int terms, int h, __m256i v[2][4], const __m256i whole[2],
                          const uint8_t *entry, __m256i d[2], __m256i t[2])
{
    const uint8_t *words = entry + 32 * terms;
    __m256i low[2];
    dot(f.top, v, entry + 16 * h, NULL, 1, 1, t);
    if (terms == 2)
        dot(f.top, v, entry + 32 + 16 * h, NULL, 1, 1, low);
    for (int half = 0; half < 2; half++) {
        if (h && f.offset)
            t[half] = _mm256_add_epi16(t[half], _mm256_set1_epi32(pl_load_i32(words + 4)));
        if (h && f.offset && terms == 2)
            low[half] = _mm256_add_epi16(low[half], _mm256_set1_epi32(pl_load_i32(words + 8)));
        if (terms == 2) {
            const __m256i more = _mm256_mullo_epi16(whole[half], _mm256_set1_epi16(PL_TERM));
            t[half] = _mm256_add_epi32(_mm256_madd_epi16(t[half], more), _mm256_madd_epi16(low[half], whole[half]));
        }
        if (!h)
            d[half] = t[half];
        else if (terms == 2)
            t[half] = _mm256_add_epi32(d[half], t[half]);
        else
            t[half] = _mm256_madd_epi16(_mm256_add_epi16(d[half], t[half]), whole[half]);
    }
}

#include "matmul_int.h"

void pl_fill_matmul_int_avx2(pl_kernels *k)
{
    fill_matmul_int(k);
}
