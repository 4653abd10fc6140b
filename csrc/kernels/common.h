/* The parts of the kernels that are the same in every tier: constants of the contracts, and the scalar parts of
 * rows and pages. Everything is inlined into the file that includes it, with that file's instructions. */
#ifndef PL_KERNELS_COMMON_H
#define PL_KERNELS_COMMON_H

#include "kernels.h"

/* Always inlined: shapes, counts and functions are constants at every call, so that each call gets its own code. */
#define PL_INLINE static inline __attribute__((always_inline))

/* pl_shape_Q4_0 and so on: compile-time constants in each kernel, unlike the fields of `pl_format`. */
#define PL_SHAPE_OF(name, ...) static const pl_shape pl_shape_##name = PL_SHAPE(name, __VA_ARGS__);
PL_INT_FORMATS(PL_SHAPE_OF)
PL_SHARED_FORMATS(PL_SHAPE_OF)
PL_FAMILIES(PL_SHAPE_OF)
#undef PL_SHAPE_OF

#define PL_LEAST_AMAX 1e-30f   /* a block whose largest value is below this is all 0: 127 / amax could overflow */
#define PL_SUM_BLOCK 1024      /* floats that are summed in float32 lanes before float64 takes over */
#define PL_DOT_LEAST (-200.0f) /* exp is 0 long before; 0 * -inf would be NaN */

/* ---- exp and functions made from it: the steps of every tier's vmath.h ------------------------------------------- */

/* e^x: x = n ln 2 + r, |r| <= ln 2 / 2, then 1 + r + r^2 q(r) with q minimax of degree 4 (3e-9 relative), then 2^n in
 * two factors, so that results near overflow and below the normal range round once. The float 1.5 * 2^23 rounds to
 * integers and leaves n in the low bits. 355/512 has 9 bits, so that n * 355/512 is exact. */
#define PL_EXP_LEAST (-104.0f) /* e^-104 < 2^-150 rounds to 0 */
#define PL_EXP_MOST 89.0f      /* e^89 > 2^128 is infinite */
#define PL_ROUNDER 12582912.0f
#define PL_LOG2_E 1.44269504f
#define PL_LN2_HI 0.693359375f
#define PL_LN2_LO (-2.12194440e-4f)
#define PL_EXP_2 0.49999994f
#define PL_EXP_3 0.16666521f
#define PL_EXP_4 0.04166839f
#define PL_EXP_5 0.008368745f
#define PL_EXP_6 0.001381454f

/* tanh x: x + x^3 P(x^2) below 0.625 (4e-9 relative), else 1 - 2 / (e^2|x| + 1) with the sign of x. */
#define PL_TANH_SMALL 0.625f
#define PL_TANH_0 (-0.33333284f)
#define PL_TANH_1 0.13331491f
#define PL_TANH_2 (-0.053743497f)
#define PL_TANH_3 0.020650588f
#define PL_TANH_4 (-0.005717045f)

#define PL_GELU_CUBE 0.044715f
#define PL_GELU_TWICE 1.59576912f /* 2 sqrt(2 / pi) */

/* Sums of long rows go to 32 lanes, element i to lane i % 32, ascending; then lane j takes j + 16, + 8, + 4, + 2, + 1.
 * Every vector width gives the same result. */
#define PL_LANES 32

/* ---- vocabulary -------------------------------------------------------------------------------------------------- */

/* Lane j takes j + 8, + 4, + 2, + 1. */
PL_INLINE double pl_sum16_f64(const double *lane)
{
    double a[8];
    for (int j = 0; j < 8; j++)
        a[j] = lane[j] + lane[j + 8];
    for (int half = 4; half; half /= 2)
        for (int j = 0; j < half; j++)
            a[j] += a[j + half];
    return a[0];
}

/* `moments` from i on, a multiple of 16: s and q hold the lanes of what came before. */
PL_INLINE void pl_moments_from(int i, const float *x, int n, float top, double *s, double *q, double *sum,
                               double *squares)
{
    for (; i < n; i++) {
        const double d = (double)x[i] - top;
        if (d > -__builtin_inf()) {
            s[i % 16] += d;
            q[i % 16] += d * d;
        }
    }
    *sum = pl_sum16_f64(s);
    *squares = pl_sum16_f64(q);
}

/* `collect` from i on, after `found` indices. */
PL_INLINE int pl_collect_from(int i, int found, const float *x, int n, float least, int32_t *out, int room)
{
    for (; i < n; i++)
        if (x[i] >= least) {
            if (found < room)
                out[found] = i;
            found++;
        }
    return found;
}

/* The same of i + b for each bit b that is set. */
PL_INLINE int pl_collect_bits(uint64_t bits, int i, int found, int32_t *out, int room)
{
    for (; bits; bits &= bits - 1, found++)
        if (found < room)
            out[found] = i + __builtin_ctzll(bits);
    return found;
}

#endif
