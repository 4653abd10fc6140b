/* Attention over one page of the cache, AVX2: layout and order of sums as in scalar/attend.c, with FMA.
 *
 * Up to four query rows go through a page together. Scores: 16 keys x rows in registers, d ascending. Values: 16
 * columns x rows in registers, keys ascending. With fewer rows more groups (columns) at a time hide the latency of
 * FMA. A key that another row of the four sees and this one does not has probability 0 here: acc + 0 * v is acc. */
#include <string.h>

#include "blocking.h"
#include "fill.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../attend.h"

typedef float probs[ATTEND_ROWS][PL_PAGE]; /* of a page: scores, then probabilities */

typedef struct scratch {
    probs scaled[2];               /* int8: times the scales of 32 columns of values, and of the next 32 */
    float wide[PL_PAGE][PL_SLOTS]; /* the last columns of values */
} scratch;

/* 8 elements from index i on, as floats. */
PL_INLINE __m256 load8(const void *p, ptrdiff_t i, pl_kv_type type)
{
    if (type == PL_KV_F32)
        return _mm256_loadu_ps((const float *)p + i);
    if (type == PL_KV_INT8)
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)((const int8_t *)p + i))));
    const __m128i half = _mm_loadu_si128((const __m128i *)((const uint16_t *)p + i));
    if (type == PL_KV_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Dot products of `rows` queries and 16 * `groups` keys -> s; k points to the first group, q to the first row. */
PL_INLINE void scores(const float *q, ptrdiff_t q_stride, const void *k, pl_ahead *ahead, ptrdiff_t first, int dk,
                      float (*s)[PL_PAGE], pl_kv_type type, const int rows, const int groups)
{
    const int block = type == PL_KV_INT8 ? PL_BLOCK : dk;
    for (int d0 = 0; d0 < dk; d0 += block) {
        const int end = dk - d0 < block ? dk : d0 + block;
        __m256 acc[ATTEND_ROWS][2 * PL_GROUPS];
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < 2 * groups; c++)
                acc[r][c] = _mm256_setzero_ps();
        for (int d = d0; d < end; d++) {
            __m256 x[ATTEND_ROWS];
            pl_ask(ahead, 0);
            for (int r = 0; r < rows; r++)
                x[r] = _mm256_broadcast_ss(q + r * q_stride + d);
            for (int c = 0; c < 2 * groups; c++) {
                const __m256 key = load8(k, ((first + c / 2) * dk + d) * PL_SLOTS + c % 2 * 8, type);
                for (int r = 0; r < rows; r++)
                    acc[r][c] = _mm256_fmadd_ps(x[r], key, acc[r][c]);
            }
        }
        const float *scales = (const float *)((const char *)k + (ptrdiff_t)dk * PL_PAGE) + d0 / PL_BLOCK * PL_SLOTS;
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < 2 * groups; c++) {
                float *to = &s[r][first * PL_SLOTS + 8 * c];
                __m256 dot = acc[r][c];
                if (type == PL_KV_INT8) {
                    dot = _mm256_mul_ps(
                        dot, _mm256_loadu_ps(scales + (first + c / 2) * PL_BLOCKS(dk) * PL_SLOTS + c % 2 * 8));
                    dot = d0 ? _mm256_add_ps(_mm256_loadu_ps(to), dot) : dot;
                }
                _mm256_storeu_ps(to, dot);
            }
    }
}

/* acc = acc * fade + sum over keys [lo, hi) of p * v, for 8 * `vectors` columns from `column` on; rows of v stand
 * `stride` elements apart, acc points to each row's column. With int8 p[1] is that of the second 32 columns. */
PL_INLINE void values(const probs *p, pl_ahead *ahead, int lo, int hi, const void *v, ptrdiff_t column,
                      ptrdiff_t stride, const float *fade, float *const *acc, pl_kv_type type, const int rows,
                      const int vectors)
{
    __m256 a[ATTEND_ROWS][8];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            a[r][c] = _mm256_mul_ps(_mm256_loadu_ps(acc[r] + 8 * c), _mm256_set1_ps(fade[r]));
    for (int j = lo; j < hi; j++) {
        __m256 x[ATTEND_ROWS];
        pl_ask(ahead, 0);
        for (int c = 0; c < vectors; c++) {
            if (c == 0 || (c == 4 && type == PL_KV_INT8))
                for (int r = 0; r < rows; r++)
                    x[r] = _mm256_broadcast_ss(&p[c / 4][r][j]);
            const __m256 value = load8(v, j * stride + column + 8 * c, type);
            for (int r = 0; r < rows; r++)
                a[r][c] = _mm256_fmadd_ps(x[r], value, a[r][c]);
        }
    }
    for (int r = 0; r < rows; r++) /* + 0: -0 becomes 0 */
        for (int c = 0; c < vectors; c++)
            _mm256_storeu_ps(acc[r] + 8 * c, _mm256_add_ps(a[r][c], _mm256_setzero_ps()));
}

/* The last dv % 16 columns: through floats padded to 16, because narrow loads cannot be masked. */
PL_INLINE void values_tail(const probs *p, pl_ahead *ahead, int lo, int hi, const void *v, int column, int dv,
                           const float *fade, float *const *acc, float (*wide)[PL_SLOTS], pl_kv_type type,
                           const int rows)
{
    const int n = dv - column;
    float part[ATTEND_ROWS][PL_SLOTS] = {{0}}, *parts[ATTEND_ROWS];
    for (int j = lo; j < hi; j++) {
        memset(wide[j], 0, sizeof wide[j]);
        for (int c = 0; c < n; c++) {
            const ptrdiff_t i = (ptrdiff_t)j * dv + column + c;
            wide[j][c] = type == PL_KV_F32    ? ((const float *)v)[i]
                         : type == PL_KV_F16  ? _cvtsh_ss(((const uint16_t *)v)[i])
                         : type == PL_KV_BF16 ? pl_bf16_to_f32(((const uint16_t *)v)[i])
                                              : ((const int8_t *)v)[i];
        }
    }
    for (int r = 0; r < rows; r++) {
        parts[r] = part[r];
        for (int c = 0; c < n; c++)
            part[r][c] = acc[r][c];
    }
    values(p, ahead, lo, hi, wide, 0, PL_SLOTS, fade, parts, PL_KV_F32, rows, 2);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < n; c++)
            acc[r][c] = part[r][c];
}

/* Probabilities for 64 columns of int8 from `column` on: multiplied by the scales of the first 32, and of the
 * others. */
PL_INLINE void scale_values(const float (*s)[PL_PAGE], const pl_attend_page *a, int column, int first, int last,
                            probs *p, const int rows)
{
    const float *scales = (const float *)((const char *)a->v + (ptrdiff_t)a->dv * PL_PAGE);
    for (int b = 0; b < 2 && column / PL_BLOCK + b < PL_BLOCKS(a->dv); b++)
        for (int c = 2 * first; c < 2 * last; c++) {
            const __m256 scale = _mm256_loadu_ps(scales + (ptrdiff_t)(column / PL_BLOCK + b) * PL_PAGE + 8 * c);
            for (int r = 0; r < rows; r++)
                _mm256_storeu_ps(&p[b][r][8 * c], _mm256_mul_ps(_mm256_loadu_ps(&s[r][8 * c]), scale));
        }
}

/* Rows row .. row + rows - 1 of the call, each with at least one visible key. */
PL_INLINE void attend_rows(const pl_attend_page *a, int row, pl_kv_type type, const int rows)
{
    probs s;
    float fade[PL_EXP_ROWS] = {0}, *acc[ATTEND_ROWS];
    const int at_once = rows == 1 ? 4 : rows == 4 ? 1 : 2; /* groups of keys: at most 12 accumulators */
    const float *q = a->q + row * a->q_stride;
    const pl_span span = pl_attend_span(a, row, rows);
    const int lo = span.lo, hi = span.hi, first = span.first, last = span.last;
    for (int r = 0; r < rows; r++)
        acc[r] = a->acc + (ptrdiff_t)(row + r) * a->dv;
    const int wide = rows == 1 ? 8 : rows == 4 ? 2 : 4; /* vectors of columns at once */
    pl_ahead ahead = pl_attend_ahead(
        a, row, a->dk * PL_GROUPS / at_once + PL_PAGE * ((a->dv + 8 * wide - 1) / (8 * wide)), a->turns);
    int g = first;
    for (; g + at_once <= last; g += at_once)
        scores(q, a->q_stride, a->k, &ahead, g, a->dk, s, type, rows, at_once);
    for (; g < last; g++)
        scores(q, a->q_stride, a->k, &ahead, g, a->dk, s, type, rows, 1);

    pl_attend_middle(a, row, s, span, fade, rows);

    scratch *const room = a->scratch;
    probs *const scaled = room->scaled;
    const probs *p = (const probs *)(type == PL_KV_INT8 ? scaled : &s);
    int d = 0;
    for (; d + 8 * wide <= a->dv; d += 8 * wide) {
        if (type == PL_KV_INT8 && d % PL_BLOCK == 0)
            scale_values((const float (*)[PL_PAGE])s, a, d, first, last, scaled, rows);
        values(p, &ahead, lo, hi, a->v, d, a->dv, fade, acc, type, rows, wide);
        for (int r = 0; r < rows; r++)
            acc[r] += 8 * wide;
    }
    for (; d + PL_SLOTS <= a->dv; d += PL_SLOTS) {
        if (type == PL_KV_INT8 && d % PL_BLOCK == 0)
            scale_values((const float (*)[PL_PAGE])s, a, d, first, last, scaled, rows);
        values(p, &ahead, lo, hi, a->v, d, a->dv, fade, acc, type, rows, 2);
        for (int r = 0; r < rows; r++)
            acc[r] += PL_SLOTS;
    }
    if (type == PL_KV_INT8 && d < a->dv && d % PL_BLOCK == 0)
        scale_values((const float (*)[PL_PAGE])s, a, d, first, last, scaled, rows);
    if (d < a->dv)
        values_tail(p, &ahead, lo, hi, a->v, d, a->dv, fade, acc, room->wide, type, rows);
}

PL_ATTEND_OF(attend_f32, PL_KV_F32)
PL_ATTEND_OF(attend_f16, PL_KV_F16)
PL_ATTEND_OF(attend_bf16, PL_KV_BF16)
PL_ATTEND_OF(attend_int8, PL_KV_INT8)

static void to_f16(const float *x, int n, uint16_t *y)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        y[i] = pl_f32_to_f16(x[i]);
}

/* The layout is the scalar one: only its conversions are faster here; f32 is inherited. */
PL_INLINE void append(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage,
                      void (*convert)(const float *x, int n, uint16_t *y))
{
    uint16_t *to = (uint16_t *)kpage + (ptrdiff_t)(slot / PL_SLOTS) * dk * PL_SLOTS + slot % PL_SLOTS, part[32];
    for (int d = 0, n; d < dk; d += n) {
        n = dk - d < 32 ? dk - d : 32;
        convert(k + d, n, part);
        for (int i = 0; i < n; i++)
            to[(ptrdiff_t)(d + i) * PL_SLOTS] = part[i];
    }
    convert(v, dv, (uint16_t *)vpage + (ptrdiff_t)slot * dv);
}

static void append_f16(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    append(k, v, dk, dv, slot, kpage, vpage, to_f16);
}

static void append_bf16(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    append(k, v, dk, dv, slot, kpage, vpage, pl_to_bf16_avx2);
}

/* n <= 32 values -> codes `step` apart; the scale. */
PL_INLINE float encode(const float *x, int n, int8_t *to, ptrdiff_t step)
{
    float padded[PL_BLOCK] = {0}, scale;
    int8_t code[PL_BLOCK];
    int16_t sums[2];
    if (n < PL_BLOCK)
        x = memcpy(padded, x, sizeof(float) * (size_t)n);
    pl_quantize_avx2(x, PL_BLOCK, 1, code, NULL, &scale, sums, NULL);
    for (int i = 0; i < n; i++)
        to[i * step] = code[i];
    return scale;
}

static void append_int8(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    int8_t *key = (int8_t *)kpage + (ptrdiff_t)(slot / PL_SLOTS) * dk * PL_SLOTS + slot % PL_SLOTS;
    int8_t *value = (int8_t *)vpage + (ptrdiff_t)slot * dv;
    float *ks = (float *)((char *)kpage + (ptrdiff_t)dk * PL_PAGE) + slot / PL_SLOTS * PL_BLOCKS(dk) * PL_SLOTS +
                slot % PL_SLOTS;
    float *vs = (float *)((char *)vpage + (ptrdiff_t)dv * PL_PAGE) + slot;
    for (int d = 0; d < dk; d += PL_BLOCK, ks += PL_SLOTS)
        *ks = encode(k + d, dk - d < PL_BLOCK ? dk - d : PL_BLOCK, key + (ptrdiff_t)d * PL_SLOTS, PL_SLOTS);
    for (int d = 0; d < dv; d += PL_BLOCK, vs += PL_PAGE)
        *vs = encode(v + d, dv - d < PL_BLOCK ? dv - d : PL_BLOCK, value + d, 1);
}

static void merge_row(float *top_a, float *sum_a, float *acc_a, float top_b, float sum_b, const float *acc_b, int dv)
{
    if (sum_b == 0)
        return;
    const float top = top_b > *top_a ? top_b : *top_a;
    const __m256 fade = pl_exp8(_mm256_setr_ps(*top_a - top, top_b - top, 0, 0, 0, 0, 0, 0));
    const __m256 fade_a = _mm256_broadcastss_ps(_mm256_castps256_ps128(fade));
    const __m256 fade_b = _mm256_broadcastss_ps(_mm_movehdup_ps(_mm256_castps256_ps128(fade)));
    int d = 0;
    for (; d + 8 <= dv; d += 8) {
        const __m256 b = _mm256_mul_ps(_mm256_loadu_ps(acc_b + d), fade_b);
        _mm256_storeu_ps(acc_a + d, _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(acc_a + d), fade_a), b));
    }
    if (d < dv) {
        const __m256i in = pl_first(dv - d);
        const __m256 b = _mm256_mul_ps(_mm256_maskload_ps(acc_b + d, in), fade_b);
        const __m256 a = _mm256_mul_ps(_mm256_maskload_ps(acc_a + d, in), fade_a);
        _mm256_maskstore_ps(acc_a + d, in, _mm256_add_ps(a, b));
    }
    *sum_a = *sum_a * _mm256_cvtss_f32(fade_a) + sum_b * _mm256_cvtss_f32(fade_b);
    *top_a = top;
}

static void attend_merge(int m, int dv, float *top_a, float *sum_a, float *acc_a, const float *top_b,
                         const float *sum_b, const float *acc_b)
{
    for (ptrdiff_t i = 0; i < m; i++)
        merge_row(top_a + i, sum_a + i, acc_a + i * dv, top_b[i], sum_b[i], acc_b + i * dv, dv);
}

void pl_fill_attend_avx2(pl_kernels *k)
{
    k->kv_append[PL_KV_F16] = append_f16;
    k->kv_append[PL_KV_BF16] = append_bf16;
    k->kv_append[PL_KV_INT8] = append_int8;
    PL_PUT_ATTEND(PL_KV_F32, attend_f32, sizeof(scratch));
    PL_PUT_ATTEND(PL_KV_F16, attend_f16, sizeof(scratch));
    PL_PUT_ATTEND(PL_KV_BF16, attend_bf16, sizeof(scratch));
    PL_PUT_ATTEND(PL_KV_INT8, attend_int8, sizeof(scratch));
    k->attend_merge = attend_merge;
}
