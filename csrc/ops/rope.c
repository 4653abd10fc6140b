/* Angles of the rotary embedding, once per pass for all layers. */
#include "ops.h"

/* sin and cos of x >= 0 in float64: reduced by pi/2 in two parts (Cody & Waite 1980), then the Taylor series, whose
 * next terms are below 2e-17 for |r| <= pi/4. The error stays below 1e-10 for positions up to 2^20, far under
 * float32's own rounding. */
static void sincos64(double x, float *s, float *c)
{
    const double two_over_pi = 0.63661977236758134308, hi = 1.57079632673412561417, lo = 6.07710050650619224932e-11;
    int64_t n = (int64_t)(x * two_over_pi + 0.5);
    double r = (x - (double)n * hi) - (double)n * lo, z = r * r;
    double ps =
        r *
        (1 + z * (-1.0 / 6 +
                  z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800 + z / 6227020800.0))))));
    double pc =
        1 + z * (-0.5 + z * (1.0 / 24 +
                             z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 +
                                                                       z * (1.0 / 479001600 - z / 87178291200.0))))));
    double sn = n & 1 ? pc : ps, cs = n & 1 ? ps : pc;
    *s = (float)(n & 2 ? -sn : sn);
    *c = (float)((n + 1) & 2 ? -cs : cs);
}

void pl_rope_angles(const pl_run *r, int tid)
{
    int64_t from, to;
    pl_share(r->n_rows, 1, tid, pl_team_size(r->team), &from, &to);
    for (int p = 0; p < r->m->n_ropes; p++) {
        const pl_rope_desc *d = &r->m->ropes[p];
        int half = d->n_rot / 2;
        for (int64_t i = from; i < to; i++)
            for (int j = 0; j < half; j++)
                sincos64((double)r->rows[i].pos * d->freq[j], r->rope_sin[p] + i * half + j,
                         r->rope_cos[p] + i * half + j);
    }
}
