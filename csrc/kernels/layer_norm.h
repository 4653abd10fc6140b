/* LayerNorm for every tier: y = (x - mean) / sqrt(variance + eps) * w + b (Ba, Kiros and Hinton 2016).
 *
 * Written once, in the compiler's vector types, which become the instructions of the tier whose rows.c includes this
 * file. Two passes over the row: the variance is taken about the rounded mean. */
#ifndef PL_LAYER_NORM_H
#define PL_LAYER_NORM_H

#include <string.h>

#include "common.h"

typedef float pl_v16 __attribute__((vector_size(64)));
typedef float pl_v16_at __attribute__((vector_size(64), aligned(4), may_alias)); /* in memory */

/* Lane j takes j + 16, + 8, + 4, + 2, + 1. */
PL_INLINE float pl_fold_lanes(float lane[PL_LANES])
{
    for (int half = PL_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0];
}

/* Mean of x - shift, or (squares) of its square: element i goes to lane i % 32, ascending. */
PL_INLINE float pl_mean_from(const float *x, int n, float shift, int squares)
{
    pl_v16 sum[2] = {{0}, {0}};
    float lane[PL_LANES];
    int i = 0;
    for (; i + PL_LANES <= n; i += PL_LANES)
        for (int j = 0; j < 2; j++) {
            const pl_v16 d = *(const pl_v16_at *)(x + i + 16 * j) - shift;
            if (squares)
                sum[j] += d * d;
            else
                sum[j] += d;
        }
    memcpy(lane, sum, sizeof lane);
    for (int j = 0; i + j < n; j++) {
        const float d = x[i + j] - shift;
        lane[j] += squares ? d * d : d;
    }
    return pl_fold_lanes(lane) / (float)n;
}

static void pl_layer_norm(const float *x, const float *w, const float *b, int n, float eps, float *y)
{
    const float mean = pl_mean_from(x, n, 0, 0);
    const float r = 1.0f / __builtin_sqrtf(pl_mean_from(x, n, mean, 1) + eps);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        pl_v16 v = (*(const pl_v16_at *)(x + i) - mean) * r;
        if (w)
            v *= *(const pl_v16_at *)(w + i);
        if (b)
            v += *(const pl_v16_at *)(b + i);
        *(pl_v16_at *)(y + i) = v;
    }
    for (; i < n; i++) {
        float v = (x[i] - mean) * r;
        if (w)
            v *= w[i];
        if (b)
            v += b[i];
        y[i] = v;
    }
}

#endif
