/* Attention of few rows by vectors, with the bits of tiles (attend.c).
 *
 * A product of tiles adds up even and odd halves of sixteen pairs apart, each from 0 on by fused multiply-and-adds,
 * then the two, then what was there, with numbers below the normal range taken for 0: so do these vectors. Tiles, their
 * loads, stores and the vectors between them wait for each other, so that little of memory's time is hidden behind
 * them; vectors read on. Pages from memory, two threads, in turns: 0.80 to 0.87 of the time of tiles (heads of 64),
 * 0.90 to 0.95 (of 128); four rows of 128 1.2. A page of which 8 or 20 keys are seen takes 0.3 to 0.85 of it, because
 * tiles have 32 slots. */
#ifndef PL_AMX_ATTEND_FEW_H
#define PL_AMX_ATTEND_FEW_H

#include <string.h>

#include "../avx512bf16/round.h"
#include "../prefetch.h"
#include "blocking.h"

enum {
    FEW_PAIRS = 128, /* pairs of d, at most */
    PAIRS = PL_PAGE / 2,
};

typedef struct few_room {
    float q[FEW_ROWS][2][FEW_PAIRS]; /* even halves, then odd ones */
    float s[FEW_ROWS][PL_PAGE];
    uint32_t bits[FEW_ROWS][FEW_PAIRS]; /* of queries, then of probabilities */
    float p[FEW_ROWS][2][PAIRS];
} few_room;

/* The MXCSR that computes as tiles do, which ignore MXCSR: to nearest, results below the normal range are 0, and so is
 * what is computed with. */
enum { FLUSH = 0x9fc0 };

/* Sets the mode. What is computed from memory to memory after this call is computed in it. */
PL_INLINE void set_mode(unsigned mode)
{
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(mode);
    __asm__ volatile("" ::: "memory");
}

PL_INLINE __m512 even(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

PL_INLINE __m512 odd(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)));
}

/* n (a multiple of 16) pairs -> (2, apart) floats. */
PL_INLINE void split(const uint32_t *pairs, int n, float *to, int apart)
{
    for (int i = 0; i < n; i += PL_SLOTS) {
        const __m512i x = _mm512_loadu_si512(pairs + i);
        _mm512_storeu_ps(to + i, even(x));
        _mm512_storeu_ps(to + apart + i, odd(x));
    }
}

/* Which halves of the pair of slots from `slot` on are seen. */
PL_INLINE __m512i seen_halves(pl_span span, int slot)
{
    const uint32_t first = slot >= span.lo && slot < span.hi ? 0xffffu : 0;
    const uint32_t second = slot + 1 >= span.lo && slot + 1 < span.hi ? 0xffff0000u : 0;
    return _mm512_set1_epi32((int)(first | second));
}

/* acc (n, dv) *= fade, row by row. */
PL_INLINE void fade_rows(float *acc, int dv, int n, const float *fade)
{
    for (int r = 0; r < n; r++, acc += dv)
        for (int d = 0; d < dv && fade[r] != 1; d += PL_SLOTS) {
            const __mmask16 in = pl_first(dv - d);
            const __m512 faded = _mm512_mul_ps(_mm512_maskz_loadu_ps(in, acc + d), _mm512_set1_ps(fade[r]));
            _mm512_mask_storeu_ps(acc + d, in, faded);
        }
}

/* sums[r * apart + 16 * i ...] += the product of a tile: n pairs of row r, x + r * 2 * x_apart, and of 16 * `vectors`
 * columns, whose lines are `across` bytes apart, those of the next pair `down`. span: of the pairs, which begin with
 * `slot`, what is seen, or NULL for all. */
PL_INLINE void add_tile(const float *x, int x_apart, const char *y, int n, ptrdiff_t across, ptrdiff_t down,
                        float *sums, ptrdiff_t apart, const pl_span *span, int slot, pl_ahead *ahead, const int near,
                        const int rows, const int vectors)
{
    __m512 e[FEW_ROWS][4], o[FEW_ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < vectors; i++)
            e[r][i] = o[r][i] = _mm512_setzero_ps();
    for (int p = 0; p < n; p++, y += down) {
        pl_ask(ahead, near);
        for (int i = 0; i < vectors; i++) {
            __m512i pairs = _mm512_loadu_si512(y + i * across);
            if (span)
                pairs = _mm512_and_si512(pairs, seen_halves(*span, slot + 2 * p));
            const __m512 ye = even(pairs), yo = odd(pairs);
            for (int r = 0; r < rows; r++) {
                e[r][i] = _mm512_fmadd_ps(ye, _mm512_set1_ps(x[2 * r * x_apart + p]), e[r][i]);
                o[r][i] = _mm512_fmadd_ps(yo, _mm512_set1_ps(x[(2 * r + 1) * x_apart + p]), o[r][i]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < vectors; i++) {
            float *to = sums + r * apart + PL_SLOTS * i;
            __m512 sum = _mm512_add_ps(e[r][i], o[r][i]);
            if (n < ATTEND_PAIRS) /* a tile continues with zeros: in each half -0 becomes 0 */
                sum = _mm512_add_ps(_mm512_add_ps(e[r][i], _mm512_setzero_ps()),
                                    _mm512_add_ps(o[r][i], _mm512_setzero_ps()));
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum));
        }
}

/* Scores of `groups` groups of keys from `first` on. */
PL_INLINE void few_scores(const pl_attend_page *a, few_room *here, int first, pl_ahead *ahead, const int near,
                          const int rows, const int groups)
{
    const int pairs = (a->dk + 1) / 2;
    for (int p = 0; p < pairs; p += ATTEND_PAIRS)
        add_tile(here->q[0][0] + p, FEW_PAIRS, (const char *)a->k + (ptrdiff_t)64 * (first * pairs + p),
                 pairs - p < ATTEND_PAIRS ? pairs - p : ATTEND_PAIRS, (ptrdiff_t)64 * pairs, 64,
                 here->s[0] + PL_SLOTS * first, PL_PAGE, NULL, 0, ahead, near, rows, groups);
}

/* acc += 16 * `vectors` columns of values from d on. */
PL_INLINE void few_values(const pl_attend_page *a, const few_room *here, int d, const pl_span *span, pl_ahead *ahead,
                          const int near, const int rows, const int vectors)
{
    const ptrdiff_t down = (ptrdiff_t)4 * a->dv;
    for (int p = 0; p < PAIRS; p += ATTEND_PAIRS) {
        int from = p, to = p + ATTEND_PAIRS; /* pairs */
        if (span && from < span->lo / 2)
            from = span->lo / 2;
        if (span && to > (span->hi + 1) / 2)
            to = (span->hi + 1) / 2;
        if (from < to)
            add_tile(here->p[0][0] + from, PAIRS, (const char *)a->v + from * down + 4 * d, to - from, 64, down,
                     a->acc + d, a->dv, span, 2 * from, ahead, near, rows, vectors);
    }
}

/* Scores -> probabilities; acc *= fade. */
PL_INLINE void few_softmax(const pl_attend_page *a, few_room *here, pl_span span, const int all, const int rows)
{
    float fade[PL_EXP_ROWS] = {0};
    pl_attend_softmax(a, 0, here->s, span, all, 1, weigh, here->bits, sizeof *here->bits, fade, rows);
    for (int r = 0; r < rows; r++)
        split(here->bits[r], PAIRS, here->p[r][0], PAIRS);
    fade_rows(a->acc, a->dv, rows, fade);
}

/* A page of which all is seen. */
PL_INLINE void few_whole(const pl_attend_page *a, few_room *here, unsigned mode, pl_span span, const int near,
                         const int rows)
{
    const int blocks = a->dv / (4 * PL_SLOTS), vectors = a->dv / PL_SLOTS % 4;
    pl_ahead ahead = pl_attend_ahead(a, 0, (a->dk + 1) / 2 + PAIRS * (blocks + vectors), 1);
    set_mode(FLUSH);
    few_scores(a, here, 0, &ahead, near, rows, PL_GROUPS);
    set_mode(mode);
    few_softmax(a, here, span, 1, rows);
    set_mode(FLUSH);
    int d = 0;
    for (; d + 4 * PL_SLOTS <= a->dv; d += 4 * PL_SLOTS)
        few_values(a, here, d, NULL, &ahead, near, rows, 4);
    for (; d < a->dv; d += PL_SLOTS)
        few_values(a, here, d, NULL, &ahead, near, rows, 1);
}

/* A page of which a part is seen, by any row. */
PL_INLINE void few_partly(const pl_attend_page *a, few_room *here, unsigned mode, pl_span span, const int near,
                          const int rows)
{
    const int vectors = rows > 3 ? 2 : 4; /* of sums that registers have room for */
    const int seen = (span.hi + 1) / 2 - span.lo / 2;
    pl_ahead ahead =
        pl_attend_ahead(a, 0, (span.last - span.first) * ((a->dk + 1) / 2) + seen * (a->dv / (vectors * PL_SLOTS)), 1);
    set_mode(FLUSH);
    for (int g = span.first; g < span.last; g++)
        few_scores(a, here, g, &ahead, near, rows, 1);
    set_mode(mode);
    few_softmax(a, here, span, 0, rows);
    set_mode(FLUSH);
    for (int d = 0; d < a->dv; d += vectors * PL_SLOTS)
        few_values(a, here, d, &span, &ahead, near, rows, vectors);
}

PL_INLINE void few_pages(const pl_attend_page *pages, int n, const int rows)
{
    few_room *const here = pages->scratch;
    const unsigned mode = _mm_getcsr();
    const int pairs = (pages->dk + 1) / 2;
    for (int r = 0; r < rows; r++) {
        round_query(pages->q + r * pages->q_stride, 0, pages->dk, here->bits[r], pairs);
        split(here->bits[r], (pairs + 15) & -16, here->q[r][0], FEW_PAIRS);
    }
    for (int i = 0; i < n; i++) {
        const pl_span span = pl_attend_span(pages + i, 0, rows);
        const int near = pages[i].next_bytes <= PL_WINDOW;
        memset(here->s, 0, sizeof here->s);
        if (rows <= FEW_WHOLE && span.all)
            few_whole(pages + i, here, mode, span, near, rows);
        else
            few_partly(pages + i, here, mode, span, near, rows);
        set_mode(mode);
    }
}

#endif
