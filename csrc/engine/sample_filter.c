/* The sampler's filters. */
#include "sample_candidates.h"

#include <float.h>
#include <math.h>

/* A bound `width` (in units of t) below the best, lowered by what rounding to float32 may add. */
static float below(const pl_candidates *c, double width)
{
    return (float)(c->top - width * c->t - fabs((double)c->top) * 1e-6);
}

/* The least float that is not below `bound`. */
static float not_below(double bound)
{
    float x;

    if (!(bound > -FLT_MAX))
        return -FLT_MAX;
    x = (float)bound;
    return (double)x < bound ? nextafterf(x, INFINITY) : x;
}

static void top_n_sigma(pl_candidates *c, double n)
{
    const float *x = c->form == PL_ROW ? c->row : c->x;
    float top = c->form == PL_ROW ? c->top : c->k->max(c->x, c->n), least;
    int count = pl_candidates_count(c);
    double sum, squares, variance;

    c->k->moments(x, c->form == PL_ROW ? c->vocab : c->n, top, &sum, &squares);
    /* The best itself adds 0 to both sums, so the square of the mean is below count * variance: little cancels. */
    variance = squares / count - sum / count * (sum / count);
    least = not_below(top - n * sqrt(variance > 0 ? variance : 0));
    if (c->form != PL_ROW) {
        pl_candidates_keep_from(c, least);
        return;
    }
    c->least = least; /* only a bound: a top_k that follows need not collect all of these tokens */
    if (pl_candidates_count(c) == count)
        c->least = -FLT_MAX;
}

static void top_k(pl_candidates *c, int k)
{
    if (c->form == PL_ROW) {
        pl_candidates_best(c, k);
        pl_candidates_keep_from(c, c->least);
    } else if (c->n > k) {
        pl_candidates_keys(c, c->x, 1);
        pl_candidates_cut(c, NULL, k);
    }
}

/* Distance of a token's surprise, -ln p = ln(total) - (x - top) / t, from the entropy; mean: of (x - top) / t. */
static double off(const pl_candidates *c, double mean, int i)
{
    return fabs(((double)c->x[i] - c->top) / c->t - mean);
}

/* Collects the tokens of the whole row that typical_p can keep. Most have little more surprise than the entropy, so a
 * bound on it is tried first and widened as needed. */
static void collect_typical(pl_candidates *c, double mean, double wanted)
{
    for (double width = 4; width < 32; width *= 2) {
        double sum = 0;
        pl_candidates_collect(c, below(c, width - mean));
        pl_candidates_mass(c);
        for (int i = 0; i < c->n; i++)
            if (off(c, mean, i) <= width)
                sum += c->w[i];
        if (sum > wanted * (1 + 1e-5))
            return;
    }
    pl_candidates_collect(c, -FLT_MAX);
    pl_candidates_mass(c);
}

static void typical(pl_candidates *c, double typical_p)
{
    double total, dot = 0;

    if (c->form == PL_ROW) {
        total = c->k->sum_exp_dot(c->row, c->vocab, c->top, 1 / c->t, &dot);
        collect_typical(c, dot / total, typical_p * total);
    } else {
        total = pl_candidates_mass(c);
        for (int i = 0; i < c->n; i++)
            if (c->w[i] > 0)
                dot += c->w[i] * (((double)c->x[i] - c->top) / c->t);
    }
    for (int i = 0; i < c->n; i++)
        c->d[i] = (float)off(c, dot / total, i);
    pl_candidates_keys(c, c->d, 0);
    pl_candidates_cut(c, c->w, typical_p * total);
}

/* Greatest distance below the best, in units of t, of a token that min_p keeps; renormalising does not alter ratios. */
static double reach(double min_p)
{
    return min_p > 0 ? 1e-3 - log(min_p < 1 ? min_p : 1) : INFINITY;
}

/* Collects the tokens that top_p can keep from a whole row of weight `total`. All tokens below top - width together
 * weigh less than vocab * exp(-width), which bounds the width; a narrower one nearly always suffices and is tried
 * first. */
static void collect_nucleus(pl_candidates *c, double total, float top_p, double most)
{
    double rest = top_p > 0 ? 1 - (double)top_p : 1, wide = log(2.0 * c->vocab / (rest * total)), width = 3 - log(rest);

    if (wide > most)
        wide = most;
    if (width > wide)
        width = wide;
    pl_candidates_collect(c, below(c, width));
    if (width < wide && c->k->sum_exp(c->x, c->n, c->top, 1 / c->t) < top_p * total * (1 + 1e-6))
        pl_candidates_collect(c, below(c, wide));
}

static void top_p(pl_candidates *c, float p, double next_min_p)
{
    double total = pl_candidates_mass(c);

    if (c->form == PL_ROW) {
        collect_nucleus(c, total, p, reach(next_min_p));
        pl_candidates_mass(c);
    }
    pl_candidates_keys(c, c->x, 1);
    pl_candidates_cut(c, c->w, p * total);
}

static void min_p(pl_candidates *c, double p)
{
    double least;
    int m = 0;

    if (c->form == PL_ROW) {
        float bound = below(c, reach(p));
        pl_candidates_collect(c, bound > c->least ? bound : c->least);
    }
    if (c->form != PL_WEIGHED)
        pl_candidates_mass(c);
    least = (p < 1 ? p : 1) * c->k->max(c->w, c->n);
    for (int i = 0; i < c->n; i++) {
        if (c->w[i] < least)
            continue;
        c->id[m] = c->id[i];
        c->w[m] = c->w[i];
        c->x[m++] = c->x[i];
    }
    c->n = m;
}

/* Original: p-e-w, text-generation-webui's pull request 6335 (2024). Among equals, the highest id counts as the least
 * probable. */
static int xtc(pl_candidates *c, double threshold)
{
    double total = pl_candidates_mass(c), least = threshold * total;
    int row = c->form == PL_ROW && threshold > 0, above = 0, last = 0, m = 0;

    if (row) /* few tokens are that probable: only they are collected */
        pl_candidates_collect(c, below(c, fmax(-log(least), 0) + 1e-3));
    pl_candidates_gather(c);
    if (c->form != PL_WEIGHED)
        pl_candidates_mass(c);
    for (int i = 0; i < c->n; i++)
        if (c->w[i] >= least && (above++ == 0 || c->x[i] <= c->x[last]))
            last = i;
    for (int i = 0; i < c->n && above > 1; i++) {
        if (c->w[i] >= least && i != last) {
            c->row[c->id[i]] = -INFINITY;
            continue;
        }
        c->id[m] = c->id[i];
        c->x[m++] = c->x[i];
    }
    if (above > 1)
        c->n = m;
    c->form = row ? PL_ROW : PL_LIST;
    return above > 1;
}

void pl_filter_surprise(pl_candidates *c, double mu)
{
    /* -log2 p <= mu */
    double bound = c->top + (log(pl_candidates_mass(c)) - mu * PL_LN2) * c->t;
    int count = pl_candidates_count(c);

    if (bound > c->top) {
        pl_candidates_collect(c, c->top);
        c->n = 1;
        return;
    }
    c->least = not_below(bound);
    if (pl_candidates_count(c) < count)
        pl_candidates_gather(c);
    else
        c->least = -FLT_MAX;
}

int pl_filter(pl_candidates *c, const pl_sample_params *p, int step, uint64_t draw, double next_min_p)
{
    if (step != PL_TOP_K && step != PL_MIN_P)
        pl_candidates_apply_bound(c);
    switch (step) {
    case PL_TOP_N_SIGMA: top_n_sigma(c, p->top_n_sigma); break;
    case PL_TOP_K: top_k(c, p->top_k); break;
    case PL_TYPICAL_P: typical(c, p->typical_p); break;
    case PL_TOP_P: top_p(c, p->top_p, next_min_p); break;
    case PL_MIN_P: min_p(c, p->min_p); break;
    case PL_XTC: return pl_sample_uniform(p->seed, draw, 1) < p->xtc_probability && xtc(c, p->xtc_threshold);
    }
    return 0;
}
