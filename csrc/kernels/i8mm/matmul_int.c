/* Matrix products of several rows with quantised weights, using smmla: two rows of w x eight k times two rows of x x
 * eight k, twice the products of an sdot. Half a block of weights is interleaved once for all rows of a panel, and each
 * pair of rows when it is read. Dots are exact in int32, and the steps that follow are those of the NEON tier, in the
 * same order: the same bits. A last row without a partner, and one row alone, use sdot as there. */
#include "../neon/block.h"
#include "fill.h"

typedef struct pairs {
    int8x16_t v[2][2][4]; /* v[c][h][i]: rows 4c + 2h and the next, k 8i.. of both */
} pairs;

PL_INLINE void pair_weights(const half_block *w, pairs *p)
{
    for (int c = 0; c < 2; c++)
        for (int i = 0; i < 4; i++) {
            const int32x4_t first = vreinterpretq_s32_s8(w->v[c][2 * i]);
            const int32x4_t second = vreinterpretq_s32_s8(w->v[c][2 * i + 1]);
            p->v[c][0][i] = vreinterpretq_s8_s32(vzip1q_s32(first, second));
            p->v[c][1][i] = vreinterpretq_s8_s32(vzip2q_s32(first, second));
        }
}

/* The 32 codes at a and at b: y[i]: k 8i.. of both */
PL_INLINE void pair_codes(const uint8_t *a, const uint8_t *b, int8x16_t y[4])
{
    for (int j = 0; j < 2; j++) {
        const int64x2_t first = vreinterpretq_s64_u8(vld1q_u8(a + 16 * j));
        const int64x2_t second = vreinterpretq_s64_u8(vld1q_u8(b + 16 * j));
        y[2 * j] = vreinterpretq_s8_s64(vzip1q_s64(first, second));
        y[2 * j + 1] = vreinterpretq_s8_s64(vzip2q_s64(first, second));
    }
}

/* start + the dots of group g by two rows of w; lanes: first by both rows of x, second by both. */
PL_INLINE int32x4_t pair_dots(const pl_shape f, int g, int32x4_t start, const int8x16_t v[4], const int8x16_t y[4])
{
    for (int i = f.group / 8 * g; i < f.group / 8 * (g + 1); i++)
        start = vmmlaq_s32(start, v[i], y[i]);
    return start;
}

/* acc0, acc1 += the block's eight rows by two entries, `size` bytes apart. */
PL_INLINE void times_pair(const pl_shape f, int terms, const half_block *w, const pairs *p, const uint8_t *entry,
                          int size, float32x4_t acc0[2], float32x4_t acc1[2])
{
    const int32x4_t words0 = vld1q_s32((const int32_t *)(const void *)(entry + 32 * terms));
    const int32x4_t words1 = vld1q_s32((const int32_t *)(const void *)(entry + size + 32 * terms));
    int8x16_t high[4], low[4];
    pair_codes(entry, entry + size, high);
    pair_codes(entry + 32 * (terms - 1), entry + size + 32 * (terms - 1), low);
    int32x4_t total0[2], total1[2];
    for (int g = 0; g < 32 / f.group; g++) {
        int32x4_t start = vdupq_n_s32(0), d0[2], d1[2];
        if (f.offset)
            start = g ? vzip1q_s32(vdupq_laneq_s32(words0, 2), vdupq_laneq_s32(words1, 2))
                      : vzip1q_s32(vdupq_laneq_s32(words0, 1), vdupq_laneq_s32(words1, 1));
        for (int c = 0; c < 2; c++) {
            int32x4_t d[2];
            for (int h = 0; h < 2; h++) {
                d[h] = pair_dots(f, g, start, p->v[c][h], low);
                if (terms == 2)
                    d[h] = vmlaq_s32(d[h], pair_dots(f, g, vdupq_n_s32(0), p->v[c][h], high), vdupq_n_s32(PL_TERM));
            }
            d0[c] = vuzp1q_s32(d[0], d[1]);
            d1[c] = vuzp2q_s32(d[0], d[1]);
        }
        add_group(f, w, g, d0, total0, vreinterpretq_f32_s32(words0), acc0);
        add_group(f, w, g, d1, total1, vreinterpretq_f32_s32(words1), acc1);
    }
}

PL_INLINE void times_rows(const pl_shape f, int terms, const half_block *w, int n, const uint8_t *panel,
                          float (*acc)[PL_TILE], int at)
{
    const int size = pl_entry_bytes(f, terms);
    pairs p;
    pair_weights(w, &p);
    int i = 0;
    for (; i + 2 <= n; i += 2, panel += 2 * size) {
        float32x4_t a[2][2];
        for (int r = 0; r < 2; r++)
            for (int c = 0; c < 2; c++)
                a[r][c] = vld1q_f32(acc[i + r] + at + 4 * c);
        times_pair(f, terms, w, &p, panel, size, a[0], a[1]);
        for (int r = 0; r < 2; r++)
            for (int c = 0; c < 2; c++)
                vst1q_f32(acc[i + r] + at + 4 * c, a[r][c]);
    }
    if (i < n) {
        float32x4_t a[2] = {vld1q_f32(acc[i] + at), vld1q_f32(acc[i] + at + 4)};
        times_row(f, terms, 0, w, panel, a);
        vst1q_f32(acc[i] + at, a[0]);
        vst1q_f32(acc[i] + at + 4, a[1]);
    }
}

#include "../neon/matmul_int.h"

void pl_fill_matmul_int_i8mm(pl_kernels *k)
{
    fill_matmul_int(k);
}
