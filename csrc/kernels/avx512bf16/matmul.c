/* Matrix products on BF16 weights and BF16 activations with vdpbf16ps: one accumulator per row of w and row of x,
 * pairs of k in ascending order; the order within a pair, and its rounding, are the instruction's own. */
#include <immintrin.h>
#include <string.h>

#include "fill.h"

#define BF16_INLINE static inline __attribute__((always_inline))

enum { ROWS = 12, TILES = 2 };

BF16_INLINE __m512bh pair(const uint16_t *x)
{
    int32_t i;
    memcpy(&i, x, sizeof i);
    return (__m512bh)_mm512_set1_epi32(i);
}

/* Tiles [t, t + T) by rows [i, i + N) of x. T * N accumulators hide the dot's latency. */
BF16_INLINE void tiles_by_rows(const int T, const int N, const pl_mat *w, int t, const pl_acts *x, int i, float *y,
                               ptrdiff_t y_stride)
{
    const int pairs = (w->k + 1) / 2;
    const uint16_t *row = x->b + (int64_t)i * 2 * pairs;
    const uint8_t *tile = w->data + t * w->tile_bytes;
    __m512 acc[TILES][ROWS];
    for (int c = 0; c < T; c++)
        for (int r = 0; r < N; r++)
            acc[c][r] = _mm512_setzero_ps();
    for (int64_t j = 0; j < pairs; j++) {
        __m512bh v[TILES];
        for (int c = 0; c < T; c++)
            v[c] = (__m512bh)_mm512_loadu_si512(tile + c * w->tile_bytes + 64 * j);
#pragma GCC unroll 12
        for (int r = 0; r < N; r++) {
            const __m512bh a = pair(row + (int64_t)r * 2 * pairs + 2 * j);
            for (int c = 0; c < T; c++)
                acc[c][r] = _mm512_dpbf16_ps(acc[c][r], v[c], a);
        }
    }
    for (int c = 0; c < T; c++) {
        const int left = w->rows - PL_TILE * (t + c);
        const __mmask16 rows = (__mmask16)(left >= PL_TILE ? 0xffff : (1 << left) - 1);
        for (int r = 0; r < N; r++)
            _mm512_mask_storeu_ps(y + (i + r) * y_stride + PL_TILE * (t + c), rows, acc[c][r]);
    }
}

/* Rows [i0, i0 + n), n <= ROWS, by T tiles. */
BF16_INLINE void rows_left(const int T, const pl_mat *w, int t, const pl_acts *x, int i0, int n, float *y,
                           ptrdiff_t y_stride)
{
    while (n > 0) {
        int done = n >= ROWS ? ROWS : n >= 4 ? 4 : 1;
        if (done == ROWS)
            tiles_by_rows(T, ROWS, w, t, x, i0, y, y_stride);
        else if (done == 4)
            tiles_by_rows(T, 4, w, t, x, i0, y, y_stride);
        else
            tiles_by_rows(T, 1, w, t, x, i0, y, y_stride);
        i0 += done;
        n -= done;
    }
}

static void matmul_bf16(const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y, ptrdiff_t y_stride)
{
    int t = tile0;
    for (; t + TILES <= tile1; t += TILES)
        rows_left(TILES, w, t, x, 0, n, y, y_stride);
    for (; t < tile1; t++)
        rows_left(1, w, t, x, 0, n, y, y_stride);
}

void pl_fill_matmul_avx512bf16(pl_kernels *k)
{
    k->matmul[PL_BF16] = matmul_bf16;
}
