/* The sampler's filters. */
#include "sample_pool.h"

#include <float.h>
#include <math.h>

#define LN2 0.69314718055994530942

/* A bound `width` (times t) below the best, less what rounding it to float32 may add. */
static float below(const pl_pool *b, double width)
{
    return (float)(b->top - width * b->t - fabs((double)b->top) * 1e-6);
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

static void top_n_sigma(pl_pool *b, double n)
{
    const float *x = b->whole ? b->row : b->x;
    float top = b->whole ? b->top : b->k->max(b->x, b->n), least;
    int count = pl_pool_count(b);
    double sum, squares, variance;

    b->k->moments(x, b->whole ? b->vocab : b->n, top, &sum, &squares);
    /* The best itself adds 0 to both sums, so the square of the mean is below count * variance: little cancels. */
    variance = squares / count - sum / count * (sum / count);
    least = not_below(top - n * sqrt(variance > 0 ? variance : 0));
    if (!b->whole) {
        pl_pool_keep_from(b, least);
        return;
    }
    b->least = least; /* top_k may never look at all of these */
    if (pl_pool_count(b) == count)
        b->least = -FLT_MAX;
}

static void top_k(pl_pool *b, int k)
{
    if (b->whole) {
        pl_pool_best(b, k);
        pl_pool_keep_from(b, b->least);
    } else if (b->n > k) {
        pl_pool_keys(b, b->x, 1);
        pl_pool_cut(b, NULL, k);
    }
}

/* How far a token's surprise, -ln p = ln(total) - (x - top) / t, lies from the entropy; mean is that of (x - top) / t. */
static double off(const pl_pool *b, double mean, int i)
{
    return fabs(((double)b->x[i] - b->top) / b->t - mean);
}

/* What typical_p can keep of the whole row: mostly tokens of little more surprise than the entropy. */
static void collect_typical(pl_pool *b, double mean, double wanted)
{
    for (double width = 4; width < 32; width *= 2) {
        double sum = 0;
        pl_pool_collect(b, below(b, width - mean));
        pl_pool_mass(b);
        for (int i = 0; i < b->n; i++)
            if (off(b, mean, i) <= width)
                sum += b->w[i];
        if (sum > wanted * (1 + 1e-5))
            return;
    }
    pl_pool_collect(b, -FLT_MAX);
    pl_pool_mass(b);
}

static void typical(pl_pool *b, double typical_p)
{
    double total, dot = 0;

    if (b->whole) {
        total = b->k->sum_exp_dot(b->row, b->vocab, b->top, 1 / b->t, &dot);
        collect_typical(b, dot / total, typical_p * total);
    } else {
        total = pl_pool_mass(b);
        for (int i = 0; i < b->n; i++)
            if (b->w[i] > 0)
                dot += b->w[i] * (((double)b->x[i] - b->top) / b->t);
    }
    for (int i = 0; i < b->n; i++)
        b->d[i] = (float)off(b, dot / total, i);
    pl_pool_keys(b, b->d, 0);
    pl_pool_cut(b, b->w, typical_p * total);
}

/* How far below the best, in units of t, a token that min_p keeps can lie; renormalising does not alter ratios. */
static double reach(double min_p)
{
    return min_p > 0 ? 1e-3 - log(min_p < 1 ? min_p : 1) : INFINITY;
}

/* Tokens that top_p can keep, when it acts on the whole row of weight total. All that lie below top - width weigh less
 * than vocab * exp(-width) together, which bounds the width; a narrower one nearly always does. */
static void collect_nucleus(pl_pool *b, double total, float top_p, double most)
{
    double rest = top_p > 0 ? 1 - (double)top_p : 1, wide = log(2.0 * b->vocab / (rest * total)), width = 3 - log(rest);

    if (wide > most)
        wide = most;
    if (width > wide)
        width = wide;
    pl_pool_collect(b, below(b, width));
    if (width < wide && b->k->sum_exp(b->x, b->n, b->top, 1 / b->t) < top_p * total * (1 + 1e-6))
        pl_pool_collect(b, below(b, wide));
}

static void top_p(pl_pool *b, float p, double next_min_p)
{
    double total = pl_pool_mass(b);

    if (b->whole) {
        collect_nucleus(b, total, p, reach(next_min_p));
        pl_pool_mass(b);
    }
    pl_pool_keys(b, b->x, 1);
    pl_pool_cut(b, b->w, p * total);
}

static void min_p(pl_pool *b, double p)
{
    double least;
    int m = 0;

    if (b->whole) {
        float bound = below(b, reach(p));
        pl_pool_collect(b, bound > b->least ? bound : b->least);
    }
    if (!b->weighed)
        pl_pool_mass(b);
    least = (p < 1 ? p : 1) * b->k->max(b->w, b->n);
    for (int i = 0; i < b->n; i++) {
        if (b->w[i] < least)
            continue;
        b->id[m] = b->id[i];
        b->w[m] = b->w[i];
        b->x[m++] = b->x[i];
    }
    b->n = m;
}

/* Original: p-e-w, text-generation-webui's pull request 6335 (2024). Of equals the highest id is the least probable. */
static void xtc(pl_pool *b, double threshold)
{
    double total = pl_pool_mass(b), least = threshold * total;
    int whole = b->whole && threshold > 0, above = 0, last = 0, m = 0;

    if (whole) /* few tokens are that probable: the others stay where they are */
        pl_pool_collect(b, below(b, fmax(-log(least), 0) + 1e-3));
    pl_pool_gather(b);
    if (!b->weighed)
        pl_pool_mass(b);
    for (int i = 0; i < b->n; i++)
        if (b->w[i] >= least && (above++ == 0 || b->x[i] <= b->x[last]))
            last = i;
    for (int i = 0; i < b->n && above > 1; i++) {
        if (b->w[i] >= least && i != last) {
            b->row[b->id[i]] = -INFINITY;
            continue;
        }
        b->id[m] = b->id[i];
        b->x[m++] = b->x[i];
    }
    if (above > 1) {
        b->n = m;
        b->stale = 1;
    }
    b->weighed = 0;
    b->whole = whole;
}

void pl_filter_surprise(pl_pool *b, double mu)
{
    /* -log2 p <= mu */
    double bound = b->top + (log(pl_pool_mass(b)) - mu * LN2) * b->t;
    int count = pl_pool_count(b);

    if (bound > b->top) {
        pl_pool_collect(b, b->top);
        b->n = 1;
        return;
    }
    b->least = not_below(bound);
    if (pl_pool_count(b) < count)
        pl_pool_gather(b);
    else
        b->least = -FLT_MAX;
}

void pl_filter(pl_pool *b, const pl_sample_params *p, int step, uint64_t draw, double next_min_p)
{
    if (b->whole && b->least > -FLT_MAX && step != PL_TOP_K && step != PL_MIN_P)
        pl_pool_gather(b);
    switch (step) {
    case PL_TOP_N_SIGMA: top_n_sigma(b, p->top_n_sigma); break;
    case PL_TOP_K: top_k(b, p->top_k); break;
    case PL_TYPICAL_P: typical(b, p->typical_p); break;
    case PL_TOP_P: top_p(b, p->top_p, next_min_p); break;
    case PL_MIN_P: min_p(b, p->min_p); break;
    case PL_XTC:
        if (pl_sample_uniform(p->seed, draw, 1) < p->xtc_probability)
            xtc(b, p->xtc_threshold);
        break;
    }
}
