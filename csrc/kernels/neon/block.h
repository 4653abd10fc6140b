/* Half a block of packed weights in registers, and its product with one row of x; for all products with quantised
 * weights. Codes below 128 stay as they are; those of 8 bits, and of tables with larger values, become signed by
 * flipping their top bit. */
#ifndef PL_NEON_BLOCK_H
#define PL_NEON_BLOCK_H

#include "../matmul.h"
#include "simd.h"

/* ---- half a block of weights: eight rows x 32 k
 * -------------------------------------------------------------------- */

typedef struct half_block {
    int8x16_t v[2][8];            /* v[c][j]: rows 8 * half + 4c.., k 4j.. */
    float32x4_t s[2][2], m[2][2]; /* [group][c]; m, super: the min negated */
    int32x4_t whole[2][2];        /* scaled formats, instead: the integer scales */
} half_block;

/* Adds the bits of `plane` to codes v[0..7], as bit `at` (2: of three bits, or 4: of five). Shifts need constants. */
PL_INLINE void add_bits(uint8x16_t v[8], uint8x16_t plane, const int at)
{
    const uint8x16_t bit = vdupq_n_u8((uint8_t)(1 << at));
    const uint8x16_t up[5] = {plane, vshlq_n_u8(plane, 1), vshlq_n_u8(plane, 2), vshlq_n_u8(plane, 3),
                              vshlq_n_u8(plane, 4)};
    const uint8x16_t down[6] = {plane,
                                vshrq_n_u8(plane, 1),
                                vshrq_n_u8(plane, 2),
                                vshrq_n_u8(plane, 3),
                                vshrq_n_u8(plane, 4),
                                vshrq_n_u8(plane, 5)};
    for (int i = 0; i < 8; i++) {
        const int from = at == 2 ? pl_plane3[i] : i;
        v[i] = vorrq_u8(v[i], vandq_u8(from < at ? up[at - from] : down[from - at], bit));
    }
}

/* The same for two bits: bits 2j and 2j + 1 of `plane` become bits 4 and 5 of v[j]. */
PL_INLINE void add_pairs(uint8x16_t v[4], uint8x16_t plane)
{
    const uint8x16_t pair = vdupq_n_u8(48);
    v[0] = vorrq_u8(v[0], vandq_u8(vshlq_n_u8(plane, 4), pair));
    v[1] = vorrq_u8(v[1], vandq_u8(vshlq_n_u8(plane, 2), pair));
    v[2] = vorrq_u8(v[2], vandq_u8(plane, pair));
    v[3] = vorrq_u8(v[3], vandq_u8(vshrq_n_u8(plane, 2), pair));
}

PL_INLINE void load_codes(const pl_shape f, const uint8_t *p, int half, half_block *w)
{
    const uint8x16_t nibble = vdupq_n_u8(15), two = vdupq_n_u8(3);
    p += 32 * half;
    for (int c = 0; c < 2; c++, p += 16) {
        uint8x16_t v[8];
        for (int h = 0; h < 2 && f.bits < 4; h++) {
            const uint8x16_t all = vld1q_u8(p + 64 * h);
            v[4 * h] = vandq_u8(all, two);
            v[4 * h + 1] = vandq_u8(vshrq_n_u8(all, 2), two);
            v[4 * h + 2] = vandq_u8(vshrq_n_u8(all, 4), two);
            v[4 * h + 3] = vshrq_n_u8(all, 6);
        }
        for (int j = 0; j < 4 && f.bits >= 4; j++) {
            const uint8x16_t both = vld1q_u8(p + 64 * j);
            v[j] = f.bits == 8 ? both : vandq_u8(both, nibble);
            v[4 + j] = f.bits == 8 ? vld1q_u8(p + 256 + 64 * j) : vshrq_n_u8(both, 4);
        }
        if (f.bits == 3)
            add_bits(v, vld1q_u8(p + 128), 2);
        if (f.bits == 5)
            add_bits(v, vld1q_u8(p + 256), 4);
        if (f.bits == 6) {
            add_pairs(v, vld1q_u8(p + 256));
            add_pairs(v + 4, vld1q_u8(p + 320));
        }
        for (int j = 0; j < 8; j++) {
            if (f.table)
                v[j] = vqtbl1q_u8(vld1q_u8(f.table), v[j]);
            if (f.top > 127) /* minus 128 */
                v[j] = veorq_u8(v[j], vdupq_n_u8(0x80));
            w->v[c][j] = vreinterpretq_s8_u8(v[j]);
        }
    }
}

/* The integer scales of group g of a scaled format, and its mins. */
PL_INLINE int16x8_t load_whole(const pl_shape f, const uint8_t *p, int half, int g)
{
    p += 64 * f.bits + 16 * half;
    if (f.scale == PL_SCALE_U4)
        return vreinterpretq_s16_u16(vandq_u16(pl_load_pairs_u8(p, g), vdupq_n_u16(15)));
    return pl_load_pairs_i8(p, g);
}

PL_INLINE int16x8_t load_mins(const pl_shape f, const uint8_t *p, int half, int g)
{
    return vreinterpretq_s16_u16(vshrq_n_u16(pl_load_pairs_u8(p + 64 * f.bits + 16 * half, g), 4));
}

PL_INLINE void load_scales(const pl_shape f, const uint8_t *header, const uint8_t *p, int half, half_block *w)
{
    const int groups = 32 / f.group;
    for (int g = 0; g < 2 && f.scaled; g++) {
        const int16x8_t whole = load_whole(f, p, half, g);
        w->whole[g][0] = vmovl_s16(vget_low_s16(whole));
        w->whole[g][1] = vmovl_high_s16(whole);
    }
    if (f.scaled)
        return;
    p += 64 * f.bits;
    header += 16 * half;
    for (int g = 0; g < groups; g++) {
        const uint8_t *bytes = p + 16 * g + 8 * half, *halves = p + 32 * g + 16 * half;
        if (f.scale == PL_SCALE_F16) {
            for (int c = 0; c < 2; c++) {
                w->s[g][c] = pl_load_f16(halves + 8 * c);
                if (f.has_min)
                    w->m[g][c] = pl_load_f16(halves + 32 * groups + 8 * c);
            }
            continue;
        }
        if (f.scale == PL_SCALE_F16Z) {
            pl_load_u8(bytes + 32 * groups, w->m[g]);
            for (int c = 0; c < 2; c++) {
                w->s[g][c] = pl_load_f16(halves + 8 * c);
                w->m[g][c] = vmulq_f32(w->s[g][c], vsubq_f32(vdupq_n_f32(0), w->m[g][c]));
            }
            continue;
        }
        if (f.scale == PL_SCALE_E8M0) {
            pl_load_e8m0_half(bytes, w->s[g]);
            continue;
        }
        if (f.scale == PL_SCALE_I8)
            pl_load_i8(bytes, w->s[g]);
        else
            pl_load_u8(bytes, w->s[g]);
        if (f.has_min)
            pl_load_u8(bytes + 16 * groups, w->m[g]);
        for (int c = 0; c < 2; c++) {
            float32x4_t d = pl_load_f16(header + 8 * c);
            if (f.unit != 1.0f)
                d = vmulq_n_f32(d, f.unit);
            w->s[g][c] = vmulq_f32(d, w->s[g][c]);
            if (f.has_min)
                w->m[g][c] = vmulq_f32(pl_load_f16(header + 32 + 8 * c), w->m[g][c]);
        }
    }
}

/* ---- half a block by one row of x
 * ---------------------------------------------------------------------------------- */

/* d + v[0..3] by the 16 codes y */
PL_INLINE int32x4_t dot16(int32x4_t d, const int8x16_t *v, int8x16_t y)
{
    d = vdotq_laneq_s32(d, v[0], y, 0);
    d = vdotq_laneq_s32(d, v[1], y, 1);
    d = vdotq_laneq_s32(d, v[2], y, 2);
    return vdotq_laneq_s32(d, v[3], y, 3);
}

/* Dots of group g (all 32 k where the group is 32) with the term at y, from `start`. An sdot waits for the one before:
 * with `split` there are two chains, for when no other rows of x keep the processor busy. */
PL_INLINE int32x4_t dot_group(const pl_shape f, const int split, int g, int32x4_t start, const int8x16_t *v,
                              const int8x16_t y[2])
{
    if (f.group == 16)
        return dot16(start, v + 4 * g, y[g]);
    if (split)
        return vaddq_s32(dot16(start, v, y[0]), dot16(vdupq_n_s32(0), v + 4, y[1]));
    return dot16(dot16(start, v, y[0]), v + 4, y[1]);
}

/* acc[c] += the dots d[c] of group g, scaled, and after the last group the mins; words: the entry's, behind its codes.
 * Of scaled formats `total` has the first group's dots, to which it adds the second's, and acc gathers a super block
 * without factor and mins. */
PL_INLINE void add_group(const pl_shape f, const half_block *w, int g, const int32x4_t d[2], int32x4_t total[2],
                         float32x4_t words, float32x4_t acc[2])
{
    const int groups = 32 / f.group;
    for (int c = 0; c < 2; c++) {
        if (!f.scaled)
            acc[c] = vfmaq_f32(acc[c], vcvtq_f32_s32(d[c]), vmulq_laneq_f32(w->s[g][c], words, 0));
        else if (g == 0)
            total[c] = vmulq_s32(d[c], w->whole[0][c]);
        else
            acc[c] = vfmaq_laneq_f32(acc[c], vcvtq_f32_s32(vmlaq_s32(total[c], d[c], w->whole[1][c])), words, 0);
    }
    if (f.scaled)
        return;
    for (int i = 0; i < groups && f.has_min && g == groups - 1; i++) {
        const float32x4_t sum = i ? vdupq_laneq_f32(words, 2) : vdupq_laneq_f32(words, 1);
        for (int c = 0; c < 2; c++)
            acc[c] = f.super ? vfmsq_f32(acc[c], w->m[i][c], sum) : vfmaq_f32(acc[c], w->m[i][c], sum);
    }
}

/* acc[c] += the block's eight rows by the entry's codes. */
PL_INLINE void times_row(const pl_shape f, int terms, const int split, const half_block *w, const uint8_t *entry,
                         float32x4_t acc[2])
{
    const int32x4_t words = vld1q_s32((const int32_t *)(const void *)(entry + 32 * terms)), zero = vdupq_n_s32(0);
    const int8_t *q = (const int8_t *)entry;
    int8x16_t high[2] = {vld1q_s8(q), vld1q_s8(q + 16)}, low[2] = {high[0], high[1]};
    if (terms == 2) {
        low[0] = vld1q_s8(q + 32);
        low[1] = vld1q_s8(q + 48);
    }
    int32x4_t total[2];
    for (int g = 0; g < 32 / f.group; g++) {
        int32x4_t start = zero, d[2];
        if (f.offset)
            start = g ? vdupq_laneq_s32(words, 2) : vdupq_laneq_s32(words, 1);
        for (int c = 0; c < 2; c++) {
            d[c] = dot_group(f, split, g, start, w->v[c], low);
            if (terms == 2)
                d[c] = vmlaq_s32(d[c], dot_group(f, split, g, zero, w->v[c], high), vdupq_n_s32(PL_TERM));
        }
        add_group(f, w, g, d, total, vreinterpretq_f32_s32(words), acc);
    }
}

#endif
