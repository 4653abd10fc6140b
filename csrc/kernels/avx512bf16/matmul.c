/* Matrix products with BF16 weights and BF16 activations by vdpbf16ps: one accumulator per row of w and row of x,
 * pairs of k in ascending order; the order within a pair, and its rounding, are the instruction's own. */
#include "../avx512/simd.h"
#include "blocking.h"
#include "fill.h"

/* Tiles [t, t + T) by rows [i, i + N) of x. T * N accumulators hide the dot's latency. */
PL_INLINE void tiles_by_rows(const int T, const int N, const pl_mat *w, int t, const pl_acts *x, int i, float *y,
                             ptrdiff_t y_stride)
{
    const int pairs = (w->k + 1) / 2;
    const uint16_t *row = x->b + (int64_t)i * 2 * pairs;
    const uint8_t *tile = w->data + t * w->tile_bytes;
    __m512 acc[BF16_TILES][BF16_ROWS];
    for (int c = 0; c < T; c++)
        for (int r = 0; r < N; r++)
            acc[c][r] = _mm512_setzero_ps();
    for (int64_t j = 0; j < pairs; j++) {
        __m512bh v[BF16_TILES];
        for (int c = 0; c < T; c++)
            v[c] = (__m512bh)_mm512_loadu_si512(tile + c * w->tile_bytes + 64 * j);
#pragma GCC unroll 12
        for (int r = 0; r < N; r++) {
            const __m512bh a = (__m512bh)pl_broadcast(row + (int64_t)r * 2 * pairs + 2 * j);
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

/* All n rows by T tiles. */
PL_INLINE void tiles_by_all(const int T, const pl_mat *w, int t, const pl_acts *x, int n, float *y, ptrdiff_t y_stride)
{
    for (int i = 0, c; i < n; i += c) {
        c = pl_part_of(n - i);
#define BY(N)                                                                                                          \
    case N: tiles_by_rows(T, N, w, t, x, i, y, y_stride); break
        switch (c) {
            BY(12);
            BY(8);
            BY(6);
            BY(4);
            BY(3);
            BY(2);
            BY(1);
        }
#undef BY
    }
}

static void matmul_bf16(const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y, ptrdiff_t y_stride)
{
    int t = tile0;
    for (; t + BF16_TILES <= tile1; t += BF16_TILES)
        tiles_by_all(BF16_TILES, w, t, x, n, y, y_stride);
    for (; t < tile1; t++)
        tiles_by_all(1, w, t, x, n, y, y_stride);
}

void pl_fill_matmul_avx512bf16(pl_kernels *k)
{
    k->matmul[PL_BF16] = matmul_bf16;
    k->matmul_scratch[PL_BF16] = 0;
}
