/* Matrix products on quantised weights, with sdot: four rows of w x four k a vector, times four k of x, one of the
 * four lanes of a vector of 16 codes. Codes of 4 to 6 bits are below 128 as they are; those of 8 bits become signed
 * with their top bit turned. Dots are exact in int32 and start from -offset * sum(y).
 *
 * Activations are first laid out as they will be read, a panel of [block][row] entries. Half a tile, eight rows x 32 k,
 * is unpacked into sixteen registers and meets every row of the panel: sixteen sdot for three loads of activations and
 * one of sums that wait in L1. One row keeps its sums in registers. */
#include "blocking.h"
#include "simd.h"
/* takes its numbers */
#include "../chunks.h"

enum { SCRATCH = PL_PANEL_HEAD + INT_PANEL };

/* ---- half a block of weights: eight rows x 32 k -------------------------------------------------------------------- */

typedef struct half_block {
    int8x16_t v[2][8];         /* v[c][j]: rows 8 * half + 4c.., k 4j.. */
    float32x4_t s[2][2], m[2]; /* s[group][c] and m[c]; super: the min negated */
} half_block;

PL_INLINE void load_codes(const pl_shape f, const uint8_t *p, int half, half_block *w)
{
    const uint8x16_t nibble = vdupq_n_u8(15), bit = vdupq_n_u8(16), pair = vdupq_n_u8(48);
    p += 32 * half;
    for (int c = 0; c < 2; c++, p += 16) {
        uint8x16_t low[4], high[4];
        for (int j = 0; j < 4; j++) {
            const uint8x16_t packed = vld1q_u8(p + 64 * j);
            low[j] = vandq_u8(packed, nibble);
            high[j] = vshrq_n_u8(packed, 4);
            if (f.bits == 8) {
                low[j] = veorq_u8(packed, vdupq_n_u8(0x80));
                high[j] = veorq_u8(vld1q_u8(p + 256 + 64 * j), vdupq_n_u8(0x80));
            }
        }
        if (f.bits == 5) { /* bits j and 4 + j of the plane are bits 4 of k 4j.. and 16 + 4j.. */
            const uint8x16_t plane = vld1q_u8(p + 256);
            low[0] = vorrq_u8(low[0], vandq_u8(vshlq_n_u8(plane, 4), bit));
            low[1] = vorrq_u8(low[1], vandq_u8(vshlq_n_u8(plane, 3), bit));
            low[2] = vorrq_u8(low[2], vandq_u8(vshlq_n_u8(plane, 2), bit));
            low[3] = vorrq_u8(low[3], vandq_u8(vshlq_n_u8(plane, 1), bit));
            high[0] = vorrq_u8(high[0], vandq_u8(plane, bit));
            high[1] = vorrq_u8(high[1], vandq_u8(vshrq_n_u8(plane, 1), bit));
            high[2] = vorrq_u8(high[2], vandq_u8(vshrq_n_u8(plane, 2), bit));
            high[3] = vorrq_u8(high[3], vandq_u8(vshrq_n_u8(plane, 3), bit));
        }
        if (f.bits == 6) { /* bits 2j and 2j + 1 of a half's plane are bits 4 and 5 */
            const uint8x16_t first = vld1q_u8(p + 256), second = vld1q_u8(p + 320);
            low[0] = vorrq_u8(low[0], vandq_u8(vshlq_n_u8(first, 4), pair));
            low[1] = vorrq_u8(low[1], vandq_u8(vshlq_n_u8(first, 2), pair));
            low[2] = vorrq_u8(low[2], vandq_u8(first, pair));
            low[3] = vorrq_u8(low[3], vandq_u8(vshrq_n_u8(first, 2), pair));
            high[0] = vorrq_u8(high[0], vandq_u8(vshlq_n_u8(second, 4), pair));
            high[1] = vorrq_u8(high[1], vandq_u8(vshlq_n_u8(second, 2), pair));
            high[2] = vorrq_u8(high[2], vandq_u8(second, pair));
            high[3] = vorrq_u8(high[3], vandq_u8(vshrq_n_u8(second, 2), pair));
        }
        for (int j = 0; j < 4; j++) {
            w->v[c][j] = vreinterpretq_s8_u8(low[j]);
            w->v[c][4 + j] = vreinterpretq_s8_u8(high[j]);
        }
    }
}

PL_INLINE void load_scales(const pl_shape f, const uint8_t *header, const uint8_t *p, int half, half_block *w)
{
    p += 64 * f.bits + (f.super ? 8 : 16) * half;
    header += 16 * half;
    if (!f.super) {
        for (int c = 0; c < 2; c++) {
            w->s[0][c] = pl_load_f16(p + 8 * c);
            if (f.has_min)
                w->m[c] = pl_load_f16(p + 32 + 8 * c);
        }
        return;
    }
    for (int g = 0; g < 32 / f.group; g++) {
        if (f.scale == PL_SCALE_I8)
            pl_load_i8(p + 16 * g, w->s[g]);
        else
            pl_load_u8(p + 16 * g, w->s[g]);
        for (int c = 0; c < 2; c++)
            w->s[g][c] = vmulq_f32(pl_load_f16(header + 8 * c), w->s[g][c]);
    }
    if (f.has_min) {
        pl_load_u8(p + 16, w->m);
        for (int c = 0; c < 2; c++)
            w->m[c] = vmulq_f32(pl_load_f16(header + 32 + 8 * c), w->m[c]);
    }
}

/* ---- half a block by one row of x ---------------------------------------------------------------------------------- */

/* d + v[0..3] by the 16 codes y */
PL_INLINE int32x4_t dot16(int32x4_t d, const int8x16_t *v, int8x16_t y)
{
    d = vdotq_laneq_s32(d, v[0], y, 0);
    d = vdotq_laneq_s32(d, v[1], y, 1);
    d = vdotq_laneq_s32(d, v[2], y, 2);
    return vdotq_laneq_s32(d, v[3], y, 3);
}

/* Dots of group g (all 32 k where the group is 32) with the term at y, from `start`. An sdot waits for the one before:
 * with `split` there are two chains of them, where no other rows of x give the processor something to do. */
PL_INLINE int32x4_t dot_group(const pl_shape f, const int split, int g, int32x4_t start, const int8x16_t *v,
                              const int8x16_t y[2])
{
    if (f.group == 16)
        return dot16(start, v + 4 * g, y[g]);
    if (split)
        return vaddq_s32(dot16(start, v, y[0]), dot16(vdupq_n_s32(0), v + 4, y[1]));
    return dot16(dot16(start, v, y[0]), v + 4, y[1]);
}

/* acc[c] += the block's eight rows by the entry's codes. */
PL_INLINE void times_row(const pl_shape f, int terms, const int split, const half_block *w, const uint8_t *entry,
                         float32x4_t acc[2])
{
    const int32x4_t words = vld1q_s32((const int32_t *)(const void *)(entry + 32 * terms)), zero = vdupq_n_s32(0);
    const float32x4_t s_y = vreinterpretq_f32_s32(words);
    const int8_t *q = (const int8_t *)entry;
    int8x16_t high[2] = {vld1q_s8(q), vld1q_s8(q + 16)}, low[2] = {high[0], high[1]};
    if (terms == 2) {
        low[0] = vld1q_s8(q + 32);
        low[1] = vld1q_s8(q + 48);
    }
    for (int g = 0; g < 32 / f.group; g++) {
        int32x4_t start = zero;
        if (f.offset)
            start = g ? vdupq_laneq_s32(words, 2) : vdupq_laneq_s32(words, 1);
        for (int c = 0; c < 2; c++) {
            int32x4_t d = dot_group(f, split, g, start, w->v[c], low);
            if (terms == 2)
                d = vmlaq_s32(d, dot_group(f, split, g, zero, w->v[c], high), vdupq_n_s32(254));
            acc[c] = vfmaq_f32(acc[c], vcvtq_f32_s32(d), vmulq_laneq_f32(w->s[g][c], s_y, 0));
        }
    }
    for (int c = 0; c < 2 && f.has_min; c++)
        acc[c] = f.super ? vfmsq_laneq_f32(acc[c], w->m[c], s_y, 3) : vfmaq_laneq_f32(acc[c], w->m[c], s_y, 3);
}

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
    for (int i = 0; i < n; i++, panel += pl_entry_bytes(f, terms)) {
        float *sums = acc[i] + 8 * half;
        float32x4_t a[2] = {vld1q_f32(sums), vld1q_f32(sums + 4)};
        times_row(f, terms, 0, &w, panel, a);
        vst1q_f32(sums, a[0]);
        vst1q_f32(sums + 4, a[1]);
    }
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
    if (f.bits == 8) /* signed codes need none */
        f.offset = 0;
    f.padded = 1; /* the words of an entry are one vector */
    pl_matmul_chunks(f, tile_one, tile_many, w, tile0, tile1, x, n, y, y_stride);
}

PL_INT_FORMATS(PL_INT_MATMUL_OF)

void pl_fill_matmul_int_neon(pl_kernels *k)
{
    PL_INT_FORMATS(PL_PUT_MATMUL)
}
