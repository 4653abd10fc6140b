/* Matrix products on quantised weights with 256-bit vectors: what AVX2 and AVX-VNNI share. The file that includes it
 * says first how codes are multiplied:
 *
 *     enum { SIGNED_BYTES, PAIRED };  1: codes above 127 become signed, with the offset taken off; 1: below
 *     narrow(top, terms):     1: dots of half a block are left in int16, of which two still fit; top: the greatest code
 *     dot(top, v, y, masks, narrow, factor, d)
 *     scaled_dot(f, terms, h, v, whole, entry, d, t): of scaled formats
 *
 * A vector holds eight rows of w (half a tile) x four k, which meet activations that are broadcast from memory. Offsets
 * enter exactly, as -offset * sum(y).
 *
 * Activations are first laid out as they will be read, a panel of [block][row] entries. A block of weights then meets
 * them in two steps, 16 k each: the codes of sixteen rows x 16 k fill eight registers, each broadcast serves two
 * vectors, and what a row has gathered waits in L1 in between. (Eight rows x 32 k would need every broadcast twice, and
 * loads, two a cycle, are what this loop runs out of.) One row of x takes the same steps straight from memory.
 *
 * Scaled formats have an integer scale for each of the steps. PAIRED: each step takes half of the k of both groups
 * instead, such that of the two sums of 16 bits in a row's 32, one belongs to either group, and what adds them up
 * (vpmaddwd) multiplies them by their scales. With one row of x this would cost more than it saves, so that one group
 * follows the other, and its scale is in both words. */
#ifndef PL_AVX2_MATMUL_INT_H
#define PL_AVX2_MATMUL_INT_H

#include "blocking.h"
#include "simd.h"
/* takes its numbers */
#include "../chunks.h"

enum { SCRATCH = PL_PANEL_HEAD + INT_PANEL };

/* ---- a block of weights ------------------------------------------------------------------------------------------ */

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

/* What step h takes of two groups' words: the lower half of the first's and the upper half of the second's, or the other
 * halves. */
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

/* Codes of k 16h + 4j.., or what the table has for them, of the half of the tile that begins at p: unsigned bytes, or
 * signed ones. */
PL_INLINE __m256i codes(const pl_shape f, const uint8_t *p, int h, int j)
{
    if (f.bits == 8)
        return as_bytes(f, pl_load256(p + 256 * h + 64 * j));
    if (f.bits < 4) {
        const __m256i all = f.paired ? pair(pl_load256(p), pl_load256(p + 64), h) : pl_load256(p + 64 * h);
        const __m256i low = _mm256_and_si256(j ? _mm256_srli_epi16(all, 2 * j) : all, _mm256_set1_epi8(3));
        if (f.bits == 2)
            return low;
        const __m256i plane = pl_load256(p + 128);
        return f.paired ? with_bit(low, pair(plane, _mm256_srli_epi16(plane, 4), h), j, 2)
                        : with_bit(low, plane, 4 * h + j, 2);
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
        if (f.scaled && f.has_min) /* mins are read shifted left by four */
            u.d_min[half] = _mm256_mul_ps(u.d_min[half], _mm256_set1_ps(0.0625f));
    }
    return u;
}

/* What step h needs of the scales, [half] of the tile: where a dot ends with it, the scale (scaled formats: the factor), and
 * what multiplies the groups' sums of activations (plain: the min; super: the min negated). */
typedef struct scales {
    __m256 s[2], m[2][2];
    __m256i whole[2]; /* scaled formats: words of 16 bits, the integer scales of both groups, or step h's and 0 */
} scales;

/* The integer scales of half a tile. Two terms: unless paired, of 32 bits. */
PL_INLINE __m256i load_whole(const pl_shape f, int terms, const uint8_t *bytes, int h)
{
    const __m128i first = _mm_loadl_epi64((const __m128i *)bytes),
                  second = _mm_loadl_epi64((const __m128i *)(bytes + 16));
    const __m128i mask = _mm_set1_epi8(f.scale == PL_SCALE_U4 ? 15 : -1);
    if (f.paired)
        return _mm256_cvtepi8_epi16(_mm_and_si128(_mm_unpacklo_epi8(first, second), mask));
    const __m256i whole = _mm256_cvtepi8_epi32(_mm_and_si128(h ? second : first, mask));
    return terms == 2 ? whole : _mm256_and_si256(whole, _mm256_set1_epi32(0xffff));
}

PL_INLINE void load_scales(const pl_shape f, int terms, const factors *u, const uint8_t *p, int h, scales *w)
{
    const int groups = 32 / f.group, g = groups == 2 ? h : 0;
    __m256 *s = w->s, *m = w->m[0];
    p += 64 * f.bits;
    for (int half = 0; half < 2; half++) {
        const uint8_t *bytes = p + 16 * g + 8 * half;
        if (f.scaled)
            w->whole[half] = load_whole(f, terms, p + 8 * half, h);
        if (!ends(f, h))
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
        if (f.scaled) {
            s[half] = u->d[half];
            for (int i = 0; i < 2 && f.has_min; i++) {
                const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 16 * i + 8 * half)));
                const __m256i high = _mm256_and_si256(both, _mm256_set1_epi32(240));
                w->m[i][half] = _mm256_mul_ps(u->d_min[half], _mm256_cvtepi32_ps(high));
            }
            continue;
        }
        s[half] = _mm256_mul_ps(u->d[half], f.scale == PL_SCALE_I8 ? pl_load_i8(bytes) : pl_load_u8(bytes));
        if (f.has_min)
            m[half] = _mm256_mul_ps(u->d_min[half], pl_load_u8(bytes + 16 * groups));
    }
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* Step h with one row of x, at `entry`: dots in t, or in d those that the next step goes on with. */
PL_INLINE void step_dots(const pl_shape f, int terms, int h, __m256i v[2][4], const uint8_t *entry, __m256i d[2],
                         __m256i t[2])
{
    const uint8_t *words = entry + 32 * terms, *masks = entry + pl_entry_bytes(f, terms) - 32 * terms;
    const int extra = f.offset || f.signs;
    __m256i low[2];
    dot(f.top, v, entry + 16 * h, masks + 16 * h, keeps16(f, terms), terms == 2 ? 254 : 1, t);
    if (terms == 2)
        dot(f.top, v, entry + 32 + 16 * h, masks + 32 + 16 * h, 0, 1, low);
    const __m256i more = _mm256_set1_epi32(extra ? pl_load_i32(words + 4 + (f.group == 16 ? 4 * h : 0)) : 0);
    for (int half = 0; half < 2; half++) {
        if (terms == 2)
            t[half] = _mm256_add_epi32(t[half], low[half]);
        if (f.group == 32 && h == 0) {
            d[half] = t[half];
            continue;
        }
        if (f.group == 32)
            t[half] = keeps16(f, terms) ? _mm256_madd_epi16(_mm256_add_epi16(d[half], t[half]), _mm256_set1_epi16(1))
                                        : _mm256_add_epi32(d[half], t[half]);
        if (extra)
            t[half] = _mm256_add_epi32(t[half], more);
    }
}

/* A dot in t is scaled and added to acc; at the end of the block so are the mins. */
PL_INLINE void finish(const pl_shape f, int terms, const __m256i t[2], const scales *w, const uint8_t *entry,
                      __m256 acc[2])
{
    const uint8_t *words = entry + 32 * terms;
    const __m256 s_y = _mm256_castsi256_ps(_mm256_set1_epi32(pl_load_i32(words)));
    for (int half = 0; half < 2; half++)
        acc[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(t[half]), _mm256_mul_ps(w->s[half], s_y), acc[half]);
    for (int g = 0; g < 32 / f.group && f.has_min; g++) {
        const __m256 sum = _mm256_castsi256_ps(_mm256_set1_epi32(pl_load_i32(words + 4 + 4 * g)));
        for (int half = 0; half < 2; half++)
            acc[half] = f.super ? _mm256_fnmadd_ps(w->m[g][half], sum, acc[half])
                                : _mm256_fmadd_ps(w->m[g][half], sum, acc[half]);
    }
}

/* Step h with one row of x, at `entry`: the next one goes on with d, or a dot ends. */
PL_INLINE void step(const pl_shape f, int terms, int h, __m256i v[2][4], const scales *w, const uint8_t *entry,
                    __m256i d[2], __m256 acc[2])
{
    __m256i t[2];
    if (f.scaled)
        scaled_dot(f, terms, h, v, w->whole, entry, d, t);
    else
        step_dots(f, terms, h, v, entry, d, t);
    if (ends(f, h))
        finish(f, terms, t, w, entry, acc);
}

/* ---- a block of a scaled format with one row, without VNNI ------------------------------------------------------- */

/* Bytes 8 * half.. of the 16 in each lane, each in byte 0 of its row's word; twice: in byte 2 as well. */
PL_INLINE __m256i spread(__m256i bytes, int half, int twice)
{
    const int i = 8 * half;
    const __m256i row = _mm256_setr_epi32(i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6, i + 7);
    const __m256i places = twice ? _mm256_or_si256(row, _mm256_slli_epi32(row, 16)) : row;
    const int none = (int)(twice ? 0x80008000 : 0x80808000);
    return _mm256_shuffle_epi8(bytes, _mm256_or_si256(places, _mm256_set1_epi32(none)));
}

/* Codes of group g, of the half of the tile that begins at p: v[0] and v[2] those of k 4j.., j = 0 and 2; v[1] and v[3]
 * the others, times four: one shift of two bits instead of three. */
PL_INLINE void scaled_codes(const pl_shape f, const uint8_t *p, int g, __m256i v[4])
{
    const __m256i low = _mm256_set1_epi8(3), high = _mm256_set1_epi8(12);
    const __m256i all = pl_load256(p + 64 * g), above = _mm256_srli_epi16(all, 4);
    v[0] = _mm256_and_si256(all, low);
    v[1] = _mm256_and_si256(all, high);
    v[2] = _mm256_and_si256(above, low);
    v[3] = _mm256_and_si256(above, high);
    if (f.bits == 3)
        for (int j = 0; j < 4; j++)
            v[j] = with_bit(v[j], pl_load256(p + 128), 4 * g + j, j % 2 ? 4 : 2);
}

/* v by 16 codes y: sums in int16 (2 * 28 * 2 * 127 at most before they are divided). */
PL_INLINE __m256i scaled_words(__m256i v[4], const uint8_t *y)
{
    __m256i d[4];
    for (int j = 0; j < 4; j++)
        d[j] = _mm256_maddubs_epi16(v[j], _mm256_set1_epi32(pl_load_i32(y + 4 * j)));
    const __m256i others = _mm256_srai_epi16(_mm256_add_epi16(d[1], d[3]), 2);
    return _mm256_add_epi16(_mm256_add_epi16(d[0], d[2]), others);
}

/* The block at p: its scaled dots. The scales multiply where pairs of sums are added. */
PL_INLINE void scaled_pairs(const pl_shape f, int terms, const uint8_t *p, const uint8_t *entry, __m256i t[2])
{
    const uint8_t *words = entry + 32 * terms, *bytes = p + 64 * f.bits;
    __m256i v[4];
    for (int g = 0; g < 2; g++) {
        const __m256i pairs = _mm256_broadcastsi128_si256(pl_load128(bytes + 16 * g));
        for (int half = 0; half < 2; half++) {
            const __m128i eight = _mm_loadl_epi64((const __m128i *)(bytes + 16 * g + 8 * half));
            const __m256i scale = f.scale == PL_SCALE_U4
                                      ? spread(_mm256_and_si256(pairs, _mm256_set1_epi8(15)), half, 1)
                                      : _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(eight, eight));
            scaled_codes(f, p + 32 * half, g, v);
            for (int term = 0; term < terms; term++) {
                __m256i sum = scaled_words(v, entry + 32 * term + 16 * g);
                if (f.offset) { /* one of the pair */
                    const __m256i both = _mm256_set1_epi32(pl_load_i32(words + 4 + 4 * term));
                    sum = _mm256_add_epi16(sum, g ? _mm256_srli_epi32(both, 16)
                                                  : _mm256_and_si256(both, _mm256_set1_epi32(0xffff)));
                }
                const int last = term + 1 == terms;
                const __m256i more = last ? scale : _mm256_mullo_epi16(scale, _mm256_set1_epi16(254));
                const __m256i dot = _mm256_madd_epi16(sum, more);
                t[half] = g || term ? _mm256_add_epi32(t[half], dot) : dot;
            }
        }
    }
}

/* What multiplies them, and its sums of activations. */
PL_INLINE void scaled_floats(const pl_shape f, const factors *u, const uint8_t *p, scales *w)
{
    for (int half = 0; half < 2; half++)
        w->s[half] = u->d[half];
    for (int g = 0; g < 2 && f.has_min; g++) {
        const __m256i pairs = _mm256_broadcastsi128_si256(pl_load128(p + 64 * f.bits + 16 * g));
        for (int half = 0; half < 2; half++) {
            const __m256i min = spread(_mm256_and_si256(pairs, _mm256_set1_epi8(-16)), half, 0);
            w->m[g][half] = _mm256_mul_ps(u->d_min[half], _mm256_cvtepi32_ps(min));
        }
    }
}

/* ---- a tile ------------------------------------------------------------------------------------------------------ */

/* The block at p with one row. */
PL_INLINE void block_one(const pl_shape f, int terms, const factors *u, const uint8_t *p, const uint8_t *entry,
                         __m256 acc[2])
{
    scales w;
    __m256i v[2][4], d[2];
    for (int h = 0; h < 2; h++) {
        load_codes(f, p, h, v);
        load_scales(f, terms, u, p, h, &w);
        step(f, terms, h, v, &w, entry, d, acc);
    }
}

/* The same of a scaled format in two parts: its dots, */
PL_INLINE void scaled_dots(const pl_shape f, int terms, const uint8_t *p, const uint8_t *entry, __m256i t[2])
{
    __m256i v[2][4], d[2], whole[2];
    if (PAIRED) {
        scaled_pairs(f, terms, p, entry, t);
        return;
    }
    for (int h = 0; h < 2; h++) {
        load_codes(f, p, h, v);
        for (int half = 0; half < 2; half++)
            whole[half] = load_whole(f, terms, p + 64 * f.bits + 8 * half, h);
        scaled_dot(f, terms, h, v, whole, entry, d, t);
    }
}

/* and what they and the mins add to acc. */
PL_INLINE void scaled_sums(const pl_shape f, int terms, const factors *u, const uint8_t *p, const uint8_t *entry,
                           const __m256i t[2], __m256 acc[2])
{
    scales w;
    if (PAIRED)
        scaled_floats(f, u, p, &w);
    else
        load_scales(f, terms, u, p, 1, &w);
    finish(f, terms, t, &w, entry, acc);
}

/* What one row prefetches with the block at p: its own lines in ascending order, which the hardware follows better than
 * the order of use, where each step goes through half of them; and a line of the next page, for the hardware stops at the
 * end of each. At moments of 58 GB/s Q8_0 reads 1.01 of it, Q6_K 0.91, Q4_0 0.98, Q4_K 0.91; all lines 4 KB ahead make
 * that 0.82, 0.85, 0.87 and 0.85. */
PL_INLINE void prefetch_block(const pl_shape f, const uint8_t *p, int ahead, int step)
{
    if (f.bits != 2 && f.bits != 4)
        for (int at = 0; at < f.packed_block; at += 64)
            _mm_prefetch((const char *)p + at, _MM_HINT_T0);
    for (int at = 0; at < step; at += 64)
        _mm_prefetch((const char *)p + ahead + at, _MM_HINT_T1);
}

/* acc += blocks [0, blocks) of the tile at p, of scaled formats: of whole super blocks. What a block's dots add waits until
 * those of the next one are on their way, for it would hold up what does not need it. */
PL_INLINE void tile_scaled(const pl_shape f, int terms, const uint8_t *p, int blocks, int ahead, int step,
                           const uint8_t *panel, __m256 acc[2])
{
    const int size = pl_entry_bytes(f, terms);
    for (int b = 0; b < blocks; b += 8) {
        const factors u = load_factors(f, p);
        __m256i t[2], next[2];
        p += f.packed_header;
        prefetch_block(f, p, ahead, step);
        scaled_dots(f, terms, p, panel, t);
        for (int i = 1; i < 8; i++) {
            p += f.packed_block;
            panel += size;
            prefetch_block(f, p, ahead, step);
            scaled_dots(f, terms, p, panel, next);
            scaled_sums(f, terms, &u, p - f.packed_block, panel - size, t, acc);
            t[0] = next[0];
            t[1] = next[1];
        }
        scaled_sums(f, terms, &u, p, panel, t, acc);
        p += f.packed_block;
        panel += size;
    }
}

/* The same, of all others. */
PL_INLINE void tile_of_others(const pl_shape f, int terms, const uint8_t *p, int blocks, int ahead, int step,
                              const uint8_t *panel, __m256 acc[2])
{
    factors u;
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += pl_entry_bytes(f, terms)) {
        if (f.super && b % 8 == 0) {
            u = load_factors(f, p);
            p += f.packed_header;
        }
        prefetch_block(f, p, ahead, step);
        block_one(f, terms, &u, p, panel, acc);
    }
}

/* One row: acc[16] += blocks [0, blocks) of the tile at p. */
PL_INLINE void tile_one(const pl_shape f, int terms, const uint8_t *p, int blocks, const pl_tuning *tuning,
                        const uint8_t *panel, float *acc)
{
    const int ahead = f.bits == 8 ? tuning->ahead8_bytes : tuning->ahead_bytes;
    const int lines = f.bits == 8 ? tuning->ahead8_lines : tuning->ahead_lines;
    const int step = lines < f.packed_block / 64 ? 64 * lines : f.packed_block;
    __m256 a[2] = {_mm256_loadu_ps(acc), _mm256_loadu_ps(acc + 8)};
    if (f.scaled)
        tile_scaled(f, terms, p, blocks, ahead, step, panel, a);
    else
        tile_of_others(f, terms, p, blocks, ahead, step, panel, a);
    _mm256_storeu_ps(acc, a[0]);
    _mm256_storeu_ps(acc + 8, a[1]);
}

/* Step h of the block at p with n rows. */
PL_INLINE void step_many(const pl_shape f, int terms, int h, const factors *u, const uint8_t *p, int n,
                         const uint8_t *panel, __m256i d[INT_ROWS][2], float acc[INT_ROWS][PL_TILE])
{
    const int size = pl_entry_bytes(f, terms);
    __m256i v[2][4];
    scales w;
    load_codes(f, p, h, v);
    load_scales(f, terms, u, p, h, &w);
    for (int i = 0; i < n; i++, panel += size) {
        if (!ends(f, h)) { /* acc is not touched */
            step(f, terms, h, v, &w, panel, d[i], NULL);
            continue;
        }
        __m256 a[2] = {_mm256_loadu_ps(acc[i]), _mm256_loadu_ps(acc[i] + 8)};
        step(f, terms, h, v, &w, panel, d[i], a);
        _mm256_storeu_ps(acc[i], a[0]);
        _mm256_storeu_ps(acc[i] + 8, a[1]);
    }
}

/* n rows: acc[i][16] += the same. */
PL_INLINE void tile_many(const pl_shape f, int terms, const uint8_t *p, int blocks, int n, const uint8_t *panel,
                         float acc[INT_ROWS][PL_TILE])
{
    __m256i d[INT_ROWS][2];
    factors u;
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += n * pl_entry_bytes(f, terms)) {
        if (f.super && b % 8 == 0) {
            u = load_factors(f, p);
            p += f.packed_header;
        }
        step_many(f, terms, 0, &u, p, n, panel, d, acc);
        step_many(f, terms, 1, &u, p, n, panel, d, acc);
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

PL_INLINE void matmul(pl_shape f, PL_MATMUL_ARGS)
{
    if (has_signed(f))
        f.offset -= 128;
    f.signs = has_signed(f);
    f.paired = PAIRED && f.scaled;
    pl_matmul_chunks(f, tile_one, tile_many, w, tile0, tile1, x, n, y, y_stride);
}

PL_INT_FORMATS(PL_INT_MATMUL_OF)
PL_FAMILIES(PL_FAMILY_MATMUL_OF)

static void fill_matmul_int(pl_kernels *k)
{
    PL_INT_FORMATS(PL_PUT_MATMUL)
    PL_SHARED_FORMATS(PL_PUT_SHARED)
}

#endif
