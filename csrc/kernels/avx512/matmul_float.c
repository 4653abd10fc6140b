/* Matrix products with float weights: per row of w and row of x one accumulator, ascending k, fused steps that take x
 * as a broadcast memory operand. Several tiles at once hide the latency of a step if there are few rows of x, and halve
 * the broadcasts if there are many. Parts of x are copied first: rows whose distance is a large power of two would
 * all fall into the same few lines of the first cache. BF16 is widened on the way. */
#include "../matmul.h"
#include "blocking.h"
#include "simd.h"

enum {
    PANEL_STRIDE = FLOAT_PANEL_K + 16, /* floats between rows of copied activations */
    SCRATCH = FLOAT_ROWS * PANEL_STRIDE * 4,
};

PL_INLINE __m512 high_halves(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
}

PL_INLINE __m512 low_halves(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

/* Tiles at p, each tile_bytes from the one before, by N rows at x: y[i][16 c + r] (resume: added to it). The last of T
 * tiles has `left` rows or more. An odd k of BF16 ends in a pair whose second values are zero on both sides: its step
 * adds +0 to a sum, which changes no bit but that of -0, so it is left out. */
PL_INLINE void tiles_by_rows(pl_format_id id, const int T, const int N, const uint8_t *p, int64_t tile_bytes, int k,
                             const float *x, ptrdiff_t x_stride, int resume, int left, float *y, ptrdiff_t y_stride)
{
    const int parts = id == PL_BF16 ? 2 : 1, bytes = id == PL_F16 ? 32 : 64; /* of a step and tile */
    const __mmask16 all = 0xffff, last = (__mmask16)(left >= PL_TILE ? 0xffff : (1 << left) - 1);
    __m512 acc[FLOAT_TILES][FLOAT_ROWS];
    for (int c = 0; c < T; c++)
        for (int i = 0; i < N; i++)
            acc[c][i] = resume ? _mm512_maskz_loadu_ps(c == T - 1 ? last : all, y + i * y_stride + PL_TILE * c)
                               : _mm512_setzero_ps();
    for (int j = 0; j < k; j += parts, p += bytes) {
        __m512 v[2][FLOAT_TILES];
        for (int c = 0; c < T; c++) {
            const uint8_t *at = p + c * tile_bytes;
            if (id == PL_F32)
                v[0][c] = _mm512_loadu_ps(at);
            else if (id == PL_F16)
                v[0][c] = pl_load_f16(at);
            else {
                v[0][c] = low_halves(pl_load512(at));
                v[1][c] = high_halves(pl_load512(at));
            }
        }
        for (int part = 0; part < parts; part++) {
            if (j + part >= k)
                break;
#pragma GCC unroll 12
            for (int i = 0; i < N; i++) {
                const __m512 a = _mm512_set1_ps(x[i * x_stride + j + part]);
                for (int c = 0; c < T; c++)
                    acc[c][i] = _mm512_fmadd_ps(v[part][c], a, acc[c][i]);
            }
        }
    }
    for (int c = 0; c < T; c++)
        for (int i = 0; i < N; i++)
            _mm512_mask_storeu_ps(y + i * y_stride + PL_TILE * c, c == T - 1 ? last : all, acc[c][i]);
}

/* Tiles [tile0, tile1) by N rows: T at a time, then one at a time. k starts at k0 of w's. */
PL_INLINE void tiles_by_part(pl_format_id id, const int T, const int N, const pl_mat *w, int tile0, int tile1, int k0,
                             int k, const float *x, ptrdiff_t x_stride, float *y, ptrdiff_t y_stride)
{
    const uint8_t *p = w->data + (int64_t)k0 * (id == PL_F32 ? 64 : 32);
    int t = tile0;
    for (; t + T <= tile1; t += T)
        tiles_by_rows(id, T, N, p + t * w->tile_bytes, w->tile_bytes, k, x, x_stride, k0 > 0,
                      w->rows - PL_TILE * (t + T - 1), y + PL_TILE * t, y_stride);
    for (; t < tile1; t++)
        tiles_by_rows(id, 1, N, p + t * w->tile_bytes, w->tile_bytes, k, x, x_stride, k0 > 0, w->rows - PL_TILE * t,
                      y + PL_TILE * t, y_stride);
}

/* The same by n rows, one of pl_part_of's numbers. */
PL_INLINE void tiles_by_any(pl_format_id id, const pl_mat *w, int tile0, int tile1, int k0, int k, const float *x,
                            ptrdiff_t x_stride, int n, float *y, ptrdiff_t y_stride)
{
#define BY(T, N)                                                                                                       \
    case N: tiles_by_part(id, T, N, w, tile0, tile1, k0, k, x, x_stride, y, y_stride); break
    switch (n) {
        BY(2, 12);
        BY(2, 8);
        BY(2, 6);
        BY(2, 4);
        BY(2, 3);
        BY(4, 2);
        BY(4, 1);
    }
#undef BY
}

/* k bf16, k even -> float32 */
PL_INLINE void widen(const uint16_t *b, int k, float *f)
{
    for (int j = 0; j < k; j += 16) {
        const __mmask16 some = (__mmask16)(k - j >= 16 ? 0xffff : (1 << (k - j)) - 1);
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, b + j));
        _mm512_mask_storeu_ps(f + j, some, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
    }
}

/* A slice of k of rows [i, i + n) as float32, PANEL_STRIDE from each other. */
PL_INLINE void copy_rows(pl_format_id id, const pl_acts *x, int i, int n, int k0, int k, float *panel)
{
    const ptrdiff_t b_stride = x->k + (x->k & 1);
    for (int r = 0; r < n; r++)
        if (id == PL_BF16)
            widen(x->b + (i + r) * b_stride + k0, k + (k & 1), panel + r * PANEL_STRIDE);
        else
            memcpy(panel + r * PANEL_STRIDE, x->f + (i + r) * x->f_stride + k0, (size_t)k * sizeof *panel);
}

/* Parts of rows meet a slice of k of a group of tiles, which stays in the second-level cache meanwhile. */
PL_INLINE void matmul(pl_format_id id, PL_MATMUL_ARGS)
{
    const int tile_bytes = FLOAT_PANEL_K * (id == PL_F32 ? 64 : 32), fit = x->tuning->float_bytes / tile_bytes & ~1;
    const int group = n <= FLOAT_ROWS ? tile1 - tile0 : fit < 2 ? 2 : fit;
    if (id != PL_BF16 && n <= 4) {
        tiles_by_any(id, w, tile0, tile1, 0, w->k, x->f, x->f_stride, n, y, y_stride);
        return;
    }
    for (int k0 = 0; k0 < w->k; k0 += FLOAT_PANEL_K) {
        const int k = w->k - k0 < FLOAT_PANEL_K ? w->k - k0 : FLOAT_PANEL_K;
        for (int t = tile0; t < tile1; t += group)
            for (int i = 0, c; i < n; i += c) {
                c = pl_part_of(n - i);
                copy_rows(id, x, i, c, k0, k, x->scratch);
                tiles_by_any(id, w, t, tile1 - t < group ? tile1 : t + group, k0, k, x->scratch, PANEL_STRIDE, c,
                             y + i * y_stride, y_stride);
            }
    }
}

PL_FLOAT_FORMATS(PL_FLOAT_MATMUL_OF)

void pl_fill_matmul_float_avx512(pl_kernels *k)
{
    PL_FLOAT_FORMATS(PL_PUT_MATMUL)
}
