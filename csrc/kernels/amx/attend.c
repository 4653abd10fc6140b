/* Attention over pages of the cache in tile registers, for keys and values in bf16.
 *
 * A page as avx512bf16/attend.c lays it out is a sequence of tiles: sixteen pairs of d of a group's sixteen keys, and
 * sixteen pairs of slots of sixteen columns of values. Up to sixteen query rows meet each of them at once. One product
 * adds up the sixteen pairs' even and odd halves apart, each from 0 on, then their sum to what was there; it takes
 * numbers below the normal range for 0 (Intel SDM vol. 2, TDPBF16PS). So these sums are not those of the tier below.
 * But a row is computed in this way whatever the number of rows beside it, and with both tiles of slots, seen or not:
 * its bits do not depend on the other rows.
 *
 * Slots that no row sees may hold anything; their values are zeroed where they share a tile with others.
 *
 * Loads of tiles, products, stores and the vectors between them each wait for the one before. So scores are computed a
 * part ahead, and registers are set up once for all pages of a call: 460 ns per page for three rows of heads of 64,
 * while one page after another took 615 (one thread of an Intel Xeon with 2 MB of L2, at 2.4 GHz; beside a neighbour on
 * the same core 945 and 1,140). Few rows of usual sizes are left to vectors (attend_few.h).
 *
 * Of 515 ns for sixteen rows and a page of heads of 64 (3.6 GHz) the softmax takes 180, values 150, scores 50. Tried
 * without gain: values a part later; their steps, or those of scores, between the rows of a softmax; sums in four
 * registers, so that no product waits for the one before (in a loop of its own 63 ns for 100). */
#include <string.h>

#include "../avx512bf16/round.h"
#include "../prefetch.h"
#include "attend_few.h"
#include "blocking.h"
#include "fill.h"
#include "tiles.h"

enum {
    Q_TILES = 8,  /* tiles of queries that are rounded at a time, for each part and page, ... */
    Q_HELD = 512, /* ... unless all rows' have room, of sixteen pairs each */
};

/* Scratch memory. */
typedef struct room {
    uint32_t q[Q_HELD][ATTEND_PAIRS]; /* (tile, row) */
    char spare[64 * ATTEND_PAIRS];    /* a tile whose parts are zeroed */
    float s[2][ATTEND_ROWS][PL_PAGE];
    uint32_t p[ATTEND_ROWS][PAIRS];
} room;

/* Vectors wrote what tiles are about to read, or the other way round. */
#define BETWEEN() __asm__ volatile("" ::: "memory")

/* The page that is prefetched beside this one. None if parts of many rows meet this one: prefetching takes longer than
 * waiting does (a prompt of SmolLM2 of 4,096 tokens, whose pages a second-level cache does not hold: the same time). */
PL_INLINE const char *next_of(const pl_attend_page *a)
{
    return a->m > ATTEND_ROWS ? NULL : a->next;
}

/* Sixteen lines of `all` bytes of the next page, while what is `at` bytes from the start of this one is multiplied:
 * pages lie apart, so the hardware does not foresee them. Of each 16 KB lines lie in four places, as in ../prefetch.h;
 * they go into the first-level cache if it has room for two pages. */
PL_INLINE void prefetch(const char *next, ptrdiff_t at, size_t all)
{
    const ptrdiff_t window = at & -PL_WINDOW, turns = window + PL_WINDOW <= (ptrdiff_t)all;
    const char *from = next + (turns ? window + at % PL_WINDOW / 4 : at);
#pragma GCC unroll 1
    for (int i = 0; next && i < 4; i++, from += turns ? PL_WINDOW / 4 : 256)
        for (int line = 0; line < 256; line += 64)
            if (all <= PL_WINDOW)
                _mm_prefetch(from + line, _MM_HINT_T0);
            else
                _mm_prefetch(from + line, _MM_HINT_T1);
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

/* Registers 0, 1: sums of n rows; 2, 3: these rows; 4 to 7: keys or values, four so that they rarely wait for a
 * product. */
static void tiles_on(int n)
{
    pl_tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = (uint8_t)(i < 4 ? n : 16);
    }
    _tile_loadconfig(&config);
}

PL_INLINE int tiles_of(int dk)
{
    return (dk + 2 * ATTEND_PAIRS - 1) / (2 * ATTEND_PAIRS);
}

/* `tiles` tiles of the queries of rows [row, row + n), from tile t0 on, to q; those of a tile are `apart` rows
 * apart. */
static void round_queries(const pl_attend_page *a, int row, int n, int t0, int tiles, uint32_t (*q)[ATTEND_PAIRS],
                          int apart)
{
    for (int t = 0; t < tiles; t++)
        for (int r = 0; r < n; r++)
            round_query(a->q + (row + r) * a->q_stride, 2 * ATTEND_PAIRS * (t0 + t), a->dk, q[t * apart + r],
                        ATTEND_PAIRS);
}

/* Dot products of n queries from `row` on and the keys of the groups that they see, and of their neighbours. held: all
 * queries are in scratch. Not inlined, to keep the library small. */
__attribute__((noinline)) static void scores(const pl_attend_page *a, int row, int n, pl_span span, int held,
                                             float (*s)[PL_PAGE])
{
    const int pairs = (a->dk + 1) / 2, all = tiles_of(a->dk), most = held ? all : Q_TILES;
    const int apart = held ? a->m : ATTEND_ROWS;
    const char *const next = next_of(a);
    room *const here = a->scratch;
    const uint32_t (*const q)[ATTEND_PAIRS] = (const uint32_t (*)[ATTEND_PAIRS])here->q + (held ? row : 0);
#define GROUP(C, A, B, g, p)                                                                                           \
    do {                                                                                                               \
        const ptrdiff_t at = ((g) * (ptrdiff_t)pairs + (p)) * 64;                                                      \
        _tile_loadd(B, whole((const char *)a->k + at, pairs - (p), here->spare), 64);                                  \
        _tile_dpbf16ps(C, A, B);                                                                                       \
        prefetch(next, at, a->next_bytes);                                                                             \
    } while (0)
    for (int t0 = 0; t0 < all; t0 += most) {
        const int tiles = all - t0 < most ? all - t0 : most;
        if (!held)
            round_queries(a, row, n, t0, tiles, here->q, apart);
        BETWEEN();
        for (int g = span.first & ~1; g < span.last; g += 2) {
            if (t0) {
                _tile_loadd(0, s[0] + PL_SLOTS * g, sizeof *s);
                _tile_loadd(1, s[0] + PL_SLOTS * (g + 1), sizeof *s);
            } else {
                _tile_zero(0);
                _tile_zero(1);
            }
            for (int t = 0; t < tiles; t += 2) {
                const int p = ATTEND_PAIRS * (t0 + t);
                _tile_loadd(2, q[t * apart], 64);
                GROUP(0, 2, 4, g, p);
                GROUP(1, 2, 5, g + 1, p);
                if (t + 1 == tiles)
                    break;
                _tile_loadd(3, q[(t + 1) * apart], 64);
                GROUP(0, 3, 6, g, p + ATTEND_PAIRS);
                GROUP(1, 3, 7, g + 1, p + ATTEND_PAIRS);
            }
            _tile_stored(0, s[0] + PL_SLOTS * g, sizeof *s);
            _tile_stored(1, s[0] + PL_SLOTS * (g + 1), sizeof *s);
        }
    }
#undef GROUP
    BETWEEN();
}

/* The tile of values of slots [base, base + 32) and the columns in `in`, at v; what is not seen is zero. */
PL_INLINE const char *seen_values(const char *v, ptrdiff_t step, int base, pl_span span, __mmask16 in, char *spare)
{
    for (int i = 0; i < ATTEND_PAIRS; i++) {
        const __m512i x = _mm512_maskz_loadu_epi32(in, v + i * step);
        _mm512_storeu_si512(spare + 64 * i, _mm512_and_si512(x, seen_halves(span, base + 2 * i)));
    }
    BETWEEN();
    return spare;
}

/* acc = acc * fade + p * values, of n rows from `row` on; it may hold -0 then. */
PL_INLINE void values(const pl_attend_page *a, int row, int n, pl_span span, const uint32_t (*p)[PAIRS],
                      const float *fade)
{
    const ptrdiff_t dv = a->dv, step = 4 * dv;
    const ptrdiff_t k_bytes = (ptrdiff_t)bf16_k_bytes(a->dk);
    const char *const v = a->v, *const next = next_of(a);
    char *const spare = ((room *)a->scratch)->spare;
    float *const acc = a->acc + row * dv, narrow_acc[ATTEND_ROWS][PL_SLOTS];
    fade_rows(acc, a->dv, n, fade);
    BETWEEN();
    _tile_loadd(2, p, sizeof *p);
    _tile_loadd(3, p[0] + ATTEND_PAIRS, sizeof *p);
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
        prefetch(next, k_bytes + 64 * ATTEND_PAIRS * (2 * ((d) / PL_SLOTS) + (half)), a->next_bytes);                  \
    } while (0)
#define COLUMNS(C, B0, B1, d, in)                                                                                      \
    do {                                                                                                               \
        HALF(C, 2, B0, 0, d, in);                                                                                      \
        HALF(C, 3, B1, 1, d, in);                                                                                      \
    } while (0)
    ptrdiff_t d = 0;
    for (; d + 2 * PL_SLOTS <= dv; d += 2 * PL_SLOTS) {
        _tile_loadd(0, acc + d, step);
        _tile_loadd(1, acc + d + PL_SLOTS, step);
        COLUMNS(0, 4, 5, d, 0xffff);
        COLUMNS(1, 6, 7, d + PL_SLOTS, 0xffff);
        _tile_stored(0, acc + d, step);
        _tile_stored(1, acc + d + PL_SLOTS, step);
    }
    for (; d < dv; d += PL_SLOTS) {
        const __mmask16 in = pl_first((int)(dv - d));
        for (int r = 0; r < n; r++)
            _mm512_storeu_ps(narrow_acc[r], _mm512_maskz_loadu_ps(in, acc + r * dv + d));
        BETWEEN();
        _tile_loadd(0, narrow_acc, sizeof *narrow_acc);
        COLUMNS(0, 4, 5, d, in);
        _tile_stored(0, narrow_acc, sizeof *narrow_acc);
        BETWEEN();
        for (int r = 0; r < n; r++)
            _mm512_mask_storeu_ps(acc + r * dv + d, in, _mm512_loadu_ps(narrow_acc[r]));
    }
#undef COLUMNS
#undef HALF
    BETWEEN();
}

/* -0 becomes 0 in the rows that see a key of a page. */
static void positive_zeros(const pl_attend_page *pages, int n)
{
    for (int r = 0; r < pages->m; r++) {
        int seen = 0;
        for (int i = 0; i < n; i++)
            seen |= pages[i].lo[r] < pages[i].hi[r];
        for (int d = 0; d < pages->dv && seen; d += PL_SLOTS) {
            const __mmask16 in = pl_first(pages->dv - d);
            float *to = pages->acc + (ptrdiff_t)r * pages->dv + d;
            _mm512_mask_storeu_ps(to, in, _mm512_add_ps(_mm512_maskz_loadu_ps(in, to), _mm512_setzero_ps()));
        }
    }
}

/* Neighbouring rows [row, row + n) that each see a key of a page. */
typedef struct part {
    const pl_attend_page *a;
    int row, n;
    pl_span span;
} part;

/* Rows of a page from row i on, up to sixteen -> those that see a key, as bits; their slots. */
PL_INLINE __mmask16 rows_that_see(const pl_attend_page *a, int i, __m512i *lo, __m512i *hi)
{
    const __mmask16 some = pl_first(a->m - i);
    *lo = _mm512_maskz_loadu_epi32(some, a->lo + i);
    *hi = _mm512_maskz_loadu_epi32(some, a->hi + i);
    return _mm512_cmplt_epi32_mask(*lo, *hi);
}

/* The next part, from row *row of page *page on, which advance past it; 0: there is none. */
PL_INLINE int find_part(const pl_attend_page *pages, int n, int *page, int *row, part *to)
{
    for (; *page < n; ++*page, *row = 0) {
        const pl_attend_page *a = pages + *page;
        __m512i lo, hi;
        for (unsigned see; *row < a->m;) {
            if (!(see = rows_that_see(a, *row, &lo, &hi))) {
                *row += ATTEND_ROWS;
                continue;
            }
            if (!(see & 1)) {
                *row += __builtin_ctz(see);
                continue;
            }
            const int rows = __builtin_ctz(~see); /* 1 to 16 */
            const __mmask16 in = pl_first(rows);
            *to = (part){.a = a, .row = *row, .n = rows};
            to->span.lo = _mm512_mask_reduce_min_epi32(in, lo);
            to->span.hi = _mm512_mask_reduce_max_epi32(in, hi);
            to->span.all = !_mm512_mask_cmpneq_epi32_mask(in, lo, _mm512_setzero_si512()) &&
                           !_mm512_mask_cmpneq_epi32_mask(in, hi, _mm512_set1_epi32(PL_PAGE));
            to->span.first = to->span.lo / PL_SLOTS;
            to->span.last = (to->span.hi + PL_SLOTS - 1) / PL_SLOTS;
            *row += rows;
            return 1;
        }
    }
    return 0;
}

/* The scores of a part are computed before the probabilities and values of the one ahead of it, so that neither waits
 * for the other's registers. */
static void attend_tiles(const pl_attend_page *pages, int n)
{
    room *const here = pages->scratch;
    float fade[PL_EXP_ROWS] = {0};
    part parts[2];
    int page = 0, row = 0, more = find_part(pages, n, &page, &row, &parts[0]);
    if (!more)
        return;
    const int tiles = tiles_of(pages->dk), held = tiles * pages->m <= Q_HELD;
    if (held)
        round_queries(pages, 0, pages->m, 0, tiles, here->q, pages->m);
    tiles_on(parts[0].n);
    scores(parts[0].a, parts[0].row, parts[0].n, parts[0].span, held, here->s[0]);
    for (int i = 0; more; i = !i) {
        const part *const now = &parts[i], *const then = &parts[!i];
        more = find_part(pages, n, &page, &row, &parts[!i]);
        const int alike = more && then->n == now->n;
        if (alike)
            scores(then->a, then->row, then->n, then->span, held, here->s[!i]);
        if (now->span.all) {
            pl_attend_softmax(now->a, now->row, here->s[i], now->span, 1, 1, weigh, here->p, sizeof *here->p, fade,
                              now->n);
        } else {
            memset(here->p, 0, sizeof *here->p * (size_t)now->n); /* the groups that are not computed, too */
            pl_attend_softmax(now->a, now->row, here->s[i], now->span, 0, 1, weigh, here->p, sizeof *here->p, fade,
                              now->n);
        }
        values(now->a, now->row, now->n, now->span, (const uint32_t (*)[PAIRS])here->p, fade);
        if (more && !alike) {
            tiles_on(then->n);
            scores(then->a, then->row, then->n, then->span, held, here->s[!i]);
        }
    }
    pl_tiles_off();
}

/* Not inlined, to keep the library small. */
__attribute__((noinline)) static void attend_one(const pl_attend_page *pages, int n)
{
    few_pages(pages, n, 1);
}

__attribute__((noinline)) static void attend_two(const pl_attend_page *pages, int n)
{
    few_pages(pages, n, 2);
}

__attribute__((noinline)) static void attend_three(const pl_attend_page *pages, int n)
{
    few_pages(pages, n, 3);
}

__attribute__((noinline)) static void attend_four(const pl_attend_page *pages, int n)
{
    few_pages(pages, n, 4);
}

/* Whether vectors compute the page: few rows, each of which sees a key of it. */
static int is_for_few(const pl_attend_page *a)
{
    if (a->m > FEW_ROWS || a->dk > 2 * FEW_PAIRS || a->dv % PL_SLOTS)
        return 0;
    for (int r = 0; r < a->m; r++)
        if (a->lo[r] >= a->hi[r])
            return 0;
    const pl_span span = pl_attend_span(a, 0, a->m);
    if (a->m > FEW_WHOLE && span.last - span.first > 2)
        return 0;
    return span.all || a->dv % (4 * PL_SLOTS) == 0;
}

/* Divides pages into runs for the same kernel. */
static void attend(const pl_attend_page *pages, int n)
{
    void (*const few[])(const pl_attend_page *, int) = {attend_one, attend_two, attend_three, attend_four};
    for (int i = 0, end; i < n; i = end) {
        const int kind = is_for_few(pages + i);
        for (end = i + 1; end < n && is_for_few(pages + end) == kind;)
            end++;
        (kind ? few[pages->m - 1] : attend_tiles)(pages + i, end - i);
    }
    positive_zeros(pages, n);
}

void pl_fill_attend_amx(pl_kernels *k)
{
    _Static_assert(sizeof(few_room) <= sizeof(room), "scratch memory");
    PL_PUT_ATTEND(PL_KV_BF16, attend, sizeof(room));
}
