/* The sampler: log probabilities, the steps in order (sample_adjust.c, sample_filter.c), then the draw. */
#include "sample_candidates.h"

#include <float.h>
#include <math.h>
#include <string.h>

size_t pl_sample_scratch(int vocab)
{
    pl_candidates c;
    return pl_candidates_init(&c, NULL, vocab);
}

/* Draws an index from n logits in the order given, weighted by exp((x - top) / t): first a block by the blocks' sums,
 * then an index within it. */
static int draw_long(const pl_candidates *c, const float *x, int n, double u, double *total)
{
    float *d = c->d, *e = c->w, top = c->top, inv_t = 1 / c->t; /* free to use: no weights are needed after the draw */
    int block = 0, blocks = 0, last = -1, len;
    double at = 0, target, *sum = c->sum;

    *total = 0;
    for (int i = 0; i < n; i += PL_SORTED_MAX) {
        sum[blocks] = c->k->sum_exp(x + i, n - i < PL_SORTED_MAX ? n - i : PL_SORTED_MAX, top, inv_t);
        *total += sum[blocks++];
    }
    target = u * *total;
    for (int i = 0; i < blocks; i++) {
        if (sum[i] > 0) {
            block = i;
            if (at + sum[i] > target)
                break;
            at += sum[i];
        }
    }
    x += block * PL_SORTED_MAX;
    len = n - block * PL_SORTED_MAX < PL_SORTED_MAX ? n - block * PL_SORTED_MAX : PL_SORTED_MAX;
    for (int i = 0; i < len; i++)
        d[i] = (x[i] - top) * inv_t;
    c->k->exp(d, len, e);
    for (int i = 0; i < len; i++) {
        if (e[i] > 0) {
            last = i;
            at += e[i];
            if (at > target)
                break;
        }
    }
    if (last < 0) /* every weight of the block underflowed: take its largest logit */
        for (int i = last = 0; i < len; i++)
            last = x[i] > x[last] ? i : last;
    return block * PL_SORTED_MAX + last;
}

/* Draws an index from a short sorted list. */
static int draw_sorted(const pl_candidates *c, double u, double *total)
{
    double at = 0, target;
    int last = 0;

    for (int i = 0; i < c->n; i++)
        at += pl_candidates_weight(c, c->x[i]);
    *total = at;
    target = u * at;
    at = 0;
    for (int i = 0; i < c->n; i++) {
        double w = pl_candidates_weight(c, c->x[i]);
        if (w > 0) {
            last = i;
            at += w;
            if (at > target)
                break;
        }
    }
    return last;
}

static void report_kept(const pl_candidates *c, double total, pl_sampled *out)
{
    for (int i = 0; i < c->n && i < out->kept_room; i++) {
        out->kept_id[i] = c->id[i];
        out->kept_prob[i] = (float)(pl_candidates_weight(c, c->x[i]) / total);
    }
}

/* Draws the token and updates mirostat's mu. */
static void draw(pl_candidates *c, const pl_sample_params *p, uint64_t step, pl_sampled *out)
{
    int wants_kept = out->kept_id && out->kept_prob && out->kept_room > 0, drawn;
    double u = pl_sample_uniform(p->seed, step, 0), total;
    float x;

    pl_candidates_apply_bound(c);
    if (c->form == PL_ROW) {
        out->id = draw_long(c, c->row, c->vocab, u, &total);
        x = c->row[out->id];
        out->n_kept = pl_candidates_count(c);
        if (wants_kept) {
            pl_candidates_gather(c);
            pl_candidates_sort(c);
        }
    } else if (c->n <= PL_SORTED_MAX) {
        out->n_kept = c->n;
        pl_candidates_sort(c);
        c->top = c->x[0]; /* typical_p may have dropped the best */
        drawn = draw_sorted(c, u, &total);
        out->id = c->id[drawn];
        x = c->x[drawn];
    } else {
        out->n_kept = c->n;
        c->top = c->k->max(c->x, c->n);
        drawn = draw_long(c, c->x, c->n, u, &total);
        out->id = c->id[drawn];
        x = c->x[drawn];
        if (wants_kept)
            pl_candidates_sort(c);
    }
    if (wants_kept)
        report_kept(c, total, out);
    if (p->mirostat)
        out->mirostat_mu -= p->mirostat_eta * ((log(total) - ((double)x - c->top) / c->t) / PL_LN2 - p->mirostat_tau);
}

static void draw_best(pl_candidates *c, pl_sampled *out)
{
    c->k->collect(c->row, c->vocab, c->top, &out->id, 1);
    out->n_kept = 1;
    if (out->kept_id && out->kept_prob && out->kept_room > 0) {
        out->kept_id[0] = out->id;
        out->kept_prob[0] = 1;
    }
}

/* Dynamic temperature by entropy (kalomaze 2023, as in llama.cpp). */
static double temperature(pl_candidates *c, const pl_sample_params *p)
{
    double low = fmax((double)p->temperature - p->dynatemp_range, 0), high = (double)p->temperature + p->dynatemp_range;
    double total, dot = 0, share;
    int n;

    if (!(p->dynatemp_range > 0))
        return p->temperature;
    n = pl_candidates_count(c);
    if (c->form == PL_ROW && c->least <= -FLT_MAX) {
        total = c->k->sum_exp_dot(c->row, c->vocab, c->top, 1 / c->t, &dot);
    } else {
        total = pl_candidates_mass(c);
        for (int i = 0; i < c->n; i++)
            if (c->w[i] > 0)
                dot += c->w[i] * (((double)c->x[i] - c->top) / c->t);
    }
    if (n < 2)
        return p->temperature;
    share = fmin(fmax((log(total) - dot / total) / log(n), 0), 1);
    return low + (high - low) * pow(share, p->dynatemp_exponent);
}

static int is_filter(int step)
{
    return step > PL_DRY && step < PL_TEMPERATURE;
}

/* Whether a step can change anything. */
static int acts(const pl_sample_params *p, int step, int vocab)
{
    if (is_filter(step) && (p->mirostat || !(p->temperature > 0)))
        return 0;
    switch (step) {
    case PL_PENALTIES:
        return p->n_recent > 0 && ((p->repeat_penalty > 0 && p->repeat_penalty != 1) || p->presence_penalty != 0 ||
                                   p->frequency_penalty != 0);
    case PL_DRY: return p->n_dry > 0 && p->dry_multiplier > 0;
    case PL_TOP_N_SIGMA: return p->top_n_sigma > 0;
    case PL_TOP_K: return p->top_k > 0 && p->top_k < vocab;
    case PL_TYPICAL_P: return p->typical_p > 0 && p->typical_p < 1;
    case PL_TOP_P: return p->top_p < 1;
    case PL_MIN_P: return p->min_p > 0;
    case PL_XTC: return p->xtc_probability > 0;
    default: return p->temperature > 0;
    }
}

/* -1: no token can be drawn from the logits. */
static int run_steps(pl_candidates *c, const pl_sample_params *p, int want, uint64_t draw)
{
    uint8_t steps[PL_N_STEPS];
    int n = 0, before = 0; /* before: number of steps before bias and mask */
    int altered = 0;       /* whether logits have changed since top was computed */

    while (before < p->n_order && p->order[before] <= PL_DRY)
        before++;
    for (int i = 0, at = before; i < at; i++)
        before -= !acts(p, p->order[i], c->vocab);
    for (int i = 0; i < p->n_order; i++)
        if (acts(p, p->order[i], c->vocab))
            steps[n++] = p->order[i];
    for (int i = 0; i <= n; i++) {
        int step = i < n ? steps[i] : -1;
        if (i == before)
            altered |= pl_bias_and_mask(c, p);
        if (step == PL_PENALTIES || step == PL_DRY) {
            pl_candidates_apply_bound(c);
            (step == PL_PENALTIES ? pl_penalize : pl_penalize_repetitions)(c, p);
            altered = 1;
            continue;
        }
        if (altered && pl_candidates_refresh(c, want))
            return -1;
        altered = 0;
        if (step == PL_TEMPERATURE) {
            c->t = (float)fmin(fmax(temperature(c, p), PL_T_MIN), PL_T_MAX);
            c->form = c->form == PL_WEIGHED ? PL_LIST : c->form;
        } else if (step >= 0) {
            altered = pl_filter(c, p, step, draw, i + 1 < n && steps[i + 1] == PL_MIN_P ? p->min_p : 0);
        }
    }
    if (p->mirostat && p->temperature > 0)
        pl_filter_surprise(c, p->mirostat_mu);
    return 0;
}

/* Reports the most probable tokens of the raw logits; returns their log-sum-exp. */
static double report_top(pl_candidates *c, const pl_sample_params *p, pl_sampled *out)
{
    double log_sum = c->top + log(c->k->sum_exp(c->row, c->vocab, c->top, 1));

    if (p->n_logprobs == 0 || !out->top_id || !out->top_logprob)
        return log_sum;
    pl_candidates_best(c, p->n_logprobs < c->vocab ? p->n_logprobs : c->vocab);
    pl_candidates_sort(c);
    for (int i = 0; i < p->n_logprobs; i++) {
        out->top_id[i] = i < c->n ? c->id[i] : -1;
        out->top_logprob[i] = i < c->n ? (float)(c->x[i] - log_sum) : -INFINITY;
    }
    c->form = PL_ROW;
    return log_sum;
}

/* Whether the mask acts before anything reads the logits, so that `top` is computed once, from what it leaves. */
static int masked_first(const pl_sample_params *p, int vocab)
{
    return p->mask && p->n_bias <= 0 && p->n_logprobs < 0 && !acts(p, PL_PENALTIES, vocab) && !acts(p, PL_DRY, vocab);
}

int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step, void *scratch,
              pl_sampled *out)
{
    pl_candidates c;
    double log_sum = 0;
    const float *raw = logits;
    int want = p->temperature > 0 && !p->mirostat && p->top_k < vocab ? p->top_k : 0;

    pl_candidates_init(&c, scratch, vocab);
    c.k = k;
    c.row = logits;
    c.form = PL_ROW;
    c.least = -FLT_MAX;
    c.t = 1;
    want = want > p->n_logprobs ? want : p->n_logprobs;
    out->id = -1;
    out->logprob = 0;
    out->n_kept = 0;
    out->mirostat_mu = p->mirostat_mu;
    int late = masked_first(p, vocab);
    if (!late && pl_candidates_refresh(&c, want))
        return PL_SAMPLE_LOGITS;
    if (p->n_logprobs >= 0) {
        log_sum = report_top(&c, p, out);
        if (p->target) {
            out->id = *p->target;
            out->logprob = (float)(raw[out->id] - log_sum);
            return 0;
        }
        if (acts(p, PL_PENALTIES, vocab) || acts(p, PL_DRY, vocab) || p->n_bias > 0)
            raw = memcpy(c.raw, logits, (size_t)vocab * sizeof *logits); /* else the drawn logit is unaltered */
    }
    if (run_steps(&c, p, want, step))
        return late && !(c.top < 0) ? PL_SAMPLE_LOGITS : PL_SAMPLE_OPTIONS; /* NaN or +inf; -inf: none is left */
    if (p->temperature > 0)
        draw(&c, p, step, out);
    else
        draw_best(&c, out);
    if (p->n_logprobs >= 0)
        out->logprob = (float)(raw[out->id] - log_sum);
    return 0;
}
