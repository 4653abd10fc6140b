/* Attention over one page of the cache, AVX-512: layout and order of sums as in scalar/attend.c, with FMA.
 *
 * Up to six query rows go through a page together. Scores: 64 keys x rows in registers, d ascending. Values: 64 columns
 * x rows in registers (128 with few rows), keys ascending. 24 accumulators and the vectors loaded fill the registers;
 * 4 conversions (on ports of their own) serve 24 FMAs. A key that another row of the six sees and this one does not has
 * probability 0 here: acc + 0 * v is acc. */
#include "blocking.h"
#include "fill.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../attend.h"

typedef float probs[ATTEND_ROWS][PL_PAGE]; /* of a page: scores, then probabilities */

/* 16 elements from index i on, as floats: those in `in`, the others 0. */
PL_INLINE __m512 load16(const void *p, ptrdiff_t i, __mmask16 in, pl_kv_type type)
{
    if (type == PL_KV_F32)
        return _mm512_maskz_loadu_ps(in, (const float *)p + i);
    if (type == PL_KV_INT8)
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(in, (const int8_t *)p + i)));
    const __m256i half = _mm256_maskz_loadu_epi16(in, (const uint16_t *)p + i);
    if (type == PL_KV_F16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* dots of d0 <= d < end with int8 keys, times the keys' scales there, added to s unless d0 is 0. */
PL_INLINE void add_block(const pl_attend_page *a, const float (*dot)[PL_PAGE], int d0, ptrdiff_t first,
                         float (*s)[PL_PAGE], const int rows, const int groups)
{
    const float *scales = (const float *)((const char *)a->k + (ptrdiff_t)a->dk * PL_PAGE) + d0 / PL_BLOCK * PL_SLOTS;
    for (int g = 0; g < groups; g++) {
        const __m512 scale = _mm512_loadu_ps(scales + (first + g) * PL_BLOCKS(a->dk) * PL_SLOTS);
        for (int r = 0; r < rows; r++) {
            float *to = &s[r][(first + g) * PL_SLOTS];
            const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(&dot[r][PL_SLOTS * g]), scale);
            _mm512_storeu_ps(to, d0 ? _mm512_add_ps(_mm512_loadu_ps(to), x) : x);
        }
    }
}

/* Dot products of `rows` queries and the keys of `groups` groups from `first` on -> s. */
PL_INLINE void scores(const pl_attend_page *a, int row, pl_ahead *ahead, ptrdiff_t first, float (*s)[PL_PAGE],
                      pl_kv_type type, const int rows, const int groups)
{
    const int dk = a->dk, block = type == PL_KV_INT8 ? PL_BLOCK : dk;
    const float *q = a->q + row * a->q_stride;
    float dot[ATTEND_ROWS][PL_PAGE];
    int d0 = 0;
    do {
        const int end = dk - d0 < block ? dk : d0 + block;
        __m512 acc[ATTEND_ROWS][PL_GROUPS];
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < groups; g++)
                acc[r][g] = _mm512_setzero_ps();
        for (int d = d0; d < end; d++) {
            __m512 key[PL_GROUPS];
            pl_ask(ahead, 0);
            for (int g = 0; g < groups; g++)
                key[g] = load16(a->k, ((first + g) * dk + d) * PL_SLOTS, 0xffff, type);
            for (int r = 0; r < rows; r++) {
                const __m512 x = _mm512_set1_ps(q[r * a->q_stride + d]);
                for (int g = 0; g < groups; g++)
                    acc[r][g] = _mm512_fmadd_ps(x, key[g], acc[r][g]);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < groups; g++)
                if (type == PL_KV_INT8)
                    _mm512_storeu_ps(&dot[r][PL_SLOTS * g], acc[r][g]);
                else
                    _mm512_storeu_ps(&s[r][(first + g) * PL_SLOTS], acc[r][g]);
        if (type == PL_KV_INT8)
            add_block(a, (const float (*)[PL_PAGE])dot, d0, first, s, rows, groups);
        d0 += block;
    } while (d0 < dk);
}

/* acc = acc * fade + sum over keys [lo, hi) of p * v, for `vectors` vectors of columns from `column` on, of which the
 * last has the columns in `in`. With int8 p[1], p[2] .. are those of the next 32 columns each, else there is p[0]
 * only. */
PL_INLINE void values(const pl_attend_page *a, int row, pl_ahead *ahead, const probs *p, int lo, int hi, int column,
                      __mmask16 in, const float *fade, pl_kv_type type, const int rows, const int vectors)
{
    float *to = a->acc + (ptrdiff_t)row * a->dv + column;
    __m512 acc[ATTEND_ROWS][8];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++) {
            const __m512 old =
                _mm512_maskz_loadu_ps(c < vectors - 1 ? 0xffff : in, to + (ptrdiff_t)r * a->dv + PL_SLOTS * c);
            acc[r][c] = _mm512_mul_ps(old, _mm512_set1_ps(fade[r]));
        }
    for (int j = lo; j < hi; j++) {
        __m512 x[ATTEND_ROWS];
        pl_ask(ahead, 0);
        for (int c = 0; c < vectors; c++) {
            if (c == 0 || (c % 2 == 0 && type == PL_KV_INT8))
                for (int r = 0; r < rows; r++)
                    x[r] = _mm512_set1_ps(p[c / 2][r][j]);
            const __m512 v =
                load16(a->v, (ptrdiff_t)j * a->dv + column + PL_SLOTS * c, c < vectors - 1 ? 0xffff : in, type);
            for (int r = 0; r < rows; r++)
                acc[r][c] = _mm512_fmadd_ps(x[r], v, acc[r][c]);
        }
    }
    for (int r = 0; r < rows; r++) /* + 0: -0 becomes 0 */
        for (int c = 0; c < vectors; c++)
            _mm512_mask_storeu_ps(to + (ptrdiff_t)r * a->dv + PL_SLOTS * c, c < vectors - 1 ? 0xffff : in,
                                  _mm512_add_ps(acc[r][c], _mm512_setzero_ps()));
}

/* Probabilities for 32 columns of int8 from `column` on: multiplied by the values' scales there. */
PL_INLINE void scale_values(const float (*s)[PL_PAGE], const pl_attend_page *a, int column, int first, int last,
                            float (*p)[PL_PAGE], const int rows)
{
    const float *scales = (const float *)((const char *)a->v + (ptrdiff_t)a->dv * PL_PAGE);
    for (int g = first; g < last; g++) {
        const __m512 scale = _mm512_loadu_ps(scales + (ptrdiff_t)column / PL_BLOCK * PL_PAGE + PL_SLOTS * g);
        for (int r = 0; r < rows; r++)
            _mm512_storeu_ps(&p[r][PL_SLOTS * g], _mm512_mul_ps(_mm512_loadu_ps(&s[r][PL_SLOTS * g]), scale));
    }
}

/* Rows row .. row + rows - 1 of the call, each with at least one visible key. */
PL_INLINE void attend_rows(const pl_attend_page *a, int row, pl_kv_type type, const int rows)
{
    probs s[1], *const scaled = a->scratch; /* int8: (PL_GROUPS) */
    float fade[PL_EXP_ROWS] = {0};
    const pl_span span = pl_attend_span(a, row, rows);
    const int lo = span.lo, hi = span.hi, first = span.first, last = span.last;
    const int wide = rows <= 3 ? 8 : 4; /* vectors of columns at once */
    pl_ahead none = {0}, ahead;
    ahead = pl_attend_ahead(a, row, a->dk + PL_PAGE * ((a->dv + PL_SLOTS * wide - 1) / (PL_SLOTS * wide)), a->turns);
    if (last - first == PL_GROUPS)
        scores(a, row, &ahead, 0, s[0], type, rows, PL_GROUPS);
    else
        for (int g = first; g < last; g++)
            scores(a, row, &none, g, s[0], type, rows, 1);
    pl_attend_middle(a, row, s[0], span, fade, rows);

    const probs *p = (const probs *)(type == PL_KV_INT8 ? scaled : s);
    for (int d = 0, n; d < a->dv; d += PL_SLOTS * n) {
        const int left = a->dv - d;
        n = left >= PL_SLOTS * wide ? wide : left >= PL_SLOTS * 4 ? 4 : left > PL_SLOTS ? 2 : 1;
        if (type == PL_KV_INT8)
            for (int b = 0; b < n; b += 2)
                scale_values((const float (*)[PL_PAGE])s[0], a, d + PL_SLOTS * b, first, last, scaled[b / 2], rows);
        if (n == wide)
            values(a, row, &ahead, p, lo, hi, d, 0xffff, fade, type, rows, wide);
        else if (n == 4)
            values(a, row, &ahead, p, lo, hi, d, 0xffff, fade, type, rows, 4);
        else if (n == 2)
            values(a, row, &ahead, p, lo, hi, d, pl_first(left - PL_SLOTS), fade, type, rows, 2);
        else
            values(a, row, &ahead, p, lo, hi, d, pl_first(left), fade, type, rows, 1);
    }
}

PL_ATTEND_OF(attend_f32, PL_KV_F32)
PL_ATTEND_OF(attend_f16, PL_KV_F16)
PL_ATTEND_OF(attend_bf16, PL_KV_BF16)
PL_ATTEND_OF(attend_int8, PL_KV_INT8)

/* Sixteen rows at a time, whose exponentials are computed together; a row whose b has seen no key keeps a. */
static void attend_merge(int m, int dv, float *top_a, float *sum_a, float *acc_a, const float *top_b,
                         const float *sum_b, const float *acc_b)
{
    for (int row = 0; row < m; row += 16) {
        const __mmask16 rows = pl_first(m - row);
        const __m512 a = _mm512_maskz_loadu_ps(rows, top_a + row), b = _mm512_maskz_loadu_ps(rows, top_b + row);
        const __m512 sb = _mm512_maskz_loadu_ps(rows, sum_b + row), top = _mm512_max_ps(b, a); /* a where one is NaN */
        const __mmask16 some = _mm512_mask_cmp_ps_mask(rows, sb, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        const __m512 fade_a = pl_exp16(_mm512_sub_ps(a, top)), fade_b = pl_exp16(_mm512_sub_ps(b, top));
        const __m512 sum = _mm512_mul_ps(_mm512_maskz_loadu_ps(rows, sum_a + row), fade_a);
        _mm512_mask_storeu_ps(sum_a + row, some, _mm512_add_ps(sum, _mm512_mul_ps(sb, fade_b)));
        _mm512_mask_storeu_ps(top_a + row, some, top);
        float fades[2][16];
        _mm512_storeu_ps(fades[0], fade_a);
        _mm512_storeu_ps(fades[1], fade_b);
        for (int i = 0; i < 16; i++) {
            if (!(some >> i & 1))
                continue;
            float *to = acc_a + (ptrdiff_t)(row + i) * dv;
            const float *from = acc_b + (ptrdiff_t)(row + i) * dv;
            const __m512 x = _mm512_set1_ps(fades[0][i]), y = _mm512_set1_ps(fades[1][i]);
            for (int d = 0; d < dv; d += 16) {
                const __mmask16 in = pl_first(dv - d);
                const __m512 add = _mm512_mul_ps(_mm512_maskz_loadu_ps(in, from + d), y);
                _mm512_mask_storeu_ps(to + d, in,
                                      _mm512_add_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(in, to + d), x), add));
            }
        }
    }
}

void pl_fill_attend_avx512(pl_kernels *k)
{
    PL_PUT_ATTEND(PL_KV_F32, attend_f32, 0);
    PL_PUT_ATTEND(PL_KV_F16, attend_f16, 0);
    PL_PUT_ATTEND(PL_KV_BF16, attend_bf16, 0);
    PL_PUT_ATTEND(PL_KV_INT8, attend_int8, PL_GROUPS * sizeof(probs));
    k->attend_merge = attend_merge;
}
