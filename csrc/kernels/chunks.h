/* Products on quantised weights in chunks of rows, each by a group of tiles, for tiers with few registers. The file
 * that includes this includes its tier's blocking.h first (INT_ROWS, INT_PANEL), and passes its own
 * steps as functions, which are always inlined: nothing here is called in a loop. */
#ifndef PL_KERNELS_CHUNKS_H
#define PL_KERNELS_CHUNKS_H

#include "matmul.h"
#include "prefetch.h"

/* acc[16] += blocks [0, blocks) of the tile at p by the panel's only row, which asks for what lies ahead; acc[i][16] by
 * row i of its n. */
typedef void (*pl_tile_by_row)(const pl_shape f, int terms, const uint8_t *p, int blocks, pl_ahead ahead,
                               const uint8_t *panel, float acc[PL_TILE]);
typedef void (*pl_tile_by_panel)(const pl_shape f, int terms, const uint8_t *p, int blocks, int n, pl_ahead ahead,
                                 const uint8_t *panel, float acc[INT_ROWS][PL_TILE]);

/* Rows [i0, i0 + n) of x, n <= INT_ROWS, by tiles [t0, t1). Where k goes on beyond a panel, the next one starts from
 * the sums that y holds. alone: there are no other rows, for which a cache would hold the weights. */
PL_INLINE void pl_matmul_chunk(const pl_shape f, int terms, pl_tile_by_row one, pl_tile_by_panel many, const pl_mat *w,
                               int t0, int t1, const pl_acts *x, int i0, int n, int alone, float *y, ptrdiff_t y_stride)
{
    uint8_t *const panel = (uint8_t *)x->scratch + PL_PANEL_HEAD; /* INT_PANEL bytes */
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK, most = INT_PANEL / (n * size) & ~7;
    const pl_tuning *u = x->tuning;
    const int of_bytes = f.bits == 8, lines = of_bytes ? u->ahead8_lines : u->ahead_lines;
    const int turns = alone && all <= most && (of_bytes ? u->ahead8_turns : u->ahead_turns);
    const ptrdiff_t far = of_bytes ? u->ahead8_bytes : u->ahead_bytes;
    const pl_reading r = pl_read(w->data + t0 * w->tile_bytes, w->tile_bytes, t1 - t0, turns);
    for (int b0 = 0; b0 < all; b0 += most) {
        const int blocks = all - b0 < most ? all - b0 : most;
        if (!pl_panel_is(f, terms, x, i0, n, b0, blocks, 1))
            pl_make_panel(f, terms, x, i0, n, b0, blocks, panel);
        for (int t = t0; t < t1; t++) {
            const uint8_t *p =
                w->data + t * w->tile_bytes + (int64_t)b0 * f.packed_block + (int64_t)(b0 / 8) * f.packed_header;
            float acc[INT_ROWS][PL_TILE], *out = y + i0 * y_stride + PL_TILE * t;
            const int rows = w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE;
            const size_t bytes = sizeof(float) * (size_t)rows;
            for (int i = 0; i < n; i++) {
                memset(acc[i], 0, sizeof acc[i]);
                if (b0)
                    memcpy(acc[i], out + i * y_stride, bytes);
            }
            const pl_ahead ahead =
                pl_ahead_of(&r, t - t0, f.packed_block + f.packed_header / 8, p + far, n == 1 ? lines : 0);
            if (n == 1)
                one(f, terms, p, blocks, ahead, panel, acc[0]);
            else
                many(f, terms, p, blocks, n, ahead, panel, acc);
            for (int i = 0; i < n; i++)
                memcpy(out + i * y_stride, acc[i], bytes);
        }
    }
}

PL_INLINE void pl_matmul_chunks(const pl_shape f, pl_tile_by_row one, pl_tile_by_panel many, PL_MATMUL_ARGS)
{
    const int chunks = (n + INT_ROWS - 1) / INT_ROWS, size = chunks ? (n + chunks - 1) / chunks : 0;
    const int group_bytes = x->tuning->group_bytes;
    int group = w->tile_bytes < group_bytes ? (int)(group_bytes / w->tile_bytes) : 1;
    if (chunks == 1)
        group = tile1 - tile0;
    for (int t0 = tile0; t0 < tile1; t0 += group) {
        const int t1 = tile1 - t0 < group ? tile1 : t0 + group;
        for (int i0 = 0; i0 < n; i0 += size) {
            const int rows = n - i0 < size ? n - i0 : size;
            if (x->terms == 2)
                pl_matmul_chunk(f, 2, one, many, w, t0, t1, x, i0, rows, chunks == 1, y, y_stride);
            else
                pl_matmul_chunk(f, 1, one, many, w, t0, t1, x, i0, rows, chunks == 1, y, y_stride);
        }
    }
}

#endif
