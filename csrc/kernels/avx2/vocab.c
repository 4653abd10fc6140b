/* Rows as long as a vocabulary, AVX2: at memory speed, except exp. */
#include "../common.h"
#include "fill.h"
#include "vmath.h"

static float max(const float *x, int n)
{
    const __m256 least = _mm256_set1_ps(-__builtin_inff());
    __m256 top[4] = {least, least, least, least}, nan = _mm256_setzero_ps();
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256 v[4];
        for (int j = 0; j < 4; j++) {
            v[j] = _mm256_loadu_ps(x + i + 8 * j);
            top[j] = _mm256_max_ps(top[j], v[j]);
        }
        nan = _mm256_or_ps(
            nan, _mm256_or_ps(_mm256_cmp_ps(v[0], v[1], _CMP_UNORD_Q), _mm256_cmp_ps(v[2], v[3], _CMP_UNORD_Q)));
    }
    for (; i < n; i += 8) {
        const __m256i in = pl_first(n - i);
        const __m256 v = _mm256_blendv_ps(least, _mm256_maskload_ps(x + i, in), _mm256_castsi256_ps(in));
        top[0] = _mm256_max_ps(top[0], v);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    if (_mm256_movemask_ps(nan))
        return __builtin_nanf("");
    const __m256 m = _mm256_max_ps(_mm256_max_ps(top[0], top[1]), _mm256_max_ps(top[2], top[3]));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

static double sum_exp(const float *x, int n, float top, float inv_t)
{
    const __m256 t = _mm256_set1_ps(top), inv = _mm256_set1_ps(inv_t);
    double total = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        const int end = n - b < PL_SUM_BLOCK ? n : b + PL_SUM_BLOCK;
        __m256 lane[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        int i = b;
        for (; i + 32 <= end; i += 32)
            for (int j = 0; j < 4; j++) {
                const __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), t), inv);
                lane[j] = _mm256_add_ps(lane[j], pl_exp8(v));
            }
        for (int j = 0; i + 8 * j < end; j++) {
            const __m256i in = pl_first(end - i - 8 * j);
            const __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i + 8 * j, in), t), inv);
            lane[j] = _mm256_add_ps(lane[j], _mm256_and_ps(pl_exp8(v), _mm256_castsi256_ps(in)));
        }
        total += pl_sum_lanes(lane);
    }
    return total;
}

static double sum_exp_dot(const float *x, int n, float top, float inv_t, double *dot)
{
    const __m256 t = _mm256_set1_ps(top), inv = _mm256_set1_ps(inv_t), least = _mm256_set1_ps(PL_DOT_LEAST);
    double total = 0;
    *dot = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        const int end = n - b < PL_SUM_BLOCK ? n : b + PL_SUM_BLOCK;
        __m256 lane[4], product[4];
        for (int j = 0; j < 4; j++)
            lane[j] = product[j] = _mm256_setzero_ps();
        int i = b;
        for (; i + 32 <= end; i += 32)
            for (int j = 0; j < 4; j++) {
                const __m256 d = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), t), inv), e = pl_exp8(d);
                lane[j] = _mm256_add_ps(lane[j], e);
                product[j] = _mm256_add_ps(product[j], _mm256_mul_ps(e, _mm256_max_ps(d, least)));
            }
        for (int j = 0; i + 8 * j < end; j++) {
            const __m256i in = pl_first(end - i - 8 * j);
            const __m256 d = _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i + 8 * j, in), t), inv);
            const __m256 e = _mm256_and_ps(pl_exp8(d), _mm256_castsi256_ps(in));
            lane[j] = _mm256_add_ps(lane[j], e);
            product[j] = _mm256_add_ps(product[j], _mm256_mul_ps(e, _mm256_max_ps(d, least)));
        }
        total += pl_sum_lanes(lane);
        *dot += pl_sum_lanes(product);
    }
    return total;
}

static void moments(const float *x, int n, float top, double *sum, double *squares)
{
    const __m256d t = _mm256_set1_pd(top), least = _mm256_set1_pd(-__builtin_inf());
    __m256d sums[4], products[4];
    double s[16], q[16];
    int i = 0;
    for (int j = 0; j < 4; j++)
        sums[j] = products[j] = _mm256_setzero_pd();
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 4; j++) {
            __m256d d = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * j)), t);
            d = _mm256_and_pd(d, _mm256_cmp_pd(d, least, _CMP_GT_OQ));
            sums[j] = _mm256_add_pd(sums[j], d);
            products[j] = _mm256_add_pd(products[j], _mm256_mul_pd(d, d));
        }
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_pd(s + 4 * j, sums[j]);
        _mm256_storeu_pd(q + 4 * j, products[j]);
    }
    pl_moments_from(i, x, n, top, s, q, sum, squares);
}

static int collect(const float *x, int n, float least, int32_t *out, int room)
{
    const __m256 bound = _mm256_set1_ps(least);
    int found = 0, i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256 hit[4];
        for (int j = 0; j < 4; j++)
            hit[j] = _mm256_cmp_ps(_mm256_loadu_ps(x + i + 8 * j), bound, _CMP_GE_OQ);
        const __m256 any = _mm256_or_ps(_mm256_or_ps(hit[0], hit[1]), _mm256_or_ps(hit[2], hit[3]));
        if (_mm256_testz_ps(any, any))
            continue;
        uint32_t bits = 0;
        for (int j = 0; j < 4; j++)
            bits |= (uint32_t)_mm256_movemask_ps(hit[j]) << (8 * j);
        if (found >= room) {
            found += __builtin_popcount(bits);
            continue;
        }
        found = pl_collect_bits(bits, i, found, out, room);
    }
    return pl_collect_from(i, found, x, n, least, out, room);
}

static void exp_row(const float *x, int n, float *y)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, pl_exp8(_mm256_loadu_ps(x + i)));
    if (i < n) {
        const __m256i tail = pl_first(n - i);
        _mm256_maskstore_ps(y + i, tail, pl_exp8(_mm256_maskload_ps(x + i, tail)));
    }
}

static void softmax(float *x, int n)
{
    const float highest = max(x, n);
    const __m256 top = _mm256_set1_ps(highest), r = _mm256_set1_ps((float)(1.0 / sum_exp(x, n, highest, 1.0f)));
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(pl_exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), top)), r));
    if (i < n) {
        const __m256i tail = pl_first(n - i);
        _mm256_maskstore_ps(x + i, tail,
                            _mm256_mul_ps(pl_exp8(_mm256_sub_ps(_mm256_maskload_ps(x + i, tail), top)), r));
    }
}

void pl_fill_vocab_avx2(pl_kernels *k)
{
    k->max = max;
    k->sum_exp = sum_exp;
    k->sum_exp_dot = sum_exp_dot;
    k->moments = moments;
    k->collect = collect;
    k->softmax = softmax;
    k->exp = exp_row;
}
