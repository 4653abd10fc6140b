/* Matrix products on quantised weights: the reference, in the order that kernels.h fixes. */
#include "simd.h"

enum { CHUNK = 8 }; /* rows of x that share the reading of a block */

/* acc[r] = sum over k of (code - offset) * y, for group g of the block (0..groups-1). */
PL_INLINE void dot(const pl_format *f, const pl_block *w, int g, const int8_t *y, int32_t *acc)
{
    int n = f->group / 4;
    for (int r = 0; r < PL_TILE; r++)
        acc[r] = 0;
    for (int j = g * n; j < (g + 1) * n; j++)
        for (int r = 0; r < PL_TILE; r++)
            for (int b = 0; b < 4; b++)
                acc[r] += (w->codes[j][4 * r + b] - f->offset) * y[4 * j + b];
}

PL_INLINE void block_times_row(const pl_format *f, int terms, const pl_block *w, const int8_t *hi, const int8_t *lo,
                               float s_y, int32_t sum_y, float *acc)
{
    if (terms == 2)
        s_y /= 254.0f;
    for (int g = 0; g < 32 / f->group; g++) {
        int32_t d[PL_TILE], d_lo[PL_TILE];
        dot(f, w, g, hi, d);
        if (terms == 2) {
            dot(f, w, g, lo, d_lo);
            for (int r = 0; r < PL_TILE; r++)
                d[r] = 254 * d[r] + d_lo[r];
        }
        for (int r = 0; r < PL_TILE; r++)
            acc[r] = pl_fma1((float)d[r], w->s[g][r] * s_y, acc[r]);
    }
    if (f->flags & PL_HAS_MIN) {
        float sum = s_y * (float)sum_y;
        for (int r = 0; r < PL_TILE; r++)
            acc[r] = pl_fma1(w->m[r], sum, acc[r]);
    }
}

PL_INLINE void tile_times_rows(const pl_format *f, int terms, const uint8_t *tile, const pl_acts *x, int i0, int n,
                               float acc[CHUNK][PL_TILE])
{
    int blocks = x->k / PL_BLOCK;
    int64_t k = x->k;
    for (int i = 0; i < n; i++)
        memset(acc[i], 0, sizeof acc[i]);
    for (int b = 0; b < blocks; b++) {
        pl_block w;
        const uint8_t *header, *p = pl_block_at(f, tile, b, &header);
        pl_read_block(f, header, p, &w);
        for (int i = 0; i < n; i++) {
            int64_t row = i0 + i;
            const int8_t *hi = x->q + row * x->stored * k + PL_BLOCK * b, *lo = hi + (terms - 1) * k;
            const int16_t *sums = x->sums + row * x->stored * (k / 16) + 2 * b;
            int32_t sum = sums[0] + sums[1];
            if (terms == 2)
                sum = 254 * sum + sums[k / 16] + sums[k / 16 + 1];
            block_times_row(f, terms, &w, hi, lo, x->s[row * blocks + b], sum, acc[i]);
        }
    }
}

#define MATMUL_ARGS const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y, ptrdiff_t y_stride

PL_INLINE void matmul(const pl_format *f, MATMUL_ARGS)
{
    for (int t = tile0; t < tile1; t++)
        for (int i0 = 0; i0 < n; i0 += CHUNK) {
            float acc[CHUNK][PL_TILE];
            int count = n - i0 < CHUNK ? n - i0 : CHUNK;
            int rows = w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE;
            if (x->terms == 2)
                tile_times_rows(f, 2, w->data + t * w->tile_bytes, x, i0, count, acc);
            else
                tile_times_rows(f, 1, w->data + t * w->tile_bytes, x, i0, count, acc);
            for (int i = 0; i < count; i++)
                memcpy(y + (i0 + i) * y_stride + PL_TILE * t, acc[i], (size_t)rows * sizeof(float));
        }
}

/* What of a descriptor the loops depend on, spelled out here so that it is a constant in each. */
#define SHAPE(bits_, group_, offset_, flags_, block_, header_)                                                         \
    &(const pl_format){.bits = bits_,                                                                                  \
                       .group = group_,                                                                                \
                       .offset = offset_,                                                                              \
                       .flags = flags_,                                                                                \
                       .packed_block = block_,                                                                         \
                       .packed_header = header_}

static void matmul_q4_0(MATMUL_ARGS)
{
    matmul(SHAPE(4, 32, 8, 0, 288, 0), w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q4_1(MATMUL_ARGS)
{
    matmul(SHAPE(4, 32, 0, PL_HAS_MIN, 320, 0), w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q5_0(MATMUL_ARGS)
{
    matmul(SHAPE(5, 32, 16, 0, 352, 0), w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q5_1(MATMUL_ARGS)
{
    matmul(SHAPE(5, 32, 0, PL_HAS_MIN, 384, 0), w, tile0, tile1, x, n, y, y_stride);
}
static void matmul_q8_0(MATMUL_ARGS)
{
    matmul(SHAPE(8, 32, 128, 0, 544, 0), w, tile0, tile1, x, n, y, y_stride);
}

static void matmul_q4_k(MATMUL_ARGS)
{
    matmul(SHAPE(4, 32, 0, PL_SUPER | PL_HAS_MIN, 288, 64), w, tile0, tile1, x, n, y, y_stride);
}

static void matmul_q5_k(MATMUL_ARGS)
{
    matmul(SHAPE(5, 32, 0, PL_SUPER | PL_HAS_MIN, 352, 64), w, tile0, tile1, x, n, y, y_stride);
}

static void matmul_q6_k(MATMUL_ARGS)
{
    matmul(SHAPE(6, 16, 32, PL_SUPER | PL_SIGNED_SCALE, 416, 32), w, tile0, tile1, x, n, y, y_stride);
}

void pl_fill_matmul_int_scalar(pl_kernels *k)
{
    k->matmul[PL_Q4_0] = matmul_q4_0;
    k->matmul[PL_Q4_1] = matmul_q4_1;
    k->matmul[PL_Q5_0] = matmul_q5_0;
    k->matmul[PL_Q5_1] = matmul_q5_1;
    k->matmul[PL_Q8_0] = matmul_q8_0;
    k->matmul[PL_Q4_K] = matmul_q4_k;
    k->matmul[PL_Q5_K] = matmul_q5_k;
    k->matmul[PL_Q6_K] = matmul_q6_k;
}
