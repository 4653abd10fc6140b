/* Matrix products with quantised weights in 256-bit vectors: what AVX2 and AVX-VNNI share. The file that includes it
 * says first how codes are multiplied:
 *
 *     enum { SIGNED_BYTES, PAIRED };  1: codes above 127 become signed, with the offset taken off; 1: below
 *     narrow(top, terms):     1: dots of half a block are left in int16, of which two still fit; top: the greatest code
 *     dot(top, v, y, masks, narrow, factor, d); masks: of signed codes
 *     scaled_dot(f, terms, h, v, whole, entry, d, t): of scaled formats
 *
 * A vector holds eight rows of w (half a tile) x four k, which meet activations that are broadcast from memory. Offsets
 * enter exactly, as -offset * sum(y).
 *
 * Activations are first laid out as they will be read, a panel of [block][row] entries. A block of weights then meets
 * them in two steps, 16 k each: the codes of sixteen rows x 16 k fill eight registers, each broadcast serves two
 * vectors, and what a row has gathered waits in L1 in between. (Eight rows x 32 k would need every broadcast twice, and
 * loads, two per cycle, are what limits this loop.) One row of x takes the same steps straight from memory.
 *
 * Scaled formats have an integer scale for each of the steps. PAIRED: each step takes half of the k of both groups
 * instead, such that of the two sums of 16 bits in a row's 32, one belongs to either group, and what adds them up
 * (vpmaddwd) multiplies them by their scales. With one row of x this would cost more than it saves, so that one group
 * follows the other, and its scale is in both words. Factors and mins wait for the end of the super block. */
#ifndef PL_AVX2_MATMUL_INT_H
#define PL_AVX2_MATMUL_INT_H

#include "block.h"
#include "blocking.h"
/* uses the numbers of blocking.h */
#include "../chunks.h"

enum { SCRATCH = PL_PANEL_HEAD + PL_PANEL_MOST };

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* Step h with one row of x, at `entry`: dots in t, or in d those that the next step goes on with. */
PL_INLINE void step_dots(const pl_shape f, int terms, int h, __m256i v[2][4], const uint8_t *entry, __m256i d[2],
                         __m256i t[2])
{
    const uint8_t *words = entry + 32 * terms, *masks = entry + pl_entry_bytes(f, terms) - 32 * terms;
    const int extra = f.offset || f.signs;
    __m256i low[2];
    dot(f.top, v, entry + 16 * h, masks + 16 * h, keeps16(f, terms), terms == 2 ? PL_TERM : 1, t);
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

/* sums += the block's scaled dots t, without the factor. */
PL_INLINE void finish_scaled(int terms, const __m256i t[2], const uint8_t *entry, __m256 sums[2])
{
    const __m256 s_y = _mm256_castsi256_ps(_mm256_set1_epi32(pl_load_i32(entry + 32 * terms)));
    for (int half = 0; half < 2; half++)
        sums[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(t[half]), s_y, sums[half]);
}

/* low + the mins m of half a block by the sums of activations, without the factor. */
PL_INLINE __m256 add_mins(int terms, __m256i m, const uint8_t *entry, __m256 low)
{
    const uint8_t *words = entry + 32 * terms;
    const __m256 s_y = _mm256_castsi256_ps(_mm256_set1_epi32(pl_load_i32(words)));
    __m256i sum = _mm256_set1_epi32(pl_load_i32(words + 4));
    if (terms == 2)
        sum = _mm256_add_epi32(_mm256_madd_epi16(_mm256_mullo_epi16(m, _mm256_set1_epi16(PL_TERM)), sum),
                               _mm256_madd_epi16(m, _mm256_set1_epi32(pl_load_i32(words + 8))));
    else
        sum = _mm256_madd_epi16(m, sum);
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), s_y, low);
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
    if (f.scaled && h)
        finish_scaled(terms, t, entry, acc);
    else if (!f.scaled && ends(f, h))
        finish(f, terms, t, w, entry, acc);
}

/* ---- a block of a scaled format with one row --------------------------------------------------------------------- */

/* The scales of group g, of half a tile whose bytes begin at p, twice each: words of 16 bits. */
PL_INLINE __m256i scale_twice(const pl_shape f, const uint8_t *p, int g)
{
    const __m256i row = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    if (f.scale == PL_SCALE_U4) { /* bytes 2r + g, each before a 0 */
        const __m256i bytes = _mm256_and_si256(_mm256_broadcastsi128_si256(pl_load128(p)), _mm256_set1_epi8(15));
        const __m256i at = _mm256_add_epi32(row, _mm256_set1_epi32((int)0x80008000 + 0x00010001 * g));
        return _mm256_shuffle_epi8(bytes, _mm256_or_si256(at, _mm256_slli_epi32(row, 16)));
    }
    const __m256i word = _mm256_setr_epi32(0x01000100, 0x05040504, 0x09080908, 0x0d0c0d0c, 0x01000100, 0x05040504,
                                           0x09080908, 0x0d0c0d0c);
    return _mm256_shuffle_epi8(load_whole(f, p), _mm256_add_epi32(word, _mm256_set1_epi32(0x02020202 * g)));
}

/* Codes of group g, of the half of the tile that begins at p: v[j] those of k 4j... Of two bits, v[1] and v[3] are four
 * times as large: one shift instead of three. */
PL_INLINE void scaled_codes(const pl_shape f, const uint8_t *p, int g, __m256i v[4])
{
    if (f.bits == 3) {
        pl_shape straight = f;
        straight.paired = 0;
        codes3(straight, p, g, v);
        return;
    }
    const __m256i low = _mm256_set1_epi8(3), high = _mm256_set1_epi8(12);
    const __m256i all = pl_load256(p + 64 * g), above = _mm256_srli_epi16(all, 4);
    v[0] = _mm256_and_si256(all, low);
    v[1] = _mm256_and_si256(all, high);
    v[2] = _mm256_and_si256(above, low);
    v[3] = _mm256_and_si256(above, high);
}

/* v by 16 codes y: sums in int16 (2 * 2 * 12 * 128 or 4 * 2 * 7 * 128 at most). */
PL_INLINE __m256i scaled_words(const pl_shape f, __m256i v[4], const uint8_t *y)
{
    __m256i d[4];
    for (int j = 0; j < 4; j++)
        d[j] = _mm256_maddubs_epi16(v[j], _mm256_set1_epi32(pl_load_i32(y + 4 * j)));
    const __m256i odd = _mm256_add_epi16(d[1], d[3]);
    return _mm256_add_epi16(_mm256_add_epi16(d[0], d[2]), f.bits == 2 ? _mm256_srai_epi16(odd, 2) : odd);
}

/* Words of a term by scales, pairs added. */
PL_INLINE __m256i times(int terms, int term, __m256i words, __m256i scales)
{
    return _mm256_madd_epi16(words,
                             term + 1 == terms ? scales : _mm256_mullo_epi16(scales, _mm256_set1_epi16(PL_TERM)));
}

/* The block at p: its scaled dots. Without VNNI, the scales multiply where pairs of sums are added. */
PL_INLINE void scaled_pairs(const pl_shape f, int terms, const uint8_t *p, const uint8_t *entry, __m256i t[2])
{
    const uint8_t *words = entry + 32 * terms, *scales = p + 64 * f.bits;
    __m256i v[4];
    for (int g = 0; g < 2; g++)
        for (int half = 0; half < 2; half++) {
            const __m256i scale = scale_twice(f, scales + 16 * half, g);
            scaled_codes(f, p + 32 * half, g, v);
            for (int term = 0; term < terms; term++) {
                const __m256i sum = scaled_words(f, v, entry + 32 * term + 16 * g),
                              dot = times(terms, term, sum, scale);
                t[half] = g || term ? _mm256_add_epi32(t[half], dot) : dot;
            }
        }
    for (int half = 0; half < 2 && f.offset; half++)
        for (int term = 0; term < terms; term++) {
            const __m256i sums = _mm256_set1_epi32(pl_load_i32(words + 4 + 4 * term));
            t[half] = _mm256_add_epi32(t[half], times(terms, term, sums, load_whole(f, scales + 16 * half)));
        }
}

/* The same, with it or without. */
PL_INLINE void scaled_dots(const pl_shape f, int terms, const uint8_t *p, const uint8_t *entry, __m256i t[2])
{
    __m256i v[2][4], d[2];
    scales w;
    if (PAIRED) {
        scaled_pairs(f, terms, p, entry, t);
        return;
    }
    for (int h = 0; h < 2; h++) {
        load_codes(f, p, h, v);
        load_scales(f, NULL, p, h, &w);
        scaled_dot(f, terms, h, v, w.whole, entry, d, t);
    }
}

/* What its dots t and its mins add to the sums of the super block. */
PL_INLINE void scaled_sums(const pl_shape f, int terms, const uint8_t *p, const uint8_t *entry, const __m256i t[2],
                           __m256 sums[2], __m256 low[2])
{
    finish_scaled(terms, t, entry, sums);
    __asm__("" : "+r"(p)); /* its scales are loaded again: registers are for codes */
    for (int half = 0; half < 2 && f.has_min; half++)
        low[half] = add_mins(terms, load_mins(p + 64 * f.bits + 16 * half), entry, low[half]);
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
        load_scales(f, u, p, h, &w);
        step(f, terms, h, v, &w, entry, d, acc);
    }
}

/* What one row prefetches with the block at p: its own lines in ascending order, which the hardware follows better than
 * the order of use, where each step goes through half of them; and what lies ahead. In order that is a line of the next
 * page, for the hardware stops at the end of each: at moments of 58 GB/s Q8_0 reads at 1.01 of it on Zen 4, Q6_K 0.91,
 * Q4_0 0.98, Q4_K 0.91; with all lines 4 KB ahead, 0.82, 0.85, 0.87 and 0.85. */
PL_INLINE void prefetch_block(const pl_shape f, const uint8_t *p, pl_ahead *ahead)
{
    if (f.bits != 2 && f.bits != 4)
        for (int at = 0; at < f.packed_block; at += 64)
            _mm_prefetch((const char *)p + at, _MM_HINT_T0);
    pl_ask(ahead, 0);
}

/* acc += blocks [0, blocks) of the tile at p, of scaled formats: of whole super blocks. What a block's dots add waits
 * until those of the next one are under way; otherwise it would hold up work that does not need it. */
PL_INLINE void tile_scaled(const pl_shape f, int terms, const uint8_t *p, int blocks, pl_ahead *ahead,
                           const uint8_t *panel, __m256 acc[2])
{
    const int size = pl_entry_bytes(f, terms);
    const __m256 zero = _mm256_setzero_ps();
    for (int b = 0; b < blocks; b += 8) {
        const factors u = load_factors(f, p);
        __m256 sums[2] = {zero, zero}, low[2] = {zero, zero};
        __m256i t[2], next[2];
        p += f.packed_header;
        prefetch_block(f, p, ahead);
        scaled_dots(f, terms, p, panel, t);
        for (int i = 1; i < 8; i++) {
            p += f.packed_block;
            panel += size;
            prefetch_block(f, p, ahead);
            scaled_dots(f, terms, p, panel, next);
            scaled_sums(f, terms, p - f.packed_block, panel - size, t, sums, low);
            t[0] = next[0];
            t[1] = next[1];
        }
        scaled_sums(f, terms, p, panel, t, sums, low);
        for (int half = 0; half < 2; half++) {
            acc[half] = _mm256_fmadd_ps(u.d[half], sums[half], acc[half]);
            if (f.has_min)
                acc[half] = _mm256_fnmadd_ps(u.d_min[half], low[half], acc[half]);
        }
        p += f.packed_block;
        panel += size;
    }
}

/* The same for all other formats. */
PL_INLINE void tile_of_others(const pl_shape f, int terms, const uint8_t *p, int blocks, pl_ahead *ahead,
                              const uint8_t *panel, __m256 acc[2])
{
    factors u;
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += pl_entry_bytes(f, terms)) {
        if (f.super && b % 8 == 0) {
            u = load_factors(f, p);
            p += f.packed_header;
        }
        prefetch_block(f, p, ahead);
        block_one(f, terms, &u, p, panel, acc);
    }
}

/* One row: acc[16] += blocks [0, blocks) of the tile at p. */
PL_INLINE void tile_one(const pl_shape f, int terms, const uint8_t *p, int blocks, pl_ahead ahead, const uint8_t *panel,
                        float *acc)
{
    __m256 a[2] = {_mm256_loadu_ps(acc), _mm256_loadu_ps(acc + 8)};
    if (f.scaled)
        tile_scaled(f, terms, p, blocks, &ahead, panel, a);
    else
        tile_of_others(f, terms, p, blocks, &ahead, panel, a);
    _mm256_storeu_ps(acc, a[0]);
    _mm256_storeu_ps(acc + 8, a[1]);
}

/* Step h with a row, at `entry`. */
PL_INLINE void step_row(const pl_shape f, int terms, int h, __m256i v[2][4], const scales *w, const uint8_t *entry,
                        __m256i d[2], float *acc)
{
    if (!ends(f, h)) { /* acc is not touched */
        step(f, terms, h, v, w, entry, d, NULL);
        return;
    }
    __m256 a[2] = {_mm256_loadu_ps(acc), _mm256_loadu_ps(acc + 8)};
    step(f, terms, h, v, w, entry, d, a);
    _mm256_storeu_ps(acc, a[0]);
    _mm256_storeu_ps(acc + 8, a[1]);
}

/* Step h of the block at p with n rows. If a row takes few instructions, two at a time: loop counting takes ports
 * that vectors need (Intel Xeon: 0.90 to 0.97 of the time with AVX2, 0.92 to 1.01 with AVX-VNNI; others gain
 * nothing). */
PL_INLINE void step_many(const pl_shape f, int terms, int h, const factors *u, const uint8_t *p, int n,
                         const uint8_t *panel, __m256i d[INT_ROWS][2], float acc[INT_ROWS][PL_TILE])
{
    const int size = pl_entry_bytes(f, terms), brief = terms == 1 && f.bits < 6 && f.group == 32 && !f.scaled;
    __m256i v[2][4];
    scales w;
    load_codes(f, p, h, v);
    load_scales(f, u, p, h, &w);
    if (brief) {
#pragma GCC unroll 2
        for (int i = 0; i < n; i++)
            step_row(f, terms, h, v, &w, panel + i * size, d[i], acc[i]);
        return;
    }
    for (int i = 0; i < n; i++)
        step_row(f, terms, h, v, &w, panel + i * size, d[i], acc[i]);
}

/* acc += what n rows have gathered in a super block of a scaled format, at p behind its header, and its mins. */
PL_INLINE void end_super(const pl_shape f, int terms, const factors *u, const uint8_t *p, int n, const uint8_t *panel,
                         float sums[INT_ROWS][PL_TILE], float acc[INT_ROWS][PL_TILE])
{
    const int size = pl_entry_bytes(f, terms);
    __m256i m[8][2];
    for (int b = 0; b < 8 && f.has_min; b++)
        for (int half = 0; half < 2; half++)
            m[b][half] = load_mins(p + b * f.packed_block + 64 * f.bits + 16 * half);
    for (int i = 0; i < n; i++) {
        __m256 low[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int b = 0; b < 8 && f.has_min; b++)
            for (int half = 0; half < 2; half++)
                low[half] = add_mins(terms, m[b][half], panel + (b * n + i) * size, low[half]);
        for (int half = 0; half < 2; half++) {
            float *out = acc[i] + 8 * half;
            __m256 sum = _mm256_fmadd_ps(u->d[half], _mm256_loadu_ps(sums[i] + 8 * half), _mm256_loadu_ps(out));
            if (f.has_min)
                sum = _mm256_fnmadd_ps(u->d_min[half], low[half], sum);
            _mm256_storeu_ps(out, sum);
        }
    }
}

/* n rows: acc[i][16] += the same. */
PL_INLINE void tile_many(const pl_shape f, int terms, const uint8_t *p, int blocks, int n, pl_ahead ahead,
                         const uint8_t *panel, float acc[INT_ROWS][PL_TILE])
{
    const int size = n * pl_entry_bytes(f, terms);
    __m256i d[INT_ROWS][2];
    float sums[INT_ROWS][PL_TILE];
    factors u;
    for (int b = 0; b < blocks; b++, p += f.packed_block, panel += size) {
        if (f.super && b % 8 == 0) {
            u = load_factors(f, p);
            p += f.packed_header;
        }
        if (f.scaled && b % 8 == 0)
            memset(sums, 0, (size_t)n * sizeof sums[0]);
        pl_ask(&ahead, 0);
        step_many(f, terms, 0, &u, p, n, panel, d, f.scaled ? sums : acc);
        step_many(f, terms, 1, &u, p, n, panel, d, f.scaled ? sums : acc);
        if (f.scaled && b % 8 == 7)
            end_super(f, terms, &u, p - 7 * f.packed_block, n, panel - 7 * size, sums, acc);
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
