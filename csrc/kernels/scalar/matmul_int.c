/* Matrix products with quantised weights: the reference, in the order that kernels.h fixes. */
#include "../matmul.h"
#include "blocking.h"
#include "simd.h"

enum { SCRATCH = 0 };

/* acc[r] = sum over n * 4 k of (code - offset) * y. */
PL_INLINE void dot(const uint8_t (*codes)[4 * PL_TILE], const int8_t *y, const int n, int offset, int32_t *restrict acc)
{
    for (int r = 0; r < PL_TILE; r++)
        acc[r] = 0;
    for (int j = 0; j < n; j++)
        for (int r = 0; r < PL_TILE; r++)
            for (int b = 0; b < 4; b++)
                acc[r] += (codes[j][4 * r + b] - offset) * y[4 * j + b];
}

/* The same for a group of 16 or of 32, compiled once for all formats: a copy for each took 6 KB. */
__attribute__((noinline)) static void dot16(const uint8_t (*codes)[4 * PL_TILE], const int8_t *y, int offset,
                                            int32_t *acc)
{
    dot(codes, y, 4, offset, acc);
}

__attribute__((noinline)) static void dot32(const uint8_t (*codes)[4 * PL_TILE], const int8_t *y, int offset,
                                            int32_t *acc)
{
    dot(codes, y, 8, offset, acc);
}

/* acc += the block by a row. Scaled formats: a and b, without the factors. */
PL_INLINE void block_times_row(const pl_shape f, int terms, const pl_block *w, const int8_t *hi, const int8_t *lo,
                               float s_y, const int32_t *sums, float *acc, float a[PL_TILE], float b[PL_TILE])
{
    if (terms == 2)
        s_y /= PL_TERM;
    const int groups = 32 / f.group;
    int32_t d[2][PL_TILE], d_lo[PL_TILE];
    for (int g = 0; g < groups; g++) {
        (f.group == 16 ? dot16 : dot32)(w->codes + 4 * g, hi + 16 * g, f.offset, d[g]);
        if (terms == 2)
            (f.group == 16 ? dot16 : dot32)(w->codes + 4 * g, lo + 16 * g, f.offset, d_lo);
        for (int r = 0; r < PL_TILE && terms == 2; r++)
            d[g][r] = PL_TERM * d[g][r] + d_lo[r];
    }
    if (f.scaled) {
        for (int r = 0; r < PL_TILE; r++) {
            a[r] = pl_fma1((float)(w->whole[0][r] * d[0][r] + w->whole[1][r] * d[1][r]), s_y, a[r]);
            if (f.has_min)
                b[r] = pl_fma1((float)(w->low[0][r] * sums[0] + w->low[1][r] * sums[1]), s_y, b[r]);
        }
        return;
    }
    for (int g = 0; g < groups; g++)
        for (int r = 0; r < PL_TILE; r++)
            acc[r] = pl_fma1((float)d[g][r], w->s[g][r] * s_y, acc[r]);
    for (int g = 0; g < groups && f.has_min; g++) {
        const float sum = s_y * (float)(f.group == 16 ? sums[g] : sums[0] + sums[1]);
        for (int r = 0; r < PL_TILE; r++)
            acc[r] = pl_fma1(w->m[g][r], sum, acc[r]);
    }
}

PL_INLINE void tile_times_rows(const pl_shape f, int terms, const uint8_t *tile, const pl_acts *x, int i0, int n,
                               float acc[INT_ROWS][PL_TILE])
{
    int blocks = x->k / PL_BLOCK;
    int64_t k = x->k;
    float sum_a[INT_ROWS][PL_TILE], sum_b[INT_ROWS][PL_TILE]; /* of a super block */
    for (int i = 0; i < n; i++)
        memset(acc[i], 0, sizeof acc[i]);
    for (int b = 0; b < blocks; b++) {
        pl_block w;
        const uint8_t *header, *p = pl_block_at(f, tile, b, &header);
        pl_read_block(f, header, p, &w);
        for (int i = 0; i < n; i++) {
            int64_t row = i0 + i;
            const int8_t *hi = x->q + row * x->stored * k + PL_BLOCK * b, *lo = hi + (terms - 1) * k;
            const int16_t *sums = x->sums + row * x->stored * (k / 16) + 2 * b, *low = sums + (terms - 1) * (k / 16);
            int32_t sum[2] = {sums[0], sums[1]};
            for (int h = 0; h < 2 && terms == 2; h++)
                sum[h] = PL_TERM * sum[h] + low[h];
            if (f.scaled && b % 8 == 0) {
                memset(sum_a[i], 0, sizeof sum_a[i]);
                memset(sum_b[i], 0, sizeof sum_b[i]);
            }
            block_times_row(f, terms, &w, hi, lo, x->s[row * blocks + b], sum, acc[i], sum_a[i], sum_b[i]);
            for (int r = 0; r < PL_TILE && f.scaled && b % 8 == 7; r++) {
                acc[i][r] = pl_fma1(w.s[0][r], sum_a[i][r], acc[i][r]);
                if (f.has_min)
                    acc[i][r] = pl_fma1(w.m[0][r], sum_b[i][r], acc[i][r]);
            }
        }
    }
}

PL_INLINE void matmul(const pl_shape f, PL_MATMUL_ARGS)
{
    for (int t = tile0; t < tile1; t++)
        for (int i0 = 0; i0 < n; i0 += INT_ROWS) {
            float acc[INT_ROWS][PL_TILE];
            int count = n - i0 < INT_ROWS ? n - i0 : INT_ROWS;
            int rows = w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE;
            if (x->terms == 2)
                tile_times_rows(f, 2, w->data + t * w->tile_bytes, x, i0, count, acc);
            else
                tile_times_rows(f, 1, w->data + t * w->tile_bytes, x, i0, count, acc);
            for (int i = 0; i < count; i++)
                memcpy(y + (i0 + i) * y_stride + PL_TILE * t, acc[i], (size_t)rows * sizeof(float));
        }
}

PL_INT_FORMATS(PL_INT_MATMUL_OF)
PL_FAMILIES(PL_FAMILY_MATMUL_OF)

void pl_fill_matmul_int_scalar(pl_kernels *k)
{
    PL_INT_FORMATS(PL_PUT_MATMUL)
    PL_SHARED_FORMATS(PL_PUT_SHARED)
}
