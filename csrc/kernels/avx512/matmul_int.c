/* Matrix products with quantised weights, using VNNI.
 *
 * A vector holds the sixteen rows of a tile x four k; vpdpbusd multiplies its unsigned codes by activations that it
 * broadcasts from memory, and adds into int32. Offsets enter exactly: an accumulator starts at -offset * sum(y).
 * Activations are first laid out as they will be read: a panel of entries, [parts of up to twelve rows][block][row].
 * Each vector of codes meets the rows of a part, whose sums stay in registers: twelve of int32, enough chains side by
 * side that none waits for itself (four leave 1 to 2 % unused), and twelve of float32. Unpacking runs on ports that
 * dots leave free, so it costs next to nothing to do it again for each part: the limit is eight dots for every ten
 * operations of their ports (eleven with mins, twelve with two scales). */
#include "../matmul.h"
#include "../prefetch.h"
#include "block.h"
#include "blocking.h"

enum { SCRATCH = PL_PANEL_HEAD + PL_PANEL_MOST };

/* ---- T tiles' blocks of weights by G rows of x, whose chains of dots go side by side ----------------------------- */

/* d[t][r] += codes i of tile t, `apart` bytes from the one before, by those at y + r * size, in int32. */
PL_INLINE void dots(const pl_shape f, const int T, const int G, const uint8_t *p, int64_t apart, const __m512i *w,
                    int i, int shifted, __m512i products[][2], const uint8_t *y, int size, __m512i d[][INT_ROWS])
{
    __m512i v[2];
    for (int t = 0; t < T; t++) {
        v[t] = codes(f, p + t * apart, w, i, shifted, products[t]);
        __asm__("" : "+v"(v[t])); /* made here, not all in advance: registers are needed for sums */
    }
#pragma GCC unroll 12
    for (int r = 0; r < G; r++) {
        if (T == 1) {
            d[0][r] = pl_dot_broadcast(d[0][r], v[0], y + r * size + 4 * i);
            continue;
        }
        __m512i four = pl_broadcast(y + r * size + 4 * i);
        __asm__("" : "+v"(four)); /* loaded once for both */
        d[0][r] = _mm512_dpbusd_epi32(d[0][r], v[0], four);
        d[1][r] = _mm512_dpbusd_epi32(d[1][r], v[1], four);
    }
}

/* The same for all k of group g (products: of both). shifted = 0 (4 bits): the high nibbles' sum is sixteen times too
 * large, exactly so. */
PL_INLINE void group_dots(const pl_shape f, const int T, const int G, const uint8_t *p, int64_t apart, const __m512i *w,
                          int shifted, int g, const uint8_t *y, int size, __m512i d[][INT_ROWS])
{
    __m512i bytes[2][2];
    if (f.products) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            for (int t = 0; t < T; t++)
                load_products(f, p + t * apart, h, bytes[t]);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                dots(f, T, G, p, apart, w, 4 * h + j, 1, bytes, y, size, d);
        }
        return;
    }
    if (shifted) {
#pragma GCC unroll 8
        for (int j = 0; j < f.group / 4; j++) {
            const int i = f.group == 16 ? 4 * g + j : j / 2 + j % 2 * 4; /* 0 4 1 5 ..: one load for two */
            dots(f, T, G, p, apart, w, i, 1, bytes, y, size, d);
        }
        return;
    }
    __m512i high[1][INT_ROWS];
    for (int r = 0; r < G; r++)
        high[0][r] = _mm512_setzero_si512();
    for (int i = 0; i < 4; i++)
        dots(f, 1, G, p, apart, w, i, 0, bytes, y, size, d);
    for (int i = 4; i < 8; i++)
        dots(f, 1, G, p, apart, w, i, 0, bytes, y, size, high);
    for (int r = 0; r < G; r++)
        d[0][r] = _mm512_add_epi32(d[0][r], _mm512_srai_epi32(high[0][r], 4));
}

PL_INLINE void block_by_rows(const pl_shape f, int terms, const int T, const int G, const uint8_t *p, int64_t apart,
                             const __m512i *w, int shifted, __m512 s[][2], __m512 m[][2], const uint8_t *entry,
                             int size, __m512 acc[][INT_ROWS], int at)
{
    const uint8_t *words = entry + 32 * terms;
    const int groups = f.products ? 1 : 32 / f.group, mins = f.has_min && !f.scaled ? 32 / f.group : 0;
    __m512i first[INT_ROWS]; /* scaled formats without products: the first group's dots */
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) {
        __m512i d[2][INT_ROWS], low[2][INT_ROWS];
        for (int r = 0; r < G; r++)
            for (int t = 0; t < T; t++) {
                low[t][r] = f.offset ? pl_broadcast(words + r * size + 4 + 4 * g) : _mm512_setzero_si512();
                d[t][r] = terms == 1 ? low[t][r] : _mm512_setzero_si512();
            }
        group_dots(f, T, G, p, apart, w, shifted, g, entry, size, d);
        if (terms == 2) {
            group_dots(f, T, G, p, apart, w, shifted, g, entry + 32, size, low);
            for (int t = 0; t < T; t++)
                for (int r = 0; r < G; r++)
                    d[t][r] = _mm512_add_epi32(_mm512_slli_epi32(d[t][r], PL_TERM_BITS), low[t][r]);
        }
        if (f.scaled && !f.products) { /* both groups' side by side: one product scales and adds them */
            const __m512i scales = load_pairs(f, p);
            for (int r = 0; r < G; r++)
                if (g)
                    d[0][r] = _mm512_madd_epi16(
                        _mm512_mask_blend_epi16(0xaaaaaaaa, first[r], _mm512_slli_epi32(d[0][r], 16)), scales);
                else
                    first[r] = d[0][r];
        }
        const int done = !f.scaled || f.products || g; /* with dots */
#pragma GCC unroll 12
        for (int r = 0; r < G; r++)
            for (int t = 0; t < T && done; t++) {
                const __m512 s_y = pl_broadcast_ps(words + r * size);
                acc[t][at + r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d[t][r]),
                                                 f.scaled ? s_y : _mm512_mul_ps(s[t][g], s_y), acc[t][at + r]);
            }
    }
#pragma GCC unroll 2
    for (int g = 0; g < mins; g++)
#pragma GCC unroll 12
        for (int r = 0; r < G; r++)
            for (int t = 0; t < T; t++) {
                const __m512 sum = pl_broadcast_ps(words + r * size + 4 + 4 * g);
                acc[t][at + r] = f.super ? _mm512_fnmadd_ps(m[t][g], sum, acc[t][at + r])
                                         : _mm512_fmadd_ps(m[t][g], sum, acc[t][at + r]);
            }
}

/* all += what the N rows of a part have gathered in a super block of a scaled format, whose header is at `header` and
 * whose first entries are at `part`, and its mins. */
PL_INLINE void end_super(const pl_shape f, int terms, const int T, const int N, const uint8_t *header, int64_t apart,
                         const uint8_t *part, int size, __m512 acc[][INT_ROWS], __m512 all[][INT_ROWS])
{
    __m512 low[INT_ROWS], d[2];
    if (T * N > 4)
        __asm__ volatile("" ::"r"(all) : "memory"); /* they stay there: registers are for the sums of the loop */
#pragma GCC unroll 12
    for (int i = 0; i < N; i++)
        low[i] = _mm512_setzero_ps();
    for (int b = 0; b < 8 && f.has_min; b++) {
        const __m512i m = load_mins(f, header + f.packed_header + b * f.packed_block);
        const uint8_t *words = part + b * N * size + 32 * terms;
#pragma GCC unroll 12
        for (int i = 0; i < N; i++)
            low[i] = add_mins(terms, m, words + i * size + 4, words + i * size + 8, pl_broadcast_ps(words + i * size),
                              low[i]);
    }
#pragma GCC unroll 2
    for (int t = 0; t < T; t++) {
        load_header(f, header + t * apart, d);
#pragma GCC unroll 12
        for (int i = 0; i < N; i++) {
            __m512 sum = _mm512_fmadd_ps(d[0], acc[t][i], all[t][i]);
            if (f.has_min) /* T is 1 */
                sum = _mm512_fnmadd_ps(d[1], low[i], sum);
            all[t][i] = sum;
        }
    }
}

/* ---- T tiles by N rows ------------------------------------------------------------------------------------------- */

/* Rows whose integer sums are gathered at once: there are twice as many with two terms. */
PL_INLINE int sums_at_once(int terms, int n)
{
    return terms == 1 ? n : n % 4 == 0 ? 4 : n % 3 == 0 ? 3 : n;
}

/* What tile_by_rows does, for scaled formats: in super blocks, whose sums are in registers, the others in memory. */
PL_INLINE void supers_by_rows(const pl_shape f, int terms, const int T, const int N, int near, const uint8_t *p,
                              int64_t apart, int blocks, const uint8_t *part, int resume, pl_ahead *a, __mmask16 rows,
                              float *y, ptrdiff_t y_stride)
{
    const int size = pl_entry_bytes(f, terms), G = sums_at_once(terms, N);
    __m512 all[2][INT_ROWS];
    __m512 acc[2][INT_ROWS], none[2][2] = {{_mm512_setzero_ps()}};
    for (int t = 0; t < T; t++)
        for (int i = 0; i < N; i++)
            all[t][i] = resume ? _mm512_maskz_loadu_ps(t + 1 < T ? 0xffff : rows, y + i * y_stride + t * PL_TILE)
                               : _mm512_setzero_ps();
    for (int b = 0; b < blocks; b += 8) {
        const uint8_t *header = p;
        p += f.packed_header;
        for (int t = 0; t < T; t++)
            for (int i = 0; i < N; i++)
                acc[t][i] = _mm512_setzero_ps();
        for (int j = 0; j < 8; j++, p += f.packed_block, part += N * size) {
            __m512i loaded[8];
            pl_ask(a, near);
            if (near)
                load_words(f, p, loaded);
#pragma GCC unroll 12
            for (int i = 0; i < N; i += G)
                block_by_rows(f, terms, T, G, p, apart, near ? loaded : NULL, 1, none, none, part + i * size, size, acc,
                              i);
        }
        end_super(f, terms, T, N, header, apart, part - 8 * N * size, size, acc, all);
    }
    for (int t = 0; t < T; t++)
        for (int i = 0; i < N; i++)
            _mm512_mask_storeu_ps(y + i * y_stride + t * PL_TILE, t + 1 < T ? 0xffff : rows, all[t][i]);
}

/* y[i] (resume: added to it) = blocks [0, blocks) of the tiles at p, `apart` bytes from each other, by the N rows of a
 * part. near: the tile is read from memory, a little behind what is prefetched. Otherwise the tiles are in L2 by now,
 * and the next ones are prefetched. rows: those of the last tile that exist. */
PL_INLINE void tile_by_rows(const pl_shape f, int terms, const int T, const int N, int near, const uint8_t *p,
                            int64_t apart, int blocks, const uint8_t *part, int resume, pl_ahead *a, __mmask16 rows,
                            float *y, ptrdiff_t y_stride)
{
    if (f.scaled) {
        supers_by_rows(f, terms, T, N, near, p, apart, blocks, part, resume, a, rows, y, y_stride);
        return;
    }
    const int shifted = N > 1 || f.bits != 4 || f.table, size = pl_entry_bytes(f, terms), G = sums_at_once(terms, N);
    const uint8_t *header = p;
    __m512 acc[2][INT_ROWS], d[2][2] = {{_mm512_setzero_ps(), _mm512_setzero_ps()}};
    for (int t = 0; t < T; t++)
        for (int i = 0; i < N; i++)
            acc[t][i] = resume ? _mm512_maskz_loadu_ps(t + 1 < T ? 0xffff : rows, y + i * y_stride + t * PL_TILE)
                               : _mm512_setzero_ps();
    for (int b = 0; b < blocks; b++, p += f.packed_block, part += N * size) {
        if (f.super && b % 8 == 0) {
            header = p;
            p += f.packed_header;
        }
        __m512i loaded[8];
        pl_ask(a, near);
        if (near) /* otherwise codes are loaded as they are needed: registers are for sums */
            load_words(f, p, loaded);
        __m512 s[2][2], m[2][2];
        for (int t = 0; t < T; t++) {
            if (f.super && (!near || b % 8 == 0)) /* likewise; one row is 5 to 13 % faster for doing this once */
                load_header(f, header + t * apart, d[t]);
            load_scales(f, d[t], p + t * apart, s[t], m[t]);
        }
#pragma GCC unroll 12
        for (int i = 0; i < N; i += G)
            block_by_rows(f, terms, T, G, p, apart, near ? loaded : NULL, shifted, s, m, part + i * size, size, acc, i);
    }
    for (int t = 0; t < T; t++)
        for (int i = 0; i < N; i++)
            _mm512_mask_storeu_ps(y + i * y_stride + t * PL_TILE, t + 1 < T ? 0xffff : rows, acc[t][i]);
}

/* Rows of x from which on a scaled format makes products: for fewer, that takes longer than scaling their dots (which
 * fit into 16 bits, 16 * 4 * 127). */
enum { PRODUCTS_FROM = 5 };

/* Whether a part may have n rows. */
PL_INLINE int takes_rows(const pl_shape f, int n)
{
    return !f.scaled || f.products || n < PRODUCTS_FROM;
}

/* Whether rows may meet two tiles at once: a second term, or scales and mins of super blocks, need the registers. */
PL_INLINE int may_pair(const pl_shape f, int terms)
{
    return terms == 1 && !(f.super && f.has_min) && (!f.scaled || f.products);
}

/* Tiles that rows meet at once. */
PL_INLINE int tiles_at_once(const pl_shape f, int terms, const pl_acts *x, int near)
{
    return near || !may_pair(f, terms) ? 1 : x->tuning->pair_tiles;
}

/* Most rows that meet `wide` tiles at once: their sums, in int32 and float32, are in registers. A sixth row by two
 * tiles fits, but leaves none for anything else (Zen 5, 96 rows of Q4_0: 0.73 of the int8 peak, five 0.77; Q4_1: five
 * 0.66, four 0.68). */
PL_INLINE int rows_at_once(const pl_shape f, int wide)
{
    return wide == 1 ? INT_ROWS : f.has_min ? 4 : 5;
}

/* How many of n rows meet `wide` tiles next. */
PL_INLINE int part_of(const pl_shape f, int wide, int n)
{
    static const uint8_t fives[15] = {0, 1, 2, 3, 4, 5, 3, 4, 4, 5, 5, 4, 4, 5, 5}, fours[8] = {0, 1, 2, 3, 4, 3, 3, 4};
    if (wide == 1)
        return pl_part_of(n);
    return rows_at_once(f, wide) == 4 ? n < 8 ? fours[n] : 4 : n < 15 ? fives[n] : 5;
}

/* Up to how many rows a tile takes less time than memory needs for the next one, by the operations of a block: they
 * read it in order and prefetch what lies ahead. Four rows of Q4_0 run 1.3 times as fast when the next tile is
 * prefetched instead; two of Q4_K, like three of Q4_0, 1.3 times as slowly. */
PL_INLINE int near_rows(const pl_shape f)
{
    return f.super ? f.bits == 4 ? 2 : 1 : f.bits == 8 ? 4 : 3;
}

/* Bytes of the next tile that each of n rows' parts prefetches with a block: all of it during the first part would be
 * more than memory delivers in that time (16 rows of Q8_0: 0.57 of the peak; 0.75 this way). */
PL_INLINE int share_of_next(const pl_shape f, int T, int n)
{
    int parts = 0;
    for (; n > 0; n -= part_of(f, T, n))
        parts++;
    return (f.packed_block + f.packed_header / 8 + parts - 1) / parts;
}

/* T tiles at p by all n rows of a panel whose parts were made for `wide` tiles; near and `a` as above. */
PL_INLINE void tile_by_panel(const pl_shape f, int terms, const int T, int wide, int near, const uint8_t *p,
                             int64_t apart, pl_ahead a, int blocks, const uint8_t *panel, int n, int resume, int left,
                             float *y, ptrdiff_t y_stride)
{
    const int size = pl_entry_bytes(f, terms), last = left - PL_TILE * (T - 1);
    const __mmask16 rows = (__mmask16)(last >= PL_TILE ? 0xffff : (1 << last) - 1);
    for (int c; n > 0; n -= c) {
        c = part_of(f, wide, n);
#define BY(N)                                                                                                          \
    case N:                                                                                                            \
        if (!takes_rows(f, N))                                                                                         \
            break;                                                                                                     \
        if (N <= near_rows(f) && T == 1 && near)                                                                       \
            tile_by_rows(f, terms, 1, N, 1, p, apart, blocks, panel, resume, &a, rows, y, y_stride);                   \
        else                                                                                                           \
            tile_by_rows(f, terms, T, N, 0, p, apart, blocks, panel, resume, &a, rows, y, y_stride);                   \
        break
#define BY_ONE(N)                                                                                                      \
    case N:                                                                                                            \
        if (T == 1 && takes_rows(f, N))                                                                                \
            tile_by_rows(f, terms, 1, N, 0, p, apart, blocks, panel, resume, &a, rows, y, y_stride);                   \
        break
        switch (c) {
            BY_ONE(12);
            BY_ONE(8);
            BY_ONE(6);
            BY(5);
            BY(4);
            BY(3);
            BY(2);
            BY(1);
        }
#undef BY
#undef BY_ONE
        panel += c * size * blocks;
        y += c * y_stride;
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

/* Rows [i0, i0 + n) of x, `most` blocks of k (a multiple of 8) at a time, by tiles [tile0, tile1). If k goes on, the
 * sums in y are continued. */
PL_INLINE void chunk(const pl_shape f, int terms, const pl_mat *w, int tile0, int tile1, const pl_acts *x, int i0,
                     int n, int most, float *y, ptrdiff_t y_stride)
{
    uint8_t *const panel = (uint8_t *)x->scratch + PL_PANEL_HEAD;
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK;
    const int near = n <= near_rows(f), bytes = f.bits == 8;
    const pl_tuning *u = x->tuning;
    const int lines = bytes ? u->ahead8_lines : u->ahead_lines, turns = bytes ? u->ahead8_turns : u->ahead_turns;
    const int64_t ahead = bytes ? u->ahead8_bytes : u->ahead_bytes, apart = w->tile_bytes;
    const int wide = tiles_at_once(f, terms, x, near),
              each = may_pair(f, terms) && wide == 2 && tile1 - tile0 > 1 ? 2 : 1;
    const int share = near ? f.packed_block + f.packed_header / 8 : share_of_next(f, wide, n);
    const pl_reading r = pl_read(w->data + tile0 * apart, each * apart, (tile1 - tile0) / each, turns && all <= most);
    for (int b0 = 0; b0 < all; b0 += most) {
        const int blocks = all - b0 < most ? all - b0 : most;
        if (!pl_panel_is(f, terms, x, i0, n, b0, blocks, wide))
            for (int i = 0, c; i < n; i += c) {
                c = part_of(f, wide, n - i);
                pl_make_panel(f, terms, x, i0 + i, c, b0, blocks, panel + i * size * blocks);
            }
        int t = tile0;
        const int64_t before = (int64_t)b0 * f.packed_block + (int64_t)(b0 / 8) * f.packed_header;
        for (; may_pair(f, terms) && wide == 2 && t + 1 < tile1; t += 2) {
            const uint8_t *p = w->data + t * apart + before;
            const pl_ahead a = pl_ahead_of(&r, (t - tile0) / 2, 2 * share, p + 2 * apart, 64);
            tile_by_panel(f, terms, 2, wide, 0, p, apart, a, blocks, panel, n, b0 > 0, w->rows - PL_TILE * t,
                          y + i0 * y_stride + PL_TILE * t, y_stride);
        }
        for (; t < tile1; t++) {
            const uint8_t *p = w->data + t * apart + before;
            const pl_ahead a =
                pl_ahead_of(&r, (t - tile0) / each, share, p + (near ? ahead : apart), near ? lines : 64);
            tile_by_panel(f, terms, 1, wide, near, p, apart, a, blocks, panel, n, b0 > 0, w->rows - PL_TILE * t,
                          y + i0 * y_stride + PL_TILE * t, y_stride);
        }
    }
}

/* As many rows at once as a panel of all k has room for, in chunks of whole parts of about equal size; if that is few
 * rows, k is cut, because weights that come from memory have to meet INT_SHARE rows at a time. */
PL_INLINE void product(const pl_shape f, int terms, PL_MATMUL_ARGS)
{
    const int size = pl_entry_bytes(f, terms), all = x->k / PL_BLOCK, few = n < INT_SHARE ? n : INT_SHARE;
    const int panel = x->tuning->panel_bytes, limit = panel / (few * size) & ~7, blocks = all < limit ? all : limit;
    const int whole = rows_at_once(f, tiles_at_once(f, terms, x, n <= near_rows(f)));
    const int fit = panel / (blocks * size), most = fit < whole ? fit : fit / whole * whole;
    const int chunks = (n + most - 1) / most, parts = (n + chunks * whole - 1) / (chunks * whole);
    const int each = parts * whole < most ? parts * whole : most;
    for (int i0 = 0; i0 < n; i0 += each)
        chunk(f, terms, w, tile0, tile1, x, i0, n - i0 < each ? n - i0 : each, limit, y, y_stride);
}

PL_INLINE void matmul(pl_shape f, PL_MATMUL_ARGS)
{
    if (n < 1)
        return;
    if (f.scaled && x->terms == 1 && n < PRODUCTS_FROM) {
        product(f, 1, w, tile0, tile1, x, n, y, y_stride);
        return;
    }
    f.products = f.scaled;
    if (f.scaled && f.offset)
        f.offset = PL_PRODUCT_OFFSET;
    if (x->terms == 2)
        product(f, 2, w, tile0, tile1, x, n, y, y_stride);
    else
        product(f, 1, w, tile0, tile1, x, n, y, y_stride);
}

PL_INT_FORMATS(PL_INT_MATMUL_OF)
PL_FAMILIES(PL_FAMILY_MATMUL_OF)

void pl_fill_matmul_int_avx512(pl_kernels *k)
{
    PL_INT_FORMATS(PL_PUT_MATMUL)
    PL_SHARED_FORMATS(PL_PUT_SHARED)
}
