/* Matrix products on quantised weights, with VNNI.
 *
 * A vector holds the sixteen rows of a tile x four k; vpdpbusd multiplies its unsigned codes by activations that it
 * broadcasts from memory, and adds into int32. Offsets enter exactly: an accumulator starts at -offset * sum(y).
 * Activations are first laid out as they will be read: a panel of entries, [parts of up to twelve rows][block][row].
 * Each vector of codes meets the rows of a part, whose sums stay in registers: twelve of int32, so many chains side by
 * side that none waits for itself (four leave 1 to 2 % unused), and twelve of float32. Unpacking runs on ports that dots
 * leave free, so it costs next to nothing to do it again for each part: the limit is eight dots for every ten operations
 * of their ports (eleven with mins, twelve with two scales). */
#include "../matmul.h"
#include "blocking.h"
#include "simd.h"

enum { SCRATCH = INT_PANEL };

/* ---- a block of weights ------------------------------------------------------------------------------------------ */

/* The vectors of a block's codes, in the order of memory. The hardware's prefetching follows ascending lines best: one row, at
 * moments of 58 GB/s, reads Q6_K at 0.95 of it so and at 0.85 in the order of use (4 0 1 2 3 5); two terms 0.81 and 0.64. */
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

/* Codes of k 4i..4i+3 as unsigned bytes. shifted = 0 leaves the high nibbles of 4-bit codes (i >= 4) where they are, sixteen
 * times too large. */
PL_INLINE __m512i codes(const pl_shape f, const uint8_t *p, const __m512i *w, int i, int shifted)
{
    const __m512i nibble = _mm512_set1_epi8(15), bit = _mm512_set1_epi8(16), pair = _mm512_set1_epi8(48);
    if (f.bits == 8)
        return word(p, w, i);
    const int j = i % 4, h = i / 4;
    const __m512i both = word(p, w, j);
    const __m512i low = _mm512_and_si512(h ? _mm512_srli_epi16(both, 4) : both, nibble);
    if (f.bits == 4)
        return h && !shifted ? _mm512_andnot_si512(nibble, both) : low;
    if (f.bits == 5) { /* bit i of the plane is bit 4 of code i; 0xf8: a | (b & c) */
        const __m512i plane = word(p, w, 4);
        const __m512i high = h ? _mm512_srli_epi16(plane, j) : _mm512_slli_epi16(plane, 4 - j);
        return _mm512_ternarylogic_epi32(low, high, bit, 0xf8);
    }
    /* bits 2j and 2j + 1 of plane h are bits 4 and 5 of code 4h + j */
    const __m512i plane = word(p, w, 4 + h);
    const __m512i high = j < 2 ? _mm512_slli_epi16(plane, 4 - 2 * j) : _mm512_srli_epi16(plane, 2 * j - 4);
    return _mm512_ternarylogic_epi32(low, high, pair, 0xf8);
}

/* What scales and mins of a super block are multiplied by. */
PL_INLINE void load_header(const pl_shape f, const uint8_t *header, __m512 d[2])
{
    d[0] = pl_load_f16(header);
    if (f.has_min)
        d[1] = pl_load_f16(header + 32);
}

/* Scales of the block's groups, and what multiplies the sums of activations (plain: the min; super: the min negated). */
PL_INLINE void load_scales(const pl_shape f, const __m512 d[2], const uint8_t *p, __m512 s[2], __m512 *m)
{
    p += 64 * f.bits;
    if (!f.super) {
        s[0] = pl_load_f16(p);
        *m = f.has_min ? pl_load_f16(p + 32) : _mm512_setzero_ps();
        return;
    }
    for (int g = 0; g < 32 / f.group; g++)
        s[g] = _mm512_mul_ps(d[0], f.scale == PL_SCALE_I8 ? pl_load_i8(p + 16 * g) : pl_load_u8(p + 16 * g));
    *m = f.has_min ? _mm512_mul_ps(d[1], pl_load_u8(p + 16)) : _mm512_setzero_ps();
}

/* ---- a block of weights by G rows of x, whose chains of dots go side by side -------------------------------------- */

/* d[r] += codes i by those at y + r * size, in int32. */
PL_INLINE void dots(const pl_shape f, const int G, const uint8_t *p, const __m512i *w, int i, int shifted,
                    const uint8_t *y, int size, __m512i d[])
{
    __m512i v = codes(f, p, w, i, shifted);
    __asm__("" : "+v"(v)); /* made here, not all of them beforehand: registers are needed for sums */
#pragma GCC unroll 12
    for (int r = 0; r < G; r++)
        d[r] = pl_dot_broadcast(d[r], v, y + r * size + 4 * i);
}

/* The same of all k of group g. shifted = 0 (4 bits): the high nibbles' sum is sixteen times too large, exactly so. */
PL_INLINE void group_dots(const pl_shape f, const int G, const uint8_t *p, const __m512i *w, int shifted, int g,
                          const uint8_t *y, int size, __m512i d[])
{
    if (shifted) {
#pragma GCC unroll 8
        for (int j = 0; j < f.group / 4; j++) {
            const int i = f.group == 16 ? 4 * g + j : j / 2 + j % 2 * 4; /* 0 4 1 5 ..: one load for two */
            dots(f, G, p, w, i, 1, y, size, d);
        }
        return;
    }
    __m512i high[INT_ROWS];
    for (int r = 0; r < G; r++)
        high[r] = _mm512_setzero_si512();
    for (int i = 0; i < 4; i++)
        dots(f, G, p, w, i, 0, y, size, d);
    for (int i = 4; i < 8; i++)
        dots(f, G, p, w, i, 0, y, size, high);
    for (int r = 0; r < G; r++)
        d[r] = _mm512_add_epi32(d[r], _mm512_srai_epi32(high[r], 4));
}

PL_INLINE void block_by_rows(const pl_shape f, int terms, const int G, const uint8_t *p, const __m512i *w, int shifted,
                             const __m512 s[2], __m512 m, const uint8_t *entry, int size, __m512 acc[])
{
    const uint8_t *words = entry + 32 * terms;
#pragma GCC unroll 2
    for (int g = 0; g < 32 / f.group; g++) {
        __m512i d[INT_ROWS], low[INT_ROWS];
        for (int r = 0; r < G; r++) {
            low[r] = f.offset ? pl_broadcast(words + r * size + 4 + 4 * g) : _mm512_setzero_si512();
            d[r] = terms == 1 ? low[r] : _mm512_setzero_si512();
        }
        group_dots(f, G, p, w, shifted, g, entry, size, d);
        if (terms == 2) {
            __m512i factor = _mm512_set1_epi32(254);
            if (G == 1) /* one product, of which gcc would make a shift and two sums: for one row these are the limit */
                __asm__("" : "+v"(factor));
            group_dots(f, G, p, w, shifted, g, entry + 32, size, low);
            for (int r = 0; r < G; r++)
                d[r] = _mm512_add_epi32(_mm512_mullo_epi32(d[r], factor), low[r]);
        }
#pragma GCC unroll 12
        for (int r = 0; r < G; r++)
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d[r]), _mm512_mul_ps(s[g], pl_broadcast_ps(words + r * size)),
                                     acc[r]);
    }
    if (f.has_min)
        for (int r = 0; r < G; r++) {
            const __m512 sum = pl_broadcast_ps(words + r * size + 4);
            acc[r] = f.super ? _mm512_fnmadd_ps(m, sum, acc[r]) : _mm512_fmadd_ps(m, sum, acc[r]);
        }
}

/* ---- a tile by N rows -------------------------------------------------------------------------------------------- */

/* y[i] (resume: added to it) = blocks [0, blocks) of the tile at p by the N rows of a part. With each block it prefetches
 * `step` bytes into L2, which can have more requests under way than L1. near: the tile is read from memory, and they lie
 * at `next`, as far ahead of each block. Otherwise the tile is in L2 by now, and they are the next tile's, one after another. */
PL_INLINE void tile_by_rows(const pl_shape f, int terms, const int N, int near, const uint8_t *p, int blocks,
                            const uint8_t *part, int resume, const uint8_t *next, int step, __mmask16 rows, float *y,
                            ptrdiff_t y_stride)
{
    const int shifted = N > 1 || f.bits != 4, size = pl_entry_bytes(f, terms);
    const int G = terms == 1 ? N : N % 4 == 0 ? 4 : N % 3 == 0 ? 3 : N;
    const uint8_t *header = p;
    __m512 acc[INT_ROWS], d[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int i = 0; i < N; i++)
        acc[i] = resume ? _mm512_maskz_loadu_ps(rows, y + i * y_stride) : _mm512_setzero_ps();
    for (int b = 0; b < blocks; b++, p += f.packed_block, part += N * size) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.packed_header;
        }
        __m512i loaded[8];
        for (int at = 0; at < step; at += 64)
            _mm_prefetch((const char *)next + at, _MM_HINT_T1);
        next += near ? f.packed_block + (f.super && b % 8 == 0 ? f.packed_header : 0) : step;
        if (near) /* otherwise codes are loaded as they are needed: registers are for sums */
            load_words(f, p, loaded);
        if (f.super && (!near || b % 8 == 0)) /* likewise; one row is 5 to 13 % faster for doing this once */
            load_header(f, header, d);
        __m512 s[2], m;
        load_scales(f, d, p, s, &m);
#pragma GCC unroll 12
        for (int i = 0; i < N; i += G)
            block_by_rows(f, terms, G, p, near ? loaded : NULL, shifted, s, m, part + i * size, size, acc + i);
    }
    for (int i = 0; i < N; i++)
        _mm512_mask_storeu_ps(y + i * y_stride, rows, acc[i]);
}

/* Up to how many rows a tile takes less time than memory needs for the next one, by the operations of a block: they read it
 * in order and prefetch what lies ahead. Four rows of Q4_0 run 1.3 times as fast when the next tile is prefetched instead; two
 * of Q4_K, like three of Q4_0, 1.3 times as slowly. */
PL_INLINE int near_rows(const pl_shape f)
{
    return f.super ? f.bits == 4 ? 2 : 1 : f.bits == 8 ? 4 : 3;
}

/* Bytes of the next tile that each of n rows' parts prefetches with a block: all of it beside the first part would be more than
 * memory gives in that time (16 rows of Q8_0: 0.57 of the peak, 0.75 so). */
PL_INLINE int share_of_next(const pl_shape f, int n)
{
    int parts = 0;
    for (; n > 0; n -= pl_part_of(n))
        parts++;
    return (f.packed_block + f.packed_header / 8 + parts - 1) / parts;
}

/* The tile at p by all n rows of a panel; near, `next` and `step` as above. */
PL_INLINE void tile_by_panel(const pl_shape f, int terms, int near, const uint8_t *p, const uint8_t *next, int step,
                             int blocks, const uint8_t *panel, int n, int resume, int left, float *y,
                             ptrdiff_t y_stride)
{
    const int size = pl_entry_bytes(f, terms);
    const __mmask16 rows = (__mmask16)(left >= PL_TILE ? 0xffff : (1 << left) - 1);
    for (int c; n > 0; n -= c) {
        c = pl_part_of(n);
#define BY(N)                                                                                                          \
    case N:                                                                                                            \
        if (N <= near_rows(f) && near)                                                                                 \
            tile_by_rows(f, terms, N, 1, p, blocks, panel, resume, next, step, rows, y, y_stride);                     \
        else                                                                                                           \
            tile_by_rows(f, terms, N, 0, p, blocks, panel, resume, next, step, rows, y, y_stride);                     \
        break
        switch (c) {
            BY(12);
            BY(8);
            BY(6);
            BY(4);
            BY(3);
            BY(2);
            BY(1);
        }
#undef BY
        panel += c * size * blocks;
        next += near ? 0 : step * blocks; /* near: there is one part */
        y += c * y_stride;
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

/* Rows [i0, i0 + n) of x, `most` blocks of k (a multiple of 8) at a time, by tiles [tile0, tile1). Where k goes on, the
 * sums that y holds are resumed. */
PL_INLINE void chunk(const pl_shape f, int terms, const pl_mat *w, int tile0, int tile1, const pl_acts *x, int i0,
                     int n, int most, float *y, ptrdiff_t y_stride)
{
    uint8_t *const panel = x->scratch;
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK;
    const int near = n <= near_rows(f), bytes = f.bits == 8, lines = x->tuning->ahead[bytes].lines;
    const int step = !near ? share_of_next(f, n) : lines < f.packed_block / 64 ? 64 * lines : f.packed_block;
    for (int b0 = 0; b0 < all; b0 += most) {
        const int blocks = all - b0 < most ? all - b0 : most;
        for (int i = 0, c; i < n; i += c) {
            c = pl_part_of(n - i);
            pl_make_panel(f, terms, x, i0 + i, c, b0, blocks, panel + i * size * blocks);
        }
        for (int t = tile0; t < tile1; t++) {
            const uint8_t *p =
                w->data + t * w->tile_bytes + (int64_t)b0 * f.packed_block + (int64_t)(b0 / 8) * f.packed_header;
            tile_by_panel(f, terms, near, p, p + (near ? x->tuning->ahead[bytes].bytes : w->tile_bytes), step, blocks,
                          panel, n, b0 > 0, w->rows - PL_TILE * t, y + i0 * y_stride + PL_TILE * t, y_stride);
        }
    }
}

/* As many rows at once as a panel of all k has room for, in chunks of whole parts about alike; where those are few, k is
 * cut, for weights that come from memory have to meet INT_SHARE rows at a time. */
PL_INLINE void product(const pl_shape f, int terms, PL_MATMUL_ARGS)
{
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK, few = n < INT_SHARE ? n : INT_SHARE;
    const int limit = INT_PANEL / (few * size) & ~7, blocks = all < limit ? all : limit;
    const int fit = INT_PANEL / (blocks * size), most = fit < INT_ROWS ? fit : fit / INT_ROWS * INT_ROWS;
    const int chunks = (n + most - 1) / most, parts = (n + chunks * INT_ROWS - 1) / (chunks * INT_ROWS);
    const int each = parts * INT_ROWS < most ? parts * INT_ROWS : most;
    for (int i0 = 0; i0 < n; i0 += each)
        chunk(f, terms, w, tile0, tile1, x, i0, n - i0 < each ? n - i0 : each, limit, y, y_stride);
}

PL_INLINE void matmul(const pl_shape f, PL_MATMUL_ARGS)
{
    if (n < 1)
        return;
    if (x->terms == 2)
        product(f, 2, w, tile0, tile1, x, n, y, y_stride);
    else
        product(f, 1, w, tile0, tile1, x, n, y, y_stride);
}

PL_INT_FORMATS(PL_INT_MATMUL_OF)

void pl_fill_matmul_int_avx512(pl_kernels *k)
{
    PL_INT_FORMATS(PL_PUT_MATMUL)
}
