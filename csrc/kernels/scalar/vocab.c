/* Rows as long as a vocabulary, scalar reference. */
#include "fill.h"
#include "vmath.h"

#define SUM_BLOCK 1024      /* floats that are summed in float32 lanes before float64 takes over */
#define DOT_LEAST (-200.0f) /* exp is 0 long before; 0 * -inf would be NaN */

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
    for (int b = 0; b < n; b += SUM_BLOCK) {
        float lane[PL_LANES] = {0};
        for (int i = b; i < n && i < b + SUM_BLOCK; i++)
            lane[i % PL_LANES] += pl_exp1((x[i] - top) * inv_t);
        total += pl_sum_lanes(lane);
    }
    return total;
}

static double sum_exp_dot(const float *x, int n, float top, float inv_t, double *dot)
{
    double total = 0;
    *dot = 0;
    for (int b = 0; b < n; b += SUM_BLOCK) {
        float lane[PL_LANES] = {0}, product[PL_LANES] = {0};
        for (int i = b; i < n && i < b + SUM_BLOCK; i++) {
            const float d = (x[i] - top) * inv_t, e = pl_exp1(d);
            lane[i % PL_LANES] += e;
            product[i % PL_LANES] += e * (d > DOT_LEAST ? d : DOT_LEAST);
        }
        total += pl_sum_lanes(lane);
        *dot += pl_sum_lanes(product);
    }
    return total;
}

/* As kernels.h has it. */
static double sum16(const double *lane)
{
    double a[8];
    for (int j = 0; j < 8; j++)
        a[j] = lane[j] + lane[j + 8];
    for (int half = 4; half; half /= 2)
        for (int j = 0; j < half; j++)
            a[j] += a[j + half];
    return a[0];
}

static void moments(const float *x, int n, float top, double *sum, double *squares)
{
    double s[16] = {0}, q[16] = {0};
    int i = 0;
    for (; i < n; i++) {
        const double d = (double)x[i] - top;
        if (d > -__builtin_inf()) {
            s[i % 16] += d;
            q[i % 16] += d * d;
        }
    }
    *sum = sum16(s);
    *squares = sum16(q);
}

static int collect(const float *x, int n, float least, int32_t *out, int room)
{
    int found = 0;
    for (int i = 0; i < n; i++)
        if (x[i] >= least) {
            if (found < room)
                out[found] = i;
            found++;
        }
    return found;
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
