/* Rows as long as a vocabulary, AVX-512: at memory speed, except exp. */
#include "../common.h"
#include "fill.h"
#include "vmath.h"

static float max(const float *x, int n)
{
    const __m512 least = _mm512_set1_ps(-__builtin_inff());
    __m512 top[4] = {least, least, least, least};
    __mmask16 nan = 0;
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512 v[4];
        for (int j = 0; j < 4; j++) {
            v[j] = _mm512_loadu_ps(x + i + 16 * j);
            top[j] = _mm512_max_ps(top[j], v[j]);
        }
        nan |= _mm512_cmp_ps_mask(v[0], v[1], _CMP_UNORD_Q) | _mm512_cmp_ps_mask(v[2], v[3], _CMP_UNORD_Q);
    }
    for (; i < n; i += 16) {
        const __m512 v = _mm512_mask_loadu_ps(least, pl_first(n - i), x + i);
        top[0] = _mm512_max_ps(top[0], v);
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    if (nan)
        return __builtin_nanf("");
    return pl_max16(_mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3])));
}

static double sum_exp(const float *x, int n, float top, float inv_t)
{
    const __m512 t = _mm512_set1_ps(top), inv = _mm512_set1_ps(inv_t);
    double total = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        const int end = n - b < PL_SUM_BLOCK ? n : b + PL_SUM_BLOCK;
        __m512 lane[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        int i = b;
        for (; i + 32 <= end; i += 32)
            for (int j = 0; j < 2; j++) {
                const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i + 16 * j), t), inv);
                lane[j] = _mm512_add_ps(lane[j], pl_exp16(v));
            }
        for (int j = 0; i + 16 * j < end; j++) {
            const __mmask16 in = pl_first(end - i - 16 * j);
            const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, x + i + 16 * j), t), inv);
            lane[j] = _mm512_mask_add_ps(lane[j], in, lane[j], pl_exp16(v));
        }
        total += pl_sum_lanes(lane);
    }
    return total;
}

static double sum_exp_dot(const float *x, int n, float top, float inv_t, double *dot)
{
    const __m512 t = _mm512_set1_ps(top), inv = _mm512_set1_ps(inv_t), least = _mm512_set1_ps(PL_DOT_LEAST);
    double total = 0;
    *dot = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        const int end = n - b < PL_SUM_BLOCK ? n : b + PL_SUM_BLOCK;
        __m512 lane[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, product[2] = {lane[0], lane[0]};
        int i = b;
        for (; i + 32 <= end; i += 32)
            for (int j = 0; j < 2; j++) {
                const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i + 16 * j), t), inv), e = pl_exp16(d);
                lane[j] = _mm512_add_ps(lane[j], e);
                product[j] = _mm512_add_ps(product[j], _mm512_mul_ps(e, _mm512_max_ps(d, least)));
            }
        for (int j = 0; i + 16 * j < end; j++) {
            const __mmask16 in = pl_first(end - i - 16 * j);
            const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, x + i + 16 * j), t), inv);
            const __m512 e = pl_exp16(d);
            lane[j] = _mm512_mask_add_ps(lane[j], in, lane[j], e);
            product[j] = _mm512_mask_add_ps(product[j], in, product[j], _mm512_mul_ps(e, _mm512_max_ps(d, least)));
        }
        total += pl_sum_lanes(lane);
        *dot += pl_sum_lanes(product);
    }
    return total;
}

static void moments(const float *x, int n, float top, double *sum, double *squares)
{
    const __m512d t = _mm512_set1_pd(top), least = _mm512_set1_pd(-__builtin_inf());
    __m512d sums[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()}, products[2] = {sums[0], sums[0]};
    double s[16], q[16];
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 2; j++) {
            const __m512d d = _mm512_sub_pd(_mm512_cvtps_pd(_mm256_loadu_ps(x + i + 8 * j)), t);
            const __mmask8 in = _mm512_cmp_pd_mask(d, least, _CMP_GT_OQ);
            sums[j] = _mm512_mask_add_pd(sums[j], in, sums[j], d);
            products[j] = _mm512_mask_add_pd(products[j], in, products[j], _mm512_mul_pd(d, d));
        }
    for (int j = 0; j < 2; j++) {
        _mm512_storeu_pd(s + 8 * j, sums[j]);
        _mm512_storeu_pd(q + 8 * j, products[j]);
    }
    pl_moments_from(i, x, n, top, s, q, sum, squares);
}

static int collect(const float *x, int n, float least, int32_t *out, int room)
{
    const __m512 bound = _mm512_set1_ps(least);
    int found = 0, i = 0;
    for (; i + 64 <= n; i += 64) {
        __mmask16 hit[4];
        for (int j = 0; j < 4; j++)
            hit[j] = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i + 16 * j), bound, _CMP_GE_OQ);
        uint64_t bits = hit[0] | (uint64_t)hit[1] << 16 | (uint64_t)hit[2] << 32 | (uint64_t)hit[3] << 48;
        if (found >= room) {
            found += __builtin_popcountll(bits);
            continue;
        }
        found = pl_collect_bits(bits, i, found, out, room);
    }
    for (; i < n; i += 16) {
        const __mmask16 in = pl_first(n - i);
        uint32_t bits = _mm512_mask_cmp_ps_mask(in, _mm512_maskz_loadu_ps(in, x + i), bound, _CMP_GE_OQ);
        found = pl_collect_bits(bits, i, found, out, room);
    }
    return found;
}

static void exp_row(const float *x, int n, float *y)
{
    for (int i = 0; i < n; i += 16) {
        const __mmask16 in = pl_first(n - i);
        _mm512_mask_storeu_ps(y + i, in, pl_exp16(_mm512_maskz_loadu_ps(in, x + i)));
    }
}

static void softmax(float *x, int n)
{
    const float highest = max(x, n);
    const __m512 top = _mm512_set1_ps(highest), r = _mm512_set1_ps((float)(1.0 / sum_exp(x, n, highest, 1.0f)));
    for (int i = 0; i < n; i += 16) {
        const __mmask16 in = pl_first(n - i);
        const __m512 e = pl_exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, x + i), top));
        _mm512_mask_storeu_ps(x + i, in, _mm512_mul_ps(e, r));
    }
}

void pl_fill_vocab_avx512(pl_kernels *k)
{
    k->max = max;
    k->sum_exp = sum_exp;
    k->sum_exp_dot = sum_exp_dot;
    k->moments = moments;
    k->collect = collect;
    k->softmax = softmax;
    k->exp = exp_row;
}
