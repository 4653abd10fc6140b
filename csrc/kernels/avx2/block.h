/* A block of packed weights in registers: codes, scales, mins, of half a tile each; for products with quantised weights
 * with AVX2 and AVX-VNNI, by the settings that matmul_int.h lists. A vector of codes holds eight rows of w x four k. */
#ifndef PL_AVX2_BLOCK_H
#define PL_AVX2_BLOCK_H

#include "simd.h"

/* Whether codes are made signed. */
PL_INLINE int has_signed(const pl_shape f)
{
    return SIGNED_BYTES && f.top > 127;
}

/* Whether a dot ends with step h. */
PL_INLINE int ends(const pl_shape f, int h)
{
    return h == 1 || (f.group == 16 && !f.scaled);
}

/* Whether the two steps of a block leave their dots in int16. */
PL_INLINE int keeps16(const pl_shape f, int terms)
{
    return f.group == 32 && narrow(f.top, terms);
}

/* `low` and bit i of the plane `above`, as bit `at` of the code. */
PL_INLINE __m256i with_bit(__m256i low, __m256i above, int i, int at)
{
    const __m256i high = i < at ? _mm256_slli_epi16(above, at - i) : _mm256_srli_epi16(above, i - at);
    return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8((char)(1 << at))));
}

/* What step h takes of two groups' words: the lower half of the first's and the upper half of the second's, or the
 * other halves. */
PL_INLINE __m256i pair(__m256i first, __m256i second, int h)
{
    return h ? _mm256_blend_epi16(_mm256_srli_epi32(first, 16), _mm256_slli_epi32(second, 16), 0xaa)
             : _mm256_blend_epi16(first, second, 0xaa);
}

/* Unsigned bytes, or 128 less, as signed ones. */
PL_INLINE __m256i as_bytes(const pl_shape f, __m256i v)
{
    return has_signed(f) ? _mm256_xor_si256(v, _mm256_set1_epi8(-128)) : v;
}

/* Codes of three bits: their two low ones, and the third ones of codes 0 and 2, and of 1 and 3, in bits 2 and 6. */
PL_INLINE void three_bits(__m256i all, __m256i even, __m256i odd, __m256i v[4])
{
    const __m256i low = _mm256_set1_epi8(0x33), third = _mm256_set1_epi8(0x44), three = _mm256_set1_epi8(7);
    for (int i = 0; i < 2; i++) { /* two codes to a byte */
        const __m256i both = _mm256_or_si256(_mm256_and_si256(i ? _mm256_srli_epi16(all, 2) : all, low),
                                             _mm256_and_si256(i ? odd : even, third));
        v[i] = _mm256_and_si256(both, three);
        v[i + 2] = _mm256_and_si256(_mm256_srli_epi16(both, 4), three);
    }
}

/* Those of k 16h..16h+15 of the half of the tile that begins at p. */
PL_INLINE void codes3(const pl_shape f, const uint8_t *p, int h, __m256i v[4])
{
    const __m256i all = f.paired ? pair(pl_load256(p), pl_load256(p + 64), h) : pl_load256(p + 64 * h);
    const __m256i plane = pl_load256(p + 128); /* pl_plane3 */
    const __m256i even = _mm256_slli_epi16(plane, 2), odd = _mm256_srli_epi16(plane, 1);
    if (f.paired)
        three_bits(all, pair(plane, even, h), pair(_mm256_slli_epi16(plane, 1), odd, h), v);
    else
        three_bits(all, h ? even : plane, h ? odd : _mm256_slli_epi16(plane, 1), v);
}

/* Codes of k 16h + 4j.., or what the table has for them, of the half of the tile that begins at p: unsigned bytes, or
 * signed ones. */
PL_INLINE __m256i codes(const pl_shape f, const uint8_t *p, int h, int j)
{
    if (f.bits == 8)
        return as_bytes(f, pl_load256(p + 256 * h + 64 * j));
    if (f.bits == 2) {
        const __m256i all = f.paired ? pair(pl_load256(p), pl_load256(p + 64), h) : pl_load256(p + 64 * h);
        return _mm256_and_si256(j ? _mm256_srli_epi16(all, 2 * j) : all, _mm256_set1_epi8(3));
    }
    const __m256i both = pl_load256(p + 64 * j);
    const __m256i low = _mm256_and_si256(h ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
    if (f.table)
        return _mm256_shuffle_epi8(as_bytes(f, _mm256_broadcastsi128_si256(pl_load128(f.table))), low);
    if (f.bits == 5)
        return with_bit(low, pl_load256(p + 256), 4 * h + j, 4);
    if (f.bits == 6) { /* bits 2j and 2j + 1 are bits 4 and 5 */
        __m256i plane = pl_load256(p + 256 + 64 * h);
        plane = j < 2 ? _mm256_slli_epi16(plane, 4 - 2 * j) : _mm256_srli_epi16(plane, 2 * j - 4);
        return _mm256_or_si256(low, _mm256_and_si256(plane, _mm256_set1_epi8(48)));
    }
    return low;
}

/* Codes of step h (k 16h..16h+15): v[half][j] holds rows 8 * half.., k 16h + 4j... */
PL_INLINE void load_codes(const pl_shape f, const uint8_t *p, int h, __m256i v[2][4])
{
    for (int half = 0; half < 2; half++)
        if (f.bits == 3)
            codes3(f, p + 32 * half, h, v[half]);
        else
            for (int j = 0; j < 4; j++)
                v[half][j] = codes(f, p + 32 * half, h, j);
}

/* The factors of a super block, [half] of the tile. */
typedef struct factors {
    __m256 d[2], d_min[2];
} factors;

PL_INLINE factors load_factors(const pl_shape f, const uint8_t *header)
{
    factors u;
    for (int half = 0; half < 2; half++) {
        u.d[half] = pl_load_f16(header + 16 * half);
        if (f.unit != 1.0f)
            u.d[half] = _mm256_mul_ps(u.d[half], _mm256_set1_ps(f.unit));
        u.d_min[half] = f.has_min ? pl_load_f16(header + 32 + 16 * half) : _mm256_setzero_ps();
    }
    return u;
}

/* The integer scales of a scaled format for half a tile, whose bytes begin at p: words of 16 bits, those of a row's two
 * groups side by side; and its mins likewise. */
PL_INLINE __m256i load_whole(const pl_shape f, const uint8_t *p)
{
    if (f.scale == PL_SCALE_U4)
        return _mm256_and_si256(_mm256_cvtepu8_epi16(pl_load128(p)), _mm256_set1_epi16(15));
    return _mm256_cvtepi8_epi16(pl_load128(p));
}

PL_INLINE __m256i load_mins(const uint8_t *p)
{
    return _mm256_srli_epi16(_mm256_cvtepu8_epi16(pl_load128(p)), 4);
}

/* What step h needs of the scales, [half] of the tile: where a dot ends with it, the scale, and what multiplies the
 * groups' sums of activations (plain: the min; super: the min negated); or the integer scales. */
typedef struct scales {
    __m256 s[2], m[2][2];
    __m256i whole[2];
} scales;

PL_INLINE void load_scales(const pl_shape f, const factors *u, const uint8_t *p, int h, scales *w)
{
    const int groups = 32 / f.group, g = groups == 2 ? h : 0;
    __m256 *s = w->s, *m = w->m[0];
    p += 64 * f.bits;
    for (int half = 0; half < 2; half++) {
        const uint8_t *bytes = p + 16 * g + 8 * half;
        if (f.scaled)
            w->whole[half] = load_whole(f, p + 16 * half);
        if (f.scaled || !ends(f, h))
            continue;
        if (f.scale == PL_SCALE_F16) {
            s[half] = pl_load_f16(p + 32 * g + 16 * half);
            if (f.has_min)
                m[half] = pl_load_f16(p + 32 * (groups + g) + 16 * half);
            continue;
        }
        if (f.scale == PL_SCALE_F16Z) {
            const __m256i zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(bytes + 32 * groups)));
            s[half] = pl_load_f16(p + 32 * g + 16 * half);
            m[half] = _mm256_mul_ps(s[half], _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_setzero_si256(), zero)));
            continue;
        }
        if (f.scale == PL_SCALE_E8M0) {
            s[half] = pl_load_e8m0_half(bytes);
            continue;
        }
        s[half] = _mm256_mul_ps(u->d[half], f.scale == PL_SCALE_I8 ? pl_load_i8(bytes) : pl_load_u8(bytes));
        if (f.has_min)
            m[half] = _mm256_mul_ps(u->d_min[half], pl_load_u8(bytes + 16 * groups));
    }
}

#endif
