/* The search for scales.
 *
 * For given codes q the best scale and min are a linear least-squares problem of two unknowns; for a given scale and
 * min the best codes are the nearest. So: start from several scales around the one that just spans the values, solve,
 * keep the best, then alternate while the error falls. */
#include "fit.h"

#include <math.h>
#include <string.h>

#define LANES 8   /* sums are kept in lanes, so that compilers can vectorise them without changing the order */
#define STEPS 5   /* scales tried below the usual one, and as many above */
#define REPEATS 3 /* most alternations */

static inline float from_table(const pl_book *b, float v)
{
    int i = v > b->middle[7] ? 8 : 0;
    i += v > b->middle[i + 3] ? 4 : 0;
    i += v > b->middle[i + 1] ? 2 : 0;
    i += v > b->middle[i] ? 1 : 0;
    return b->table[i];
}

static void choose(const pl_book *b, const float *x, int n, float inverse, float m, float *restrict q)
{
    const float lo = b->lo, hi = b->hi;
    if (b->table)
        for (int i = 0; i < n; i++)
            q[i] = from_table(b, (x[i] - m) * inverse);
    else
        for (int i = 0; i < n; i++)
            q[i] = pl_nearest((x[i] - m) * inverse, lo, hi);
}

static float total(const float *lanes)
{
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

float pl_assign(const pl_book *b, const float *x, const float *w, int n, float d, float m, float *q)
{
    float lanes[LANES] = {0};
    choose(b, x, n, pl_inverse_of(d), m, q);
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            const float e = x[i + l] - (d * q[i + l] + m);
            lanes[l] += w[i + l] * e * e;
        }
    return total(lanes);
}

typedef struct sums {
    float q, qq, xq; /* of w q, w q q, w x q */
} sums;

static sums sums_of(const float *x, const float *w, int n, const float *q)
{
    float a[LANES] = {0}, b[LANES] = {0}, c[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            const float wq = w[i + l] * q[i + l];
            a[l] += wq;
            b[l] += wq * q[i + l];
            c[l] += wq * x[i + l];
        }
    return (sums){total(a), total(b), total(c)};
}

/* The best scale and min for the codes of `s`. Returns by how much they lower the error below that of zeros. */
static double solve(sums s, float sum_w, float sum_x, pl_fit_kind kind, float *d, float *m)
{
    const double q = s.q, qq = s.qq, xq = s.xq, one = sum_w, x = sum_x, det = one * qq - q * q;
    double scale = qq > 0 ? xq / qq : 0, min = 0;
    if (kind != PL_FIT_NO_MIN && det > 1e-6 * one * qq) {
        scale = (one * xq - x * q) / det;
        min = (qq * x - q * xq) / det;
        if (kind == PL_FIT_NEGATIVE_MIN && min > 0) {
            min = 0;
            scale = xq / qq;
        }
    } else if (kind == PL_FIT_ANY_MIN || (kind == PL_FIT_NEGATIVE_MIN && x < 0)) {
        scale = 0;
        min = one > 0 ? x / one : 0;
    }
    *d = (float)scale;
    *m = (float)min;
    return 2 * (scale * xq + min * x) - (scale * scale * qq + 2 * scale * min * q + min * min * one);
}

float pl_largest(const float *x, int n)
{
    int32_t most = 0; /* bits are in the order of the values, with NaN beyond infinity */
    for (int i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float largest;
    memcpy(&largest, &most, sizeof largest);
    return isnan(largest) ? INFINITY : largest;
}

/* The inverse of the scale that just spans the values, and where the span starts. 0: all values are the same. */
static float span(const pl_book *b, const float *x, int n, pl_fit_kind kind, float *start)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *start = 0;
    if (kind == PL_FIT_NO_MIN) {
        const float most = -low > high ? -low : high;
        return -low > high ? pl_inverse_of(most / -b->lo) : -pl_inverse_of(most / -b->lo);
    }
    *start = kind == PL_FIT_NEGATIVE_MIN && low > 0 ? 0 : low;
    return high > *start ? pl_inverse_of((high - *start) / b->hi) : 0;
}

void pl_fit_one(const pl_book *b, const float *x, const float *w, int n, pl_fit_kind kind, float *d, float *m)
{
    float q[32], lanes_w[LANES] = {0}, lanes_x[LANES] = {0}, start, scale, min;
    const float usual = span(b, x, n, kind, &start);
    double best = -1;
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            lanes_w[l] += w[i + l];
            lanes_x[l] += w[i + l] * x[i + l];
        }
    const float sum_w = total(lanes_w), sum_x = total(lanes_x);
    *d = 0;
    *m = kind == PL_FIT_NO_MIN ? 0 : start;
    if (usual == 0)
        return;
    for (int sign = 1; sign >= (kind == PL_FIT_NO_MIN ? -1 : 1); sign -= 2)
        for (int step = -STEPS; step <= STEPS; step++) {
            const float inverse = (float)sign * usual * (1.0f + b->spread * (float)step / STEPS);
            choose(b, x, n, inverse, start, q);
            const double gain = solve(sums_of(x, w, n, q), sum_w, sum_x, kind, &scale, &min);
            if (gain > best) {
                best = gain;
                *d = scale;
                *m = min;
            }
        }
    for (int i = 0; i < REPEATS; i++) {
        choose(b, x, n, pl_inverse_of(*d), *m, q);
        const double gain = solve(sums_of(x, w, n, q), sum_w, sum_x, kind, &scale, &min);
        if (!(gain > best))
            return;
        best = gain;
        *d = scale;
        *m = min;
    }
}
