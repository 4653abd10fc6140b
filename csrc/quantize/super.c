/* Super blocks: 256 weights whose groups have integer scales (and mins) under f16 factors.
 *
 * Each group is fitted by itself; the factors follow from the largest scale and min; each group's integers are then
 * searched near the rounded ones; the factors are solved again for the codes found, while that lowers the error. */
#include "fit.h"

#include <math.h>
#include <string.h>

#define REPEATS 2

float pl_factor(float v, int up, uint16_t *bits)
{
    const float step = 0x1p-24f; /* of the smallest numbers of f16 */
    if (up && fabsf(v) < PL_COARSE * step)
        v = copysignf(ceilf(fabsf(v) / step) * step, v);
    *bits = pl_f32_to_f16(v);
    return pl_f16_to_f32(*bits);
}

int pl_rounds_up(float v)
{
    uint16_t nearest, up;
    pl_factor(v, 0, &nearest);
    pl_factor(v, 1, &up);
    return up != nearest;
}

static int limit(float v, int lo, int hi)
{
    return v <= (float)lo ? lo : v >= (float)hi ? hi : (int)floorf(v + 0.5f);
}

static float sum_of(const float *a, const float *b, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* The best integer min for the codes of a group. */
static int best_min(const float *x, const float *w, const float *q, int n, float scale, float dmin)
{
    const float ones[32] = {[0 ... 31] = 1.0f};
    const float all = sum_of(w, ones, n);
    if (dmin <= 0 || all <= 0)
        return 0;
    return limit((scale * sum_of(w, q, n) - sum_of(w, x, n)) / (all * dmin), 0, 63);
}

/* Integers of each group under the factors -> s; returns the error. */
static float fit_groups(const pl_super_kind *k, const float *x, const float *w, const float *d, const float *m,
                        float factor, float factor_min, pl_super *s)
{
    const float most_min = (float)k->sc_hi;
    float error = 0, q[32];
    for (int g = 0; g < PL_SUPER / k->group; g++) {
        const float *xg = x + g * k->group, *wg = w + g * k->group;
        const int middle = factor != 0 ? limit(d[g] / factor, k->sc_lo, k->sc_hi) : 0;
        const int first = factor_min > 0 ? limit(-m[g] / factor_min, 0, k->sc_hi) : 0;
        float best = INFINITY;
        for (int sc = middle - 1; sc <= middle + 1; sc++) {
            if (sc < k->sc_lo || sc > k->sc_hi)
                continue;
            int mn = first;
            for (int pass = 0; pass <= k->has_min; pass++) {
                const float scale = factor * (float)sc;
                const float e = pl_assign(&k->book, xg, wg, k->group, scale, -(factor_min * (float)mn), q);
                if (e < best) {
                    best = e;
                    s->sc[g] = sc;
                    s->mn[g] = mn;
                    memcpy(s->q + g * k->group, q, (size_t)k->group * sizeof *q);
                }
                mn = k->has_min ? best_min(xg, wg, q, k->group, scale, factor_min) : 0;
                mn = (float)mn > most_min ? k->sc_hi : mn;
            }
        }
        error += best;
    }
    return error;
}

/* The best factors for the codes and integers of s. */
static void solve_factors(const pl_super_kind *k, const float *x, const float *w, const pl_super *s, float *factor,
                          float *factor_min)
{
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    for (int i = 0; i < PL_SUPER; i++) {
        const double a = (double)s->sc[i / k->group] * s->q[i], b = -(double)s->mn[i / k->group], v = w[i];
        aa += v * a * a;
        ab += v * a * b;
        bb += v * b * b;
        xa += v * a * x[i];
        xb += v * b * x[i];
    }
    const double det = aa * bb - ab * ab;
    if (k->has_min && det > 1e-9 * aa * bb) {
        *factor = (float)((bb * xa - ab * xb) / det);
        *factor_min = (float)((aa * xb - ab * xa) / det);
    } else if (aa > 0) {
        *factor = (float)((xa - ab * *factor_min) / aa);
    }
}

/* Factors near the given ones, rounded to the nearest, or up, and integers and codes under them -> s. Returns the error;
 * -1 if a factor is beyond f16. */
static float fit_factors(const pl_super_kind *k, const float *x, const float *w, const float *d, const float *m,
                         float factor, float factor_min, int up, pl_super *s)
{
    memset(s, 0, sizeof *s);
    factor = pl_factor(factor, up, &s->d);
    factor_min = pl_factor(factor_min, up, &s->dmin);
    if (!isfinite(factor) || !isfinite(factor_min))
        return -1;
    float error = fit_groups(k, x, w, d, m, factor, factor_min, s);
    for (int i = 0; i < REPEATS; i++) {
        pl_super other = *s;
        solve_factors(k, x, w, s, &factor, &factor_min);
        factor = pl_factor(factor, up, &other.d);
        factor_min = pl_factor(factor_min < 0 ? 0 : factor_min, up, &other.dmin);
        if (!isfinite(factor) || !isfinite(factor_min))
            break;
        const float found = fit_groups(k, x, w, d, m, factor, factor_min, &other);
        if (!(found < error))
            break;
        error = found;
        *s = other;
    }
    return error;
}

/* 0, or -1 if the values are beyond the format's range. */
static int fit_super(const pl_super_kind *k, const float *x, const float *w, pl_super *s)
{
    const int groups = PL_SUPER / k->group;
    float d[PL_GROUPS], m[PL_GROUPS], most = 0, most_min = 0;
    if (!(pl_largest(x, PL_SUPER) < PL_FIT_MOST))
        return -1;
    for (int g = 0; g < groups; g++) {
        pl_fit_one(&k->book, x + g * k->group, w + g * k->group, k->group,
                   k->has_min ? PL_FIT_NEGATIVE_MIN : PL_FIT_NO_MIN, &d[g], &m[g]);
        most = fabsf(d[g]) > fabsf(most) ? d[g] : most;
        most_min = -m[g] > most_min ? -m[g] : most_min;
    }
    const int largest = k->sc_lo < 0 ? k->sc_lo : k->sc_hi;
    const float factor = most / (float)largest, factor_min = most_min / (float)k->sc_hi;
    const float error = fit_factors(k, x, w, d, m, factor, factor_min, 0, s);
    if (error < 0)
        return -1;
    pl_super other;
    if ((pl_rounds_up(factor) || pl_rounds_up(factor_min)) &&
        fit_factors(k, x, w, d, m, factor, factor_min, 1, &other) < error)
        *s = other;
    return 0;
}

/* The weights of errors w, times the squares of x relative to their mean: large weights often meet large activations.
 * In Q3_K this brings predictions closer to the original's than the least error does; with mins, or more values, it
 * does not (docs/making-files.md). */
static void by_square(const float *x, const float *w, float *out)
{
    double sum = 0;
    for (int i = 0; i < PL_SUPER; i++)
        sum += (double)x[i] * x[i];
    const double inverse = sum > 0 ? PL_SUPER / sum : 0; /* NaN: what is not finite is refused */
    for (int i = 0; i < PL_SUPER; i++)
        out[i] = w[i] * (float)(inverse * x[i] * x[i]);
}

int pl_quantize_super(PL_QUANTIZE_ARGS)
{
    const pl_super_kind *k = q->super;
    float squared[PL_SUPER];
    pl_super s;
    if (k->by_square) {
        by_square(x, w, squared);
        w = squared;
    }
    if (fit_super(k, x, w, &s))
        return -1;
    for (int i = 0; i < PL_SUPER; i++)
        s.code[i] = pl_code(&k->book, s.q[i]);
    k->put(&s, out);
    return 0;
}
