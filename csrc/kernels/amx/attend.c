/* Attention over one page of the cache in tile registers, for keys and values in bf16.
 *
 * A page as avx512bf16/attend.c lays it out is a sequence of tiles: sixteen pairs of d of a group's sixteen keys, and
 * sixteen pairs of slots of sixteen columns of values. Up to sixteen query rows meet each of them at once. One product
 * adds up the sixteen pairs' even and odd halves apart, each from 0 on, then their sum to what was there; it takes
 * numbers below the normal range for 0 (Intel SDM vol. 2, TDPBF16PS). So these sums are not those of the tier below. But
 * a row is computed in this way whatever the number of rows beside it, and with both tiles of slots, seen or not: a
 * row's bits do not depend on its company.
 *
 * Slots that no row sees may hold anything; their values are zeroed where they share a tile with others. */
#include <string.h>

#include "../avx512bf16/round.h"
#include "blocking.h"
#include "fill.h"
#include "tiles.h"

enum {
    PAIRS = PL_PAGE / 2,
    Q_TILES = 8,                                              /* tiles of queries that are held at a time */
    SCRATCH = Q_TILES * ATTEND_ROWS * 64 + ATTEND_PAIRS * 64, /* and a tile whose parts are zeroed */
};

/* Vectors wrote what tiles are about to read, or the other way round. */
#define BETWEEN() __asm__ volatile("" ::: "memory")

/* Lines of the next page, while this one is multiplied: pages lie apart, so the hardware does not foresee them. */
PL_INLINE void prefetch(const char *next, ptrdiff_t at, ptrdiff_t step)
{
    for (int i = 0; next && i < ATTEND_PAIRS; i++)
        _mm_prefetch(next + at + i * step, _MM_HINT_T1);
}

/* The tile of keys at `key`; rows from `left` on are zeros. */
PL_INLINE const char *whole(const char *key, int left, char *spare)
{
    if (left >= ATTEND_PAIRS)
        return key;
    for (int i = 0; i < ATTEND_PAIRS; i++)
        _mm512_storeu_si512(spare + 64 * i,
                            i < left ? _mm512_loadu_si512(key + (ptrdiff_t)64 * i) : _mm512_setzero_si512());
    BETWEEN();
    return spare;
}

/* Dot products of n queries from `row` on and the keys of the groups that they see. */
PL_INLINE void scores(const pl_attend_page *a, int row, int n, pl_span span, float (*s)[PL_PAGE])
{
    const int pairs = (a->dk + 1) / 2;
    const char *const next = row ? NULL : a->next;
    char *const q = a->scratch, *const spare = q + Q_TILES * ATTEND_ROWS * 64;
#define GROUP(C, A, B)                                                                                                 \
    do {                                                                                                               \
        const ptrdiff_t at = ((C) * (ptrdiff_t)pairs + p) * 64;                                                        \
        _tile_loadd(B, whole((const char *)a->k + at, pairs - p, spare), 64);                                          \
        _tile_dpbf16ps(C, A, B);                                                                                       \
        prefetch(next, at, 64);                                                                                        \
    } while (0)
#define GROUPS(A)                                                                                                      \
    do {                                                                                                               \
        _tile_loadd(A, q + ATTEND_ROWS * 64 * t, 64);                                                                  \
        if (span.first == 0)                                                                                           \
            GROUP(0, A, 6);                                                                                            \
        if (span.first <= 1 && span.last > 1)                                                                          \
            GROUP(1, A, 7);                                                                                            \
        if (span.first <= 2 && span.last > 2)                                                                          \
            GROUP(2, A, 6);                                                                                            \
        if (span.last > 3)                                                                                             \
            GROUP(3, A, 7);                                                                                            \
    } while (0)
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int p0 = 0; p0 < pairs; p0 += Q_TILES * ATTEND_PAIRS) {
        const int left = (pairs - p0 + ATTEND_PAIRS - 1) / ATTEND_PAIRS, tiles = left < Q_TILES ? left : Q_TILES;
        for (int t = 0; t < tiles; t++)
            for (int r = 0; r < n; r++)
                round_query(a->q + (row + r) * a->q_stride, 2 * (p0 + ATTEND_PAIRS * t), a->dk,
                            (uint32_t *)(q + (ATTEND_ROWS * t + r) * 64), ATTEND_PAIRS);
        BETWEEN();
        for (int t = 0; t < tiles; t++) {
            const int p = p0 + ATTEND_PAIRS * t;
            if (t % 2)
                GROUPS(5);
            else
                GROUPS(4);
        }
    }
#undef GROUPS
#undef GROUP
    _tile_stored(0, s[0], sizeof *s);
    _tile_stored(1, s[0] + PL_SLOTS, sizeof *s);
    _tile_stored(2, s[0] + 2 * PL_SLOTS, sizeof *s);
    _tile_stored(3, s[0] + 3 * PL_SLOTS, sizeof *s);
    BETWEEN();
}

/* The tile of values of slots [base, base + 32) and the columns in `in`, at v; what is not seen, zero. */
PL_INLINE const char *seen_values(const char *v, ptrdiff_t step, int base, pl_span span, __mmask16 in, char *spare)
{
    for (int i = 0; i < ATTEND_PAIRS; i++) {
        const int slot = base + 2 * i;
        const uint32_t even = slot >= span.lo && slot < span.hi ? 0xffffu : 0;
        const uint32_t odd = slot + 1 >= span.lo && slot + 1 < span.hi ? 0xffff0000u : 0;
        const __m512i x = _mm512_maskz_loadu_epi32(even | odd ? in : 0, v + i * step);
        _mm512_storeu_si512(spare + 64 * i, _mm512_and_si512(x, _mm512_set1_epi32((int)(even | odd))));
    }
    BETWEEN();
    return spare;
}

/* acc = acc * fade + p * values, of n rows from `row` on. */
PL_INLINE void values(const pl_attend_page *a, int row, int n, pl_span span, const uint32_t (*p)[PAIRS],
                      const float *fade)
{
    const ptrdiff_t dv = a->dv, step = 4 * dv;
    const char *const v = a->v, *const next = row || !a->next ? NULL : (const char *)a->next + bf16_k_bytes(a->dk);
    char *const spare = (char *)a->scratch + Q_TILES * ATTEND_ROWS * 64;
    float *const acc = a->acc + row * dv, narrow_acc[ATTEND_ROWS][PL_SLOTS];
    for (int r = 0; r < n; r++)
        for (ptrdiff_t d = 0; d < dv; d += PL_SLOTS) {
            const __mmask16 in = pl_first((int)(dv - d));
            float *to = acc + r * dv + d;
            _mm512_mask_storeu_ps(to, in, _mm512_mul_ps(_mm512_maskz_loadu_ps(in, to), _mm512_set1_ps(fade[r])));
        }
    BETWEEN();
    _tile_loadd(4, p, sizeof *p);
    _tile_loadd(5, p[0] + ATTEND_PAIRS, sizeof *p);
#define HALF(C, A, B, half, d, in)                                                                                     \
    do {                                                                                                               \
        const int base = 2 * ATTEND_PAIRS * (half);                                                                    \
        const ptrdiff_t at = base / 2 * step + 4 * (d);                                                                \
        if (base >= span.hi || base + 2 * ATTEND_PAIRS <= span.lo)                                                     \
            _tile_zero(B);                                                                                             \
        else if (base >= span.lo && base + 2 * ATTEND_PAIRS <= span.hi && (in) == 0xffff)                              \
            _tile_loadd(B, v + at, step);                                                                              \
        else                                                                                                           \
            _tile_loadd(B, seen_values(v + at, step, base, span, in, spare), 64);                                      \
        _tile_dpbf16ps(C, A, B);                                                                                       \
        prefetch(next, at, step);                                                                                      \
    } while (0)
#define COLUMNS(C, d, in)                                                                                              \
    do {                                                                                                               \
        HALF(C, 4, 6, 0, d, in);                                                                                       \
        HALF(C, 5, 7, 1, d, in);                                                                                       \
    } while (0)
    ptrdiff_t d = 0;
    for (; d + 4 * PL_SLOTS <= dv; d += 4 * PL_SLOTS) {
        float *const to = acc + d;
        _tile_loadd(0, to, step);
        _tile_loadd(1, to + PL_SLOTS, step);
        _tile_loadd(2, to + 2 * PL_SLOTS, step);
        _tile_loadd(3, to + 3 * PL_SLOTS, step);
        COLUMNS(0, d, 0xffff);
        COLUMNS(1, d + PL_SLOTS, 0xffff);
        COLUMNS(2, d + 2 * PL_SLOTS, 0xffff);
        COLUMNS(3, d + 3 * PL_SLOTS, 0xffff);
        _tile_stored(0, to, step);
        _tile_stored(1, to + PL_SLOTS, step);
        _tile_stored(2, to + 2 * PL_SLOTS, step);
        _tile_stored(3, to + 3 * PL_SLOTS, step);
    }
    for (; d < dv; d += PL_SLOTS) {
        const __mmask16 in = pl_first((int)(dv - d));
        for (int r = 0; r < n; r++)
            _mm512_storeu_ps(narrow_acc[r], _mm512_maskz_loadu_ps(in, acc + r * dv + d));
        BETWEEN();
        _tile_loadd(0, narrow_acc, sizeof *narrow_acc);
        COLUMNS(0, d, in);
        _tile_stored(0, narrow_acc, sizeof *narrow_acc);
        BETWEEN();
        for (int r = 0; r < n; r++)
            _mm512_mask_storeu_ps(acc + r * dv + d, in, _mm512_loadu_ps(narrow_acc[r]));
    }
#undef COLUMNS
#undef HALF
    BETWEEN();
    for (ptrdiff_t i = 0; i < n * dv; i += PL_SLOTS) { /* + 0: -0 becomes 0 */
        const __mmask16 in = pl_first((int)(n * dv - i));
        _mm512_mask_storeu_ps(acc + i, in, _mm512_add_ps(_mm512_maskz_loadu_ps(in, acc + i), _mm512_setzero_ps()));
    }
}

/* Rows row .. row + n - 1 of the call, each with at least a visible key. */
static void attend_rows(const pl_attend_page *a, int row, int n)
{
    float s[ATTEND_ROWS][PL_PAGE], fade[PL_EXP_ROWS] = {0};
    uint32_t p[ATTEND_ROWS][PAIRS];
    const pl_span span = pl_attend_span(a, row, n);
    pl_tiles_on(n, 64);
    scores(a, row, n, span, s);
    if (span.all) {
        pl_attend_softmax(a, row, s, span, 1, 1, weigh, p, sizeof *p, fade, n);
    } else {
        memset(p, 0, sizeof *p * (size_t)n); /* the groups that are not computed, too */
        pl_attend_softmax(a, row, s, span, 0, 1, weigh, p, sizeof *p, fade, n);
    }
    values(a, row, n, span, (const uint32_t (*)[PAIRS])p, fade);
    pl_tiles_off();
}

static void attend(const pl_attend_page *a)
{
    for (int row = 0, n; row < a->m; row += n ? n : 1) {
        for (n = 0; n < ATTEND_ROWS && row + n < a->m && a->lo[row + n] < a->hi[row + n];)
            n++;
        if (n)
            attend_rows(a, row, n);
    }
}

void pl_fill_attend_amx(pl_kernels *k)
{
    PL_PUT_ATTEND(PL_KV_BF16, attend, SCRATCH);
}
