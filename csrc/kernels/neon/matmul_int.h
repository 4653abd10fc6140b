/* Matrix products on quantised weights: what the dot products of Armv8.2 and the matrix products of i8mm share. The file
 * that includes it says first how half a block meets several rows of x:
 *
 *     times_rows(f, terms, w, n, panel, acc, at)    acc[i][at..at + 7] += w's eight rows by entry i of the panel
 *
 * Activations are first laid out as they will be read, a panel of [block][row] entries. Half a tile, eight rows x 32 k,
 * is unpacked into sixteen registers and meets every row of the panel. One row keeps its sums in registers. */
#ifndef PL_NEON_MATMUL_INT_H
#define PL_NEON_MATMUL_INT_H

#include "block.h"
#include "blocking.h"
/* takes its numbers */
#include "../chunks.h"

enum { SCRATCH = PL_PANEL_HEAD + INT_PANEL };

/* ---- a tile ------------------------------------------------------------------------------------------------------ */

/* A half of the block at p with one row: a is that half of its sums. */
PL_INLINE void half_one(const pl_shape f, int terms, const uint8_t *header, const uint8_t *p, const int half,
                        const uint8_t *entry, float32x4_t a[2])
{
    half_block w;
    load_codes(f, p, half, &w);
    load_scales(f, header, p, half, &w);
    times_row(f, terms, 1, &w, entry, a);
}

/* One row: acc[16] += blocks [0, blocks) of the tile at p. */
PL_INLINE void tile_one(const pl_shape f, int terms, const uint8_t *p, int blocks, const pl_tuning *tuning,
                        const uint8_t *panel, float *acc)
{
    (void)tuning;
    float32x4_t a[4];
    const uint8_t *header = p;
    for (int c = 0; c < 4; c++)
        a[c] = vld1q_f32(acc + 4 * c);
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += pl_entry_bytes(f, terms)) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.packed_header;
        }
        half_one(f, terms, header, p, 0, panel, a);
        half_one(f, terms, header, p, 1, panel, a + 2);
    }
    for (int c = 0; c < 4; c++)
        vst1q_f32(acc + 4 * c, a[c]);
}

/* A half of the block at p with n rows. */
PL_INLINE void half_many(const pl_shape f, int terms, const uint8_t *header, const uint8_t *p, const int half, int n,
                         const uint8_t *panel, float acc[INT_ROWS][PL_TILE])
{
    half_block w;
    load_codes(f, p, half, &w);
    load_scales(f, header, p, half, &w);
    times_rows(f, terms, &w, n, panel, acc, 8 * half);
}

/* n rows: acc[i][16] += the same. */
PL_INLINE void tile_many(const pl_shape f, int terms, const uint8_t *p, int blocks, int n, const uint8_t *panel,
                         float acc[INT_ROWS][PL_TILE])
{
    const int size = pl_entry_bytes(f, terms);
    const uint8_t *header = p;
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += n * size) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.packed_header;
        }
        half_many(f, terms, header, p, 0, n, panel, acc);
        half_many(f, terms, header, p, 1, n, panel, acc);
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

PL_INLINE void matmul(pl_shape f, PL_MATMUL_ARGS)
{
    if (f.top > 127) /* signed codes have it taken off */
        f.offset -= 128;
    f.padded = 1; /* the words of an entry are one vector */
    pl_matmul_chunks(f, tile_one, tile_many, w, tile0, tile1, x, n, y, y_stride);
}

PL_INT_FORMATS(PL_INT_MATMUL_OF)
PL_FAMILIES(PL_FAMILY_MATMUL_OF)

PL_INLINE void fill_matmul_int(pl_kernels *k)
{
    PL_INT_FORMATS(PL_PUT_MATMUL)
    PL_SHARED_FORMATS(PL_PUT_SHARED)
}

#endif
