/* Rows as long as a vocabulary, scalar reference. */
#include "fill.h"
#include "vmath.h"

#define SUM_BLOCK 1024 /* floats that are summed in float32 lanes before float64 takes over */

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
    k->collect = collect;
    k->softmax = softmax;
    k->exp = exp_row;
}
