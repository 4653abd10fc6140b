/* Matrix products, what no instruction set changes: panels of activations, rows and tiles in chunks. A tier
 * passes its own steps as functions, which are inlined always: nothing of this is called in a loop. */
#ifndef PL_KERNELS_MATMUL_H
#define PL_KERNELS_MATMUL_H

#include <string.h>

#include "common.h"

#define PL_MATMUL_ARGS const pl_mat *w, int tile0, int tile1, const pl_acts *x, int n, float *y, ptrdiff_t y_stride

/* ---- a kernel for each format ------------------------------------------------------------------------------------ */

/* The kernel of a format out of the file's `matmul`, which takes what tells formats apart first; and its place. */
#define PL_INT_MATMUL_OF(name, ...)                                                                                    \
    static void matmul_##name(PL_MATMUL_ARGS)                                                                          \
    {                                                                                                                  \
        matmul(pl_shape_##name, w, tile0, tile1, x, n, y, y_stride);                                                   \
    }
#define PL_FLOAT_MATMUL_OF(name, ...)                                                                                  \
    static void matmul_##name(PL_MATMUL_ARGS)                                                                          \
    {                                                                                                                  \
        matmul(PL_##name, w, tile0, tile1, x, n, y, y_stride);                                                         \
    }
#define PL_PUT_MATMUL(name, ...)                                                                                       \
    k->matmul[PL_##name] = matmul_##name;                                                                              \
    k->matmul_scratch[PL_##name] = SCRATCH; /* the file's */

/* ---- a panel of activations: what is read with a block of weights lies together ---------------------------------- */

/* An entry: 32 codes per term, then words of 32 bits: s_y; with an offset, -offset * sum(y) per group; with mins, as
 * the last word, the sum that multiplies them. */
PL_INLINE int pl_entry_bytes(const pl_shape f, int terms)
{
    return 32 * terms + 4 * (f.padded ? 4 : 1 + (f.offset ? 32 / f.group : 0) + f.has_min);
}

/* Entries [block][row] of blocks [b0, b0 + blocks) of rows [i0, i0 + n). */
PL_INLINE void pl_make_panel(const pl_shape f, int terms, const pl_acts *x, int i0, int n, int b0, int blocks,
                             uint8_t *restrict panel)
{
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK;
    for (int i = 0; i < n; i++) {
        const int64_t row = i0 + i;
        const float *s = x->s + row * all + b0;
        const int8_t *q = x->q + row * x->stored * x->k + (int64_t)PL_BLOCK * b0, *q_low = q + (terms - 1) * x->k;
        const int16_t *sums = x->sums + row * x->stored * 2 * all + 2 * b0, *low = sums + (terms - 1) * 2 * all;
        uint8_t *out = panel + i * size;
        for (int b = 0; b < blocks; b++, out += n * size) {
            const float s_y = terms == 2 ? s[b] / 254.0f : s[b];
            int32_t first = sums[2 * b], second = sums[2 * b + 1];
            memcpy(out, q + PL_BLOCK * b, 32);
            if (terms == 2) {
                memcpy(out + 32, q_low + PL_BLOCK * b, 32);
                first = 254 * first + low[2 * b];
                second = 254 * second + low[2 * b + 1];
            }
            memcpy(out + 32 * terms, &s_y, 4);
            if (f.offset) {
                const int32_t offset[2] = {-f.offset * (f.group == 16 ? first : first + second), -f.offset * second};
                memcpy(out + 32 * terms + 4, offset, f.group == 16 ? 8 : 4);
            }
            if (f.has_min) {
                const float sum = s_y * (float)(first + second);
                memcpy(out + size - 4, &sum, 4);
            }
        }
    }
}

/* ---- a product in chunks of rows, each by a group of tiles -------------------------------------------------------- */

enum {
    PL_CHUNK = 16,              /* rows of x that share an unpacked block */
    PL_PANEL = 64 << 10,        /* bytes of entries: 3072 k or more of PL_CHUNK rows, less where an entry is padded */
    PL_GROUP_BYTES = 256 << 10, /* tiles that stay in L2 while the chunks of x pass by */
};

/* acc[16] += blocks [0, blocks) of the tile at p by the panel's only row; acc[i][16] by row i of its n. */
typedef void (*pl_tile_by_row)(const pl_shape f, int terms, const uint8_t *p, int blocks, const uint8_t *panel,
                               float acc[PL_TILE]);
typedef void (*pl_tile_by_panel)(const pl_shape f, int terms, const uint8_t *p, int blocks, int n, const uint8_t *panel,
                                 float acc[PL_CHUNK][PL_TILE]);

/* Rows [i0, i0 + n) of x, n <= PL_CHUNK, by tiles [t0, t1). Where k goes on beyond a panel, the next one starts from
 * the sums that y holds. */
PL_INLINE void pl_matmul_chunk(const pl_shape f, int terms, pl_tile_by_row one, pl_tile_by_panel many, const pl_mat *w,
                               int t0, int t1, const pl_acts *x, int i0, int n, float *y, ptrdiff_t y_stride)
{
    uint8_t *const panel = x->scratch; /* PL_PANEL bytes */
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK, most = PL_PANEL / (n * size) & ~7;
    for (int b0 = 0; b0 < all; b0 += most) {
        const int blocks = all - b0 < most ? all - b0 : most;
        pl_make_panel(f, terms, x, i0, n, b0, blocks, panel);
        for (int t = t0; t < t1; t++) {
            const uint8_t *p =
                w->data + t * w->tile_bytes + (int64_t)b0 * f.packed_block + (int64_t)(b0 / 8) * f.packed_header;
            float acc[PL_CHUNK][PL_TILE], *out = y + i0 * y_stride + PL_TILE * t;
            const int rows = w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE;
            const size_t bytes = sizeof(float) * (size_t)rows;
            for (int i = 0; i < n; i++) {
                memset(acc[i], 0, sizeof acc[i]);
                if (b0)
                    memcpy(acc[i], out + i * y_stride, bytes);
            }
            if (n == 1)
                one(f, terms, p, blocks, panel, acc[0]);
            else
                many(f, terms, p, blocks, n, panel, acc);
            for (int i = 0; i < n; i++)
                memcpy(out + i * y_stride, acc[i], bytes);
        }
    }
}

PL_INLINE void pl_matmul_chunks(const pl_shape f, pl_tile_by_row one, pl_tile_by_panel many, PL_MATMUL_ARGS)
{
    const int chunks = (n + PL_CHUNK - 1) / PL_CHUNK, size = chunks ? (n + chunks - 1) / chunks : 0;
    int group = w->tile_bytes < PL_GROUP_BYTES ? (int)(PL_GROUP_BYTES / w->tile_bytes) : 1;
    if (chunks == 1)
        group = tile1 - tile0;
    for (int t0 = tile0; t0 < tile1; t0 += group) {
        const int t1 = tile1 - t0 < group ? tile1 : t0 + group;
        for (int i0 = 0; i0 < n; i0 += size) {
            const int rows = n - i0 < size ? n - i0 : size;
            if (x->terms == 2)
                pl_matmul_chunk(f, 2, one, many, w, t0, t1, x, i0, rows, y, y_stride);
            else
                pl_matmul_chunk(f, 1, one, many, w, t0, t1, x, i0, rows, y, y_stride);
        }
    }
}

#endif
