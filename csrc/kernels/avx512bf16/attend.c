/* Attention over one page of the cache with dot products of bf16, for keys and values in bf16.
 *
 * A page: keys [4 groups][pairs of d][16 slots][2], values [32 pairs of slots][dv][2]; with an odd dk the last pair
 * ends with 0. vdpbf16ps adds the products of a pair, odd one first, each sum rounded once, and takes numbers below the
 * normal range for 0. Queries and probabilities are rounded to bf16 as well. Mean KL divergence from
 * float32 over 1,024 positions, SmolLM2 (Gemma 3): 1.7e-5 (1.7e-5) with keys and values alone in bf16, 3.0e-5 (2.7e-5)
 * with all four; the queries make the difference; a second term of the probabilities changes nothing.
 * If a row sees only one slot of a pair, the probability of the other is 0, and its value is masked to 0 at the ends of
 * what any row sees, because it may be anything there. */
#include "blocking.h"
#include "fill.h"
#include "round.h"

#define PAIRS (PL_PAGE / 2)

static size_t k_bytes(int d)
{
    return bf16_k_bytes(d);
}

PL_INLINE __m512 dot2(__m512 acc, __m512i a, uint32_t b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)b));
}

/* How the next page is prefetched while this one is multiplied, since pages lie apart and the hardware does not foresee
 * them: in order from `next` on, or, if that is NULL, in turns; near: into a first-level cache that has room for two
 * pages. */
typedef struct asking {
    const char *next;
    pl_ahead turns;
    int near;
} asking;

PL_INLINE void prefetch(asking *to, ptrdiff_t at, const int lines)
{
    if (to->next)
        for (int i = 0; i < lines; i++)
            _mm_prefetch(to->next + at + 64 * i, _MM_HINT_T1);
    else
        pl_ask(&to->turns, to->near);
}

/* Scores of `rows` queries, as pairs p0 .. p0 + n - 1 of d that are `q_apart` apart, and the keys of `groups` groups
 * from `first` on: added to s unless p0 is 0. */
PL_INLINE void scores(const uint32_t *q, ptrdiff_t q_apart, const char *k, asking *ask, int pairs, int p0, int n,
                      ptrdiff_t first, float (*s)[PL_PAGE], const int rows, const int groups)
{
    __m512 acc[ATTEND_ROWS][PL_GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++)
            acc[r][g] = p0 ? _mm512_loadu_ps(&s[r][(first + g) * PL_SLOTS]) : _mm512_setzero_ps();
    for (int p = 0; p < n; p++) {
        __m512i key[PL_GROUPS];
        prefetch(ask, (p0 + p) * (ptrdiff_t)(64 * PL_GROUPS), PL_GROUPS);
        for (int g = 0; g < groups; g++)
            key[g] = _mm512_loadu_si512(k + ((first + g) * pairs + p0 + p) * (ptrdiff_t)64);
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < groups; g++)
                acc[r][g] = dot2(acc[r][g], key[g], q[r * q_apart + p]);
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++)
            _mm512_storeu_ps(&s[r][(first + g) * PL_SLOTS], acc[r][g]);
}

/* Adds a pair of slots, of whose values only the halves in `keep` count. */
PL_INLINE void add_pair(__m512 (*acc)[8], const uint32_t (*p)[PAIRS], int pair, const char *v, ptrdiff_t dv,
                        __mmask16 in, __m512i keep, const int rows, const int vectors)
{
    __m512i x[8];
    for (int c = 0; c < vectors; c++)
        x[c] = _mm512_and_si512(keep, _mm512_maskz_loadu_epi32(c < vectors - 1 ? 0xffff : in,
                                                               v + (pair * dv + PL_SLOTS * c) * (ptrdiff_t)4));
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            acc[r][c] = dot2(acc[r][c], x[c], p[r][pair]);
}

/* acc = acc * fade + sum over slots [lo, hi) of p * v, for `vectors` vectors of columns from `column` on, of which the
 * last has the columns in `in`. */
PL_INLINE void values(const pl_attend_page *a, asking *ask, int row, const uint32_t (*p)[PAIRS], int lo, int hi,
                      int column, __mmask16 in, const float *fade, const int rows, const int vectors)
{
    const __m512i all = _mm512_set1_epi32(-1);
    const char *v = (const char *)a->v + (ptrdiff_t)column * 4;
    const ptrdiff_t at = (ptrdiff_t)bf16_k_bytes(a->dk) + (ptrdiff_t)column * 4;
    float *to = a->acc + (ptrdiff_t)row * a->dv + column;
    __m512 acc[ATTEND_ROWS][8];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++) {
            const __m512 old =
                _mm512_maskz_loadu_ps(c < vectors - 1 ? 0xffff : in, to + (ptrdiff_t)r * a->dv + PL_SLOTS * c);
            acc[r][c] = _mm512_mul_ps(old, _mm512_set1_ps(fade[r]));
        }
    const int end = hi / 2;
    int pair = lo / 2;
    if (lo % 2) {
        const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
        add_pair(acc, p, pair++, v, a->dv, in, upper, rows, vectors);
    }
    for (; pair < end; pair++) {
        prefetch(ask, at + pair * (ptrdiff_t)a->dv * 4, vectors);
        add_pair(acc, p, pair, v, a->dv, in, all, rows, vectors);
    }
    if (pair == end && hi % 2)
        add_pair(acc, p, pair, v, a->dv, in, _mm512_set1_epi32(0xffff), rows, vectors);
    for (int r = 0; r < rows; r++) /* + 0: -0 becomes 0 */
        for (int c = 0; c < vectors; c++)
            _mm512_mask_storeu_ps(to + (ptrdiff_t)r * a->dv + PL_SLOTS * c, c < vectors - 1 ? 0xffff : in,
                                  _mm512_add_ps(acc[r][c], _mm512_setzero_ps()));
}

/* Pairs of a query in scratch memory, where those of all rows of a call are held for all its pages if they have
 * room. */
PL_INLINE int held_pairs(const pl_attend_page *a)
{
    const int pairs = ((a->dk + 1) / 2 + 7) & ~7;
    return a->m * pairs <= ATTEND_Q_HELD ? pairs : 0;
}

/* Rows row .. row + rows - 1 of the call, each with at least one visible key. */
PL_INLINE void attend_rows(const pl_attend_page *a, int row, pl_kv_type type, const int rows)
{
    (void)type;
    float s[ATTEND_ROWS][PL_PAGE], fade[PL_EXP_ROWS];
    uint32_t p[ATTEND_ROWS][PAIRS];
    const pl_span span = pl_attend_span(a, row, rows);
    const int lo = span.lo, hi = span.hi, first = span.first, last = span.last, pairs = (a->dk + 1) / 2;
    const int wide = rows <= 3 ? 8 : 4; /* vectors of columns at once */
    const int steps = pairs + PAIRS * ((a->dv + PL_SLOTS * wide - 1) / (PL_SLOTS * wide));
    const int held = held_pairs(a), most = held ? pairs : ATTEND_Q_PAIRS, apart = held ? held : ATTEND_Q_PAIRS;
    uint32_t *const q = (uint32_t *)a->scratch + row * held;
    asking none = {0}, ask = {.next = row || a->turns ? NULL : a->next, .near = a->next_bytes <= PL_WINDOW};
    ask.turns = pl_attend_ahead(a, row, steps, a->turns);
    for (int p0 = 0; p0 < pairs; p0 += most) {
        const int n = pairs - p0 < most ? pairs - p0 : most;
        for (int r = 0; r < rows && !held; r++)
            round_query(a->q + (row + r) * a->q_stride, 2 * p0, a->dk, q + r * apart, n);
        if (last - first == PL_GROUPS)
            scores(q, apart, a->k, &ask, pairs, p0, n, 0, s, rows, PL_GROUPS);
        else
            for (int g = first; g < last; g += 2)
                if (g + 1 < last)
                    scores(q, apart, a->k, &none, pairs, p0, n, g, s, rows, 2);
                else
                    scores(q, apart, a->k, &none, pairs, p0, n, g, s, rows, 1);
    }
    if (span.all)
        pl_attend_softmax(a, row, s, span, 1, 1, weigh, p, sizeof *p, fade, rows);
    else
        pl_attend_softmax(a, row, s, span, 0, 1, weigh, p, sizeof *p, fade, rows);

    const uint32_t (*bits)[PAIRS] = (const uint32_t (*)[PAIRS])p;
    for (int d = 0, n; d < a->dv; d += PL_SLOTS * n) {
        const int left = a->dv - d;
        n = left >= PL_SLOTS * wide ? wide : left >= PL_SLOTS * 4 ? 4 : left > PL_SLOTS ? 2 : 1;
        if (n == wide)
            values(a, &ask, row, bits, lo, hi, d, 0xffff, fade, rows, wide);
        else if (n == 4)
            values(a, &ask, row, bits, lo, hi, d, 0xffff, fade, rows, 4);
        else if (n == 2)
            values(a, &ask, row, bits, lo, hi, d, pl_first(left - PL_SLOTS), fade, rows, 2);
        else
            values(a, &ask, row, bits, lo, hi, d, pl_first(left), fade, rows, 1);
    }
}

static void attend(const pl_attend_page *pages, int n)
{
    const int held = held_pairs(pages);
    for (int r = 0; r < pages->m && held; r++)
        round_query(pages->q + r * pages->q_stride, 0, pages->dk, (uint32_t *)pages->scratch + r * held, held);
    for (int i = 0; i < n; i++)
        pl_attend(pages + i, PL_KV_BF16, ATTEND_ROWS, attend_rows);
}

/* 16 floats of n -> bf16 bits, numbers below the normal range too (vcvtneps2bf16 takes them for 0). NaN is made
 * quiet. */
PL_INLINE __m512i bits_of(const float *x, int n)
{
    const __m512 f = _mm512_maskz_loadu_ps(pl_first(n), x);
    const __m512i u = _mm512_castps_si512(f), last = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
    return _mm512_srli_epi32(_mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000)), 16);
}

static void append(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    const ptrdiff_t pairs = (dk + 1) / 2;
    uint32_t *key = (uint32_t *)kpage + slot / PL_SLOTS * pairs * PL_SLOTS + slot % PL_SLOTS, part[8];
    for (int d = 0; d < dk; d += 16, key += 8 * PL_SLOTS) {
        _mm256_storeu_si256((__m256i *)part, _mm512_cvtepi32_epi16(bits_of(k + d, dk - d)));
        const int n = dk - d < 16 ? (dk - d + 1) / 2 : 8;
        for (int i = 0; i < n; i++)
            key[i * PL_SLOTS] = part[i];
    }
    uint16_t *value = (uint16_t *)vpage + (ptrdiff_t)(slot / 2) * dv * 2;
    for (int d = 0; d < dv; d += 16, value += 32) {
        const __m512i x = bits_of(v + d, dv - d);
        const __mmask32 in =
            (dv - d < 16 ? (1u << 2 * (dv - d)) - 1 : 0xffffffffu) & (slot % 2 ? 0xaaaaaaaau : 0x55555555u);
        _mm512_mask_storeu_epi16(value, in, slot % 2 ? _mm512_slli_epi32(x, 16) : x);
    }
}

void pl_fill_attend_avx512bf16(pl_kernels *k)
{
    k->k_bytes[PL_KV_BF16] = k_bytes;
    k->kv_append[PL_KV_BF16] = append;
    PL_PUT_ATTEND(PL_KV_BF16, attend, sizeof(uint32_t[ATTEND_Q_HELD]));
}
