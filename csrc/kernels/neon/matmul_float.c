/* Matrix products with float weights: per row of w and row of x one accumulator, ascending k, fused steps.
 * The latency of a step (4 cycles, two to four a cycle) requires sixteen accumulators at once: T tiles x N rows of x,
 * four vectors each. T * N <= FLOAT_AT_ONCE leaves half of the registers for weights and activations. */
#include "../matmul.h"
#include "blocking.h"
#include "simd.h"

enum { SCRATCH = 0 };

/* Weights of rows 4c.. at k. BF16: of an even k; `odd` gets those of k + 1. */
PL_INLINE float32x4_t weights(pl_format_id id, const uint8_t *tile, int64_t k, int c, float32x4_t *odd)
{
    if (id == PL_F32)
        return vld1q_f32((const float *)(const void *)(tile + 64 * k + 16 * c));
    if (id == PL_F16)
        return pl_load_f16(tile + 32 * k + 8 * c);
    const uint32x4_t pair = vreinterpretq_u32_u8(vld1q_u8(tile + 32 * k + 16 * c));
    *odd = vreinterpretq_f32_u32(vandq_u32(pair, vdupq_n_u32(0xffff0000u)));
    return vreinterpretq_f32_u32(vshlq_n_u32(pair, 16));
}

PL_INLINE const void *row_of(pl_format_id id, const pl_acts *x, int i)
{
    if (id == PL_BF16)
        return x->b + (int64_t)i * (x->k + (x->k & 1));
    return x->f + i * x->f_stride;
}

/* Four activations from k on. */
PL_INLINE float32x4_t load_x(pl_format_id id, const void *row, int64_t k)
{
    if (id == PL_BF16)
        return pl_load_bf16((const uint16_t *)row + k);
    return vld1q_f32((const float *)row + k);
}

/* The last n of them, 0 < n < 4, and zeros. */
PL_INLINE float32x4_t load_last_x(pl_format_id id, const void *row, int64_t k, int n)
{
    float part[4] = {0};
    for (int i = 0; i < n; i++)
        part[i] = id == PL_BF16 ? pl_bf16_to_f32(((const uint16_t *)row)[k + i]) : ((const float *)row)[k + i];
    return vld1q_f32(part);
}

PL_INLINE float32x4_t fma_lane(float32x4_t acc, float32x4_t v, float32x4_t a, const int lane)
{
    switch (lane) {
    case 0: return vfmaq_laneq_f32(acc, v, a, 0);
    case 1: return vfmaq_laneq_f32(acc, v, a, 1);
    case 2: return vfmaq_laneq_f32(acc, v, a, 2);
    default: return vfmaq_laneq_f32(acc, v, a, 3);
    }
}

/* acc[N][4] += a tile's weights at k + lane by the activations there; `pair`: and those of the k after it. */
PL_INLINE void step(pl_format_id id, const int N, const uint8_t *tile, int64_t k, const int lane, const int pair,
                    const float32x4_t *a, float32x4_t (*acc)[4])
{
    for (int c = 0; c < 4; c++) {
        float32x4_t odd = vdupq_n_f32(0);
        const float32x4_t even = weights(id, tile, k + lane, c, &odd);
        for (int r = 0; r < N; r++)
            acc[r][c] = fma_lane(acc[r][c], even, a[r], lane);
        for (int r = 0; r < N && pair; r++)
            acc[r][c] = fma_lane(acc[r][c], odd, a[r], lane + 1);
    }
}

/* The same for `left` steps from k on, 1 to 4. */
PL_INLINE void steps(pl_format_id id, const int N, const uint8_t *tile, int64_t k, int left, const float32x4_t *a,
                     float32x4_t (*acc)[4])
{
    if (id == PL_BF16) {
        if (left > 1)
            step(id, N, tile, k, 0, 1, a, acc);
        else
            step(id, N, tile, k, 0, 0, a, acc);
        if (left > 3)
            step(id, N, tile, k, 2, 1, a, acc);
        else if (left == 3)
            step(id, N, tile, k, 2, 0, a, acc);
        return;
    }
    step(id, N, tile, k, 0, 0, a, acc);
    if (left > 1)
        step(id, N, tile, k, 1, 0, a, acc);
    if (left > 2)
        step(id, N, tile, k, 2, 0, a, acc);
    if (left > 3)
        step(id, N, tile, k, 3, 0, a, acc);
}

/* The same for T tiles, one or four: no loop, so that sums stay in registers. */
PL_INLINE void tiles(pl_format_id id, const int T, const int N, const uint8_t *const *tile, int64_t k, int left,
                     const float32x4_t *a, float32x4_t (*acc)[FLOAT_AT_ONCE][4])
{
    steps(id, N, tile[0], k, left, a, acc[0]);
    if (T == 4) {
        steps(id, N, tile[1], k, left, a, acc[1]);
        steps(id, N, tile[2], k, left, a, acc[2]);
        steps(id, N, tile[3], k, left, a, acc[3]);
    }
}

/* Tiles [t, t + T) by rows [i, i + N). */
PL_INLINE void tiles_by_rows(pl_format_id id, const int T, const int N, const pl_mat *w, int t, const pl_acts *x, int i,
                             float *y, ptrdiff_t y_stride)
{
    const uint8_t *tile[FLOAT_AT_ONCE];
    const void *row[FLOAT_AT_ONCE];
    float32x4_t acc[FLOAT_AT_ONCE][FLOAT_AT_ONCE][4], a[FLOAT_AT_ONCE];
    for (int b = 0; b < T; b++) {
        tile[b] = w->data + (t + b) * w->tile_bytes;
        for (int r = 0; r < N; r++)
            for (int c = 0; c < 4; c++)
                acc[b][r][c] = vdupq_n_f32(0);
    }
    for (int r = 0; r < N; r++)
        row[r] = row_of(id, x, i + r);

    int64_t k = 0;
    for (; k + 4 <= w->k; k += 4) {
        for (int r = 0; r < N; r++)
            a[r] = load_x(id, row[r], k);
        tiles(id, T, N, tile, k, 4, a, acc);
    }
    if (k < w->k) {
        for (int r = 0; r < N; r++)
            a[r] = load_last_x(id, row[r], k, (int)(w->k - k));
        tiles(id, T, N, tile, k, (int)(w->k - k), a, acc);
    }

    for (int b = 0; b < T; b++) {
        const int left = w->rows - PL_TILE * (t + b);
        for (int r = 0; r < N; r++) {
            float *out = y + (i + r) * y_stride + PL_TILE * (t + b), last[PL_TILE];
            float *to = left < PL_TILE ? last : out;
            for (int c = 0; c < 4; c++)
                vst1q_f32(to + 4 * c, acc[b][r][c]);
            if (left < PL_TILE)
                memcpy(out, last, (size_t)left * sizeof *out);
        }
    }
}

/* Tiles [t, t + T) by all rows, N at a time. */
PL_INLINE void tiles_by_all(pl_format_id id, const int T, const int N, const pl_mat *w, int t, const pl_acts *x, int n,
                            float *y, ptrdiff_t y_stride)
{
    int i = 0;
    for (; i + N <= n; i += N)
        tiles_by_rows(id, T, N, w, t, x, i, y, y_stride);
    switch (n - i) {
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
    for (; t < tile1; t++)
        tiles_by_all(id, 1, 4, w, t, x, n, y, y_stride);
}

PL_FLOAT_FORMATS(PL_FLOAT_MATMUL_OF)

void pl_fill_matmul_float_neon(pl_kernels *k)
{
    PL_FLOAT_FORMATS(PL_PUT_MATMUL)
}
