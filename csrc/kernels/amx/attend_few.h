/* Attention of one to three rows by vectors, with the bits of tiles (attend.c).
 *
 * A product of tiles adds up even and odd halves of sixteen pairs apart, each from 0 on by fused multiply-and-adds, then
 * the two, then what was there, with numbers below the normal range taken for 0: so do these. Tiles, their loads, stores
 * and the vectors between them wait for each other, so that little of memory's time is hidden behind them; vectors read
 * on. Pages from memory, two threads, in turns: 0.80 to 0.87 of the time of tiles (heads of 64), 0.90 to 0.95 (of 128);
 * four rows of 128 1.2. */
#ifndef PL_AMX_ATTEND_FEW_H
#define PL_AMX_ATTEND_FEW_H

#include "../avx512bf16/round.h"
#include "../prefetch.h"
#include "blocking.h"

enum {
    FEW_PAIRS = 128, /* pairs of d, at most */
    PAIRS = PL_PAGE / 2,
};

/* Even and odd halves as floats. */
typedef struct few_room {
    float q[FEW_ROWS][2][FEW_PAIRS];
    float s[FEW_ROWS][PL_PAGE];
    uint32_t bits[FEW_ROWS][FEW_PAIRS]; /* of queries, then of probabilities */
    float p[FEW_ROWS][2][PAIRS];
} few_room;

/* What numbers below the normal range are taken for holds between these. */
PL_INLINE void set_flush(unsigned mode)
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

/* sums[r * apart + 16 * i ...] += the product of a tile: n pairs of row r, x + r * 2 * x_apart, and of 16 * `vectors`
 * columns, whose lines are `across` bytes apart, those of the next pair `down`. */
PL_INLINE void add_tile(const float *x, int x_apart, const char *y, int n, ptrdiff_t across, ptrdiff_t down,
                        float *sums, ptrdiff_t apart, pl_ahead *ahead, const int near, const int rows,
                        const int vectors)
{
    __m512 e[FEW_ROWS][4], o[FEW_ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < vectors; i++)
            e[r][i] = o[r][i] = _mm512_setzero_ps();
    for (int p = 0; p < n; p++, y += down) {
        pl_ask(ahead, near);
        for (int i = 0; i < vectors; i++) {
            const __m512i pairs = _mm512_loadu_si512(y + i * across);
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
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_add_ps(e[r][i], o[r][i])));
        }
}

/* 16 * `vectors` columns of values from d on. */
PL_INLINE void add_values(const pl_attend_page *a, few_room *here, int d, pl_ahead *ahead, const int near,
                          const int rows, const int vectors)
{
    const ptrdiff_t down = (ptrdiff_t)4 * a->dv;
    for (int p = 0; p < PAIRS; p += ATTEND_PAIRS)
        add_tile(here->p[0][0] + p, PAIRS, (const char *)a->v + p * down + 4 * d, ATTEND_PAIRS, 64, down, a->acc + d,
                 a->dv, ahead, near, rows, vectors);
}

PL_INLINE void few_page(const pl_attend_page *a, few_room *here, unsigned mode, const int near, const int rows)
{
    const int pairs = (a->dk + 1) / 2, blocks = a->dv / (4 * PL_SLOTS), vectors = a->dv / PL_SLOTS % 4;
    const ptrdiff_t dv = a->dv;
    float fade[PL_EXP_ROWS] = {0};
    pl_ahead ahead = pl_attend_ahead(a, 0, pairs + PAIRS * (blocks + vectors));
    memset(here->s, 0, sizeof *here->s * rows);
    set_flush(mode | 0x8040); /* results, and what they are made of */
    for (int p = 0; p < pairs; p += ATTEND_PAIRS)
        add_tile(here->q[0][0] + p, FEW_PAIRS, (const char *)a->k + (ptrdiff_t)64 * p,
                 pairs - p < ATTEND_PAIRS ? pairs - p : ATTEND_PAIRS, (ptrdiff_t)64 * pairs, 64, here->s[0], PL_PAGE,
                 &ahead, near, rows, PL_GROUPS);
    set_flush(mode);
    pl_attend_softmax(a, 0, here->s, pl_attend_span(a, 0, rows), 1, 1, weigh, here->bits, sizeof *here->bits, fade,
                      rows);
    for (int r = 0; r < rows; r++) {
        float *acc = a->acc + r * dv;
        split(here->bits[r], PAIRS, here->p[r][0], PAIRS);
        for (int d = 0; d < dv && fade[r] != 1; d += PL_SLOTS)
            _mm512_storeu_ps(acc + d, _mm512_mul_ps(_mm512_loadu_ps(acc + d), _mm512_set1_ps(fade[r])));
    }
    set_flush(mode | 0x8040);
    int d = 0;
    for (; d + 4 * PL_SLOTS <= dv; d += 4 * PL_SLOTS)
        add_values(a, here, d, &ahead, near, rows, 4);
    for (; d < dv; d += PL_SLOTS)
        add_values(a, here, d, &ahead, near, rows, 1);
    set_flush(mode);
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
    for (int i = 0; i < n; i++)
        few_page(pages + i, here, mode, pages[i].next_bytes <= PL_WINDOW, rows);
}

#endif
