/* A block of packed weights in registers: codes, scales, mins; for all products with quantised weights. */
#ifndef PL_AVX512_BLOCK_H
#define PL_AVX512_BLOCK_H

#include "simd.h"

/* The vectors of a block's codes, in the order of memory. The hardware's prefetching follows ascending lines best: one
 * row, at moments of 58 GB/s, then reads Q6_K at 0.95 of it, and at 0.85 in the order of use (4 0 1 2 3 5); two terms
 * 0.81 and 0.64. */
PL_INLINE void load_words(const pl_shape f, const uint8_t *p, __m512i w[8])
{
    for (int at = 0; at < f.bits; at++) {
        w[at] = pl_load512(p + 64 * at);
        __asm__ volatile("" : "+v"(w[at])); /* now, and in this order */
    }
}

/* Vector `at` of the block at p; w: loaded already, or NULL. */
PL_INLINE __m512i word(const uint8_t *p, const __m512i *w, int at)
{
    return w ? w[at] : pl_load512(p + 64 * at);
}

/* `low` and bit i of the plane `above`, as bit `at` of the code. 0xf8: a | (b & c) */
PL_INLINE __m512i with_bit(__m512i low, __m512i above, int i, int at)
{
    const __m512i high = i < at ? _mm512_slli_epi16(above, at - i) : _mm512_srli_epi16(above, i - at);
    return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8((char)(1 << at)), 0xf8);
}

/* The bytes of a scaled format's scales: those of a row's two groups in a word of 16 bits. */
PL_INLINE __m256i scale_bytes(const pl_shape f, const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(p + 64 * f.bits));
}

/* Its integer scales of group g. */
PL_INLINE __m512i load_whole(const pl_shape f, const uint8_t *p, int g)
{
    const __m256i bytes = scale_bytes(f, p);
    if (f.scale == PL_SCALE_U4)
        return _mm512_and_si512(_mm512_cvtepu16_epi32(g ? _mm256_srli_epi16(bytes, 8) : bytes), _mm512_set1_epi32(15));
    return _mm512_cvtepi16_epi32(_mm256_srai_epi16(g ? bytes : _mm256_slli_epi16(bytes, 8), 8));
}

/* Both groups' as words of 16 bits, side by side; and its mins likewise. */
PL_INLINE __m512i load_pairs(const pl_shape f, const uint8_t *p)
{
    const __m256i bytes = scale_bytes(f, p);
    if (f.scale == PL_SCALE_U4)
        return _mm512_and_si512(_mm512_cvtepu8_epi16(bytes), _mm512_set1_epi16(15));
    return _mm512_cvtepi8_epi16(bytes);
}

PL_INLINE __m512i load_mins(const pl_shape f, const uint8_t *p)
{
    return _mm512_srli_epi16(_mm512_cvtepu8_epi16(scale_bytes(f, p)), 4);
}

/* low + the mins m by the sums of activations, those of the second term at `second`, without the factor. */
PL_INLINE __m512 add_mins(int terms, __m512i m, const uint8_t *first, const uint8_t *second, __m512 s_y, __m512 low)
{
    __m512i sum = _mm512_madd_epi16(m, pl_broadcast(first));
    if (terms == 2)
        sum =
            _mm512_add_epi32(_mm512_madd_epi16(_mm512_mullo_epi16(m, _mm512_set1_epi16(PL_TERM)), pl_broadcast(first)),
                             _mm512_madd_epi16(m, pl_broadcast(second)));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), s_y, low);
}

/* Products of scaled formats as unsigned bytes: codes times scale (Q2_K: up to 3 * 15) or, with an offset, (code -
 * offset) times scale plus PL_PRODUCT_OFFSET (Q3_K: -4..3 times -32..31 plus 127: 3..255). t[0]: those of codes 0..3 of
 * group g, four bytes for each row; t[1]: of codes 4..7. Each is one multiplication: no byte of the result carries into
 * another. */
enum { PL_PRODUCT_OFFSET = 127 };
PL_INLINE void load_products(const pl_shape f, const uint8_t *p, int g, __m512i t[2])
{
    const __m512i steps = _mm512_set1_epi32(0x03020100), offset = _mm512_set1_epi8(PL_PRODUCT_OFFSET);
    const __m512i scale = load_whole(f, p, g);
    if (f.scale == PL_SCALE_U4) {
        t[0] = _mm512_mullo_epi32(scale, steps);
        return;
    }
    t[0] = _mm512_add_epi32(_mm512_mullo_epi32(scale, _mm512_set1_epi32(-0x01020304)), offset);
    t[1] = _mm512_add_epi32(_mm512_mullo_epi32(scale, steps), offset);
}

/* The products of codes 4i..4i+3. The two low bits of a code choose among its row's four bytes of t. */
PL_INLINE __m512i products(const pl_shape f, const uint8_t *p, const __m512i *w, int i, const __m512i t[2])
{
    const __m512i row = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    const __m512i all = word(p, w, i / 4), low = i % 4 ? _mm512_srli_epi16(all, 2 * (i % 4)) : all;
    const __m512i at = _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(3), row, 0xea); /* (a & b) | c */
    const __m512i product = _mm512_shuffle_epi8(t[0], at);
    if (f.bits == 2)
        return product;
    const __mmask64 high = _mm512_test_epi8_mask(word(p, w, 2), _mm512_set1_epi8((char)(1 << pl_plane3[i])));
    return _mm512_mask_shuffle_epi8(product, high, t[1], at);
}

/* Codes of k 4i..4i+3, or what the table has for them, or their products, as unsigned bytes. shifted = 0 leaves the
 * high nibbles of 4-bit codes (i >= 4) where they are, sixteen times too large. */
PL_INLINE __m512i codes(const pl_shape f, const uint8_t *p, const __m512i *w, int i, int shifted, const __m512i t[2])
{
    if (f.products)
        return products(f, p, w, i, t);
    const __m512i nibble = _mm512_set1_epi8(15), pair = _mm512_set1_epi8(48);
    if (f.bits == 8)
        return word(p, w, i);
    const int j = i % 4, h = i / 4;
    if (f.bits < 4) {
        const __m512i all = word(p, w, h), two = _mm512_set1_epi8(3);
        const __m512i low = _mm512_and_si512(j ? _mm512_srli_epi16(all, 2 * j) : all, two);
        return f.bits == 3 ? with_bit(low, word(p, w, 2), pl_plane3[i], 2) : low;
    }
    const __m512i both = word(p, w, j);
    const __m512i low = _mm512_and_si512(h ? _mm512_srli_epi16(both, 4) : both, nibble);
    if (f.table)
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)f.table)), low);
    if (f.bits == 4)
        return h && !shifted ? _mm512_andnot_si512(nibble, both) : low;
    if (f.bits == 5)
        return with_bit(low, word(p, w, 4), i, 4);
    /* bits 2j and 2j + 1 of plane h are bits 4 and 5 of code 4h + j */
    const __m512i plane = word(p, w, 4 + h);
    const __m512i high = j < 2 ? _mm512_slli_epi16(plane, 4 - 2 * j) : _mm512_srli_epi16(plane, 2 * j - 4);
    return _mm512_ternarylogic_epi32(low, high, pair, 0xf8);
}

/* What scales and mins of a super block are multiplied by. */
PL_INLINE void load_header(const pl_shape f, const uint8_t *header, __m512 d[2])
{
    d[0] = pl_load_f16(header);
    if (f.unit != 1.0f)
        d[0] = _mm512_mul_ps(d[0], _mm512_set1_ps(f.unit));
    if (f.has_min)
        d[1] = pl_load_f16(header + 32);
}

/* Scales of the block's groups, and what multiplies their sums of activations (plain: the min; super: the min negated).
 * None of scaled formats. */
PL_INLINE void load_scales(const pl_shape f, const __m512 d[2], const uint8_t *p, __m512 s[2], __m512 m[2])
{
    const int groups = 32 / f.group;
    p += 64 * f.bits;
    m[0] = m[1] = _mm512_setzero_ps();
    for (int g = 0; g < groups && !f.scaled; g++) {
        const uint8_t *bytes = p + 16 * g;
        if (f.scale == PL_SCALE_F16) {
            s[g] = pl_load_f16(p + 32 * g);
            if (f.has_min)
                m[g] = pl_load_f16(p + 32 * (groups + g));
        } else if (f.scale == PL_SCALE_F16Z) {
            const __m128i zero = _mm_loadu_si128((const __m128i *)(bytes + 32 * groups));
            s[g] = pl_load_f16(p + 32 * g);
            m[g] = _mm512_mul_ps(
                s[g], _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_cvtepu8_epi32(zero))));
        } else if (f.scale == PL_SCALE_E8M0) {
            s[g] = pl_load_e8m0_half(bytes);
        } else {
            s[g] = _mm512_mul_ps(d[0], f.scale == PL_SCALE_I8 ? pl_load_i8(bytes) : pl_load_u8(bytes));
            if (f.has_min)
                m[g] = _mm512_mul_ps(d[1], pl_load_u8(bytes + 16 * groups));
        }
    }
}

#endif
