/* Matrix products with quantised weights: what the dot products of Armv8.2 and the matrix products of i8mm share. The
 * file that includes it says first how half a block meets several rows of x:
 *
 *     times_rows(f, terms, w, n, panel, acc, at)    acc[i][at..at + 7] += w's eight rows by entry i of the panel
 *
 * Activations are first laid out as they will be read, a panel of [block][row] entries. Half a tile, eight rows x 32 k,
 * is unpacked into sixteen registers and meets every row of the panel. One row keeps its sums in registers. */
#ifndef PL_NEON_MATMUL_INT_H
#define PL_NEON_MATMUL_INT_H

#include "block.h"
#include "blocking.h"
/* uses the numbers of blocking.h */
#include "../chunks.h"

enum { SCRATCH = PL_PANEL_HEAD + PL_PANEL_MOST };

/* ---- a tile ------------------------------------------------------------------------------------------------------ */

/* acc[i] += what n rows have gathered in a super block of a scaled format, and its mins; panel: its first entries. */
PL_INLINE void end_super(const pl_shape f, int terms, const uint8_t *header, int n, const uint8_t *panel,
                         float (*sums)[PL_TILE], float (*acc)[PL_TILE])
{
    const int size = pl_entry_bytes(f, terms);
    for (int half = 0; half < 2; half++) {
        int16x8_t m[8][2];
        for (int b = 0; b < 8 && f.has_min; b++)
            for (int g = 0; g < 2; g++)
                m[b][g] = load_mins(f, header + f.packed_header + b * f.packed_block, half, g);
        for (int i = 0; i < n; i++) {
            float32x4_t low[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
            for (int b = 0; b < 8 && f.has_min; b++) {
                const int16x8_t words =
                    vld1q_s16((const int16_t *)(const void *)(panel + (b * n + i) * size + 32 * terms));
                for (int c = 0; c < 2; c++) {
                    const int16x4_t first = c ? vget_high_s16(m[b][0]) : vget_low_s16(m[b][0]);
                    const int16x4_t second = c ? vget_high_s16(m[b][1]) : vget_low_s16(m[b][1]);
                    int32x4_t sum = vmlal_laneq_s16(vmull_laneq_s16(first, words, 2), second, words, 3);
                    if (terms == 2)
                        sum = vmlaq_s32(vmlal_laneq_s16(vmull_laneq_s16(first, words, 4), second, words, 5), sum,
                                        vdupq_n_s32(PL_TERM));
                    low[c] = vfmaq_laneq_f32(low[c], vcvtq_f32_s32(sum), vreinterpretq_f32_s16(words), 0);
                }
            }
            for (int c = 0; c < 2; c++) {
                const int at = 8 * half + 4 * c;
                float32x4_t all = vld1q_f32(acc[i] + at);
                all = vfmaq_f32(all, pl_load_f16(header + 2 * at), vld1q_f32(sums[i] + at));
                if (f.has_min)
                    all = vfmsq_f32(all, pl_load_f16(header + 32 + 2 * at), low[c]);
                vst1q_f32(acc[i] + at, all);
            }
        }
    }
}

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
PL_INLINE void tile_one(const pl_shape f, int terms, const uint8_t *p, int blocks, pl_ahead ahead, const uint8_t *panel,
                        float *acc)
{
    (void)ahead;
    const int size = pl_entry_bytes(f, terms);
    float32x4_t a[4];
    const uint8_t *header = p;
    for (int c = 0; c < 4; c++)
        a[c] = vld1q_f32(acc + 4 * c);
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += size) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.packed_header;
        }
        for (int c = 0; c < 4 && f.scaled && b % 8 == 0; c++)
            a[c] = vdupq_n_f32(0);
        half_one(f, terms, header, p, 0, panel, a);
        half_one(f, terms, header, p, 1, panel, a + 2);
        if (f.scaled && b % 8 == 7) {
            float sums[1][PL_TILE];
            for (int c = 0; c < 4; c++)
                vst1q_f32(sums[0] + 4 * c, a[c]);
            end_super(f, terms, header, 1, panel - 7 * size, sums, (float (*)[PL_TILE])acc);
        }
    }
    for (int c = 0; c < 4 && !f.scaled; c++)
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
PL_INLINE void tile_many(const pl_shape f, int terms, const uint8_t *p, int blocks, int n, pl_ahead ahead,
                         const uint8_t *panel, float acc[INT_ROWS][PL_TILE])
{
    (void)ahead;
    const int size = n * pl_entry_bytes(f, terms);
    const uint8_t *header = p;
    float sums[INT_ROWS][PL_TILE];
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += size) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.packed_header;
        }
        if (f.scaled && b % 8 == 0)
            memset(sums, 0, (size_t)n * sizeof sums[0]);
        half_many(f, terms, header, p, 0, n, panel, f.scaled ? sums : acc);
        half_many(f, terms, header, p, 1, n, panel, f.scaled ? sums : acc);
        if (f.scaled && b % 8 == 7)
            end_super(f, terms, header, n, panel - 7 * size, sums, acc);
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
