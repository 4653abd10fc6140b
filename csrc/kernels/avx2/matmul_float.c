/* Matrix products with float weights: per row of w and row of x one accumulator, ascending k, fused steps.
 * The latency of a step (4 cycles, two a cycle) requires eight accumulators at once: T tiles x N rows of x, two
 * vectors each. T * N <= FLOAT_AT_ONCE leaves registers for the weights and the broadcast. */
#include "../matmul.h"
#include "blocking.h"
#include "simd.h"

enum { SCRATCH = 0 };

/* Weights of rows 8 * half.. at step j: one k (F32, F16), or the even and odd k of a pair (BF16). */
PL_INLINE void load_step(pl_format_id id, const uint8_t *tile, int64_t j, int half, __m256 v[2])
{
    if (id == PL_F32)
        v[0] = _mm256_loadu_ps((const float *)(const void *)(tile + 64 * j + 32 * half));
    else if (id == PL_F16)
        v[0] = pl_load_f16(tile + 32 * j + 16 * half);
    else {
        __m256i pair = pl_load256(tile + 64 * j + 32 * half);
        v[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
        v[1] = _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(-65536)));
    }
}

PL_INLINE void load_x(pl_format_id id, const void *row, int64_t j, __m256 a[2])
{
    if (id != PL_BF16) {
        a[0] = _mm256_broadcast_ss((const float *)row + j);
        return;
    }
    __m256i pair = _mm256_set1_epi32(pl_load_i32((const uint16_t *)row + 2 * j));
    a[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
    a[1] = _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(-65536)));
}

PL_INLINE const void *row_of(pl_format_id id, const pl_acts *x, int i)
{
    if (id == PL_BF16)
        return x->b + (int64_t)i * (x->k + (x->k & 1));
    return x->f + i * x->f_stride;
}

/* Tiles [t, t + T) by rows [i, i + N). An odd k of BF16 ends in a pair whose second values are zero on both sides: its
 * step adds +0 to a sum, which changes no bit but that of -0, so it is left out. */
PL_INLINE void tiles_by_rows(pl_format_id id, const int T, const int N, const pl_mat *w, int t, const pl_acts *x, int i,
                             float *y, ptrdiff_t y_stride)
{
    const int parts = id == PL_BF16 ? 2 : 1;
    const uint8_t *tile[4];
    const void *row[6];
    __m256 acc[4][6][2];
    for (int c = 0; c < T; c++) {
        tile[c] = w->data + (t + c) * w->tile_bytes;
        for (int r = 0; r < N; r++)
            acc[c][r][0] = acc[c][r][1] = _mm256_setzero_ps();
    }
    for (int r = 0; r < N; r++)
        row[r] = row_of(id, x, i + r);

    int64_t steps = w->k / parts;
    for (int64_t j = 0; j < steps; j++)
        for (int c = 0; c < T; c++) {
            __m256 v[2][2];
            for (int half = 0; half < 2; half++)
                load_step(id, tile[c], j, half, v[half]);
            for (int r = 0; r < N; r++) {
                __m256 a[2];
                load_x(id, row[r], j, a);
                for (int part = 0; part < parts; part++)
                    for (int half = 0; half < 2; half++)
                        acc[c][r][half] = _mm256_fmadd_ps(v[half][part], a[part], acc[c][r][half]);
            }
        }
    if (w->k % parts)
        for (int c = 0; c < T; c++)
            for (int r = 0; r < N; r++)
                for (int half = 0; half < 2; half++) {
                    __m256 v[2], a[2];
                    load_step(id, tile[c], steps, half, v);
                    load_x(id, row[r], steps, a);
                    acc[c][r][half] = _mm256_fmadd_ps(v[0], a[0], acc[c][r][half]);
                }

    for (int c = 0; c < T; c++) {
        int left = w->rows - PL_TILE * (t + c);
        for (int r = 0; r < N; r++) {
            float *out = y + (i + r) * y_stride + PL_TILE * (t + c);
            if (left >= PL_TILE) {
                _mm256_storeu_ps(out, acc[c][r][0]);
                _mm256_storeu_ps(out + 8, acc[c][r][1]);
            } else {
                float last[PL_TILE];
                _mm256_storeu_ps(last, acc[c][r][0]);
                _mm256_storeu_ps(last + 8, acc[c][r][1]);
                memcpy(out, last, (size_t)left * sizeof *out);
            }
        }
    }
}

/* Tiles [t, t + T) by all rows, N at a time; T * N <= FLOAT_AT_ONCE. */
PL_INLINE void tiles_by_all(pl_format_id id, const int T, const int N, const pl_mat *w, int t, const pl_acts *x, int n,
                            float *y, ptrdiff_t y_stride)
{
    int i = 0;
    for (; i + N <= n; i += N)
        tiles_by_rows(id, T, N, w, t, x, i, y, y_stride);
    switch (n - i) {
    case 5: tiles_by_rows(id, T, 5 < N ? 5 : N, w, t, x, i, y, y_stride); break;
    case 4: tiles_by_rows(id, T, 4 < N ? 4 : N, w, t, x, i, y, y_stride); break;
    case 3: tiles_by_rows(id, T, 3 < N ? 3 : N, w, t, x, i, y, y_stride); break;
    case 2: tiles_by_rows(id, T, 2 < N ? 2 : N, w, t, x, i, y, y_stride); break;
    case 1: tiles_by_rows(id, T, 1, w, t, x, i, y, y_stride); break;
    }
}

PL_INLINE void matmul(pl_format_id id, PL_MATMUL_ARGS)
{
    int t = tile0;
    if (n == 1)
        for (; t + 4 <= tile1; t += 4)
            tiles_by_all(id, 4, 1, w, t, x, n, y, y_stride);
    else if (n <= 3)
        for (; t + 2 <= tile1; t += 2)
            tiles_by_all(id, 2, FLOAT_AT_ONCE / 2, w, t, x, n, y, y_stride);
    for (; t < tile1; t++)
        tiles_by_all(id, 1, FLOAT_AT_ONCE, w, t, x, n, y, y_stride);
}

PL_FLOAT_FORMATS(PL_FLOAT_MATMUL_OF)

void pl_fill_matmul_float_avx2(pl_kernels *k)
{
    PL_FLOAT_FORMATS(PL_PUT_MATMUL)
}
