/* What tile registers multiply for products with quantised weights: panels of activations, and weights as signed
 * bytes. */
#ifndef PL_AMX_OPERANDS_H
#define PL_AMX_OPERANDS_H

#include "../avx512/block.h"
#include "../matmul.h"
#include "blocking.h"

/* Groups of a block that have dots of their own. */
PL_INLINE int dot_groups(const pl_shape f)
{
    return f.products ? 1 : 32 / f.group;
}

/* A panel's entry: what 16 rows of activations have for a block. Codes (16, 32) of each term, then 16 scales, then,
 * with mins, 16 sums per group; scaled formats: per term, those of both groups in 16 bits each, without the scale. */
PL_INLINE int entry_bytes(const pl_shape f, int terms)
{
    return 512 * terms + 64 * (1 + (f.has_min ? 32 / f.group : 0));
}

/* Of a block's weights as signed bytes (8, 16, 4); with two groups zeros lie between them. */
PL_INLINE int code_bytes(const pl_shape f)
{
    return dot_groups(f) == 2 ? 768 : 512;
}

/* Scratch memory: a head, a panel, then a part of unpacked weights, and sums. */
enum {
    CODES = PL_PANEL_HEAD + PL_PANEL_MOST,
    SCALES = CODES + 768 * AMX_MOST,  /* (groups, 16) float32 a block; scaled formats: both factors a super block */
    MINS = SCALES + 128 * AMX_MOST,   /* likewise; scaled formats: integers, both groups in 16 bits each */
    DOTS = MINS + 128 * AMX_MOST,     /* AMX_DOTS x (16, 16) int32, of two steps */
    RESULTS = DOTS + 2048 * AMX_DOTS, /* (AMX_GROUPS, 16, 16) float32 */
    SCRATCH = RESULTS + 1024 * AMX_GROUPS,
};

/* The entry of block b of rows [i0, i0 + n) of x, at most sixteen; rows beyond are zero. */
static inline void put_entry(const pl_shape f, int terms, const pl_acts *x, int64_t i0, int n, int b,
                             uint8_t *restrict entry)
{
    const int all = x->k / PL_BLOCK, groups = 32 / f.group;
    const int8_t *const q = x->q + i0 * x->stored * x->k + (int64_t)PL_BLOCK * b;
    const int16_t *const sums = x->sums + i0 * x->stored * 2 * all + 2 * b;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i row = _mm512_mullo_epi32(lane, _mm512_set1_epi32(all));
    const __m512i pairs = _mm512_mullo_epi32(row, _mm512_set1_epi32(x->stored)); /* of sums: both halves of a block */
    const __mmask16 rows = (__mmask16)((1 << n) - 1);
    uint8_t *const words = entry + 512 * terms;
    __m512 s_y = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), rows, row, x->s + i0 * all + b, 4);
    __m512i sum[2];
    for (int term = 0; term < terms; term++) {
        for (int i = 0; i < n; i++)
            memcpy(entry + 512 * term + 32 * i, q + (int64_t)(i * x->stored + term) * x->k, 32);
        if (n < AMX_ROWS)
            memset(entry + 512 * term + 32 * n, 0, (size_t)(32 * (AMX_ROWS - n)));
        if (f.has_min)
            sum[term] = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), rows, pairs, sums + 2 * term * all, 4);
    }
    if (terms == 2)
        s_y = _mm512_mul_ps(s_y, _mm512_set1_ps(1.0f / PL_TERM));
    _mm512_storeu_ps(words, s_y);
    for (int term = 0; term < terms && f.scaled && f.has_min; term++)
        _mm512_storeu_si512(words + 64 * (1 + term), sum[term]);
    for (int g = 0; g < groups && f.has_min && !f.scaled; g++) {
        const __m512i ones = _mm512_set1_epi32(groups == 1 ? 0x00010001 : g ? 0x00010000 : 1);
        __m512i total = _mm512_madd_epi16(sum[0], ones);
        if (terms == 2)
            total = _mm512_add_epi32(_mm512_slli_epi32(total, PL_TERM_BITS), _mm512_madd_epi16(sum[1], ones));
        _mm512_storeu_ps(words + 64 * (1 + g), _mm512_mul_ps(s_y, _mm512_cvtepi32_ps(total)));
    }
}

/* Entries [group of 16 rows][block] of blocks [b0, b0 + blocks) of rows [i0, i0 + n), one after another, so that each
 * line is written once. */
static __attribute__((noinline)) void make_panel(const pl_shape f, int terms, const pl_acts *x, int i0, int n, int b0,
                                                 int blocks, uint8_t *restrict panel)
{
    const int size = entry_bytes(f, terms);
    for (; n > 0; n -= AMX_ROWS, i0 += AMX_ROWS)
        for (int b = 0; b < blocks; b++, panel += size)
            put_entry(f, terms, x, i0, n < AMX_ROWS ? n : AMX_ROWS, b0 + b, panel);
}

/* Where block b of the tile at `tile` begins, behind the header of its super block. */
PL_INLINE const uint8_t *block_at(const pl_shape f, const uint8_t *tile, int b)
{
    return tile + (int64_t)b * f.packed_block + (int64_t)(b / 8 + 1) * f.packed_header;
}

/* Block b of a tile into a place, as signed bytes, scales and mins in float32; of scaled formats a super block's
 * factors, and mins as integers (b and the place have the same remainder by 8). Products of formats with an offset are
 * negated, and so is what multiplies their sums: they are -124..128, and 128 is not a signed byte. */
PL_INLINE void unpack(const pl_shape f, const uint8_t *tile, int b, uint8_t *scratch, int to)
{
    const __m512i offset = _mm512_set1_epi8((char)f.offset);
    const int negated = f.products && f.offset, groups = dot_groups(f), mins = f.has_min ? 32 / f.group : 0;
    const uint8_t *const p = block_at(f, tile, b);
    uint8_t *const code = scratch + CODES + to * code_bytes(f);
    float *const scale = (float *)(scratch + SCALES), *const min = (float *)(scratch + MINS);
    __m512 d[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, s[2], m[2];
    __m512i bytes[2];
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        if (f.products && j % 4 == 0)
            load_products(f, p, j / 4, bytes);
        const __m512i v = codes(f, p, NULL, j, 1, bytes);
        if (groups == 2 && j < 4)
            _mm512_storeu_si512(code + 256 + 64 * j, _mm512_setzero_si512());
        _mm512_storeu_si512(code + (groups == 2 ? j / 4 * 256 : 0) + 64 * j,
                            negated ? _mm512_sub_epi8(offset, v) : _mm512_sub_epi8(v, offset));
    }
    if (f.super && (!f.scaled || b % 8 == 0))
        load_header(f, p - b % 8 * f.packed_block - f.packed_header, d);
    if (f.scaled) {
        if (f.has_min)
            _mm512_storeu_si512((uint8_t *)min + 64 * to, load_mins(f, p));
        for (int j = 0; j < 1 + f.has_min && b % 8 == 0; j++)
            _mm512_storeu_ps(scale + 4 * to + 16 * j, negated ? _mm512_sub_ps(_mm512_set1_ps(-0.0f), d[j]) : d[j]);
        return;
    }
    load_scales(f, d, p, s, m);
    for (int g = 0; g < groups; g++)
        _mm512_storeu_ps(scale + 16 * (groups * to + g), s[g]);
    for (int g = 0; g < mins; g++)
        _mm512_storeu_ps(min + 16 * (mins * to + g), f.super ? _mm512_sub_ps(_mm512_set1_ps(-0.0f), m[g]) : m[g]);
}

#endif
