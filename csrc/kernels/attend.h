/* Attention over one page of the cache, the parts common to all instruction sets: which rows go through the page
 * together, which keys they see, and how scores become probabilities. A tier does the first step, scores, and the last,
 * values, in its own registers; the one in between is written here, on sixteen lanes that the tier's vmath.h defines:
 *
 *     pl_lanes             16 floats; pl_lanes_load, _store, _all (the same in each), _add
 *     pl_lanes_scale       times a number
 *     pl_lanes_tanh        tanh
 *     pl_lanes_larger      the larger of each of two where bits are set, else the first; the first if the second is NaN
 *     pl_lanes_exp         exp(x - top)
 *     pl_lanes_exp_of      the same where bits are set, else 0
 *     pl_lanes_max, _sum   over all; _sum: lane j takes j + 8, + 4, + 2, + 1
 *     pl_exp_rows          exp of PL_EXP_ROWS floats, in place
 *     pl_rows_fade, _sum   if rows together take fewer steps (PL_ROWS_TOGETHER); otherwise written below
 *
 * What alters a score (scale, cap; a slope by distance) belongs in `pl_attend_softmax`, what hides a key in
 * `pl_attend_span` and the bits that it gives; a sink is not a key of a page: it is added when a row is written. */
#ifndef PL_KERNELS_ATTEND_H
#define PL_KERNELS_ATTEND_H

#include <float.h>

#include "common.h"
#include "prefetch.h"

#define PL_GROUPS (PL_PAGE / PL_SLOTS)
#define PL_BLOCKS(d) (((d) + PL_BLOCK - 1) / PL_BLOCK)
#define PL_MOST_ROWS 16 /* query rows at a time, of any tier */

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* Rows row .. row + rows - 1 of a call, each with at least one visible key. */
typedef void (*pl_attend_rows)(const pl_attend_page *a, int row, pl_kv_type type, const int rows);

/* Rows that see a key, up to `most` (1, 4 or 6) neighbours at a time. */
PL_INLINE void pl_attend(const pl_attend_page *a, pl_kv_type type, const int most, pl_attend_rows attend_rows)
{
    for (int row = 0, n; row < a->m; row += n ? n : 1) {
        for (n = 0; n < most && row + n < a->m && a->lo[row + n] < a->hi[row + n];)
            n++;
#define BY(N)                                                                                                          \
    case N:                                                                                                            \
        if (most >= N) /* otherwise no code is generated */                                                            \
            attend_rows(a, row, type, N);                                                                              \
        break
        switch (n) {
            BY(6);
            BY(5);
            BY(4);
            BY(3);
            BY(2);
            BY(1);
        }
#undef BY
    }
}

/* What each of `steps` steps prefetches of the next page, if the caller knows it: keys, and the values behind them,
 * lines from several places in turn. */
PL_INLINE pl_ahead pl_attend_ahead(const pl_attend_page *a, int row, int steps, int turns)
{
    if (row || !turns || !a->next || !a->next_bytes)
        return (pl_ahead){0};
    const int all = (int)a->next_bytes, lines = (all + 64 * steps - 1) / (64 * steps);
    return (pl_ahead){a->next, all / lines, lines, (all + lines * steps - 1) / (lines * steps)};
}

/* The kernel of a type, made from the file's `attend_rows` for up to ATTEND_ROWS rows, one page after another. */
#define PL_ATTEND_OF(name, type)                                                                                       \
    static void name(const pl_attend_page *pages, int n)                                                               \
    {                                                                                                                  \
        for (int i = 0; i < n; i++)                                                                                    \
            pl_attend(pages + i, type, ATTEND_ROWS, attend_rows);                                                      \
    }

/* Enters the kernel, and the bytes of scratch that it needs, in the table. */
#define PL_PUT_ATTEND(type, name, bytes) (k->attend[type] = (name), k->attend_scratch[type] = (bytes))

/* ---- which keys they see ----------------------------------------------------------------------------------------- */

typedef struct pl_span {
    int lo, hi;      /* slots that any of the rows sees: [lo, hi) */
    int first, last; /* their groups: [first, last) */
    int all;         /* every row sees every slot */
} pl_span;

PL_INLINE pl_span pl_attend_span(const pl_attend_page *a, int row, const int rows)
{
    pl_span s = {.lo = PL_PAGE, .all = 1};
    for (int r = row; r < row + rows; r++) {
        s.lo = a->lo[r] < s.lo ? a->lo[r] : s.lo;
        s.hi = a->hi[r] > s.hi ? a->hi[r] : s.hi;
        s.all &= a->lo[r] == 0 && a->hi[r] == PL_PAGE;
    }
    s.first = s.lo / PL_SLOTS;
    s.last = (s.hi + PL_SLOTS - 1) / PL_SLOTS;
    return s;
}

/* Bit j: whether the row sees slot j. */
PL_INLINE uint64_t pl_attend_sees(const pl_attend_page *a, int row)
{
    return ~0ull >> (PL_PAGE - a->hi[row]) & ~0ull << a->lo[row];
}

/* ---- scores -> probabilities, the running softmax ---------------------------------------------------------------- */

/* Dot products s of groups [first, last) -> capped scores, in place. */
static __attribute__((noinline)) void pl_attend_cap(const pl_attend_page *a, float *s, int first, int last)
{
    const float by = a->scale / a->cap;
    for (float *x = s + PL_SLOTS * first; x < s + PL_SLOTS * last; x += PL_SLOTS)
        pl_lanes_store(x, pl_lanes_scale(pl_lanes_tanh(pl_lanes_scale(pl_lanes_load(x), by)), a->cap));
}

/* What is left to multiply the dot products by: they are scores already if there is a cap. */
PL_INLINE float pl_attend_scale(const pl_attend_page *a)
{
    return a->cap > 0 ? 1.0f : a->scale;
}

/* Scores of groups [first, last) of a row -> exp(score - top), 0 where it does not see the key; returns their sum, in
 * lanes. `all`: it sees every slot; `sees`: its bits otherwise. */
typedef pl_lanes (*pl_attend_weigh)(const pl_attend_page *a, float *s, void *p, int first, int last, uint64_t sees,
                                    float top, const int all);

PL_INLINE pl_lanes pl_attend_exp(const pl_attend_page *a, float *s, void *p, int first, int last, uint64_t sees,
                                 float top, const int all)
{
    (void)a, (void)p; /* in place */
    pl_lanes sum = pl_lanes_all(0);
    for (int g = first; g < last; g++) {
        const pl_lanes x = pl_lanes_load(s + PL_SLOTS * g);
        const pl_lanes e =
            all ? pl_lanes_exp(x, top) : pl_lanes_exp_of(x, top, (uint32_t)(sees >> PL_SLOTS * g) & 0xffff);
        pl_lanes_store(s + PL_SLOTS * g, e);
        sum = pl_lanes_add(sum, e);
    }
    return sum;
}

#ifndef PL_ROWS_TOGETHER
/* Of each row, the larger of `old` and `by` times its largest lane -> top, and exp(old - top) -> fade. */
PL_INLINE void pl_rows_fade(const pl_lanes *best, float by, const float *old, float *top, float *fade, const int rows)
{
    for (int r = 0; r < rows; r++) {
        const float most = pl_lanes_max(best[r]) * by;
        top[r] = most > old[r] ? most : old[r];
        fade[r] = old[r] - top[r];
    }
    pl_exp_rows(fade);
}

/* Of each row, sum = sum * fade + its lanes of x. */
PL_INLINE void pl_rows_sum(const pl_lanes *x, const float *fade, float *sum, const int rows)
{
    for (int r = 0; r < rows; r++)
        sum[r] = sum[r] * fade[r] + pl_lanes_sum(x[r]);
}
#endif

/* Dot products s of `rows` rows -> probabilities, by `weigh`, which may put them at p + r * p_bytes. Updates top and
 * sum; fade[r]: the factor for acc. dots: s keeps the dot products, and `weigh` makes the scores from them. */
PL_INLINE void pl_attend_softmax(const pl_attend_page *a, int row, float (*s)[PL_PAGE], pl_span span, const int all,
                                 const int dots, pl_attend_weigh weigh, void *p, size_t p_bytes, float *fade,
                                 const int rows)
{
    const int first = all ? 0 : span.first, last = all ? PL_GROUPS : span.last;
    const float scale = pl_attend_scale(a);
    float top[PL_MOST_ROWS];
    pl_lanes lanes[PL_MOST_ROWS];
    for (int r = 0; r < rows && a->cap > 0; r++)
        pl_attend_cap(a, s[r], first, last);
    for (int r = 0; r < rows; r++) {
        const uint64_t sees = pl_attend_sees(a, row + r);
        lanes[r] = pl_lanes_all(-FLT_MAX);
        for (int g = first; g < last; g++) { /* a NaN score does not change the best; its probability is NaN */
            pl_lanes x = pl_lanes_load(s[r] + PL_SLOTS * g);
            if (!dots) {
                x = pl_lanes_scale(x, scale);
                pl_lanes_store(s[r] + PL_SLOTS * g, x);
            }
            lanes[r] = pl_lanes_larger(lanes[r], x, all ? 0xffff : (uint32_t)(sees >> PL_SLOTS * g) & 0xffff);
        }
    }
    pl_rows_fade(lanes, dots ? scale : 1, a->top + row, top, fade, rows);
    for (int r = 0; r < rows; r++) {
        const uint64_t sees = all ? ~0ull : pl_attend_sees(a, row + r);
        lanes[r] = weigh(a, s[r], (char *)p + r * p_bytes, first, last, sees, top[r], all);
        a->top[row + r] = top[r];
    }
    pl_rows_sum(lanes, fade, a->sum + row, rows);
}

/* The middle step of every tier except bf16's: s holds the probabilities afterwards. */
PL_INLINE void pl_attend_middle(const pl_attend_page *a, int row, float (*s)[PL_PAGE], pl_span span, float *fade,
                                const int rows)
{
    if (span.all)
        pl_attend_softmax(a, row, s, span, 1, 0, pl_attend_exp, NULL, 0, fade, rows);
    else
        pl_attend_softmax(a, row, s, span, 0, 0, pl_attend_exp, NULL, 0, fade, rows);
}

#endif
