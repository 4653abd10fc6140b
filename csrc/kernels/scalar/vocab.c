/* Rows as long as a vocabulary, scalar reference. */
#include "../common.h"
#include "fill.h"
#include "vmath.h"

static float max(const float *x, int n)
{
    float top = -__builtin_inff();
    for (int i = 0; i < n; i++) {
        if (x[i] != x[i])
            return x[i];
        top = x[i] > top ? x[i] : top;
    }
    return top;
}

static double sum_exp(const float *x, int n, float top, float inv_t)
{
    double total = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        float lane[PL_LANES] = {0};
        for (int i = b; i < n && i < b + PL_SUM_BLOCK; i++)
            lane[i % PL_LANES] += pl_exp1((x[i] - top) * inv_t);
        total += pl_sum_lanes(lane);
    }
    return total;
}

static double sum_exp_dot(const float *x, int n, float top, float inv_t, double *dot)
{
    double total = 0;
    *dot = 0;
    for (int b = 0; b < n; b += PL_SUM_BLOCK) {
        float lane[PL_LANES] = {0}, product[PL_LANES] = {0};
        for (int i = b; i < n && i < b + PL_SUM_BLOCK; i++) {
            const float d = (x[i] - top) * inv_t, e = pl_exp1(d);
            lane[i % PL_LANES] += e;
            product[i % PL_LANES] += e * (d > PL_DOT_LEAST ? d : PL_DOT_LEAST);
        }
        total += pl_sum_lanes(lane);
        *dot += pl_sum_lanes(product);
    }
    return total;
}

static void moments(const float *x, int n, float top, double *sum, double *squares)
{
    double s[16] = {0}, q[16] = {0};
    pl_moments_from(0, x, n, top, s, q, sum, squares);
}

static int collect(const float *x, int n, float least, int32_t *out, int room)
{
    return pl_collect_from(0, 0, x, n, least, out, room);
}

static void softmax(float *x, int n)
{
    const float top = max(x, n), r = (float)(1.0 / sum_exp(x, n, top, 1.0f));
    for (int i = 0; i < n; i++)
        x[i] = pl_exp1(x[i] - top) * r;
}

static void exp_row(const float *x, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = pl_exp1(x[i]);
}

void pl_fill_vocab_scalar(pl_kernels *k)
{
    k->max = max;
    k->sum_exp = sum_exp;
    k->sum_exp_dot = sum_exp_dot;
    k->moments = moments;
    k->collect = collect;
    k->softmax = softmax;
    k->exp = exp_row;
}
