/* Attention over one page of the cache, scalar reference.
 * A page: keys [4 groups of 16 slots][dk][16 slots], values [64 slots][dv], elements of the cache's type; with
 * int8 the scales follow, of keys [4 groups][blocks of 32 d][16 slots], of values [blocks of 32 d][64 slots].
 *
 * Order of sums, every tier's: a score over d ascending; acc over keys ascending; sum in 16 lanes (slot j to lane
 * j % 16, ascending), then lane j takes j + 8, + 4, + 2, + 1. Keys that a row does not see add exactly 0 or nothing at
 * all, so that a row's bits do not depend on the rows computed beside it; for the same reason acc never holds -0. */
#include "blocking.h"
#include "fill.h"
#include "vmath.h"
/* uses the lanes of vmath.h */
#include "../attend.h"

static inline float load(const void *p, ptrdiff_t i, pl_kv_type type)
{
    if (type == PL_KV_F32)
        return ((const float *)p)[i];
    if (type == PL_KV_INT8)
        return ((const int8_t *)p)[i];
    return type == PL_KV_F16 ? pl_f16_to_f32(((const uint16_t *)p)[i]) : pl_bf16_to_f32(((const uint16_t *)p)[i]);
}

static inline void store(void *p, ptrdiff_t i, float x, pl_kv_type type)
{
    if (type == PL_KV_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = type == PL_KV_F16 ? pl_f32_to_f16(x) : pl_f32_to_bf16(x);
}

/* Where the scale of block 0 and this slot lies in a page of keys (of values), and how far apart blocks are. */
static inline float *key_scale(const void *k, int dk, int slot)
{
    return (float *)((char *)k + (ptrdiff_t)dk * PL_PAGE) + (ptrdiff_t)(slot / PL_SLOTS) * PL_BLOCKS(dk) * PL_SLOTS +
           slot % PL_SLOTS;
}

static inline float *value_scale(const void *v, int dv, int slot)
{
    return (float *)((char *)v + (ptrdiff_t)dv * PL_PAGE) + slot;
}

/* n values -> codes `step` apart; the scale. */
static inline float encode(const float *x, int n, int8_t *code, ptrdiff_t step)
{
    uint32_t top = 0; /* compared as integers, NaN > infinity > the rest */
    for (int i = 0; i < n; i++) {
        const uint32_t u = pl_bits(x[i]) & 0x7fffffffu;
        top = u > top ? u : top;
    }
    const float amax = pl_float(top);
    const int blank = amax < PL_LEAST_AMAX, broken = top >= 0x7f800000u;
    const float inv = 127.0f / amax;
    for (int i = 0; i < n; i++)
        code[i * step] = blank || broken ? 0 : (int8_t)((x[i] * inv + PL_ROUNDER) - PL_ROUNDER);
    return blank ? 0 : amax / 127.0f;
}

static void append_int8(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    int8_t *key = (int8_t *)kpage + (ptrdiff_t)(slot / PL_SLOTS) * dk * PL_SLOTS + slot % PL_SLOTS;
    int8_t *value = (int8_t *)vpage + (ptrdiff_t)slot * dv;
    float *ks = key_scale(kpage, dk, slot), *vs = value_scale(vpage, dv, slot);
    for (int d = 0; d < dk; d += PL_BLOCK)
        ks[d / PL_BLOCK * PL_SLOTS] =
            encode(k + d, dk - d < PL_BLOCK ? dk - d : PL_BLOCK, key + (ptrdiff_t)d * PL_SLOTS, PL_SLOTS);
    for (int d = 0; d < dv; d += PL_BLOCK)
        vs[d / PL_BLOCK * PL_PAGE] = encode(v + d, dv - d < PL_BLOCK ? dv - d : PL_BLOCK, value + d, 1);
}

static inline void append(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage,
                          pl_kv_type type)
{
    for (int d = 0; d < dk; d++)
        store(kpage, ((ptrdiff_t)(slot / PL_SLOTS) * dk + d) * PL_SLOTS + slot % PL_SLOTS, k[d], type);
    for (int d = 0; d < dv; d++)
        store(vpage, (ptrdiff_t)slot * dv + d, v[d], type);
}

/* Dot products of a row with the keys [lo, hi). */
PL_INLINE void scores(const pl_attend_page *a, const float *q, int lo, int hi, float *dots, pl_kv_type type)
{
    const int block = type == PL_KV_INT8 ? PL_BLOCK : a->dk;
    for (int j = lo; j < hi; j++) {
        const float *s = type == PL_KV_INT8 ? key_scale(a->k, a->dk, j) : NULL;
        float dot = 0;
        for (int d0 = 0; d0 < a->dk; d0 += block) {
            float part = 0;
            for (int d = d0; d < a->dk && d < d0 + block; d++)
                part += q[d] * load(a->k, ((ptrdiff_t)(j / PL_SLOTS) * a->dk + d) * PL_SLOTS + j % PL_SLOTS, type);
            dot = s ? dot + part * s[d0 / PL_BLOCK * PL_SLOTS] : part;
        }
        dots[j] = dot;
    }
}

/* acc = acc * fade + sum over keys [lo, hi) of p * v */
PL_INLINE void values(const pl_attend_page *a, const float *p, int lo, int hi, float fade, float *acc, pl_kv_type type)
{
    for (int d = 0; d < a->dv; d++)
        acc[d] *= fade;
    for (int j = lo; j < hi; j++) {
        const float *s = type == PL_KV_INT8 ? value_scale(a->v, a->dv, j) : NULL;
        for (int d = 0; d < a->dv; d++)
            acc[d] += (s ? p[j] * s[d / PL_BLOCK * PL_PAGE] : p[j]) * load(a->v, (ptrdiff_t)j * a->dv + d, type);
    }
    for (int d = 0; d < a->dv; d++)
        acc[d] += 0.0f; /* -0 becomes 0 */
}

PL_INLINE void attend_rows(const pl_attend_page *a, int row, pl_kv_type type, const int rows)
{
    const pl_span span = pl_attend_span(a, row, rows);
    float p[ATTEND_ROWS][PL_PAGE] = {{0}}, fade;
    scores(a, a->q + row * a->q_stride, span.lo, span.hi, p[0], type);
    pl_attend_middle(a, row, p, span, &fade, rows);
    values(a, p[0], span.lo, span.hi, fade, a->acc + (ptrdiff_t)row * a->dv, type);
}

PL_ATTEND_OF(attend_f32, PL_KV_F32)
PL_ATTEND_OF(attend_f16, PL_KV_F16)
PL_ATTEND_OF(attend_bf16, PL_KV_BF16)
PL_ATTEND_OF(attend_int8, PL_KV_INT8)

static void append_f32(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    append(k, v, dk, dv, slot, kpage, vpage, PL_KV_F32);
}

static void append_f16(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    append(k, v, dk, dv, slot, kpage, vpage, PL_KV_F16);
}

static void append_bf16(const float *k, const float *v, int dk, int dv, int slot, void *kpage, void *vpage)
{
    append(k, v, dk, dv, slot, kpage, vpage, PL_KV_BF16);
}

static size_t bytes_4(int d)
{
    return (size_t)d * PL_PAGE * 4;
}

static size_t bytes_2(int d)
{
    return (size_t)d * PL_PAGE * 2;
}

static size_t bytes_1(int d)
{
    return ((size_t)d + sizeof(float) * PL_BLOCKS((size_t)d)) * PL_PAGE;
}

/* b's keys come after a's. If b saw no key, a stays as it was. */
static void merge_row(float *top_a, float *sum_a, float *acc_a, float top_b, float sum_b, const float *acc_b, int dv)
{
    if (sum_b == 0)
        return;
    const float top = top_b > *top_a ? top_b : *top_a;
    const float fade_a = pl_exp1(*top_a - top), fade_b = pl_exp1(top_b - top);
    for (int d = 0; d < dv; d++)
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

void pl_fill_attend_scalar(pl_kernels *k)
{
    for (int t = 0; t < PL_N_KV; t++)
        k->k_bytes[t] = k->v_bytes[t] = t == PL_KV_F32 ? bytes_4 : t == PL_KV_INT8 ? bytes_1 : bytes_2;
    k->kv_append[PL_KV_INT8] = append_int8;
    k->kv_append[PL_KV_F32] = append_f32;
    k->kv_append[PL_KV_F16] = append_f16;
    k->kv_append[PL_KV_BF16] = append_bf16;
    PL_PUT_ATTEND(PL_KV_F32, attend_f32, 0);
    PL_PUT_ATTEND(PL_KV_F16, attend_f16, 0);
    PL_PUT_ATTEND(PL_KV_BF16, attend_bf16, 0);
    PL_PUT_ATTEND(PL_KV_INT8, attend_int8, 0);
    k->attend_merge = attend_merge;
}
