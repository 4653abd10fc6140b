/* Attention over one page of the cache, NEON: layout and order of sums as in scalar/attend.c, with fused steps.
 *
 * Up to four query rows go through a page together. Scores: 16 keys x rows in registers, d ascending. Values: 16
 * columns x rows in registers, keys ascending. With fewer rows more groups (columns) at a time hide the latency of the
 * fused steps: sixteen accumulators, of which two to four may start a cycle. A key that another row of the four sees
 * and this one does not has probability 0 here: acc + 0 * v is acc. Pages of int8 are the scalar tier's. */
#include <string.h>

#include "blocking.h"
#include "fill.h"
#include "simd.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../attend.h"

typedef float columns[PL_PAGE][PL_SLOTS]; /* scratch: the last columns of values, padded */

/* 4 elements from index i on, as floats. */
PL_INLINE float32x4_t load4(const void *p, ptrdiff_t i, pl_kv_type type)
{
    if (type == PL_KV_F32)
        return vld1q_f32((const float *)p + i);
    return type == PL_KV_F16 ? pl_load_f16((const uint16_t *)p + i) : pl_load_bf16((const uint16_t *)p + i);
}

PL_INLINE float load1(const void *p, ptrdiff_t i, pl_kv_type type)
{
    if (type == PL_KV_F32)
        return ((const float *)p)[i];
    return type == PL_KV_F16 ? pl_f16_to_f32(((const uint16_t *)p)[i]) : pl_bf16_to_f32(((const uint16_t *)p)[i]);
}

/* Dot products of `rows` queries and 16 * `groups` keys -> s; `first` is the first group, q the first row. */
PL_INLINE void scores(const float *q, ptrdiff_t q_stride, const void *k, ptrdiff_t first, int dk, float (*s)[PL_PAGE],
                      pl_kv_type type, const int rows, const int groups)
{
    float32x4_t acc[ATTEND_ROWS][4 * PL_GROUPS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4 * groups; c++)
            acc[r][c] = vdupq_n_f32(0);
    for (int d = 0; d < dk; d++) {
        float32x4_t x[ATTEND_ROWS];
        for (int r = 0; r < rows; r++)
            x[r] = vld1q_dup_f32(q + r * q_stride + d);
        for (int c = 0; c < 4 * groups; c++) {
            const float32x4_t key = load4(k, ((first + c / 4) * dk + d) * PL_SLOTS + c % 4 * 4, type);
            for (int r = 0; r < rows; r++)
                acc[r][c] = vfmaq_f32(acc[r][c], x[r], key);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4 * groups; c++)
            vst1q_f32(&s[r][first * PL_SLOTS + 4 * c], acc[r][c]);
}

/* acc = acc * fade + sum over keys [lo, hi) of p * v, for 4 * `vectors` columns from `column` on; rows of v stand
 * `stride` elements apart, acc points to each row's column. */
PL_INLINE void values(const float (*p)[PL_PAGE], int lo, int hi, const void *v, ptrdiff_t column, ptrdiff_t stride,
                      const float *fade, float *const *acc, pl_kv_type type, const int rows, const int vectors)
{
    float32x4_t a[ATTEND_ROWS][16];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            a[r][c] = vmulq_n_f32(vld1q_f32(acc[r] + 4 * c), fade[r]);
    for (int j = lo; j < hi; j++) {
        float32x4_t x[ATTEND_ROWS];
        for (int r = 0; r < rows; r++)
            x[r] = vld1q_dup_f32(&p[r][j]);
        for (int c = 0; c < vectors; c++) {
            const float32x4_t value = load4(v, j * stride + column + 4 * c, type);
            for (int r = 0; r < rows; r++)
                a[r][c] = vfmaq_f32(a[r][c], x[r], value);
        }
    }
    for (int r = 0; r < rows; r++) /* + 0: -0 becomes 0 */
        for (int c = 0; c < vectors; c++)
            vst1q_f32(acc[r] + 4 * c, vaddq_f32(a[r][c], vdupq_n_f32(0)));
}

/* The last dv % 16 columns: through floats padded to 16. */
PL_INLINE void values_tail(const float (*p)[PL_PAGE], int lo, int hi, const void *v, int column, int dv,
                           const float *fade, float *const *acc, float (*wide)[PL_SLOTS], pl_kv_type type,
                           const int rows)
{
    const int n = dv - column;
    float part[ATTEND_ROWS][PL_SLOTS] = {{0}}, *parts[ATTEND_ROWS];
    for (int j = lo; j < hi; j++) {
        memset(wide[j], 0, sizeof wide[j]);
        for (int c = 0; c < n; c++)
            wide[j][c] = load1(v, (ptrdiff_t)j * dv + column + c, type);
    }
    for (int r = 0; r < rows; r++) {
        parts[r] = part[r];
        for (int c = 0; c < n; c++)
            part[r][c] = acc[r][c];
    }
    values(p, lo, hi, wide, 0, PL_SLOTS, fade, parts, PL_KV_F32, rows, 4);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < n; c++)
            acc[r][c] = part[r][c];
}

/* Rows row .. row + rows - 1 of the call, each with at least one visible key. */
PL_INLINE void attend_rows(const pl_attend_page *a, int row, pl_kv_type type, const int rows)
{
    float s[ATTEND_ROWS][PL_PAGE], fade[PL_EXP_ROWS] = {0}, *acc[ATTEND_ROWS];
    const int at_once = rows == 1 ? 4 : rows == 2 ? 2 : 1; /* groups of keys: at most 16 accumulators */
    const float *q = a->q + row * a->q_stride;
    const pl_span span = pl_attend_span(a, row, rows);
    const int lo = span.lo, hi = span.hi, first = span.first, last = span.last;
    for (int r = 0; r < rows; r++)
        acc[r] = a->acc + (ptrdiff_t)(row + r) * a->dv;
    int g = first;
    for (; g + at_once <= last; g += at_once)
        scores(q, a->q_stride, a->k, g, a->dk, s, type, rows, at_once);
    for (; g < last; g++)
        scores(q, a->q_stride, a->k, g, a->dk, s, type, rows, 1);

    pl_attend_middle(a, row, s, span, fade, rows);

    const int wide = rows == 1 ? 16 : rows == 2 ? 8 : 4; /* vectors of columns at once */
    const float (*p)[PL_PAGE] = (const float (*)[PL_PAGE])s;
    int d = 0;
    for (; d + 4 * wide <= a->dv; d += 4 * wide) {
        values(p, lo, hi, a->v, d, a->dv, fade, acc, type, rows, wide);
        for (int r = 0; r < rows; r++)
            acc[r] += 4 * wide;
    }
    for (; d + PL_SLOTS <= a->dv; d += PL_SLOTS) {
        values(p, lo, hi, a->v, d, a->dv, fade, acc, type, rows, 4);
        for (int r = 0; r < rows; r++)
            acc[r] += PL_SLOTS;
    }
    if (d < a->dv)
        values_tail(p, lo, hi, a->v, d, a->dv, fade, acc, a->scratch, type, rows);
}

PL_ATTEND_OF(attend_f32, PL_KV_F32)
PL_ATTEND_OF(attend_f16, PL_KV_F16)
PL_ATTEND_OF(attend_bf16, PL_KV_BF16)

/* The layout is the scalar one: only its f16 conversion is faster here; the others are inherited. */
static void append_f16(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    uint16_t *to = (uint16_t *)kpage + (ptrdiff_t)(slot / PL_SLOTS) * dk * PL_SLOTS + slot % PL_SLOTS;
    int d = 0;
    for (; d + 4 <= dk; d += 4) {
        const uint16x4_t h = vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(k + d)));
        vst1_lane_u16(to + d * PL_SLOTS, h, 0);
        vst1_lane_u16(to + (d + 1) * PL_SLOTS, h, 1);
        vst1_lane_u16(to + (d + 2) * PL_SLOTS, h, 2);
        vst1_lane_u16(to + (d + 3) * PL_SLOTS, h, 3);
    }
    for (; d < dk; d++)
        to[d * PL_SLOTS] = pl_f32_to_f16(k[d]);
    to = (uint16_t *)vpage + (ptrdiff_t)slot * dv;
    for (d = 0; d + 4 <= dv; d += 4)
        vst1_u16(to + d, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(v + d))));
    for (; d < dv; d++)
        to[d] = pl_f32_to_f16(v[d]);
}

static void merge_row(float *top_a, float *sum_a, float *acc_a, float top_b, float sum_b, const float *acc_b, int dv)
{
    if (sum_b == 0)
        return;
    const float top = top_b > *top_a ? top_b : *top_a, apart[4] = {*top_a - top, top_b - top, 0, 0};
    const float32x4_t fade = pl_exp4(vld1q_f32(apart));
    const float fade_a = vgetq_lane_f32(fade, 0), fade_b = vgetq_lane_f32(fade, 1);
    int d = 0;
    for (; d + 4 <= dv; d += 4) {
        const float32x4_t a = vmulq_n_f32(vld1q_f32(acc_a + d), fade_a), b = vmulq_n_f32(vld1q_f32(acc_b + d), fade_b);
        vst1q_f32(acc_a + d, vaddq_f32(a, b));
    }
    for (; d < dv; d++)
        acc_a[d] = acc_a[d] * fade_a + acc_b[d] * fade_b;
    *sum_a = *sum_a * fade_a + sum_b * fade_b;
    *top_a = top;
}

static void attend_merge(int m, int dv, float *top_a, float *sum_a, float *acc_a, const float *top_b,
                         const float *sum_b, const float *acc_b)
{
    for (ptrdiff_t i = 0; i < m; i++)
        merge_row(top_a + i, sum_a + i, acc_a + i * dv, top_b[i], sum_b[i], acc_b + i * dv, dv);
}

void pl_fill_attend_neon(pl_kernels *k)
{
    k->kv_append[PL_KV_F16] = append_f16;
    PL_PUT_ATTEND(PL_KV_F32, attend_f32, sizeof(columns));
    PL_PUT_ATTEND(PL_KV_F16, attend_f16, sizeof(columns));
    PL_PUT_ATTEND(PL_KV_BF16, attend_bf16, sizeof(columns));
    k->attend_merge = attend_merge;
}
