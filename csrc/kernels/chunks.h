/* Products with quantised weights in chunks of rows, each by a group of tiles, for tiers with few registers. The file
 * that includes this includes its tier's blocking.h first (INT_ROWS), and passes its own steps as functions, which are
 * always inlined: nothing here is called in a loop. */
#ifndef PL_KERNELS_CHUNKS_H
#define PL_KERNELS_CHUNKS_H

#include "matmul.h"
#include "prefetch.h"

/* acc[16] += blocks [0, blocks) of the tile at p by the panel's only row, while prefetching what lies ahead; and
 * acc[i][16] by row i of the panel's n rows. */
typedef void (*pl_tile_by_row)(const pl_shape f, int terms, const uint8_t *p, int blocks, pl_ahead ahead,
                               const uint8_t *panel, float acc[PL_TILE]);
typedef void (*pl_tile_by_panel)(const pl_shape f, int terms, const uint8_t *p, int blocks, int n, pl_ahead ahead,
                                 const uint8_t *panel, float acc[INT_ROWS][PL_TILE]);

/* Rows of x in chunks of at most INT_ROWS, whose entries lie one chunk after another. */
typedef struct pl_chunks {
    const pl_acts *x;
    int rows, each; /* in all; per chunk, except the last */
    int alone;      /* no other chunk will find the weights in a cache */
    int b0, blocks; /* of k */
    uint8_t *panel;
} pl_chunks;

/* Tiles [t0, t1) by n rows, from row i0 of the chunks on, whose entries are at `panel`. If k goes on beyond a panel,
 * the next one starts from the sums in y. */
PL_INLINE void pl_tiles_by_chunk(const pl_shape f, int terms, pl_tile_by_row one, pl_tile_by_panel many,
                                 const pl_mat *w, int t0, int t1, const pl_chunks *c, int n, const uint8_t *panel,
                                 float *y, ptrdiff_t y_stride)
{
    const pl_tuning *u = c->x->tuning;
    const int of_bytes = f.bits == 8, lines = of_bytes ? u->ahead8_lines : u->ahead_lines;
    const int whole = c->blocks == c->x->k / PL_BLOCK;
    const int turns = c->alone && whole && (of_bytes ? u->ahead8_turns : u->ahead_turns);
    const ptrdiff_t far = of_bytes ? u->ahead8_bytes : u->ahead_bytes;
    const pl_reading r = pl_read(w->data + t0 * w->tile_bytes, w->tile_bytes, t1 - t0, turns);
    for (int t = t0; t < t1; t++) {
        const uint8_t *p =
            w->data + t * w->tile_bytes + (int64_t)c->b0 * f.packed_block + (int64_t)(c->b0 / 8) * f.packed_header;
        float acc[INT_ROWS][PL_TILE], *out = y + PL_TILE * t;
        const int rows = w->rows - PL_TILE * t < PL_TILE ? w->rows - PL_TILE * t : PL_TILE;
        const size_t bytes = sizeof(float) * (size_t)rows;
        for (int i = 0; i < n; i++) {
            memset(acc[i], 0, sizeof acc[i]);
            if (c->b0)
                memcpy(acc[i], out + i * y_stride, bytes);
        }
        const pl_ahead ahead =
            pl_ahead_of(&r, t - t0, f.packed_block + f.packed_header / 8, p + far, n == 1 ? lines : 0);
        if (n == 1)
            one(f, terms, p, c->blocks, ahead, panel, acc[0]);
        else
            many(f, terms, p, c->blocks, n, ahead, panel, acc);
        for (int i = 0; i < n; i++)
            memcpy(out + i * y_stride, acc[i], bytes);
    }
}

/* Tiles [tile0, tile1), a group at a time, by all chunks, which begin at row i0 of x. */
PL_INLINE void pl_tiles_by_chunks(const pl_shape f, int terms, pl_tile_by_row one, pl_tile_by_panel many,
                                  const pl_mat *w, int tile0, int tile1, const pl_chunks *c, int i0, float *y,
                                  ptrdiff_t y_stride)
{
    const int64_t row_bytes = (int64_t)pl_entry_bytes(f, terms) * c->blocks, group_bytes = c->x->tuning->group_bytes;
    int group = w->tile_bytes < group_bytes ? (int)(group_bytes / w->tile_bytes) : 1;
    if (c->rows <= c->each)
        group = tile1 - tile0;
    if (!pl_panel_is(f, terms, c->x, i0, c->rows, c->b0, c->blocks, c->each))
        for (int i = 0; i < c->rows; i += c->each)
            pl_make_panel(f, terms, c->x, i0 + i, c->rows - i < c->each ? c->rows - i : c->each, c->b0, c->blocks,
                          c->panel + i * row_bytes);
    for (int t0 = tile0; t0 < tile1; t0 += group) {
        const int t1 = tile1 - t0 < group ? tile1 : t0 + group;
        for (int i = 0; i < c->rows; i += c->each)
            pl_tiles_by_chunk(f, terms, one, many, w, t0, t1, c, c->rows - i < c->each ? c->rows - i : c->each,
                              c->panel + i * row_bytes, y + (i0 + i) * y_stride, y_stride);
    }
}

/* Takes as many chunks at once as fit into a panel of all k, about as many each time; if not even one fits, k is
 * cut. */
PL_INLINE void pl_product_in_chunks(const pl_shape f, int terms, pl_tile_by_row one, pl_tile_by_panel many,
                                    PL_MATMUL_ARGS)
{
    const int all = x->k / PL_BLOCK, count = (n + INT_ROWS - 1) / INT_ROWS, each = count ? (n + count - 1) / count : 1;
    const int limit = x->tuning->panel_bytes / (each * pl_entry_bytes(f, terms)), fit = all ? limit / all : count;
    const int sets = fit ? (count + fit - 1) / fit : count, rows = sets ? (count + sets - 1) / sets * each : 1;
    const int most = fit ? all : limit & ~7;
    pl_chunks c = {.x = x, .each = each, .alone = count == 1, .panel = (uint8_t *)x->scratch + PL_PANEL_HEAD};
    for (int i0 = 0; i0 < n; i0 += rows)
        for (c.b0 = 0; c.b0 < all; c.b0 += most) {
            c.rows = n - i0 < rows ? n - i0 : rows;
            c.blocks = all - c.b0 < most ? all - c.b0 : most;
            pl_tiles_by_chunks(f, terms, one, many, w, tile0, tile1, &c, i0, y, y_stride);
        }
}

PL_INLINE void pl_matmul_chunks(const pl_shape f, pl_tile_by_row one, pl_tile_by_panel many, PL_MATMUL_ARGS)
{
    if (x->terms == 2)
        pl_product_in_chunks(f, 2, one, many, w, tile0, tile1, x, n, y, y_stride);
    else
        pl_product_in_chunks(f, 1, one, many, w, tile0, tile1, x, n, y, y_stride);
}

#endif
