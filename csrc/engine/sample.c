/* The sampler: log probabilities, the steps in their order (sample_adjust.c, sample_filter.c), then the draw. */
#include "sample_pool.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define LN2 0.69314718055994530942

size_t pl_sample_scratch(int vocab)
{
    pl_pool b;
    return pl_pool_init(&b, NULL, vocab);
}

/* Index drawn from n logits in the order given, as exp((x - top) / t): sums of blocks first, then within one block. */
static int draw_long(const pl_pool *b, const float *x, int n, double u, double *total)
{
    float d[PL_SORTED_MAX], e[PL_SORTED_MAX], top = b->top, inv_t = 1 / b->t;
    int c = 0, blocks = 0, last = -1, len;
    double at = 0, target, *sum = b->sum;

    *total = 0;
    for (int i = 0; i < n; i += PL_SORTED_MAX) {
        sum[blocks] = b->k->sum_exp(x + i, n - i < PL_SORTED_MAX ? n - i : PL_SORTED_MAX, top, inv_t);
        *total += sum[blocks++];
    }
    target = u * *total;
    for (int i = 0; i < blocks; i++) {
        if (sum[i] > 0) {
            c = i;
            if (at + sum[i] > target)
                break;
            at += sum[i];
        }
    }
    x += c * PL_SORTED_MAX;
    len = n - c * PL_SORTED_MAX < PL_SORTED_MAX ? n - c * PL_SORTED_MAX : PL_SORTED_MAX;
    for (int i = 0; i < len; i++)
        d[i] = (x[i] - top) * inv_t;
    b->k->exp(d, len, e);
    for (int i = 0; i < len; i++) {
        if (e[i] > 0) {
            last = i;
            at += e[i];
            if (at > target)
                break;
        }
    }
    if (last < 0) /* every weight of the block underflowed singly: its largest */
        for (int i = last = 0; i < len; i++)
            last = x[i] > x[last] ? i : last;
    return c * PL_SORTED_MAX + last;
}

/* Index drawn from the few logits of a sorted pool. */
static int draw_sorted(const pl_pool *b, double u, double *total)
{
    double at = 0, target;
    int last = 0;

    for (int i = 0; i < b->n; i++)
        at += pl_pool_weight(b, b->x[i]);
    *total = at;
    target = u * at;
    at = 0;
    for (int i = 0; i < b->n; i++) {
        double w = pl_pool_weight(b, b->x[i]);
        if (w > 0) {
            last = i;
            at += w;
            if (at > target)
                break;
        }
    }
    return last;
}

static void report_kept(const pl_pool *b, double total, pl_sampled *out)
{
    for (int i = 0; i < b->n && i < out->kept_room; i++) {
        out->kept_id[i] = b->id[i];
        out->kept_prob[i] = (float)(pl_pool_weight(b, b->x[i]) / total);
    }
}

/* The token drawn, and mirostat's next mu. */
static void draw(pl_pool *b, const pl_sample_params *p, uint64_t step, pl_sampled *out)
{
    int wants_kept = out->kept_id && out->kept_prob && out->kept_room > 0, drawn;
    double u = pl_sample_uniform(p->seed, step, 0), total;
    float x;

    if (b->whole && b->least > -FLT_MAX)
        pl_pool_gather(b);
    if (b->whole) {
        out->id = draw_long(b, b->row, b->vocab, u, &total);
        x = b->row[out->id];
        out->n_kept = pl_pool_count(b);
        if (wants_kept) {
            pl_pool_gather(b);
            pl_pool_sort(b);
        }
    } else if (b->n <= PL_SORTED_MAX) {
        out->n_kept = b->n;
        pl_pool_sort(b);
        b->top = b->x[0]; /* typical sampling may have dropped the best */
        drawn = draw_sorted(b, u, &total);
        out->id = b->id[drawn];
        x = b->x[drawn];
    } else {
        out->n_kept = b->n;
        b->top = b->k->max(b->x, b->n);
        drawn = draw_long(b, b->x, b->n, u, &total);
        out->id = b->id[drawn];
        x = b->x[drawn];
        if (wants_kept)
            pl_pool_sort(b);
    }
    if (wants_kept)
        report_kept(b, total, out);
    if (p->mirostat)
        out->mirostat_mu -= p->mirostat_eta * ((log(total) - ((double)x - b->top) / b->t) / LN2 - p->mirostat_tau);
}

static void draw_best(pl_pool *b, pl_sampled *out)
{
    b->k->collect(b->row, b->vocab, b->top, &out->id, 1);
    out->n_kept = 1;
    if (out->kept_id && out->kept_prob && out->kept_room > 0) {
        out->kept_id[0] = out->id;
        out->kept_prob[0] = 1;
    }
}

/* Dynamic temperature (kalomaze 2023, as llama.cpp has it: by entropy). */
static double temperature(pl_pool *b, const pl_sample_params *p)
{
    double low = fmax((double)p->temperature - p->dynatemp_range, 0), high = (double)p->temperature + p->dynatemp_range;
    double total, dot = 0, share;
    int n;

    if (!(p->dynatemp_range > 0))
        return p->temperature;
    n = pl_pool_count(b);
    if (b->whole && b->least <= -FLT_MAX) {
        total = b->k->sum_exp_dot(b->row, b->vocab, b->top, 1 / b->t, &dot);
    } else {
        total = pl_pool_mass(b);
        for (int i = 0; i < b->n; i++)
            if (b->w[i] > 0)
                dot += b->w[i] * (((double)b->x[i] - b->top) / b->t);
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

/* -1: the logits are not to be drawn from. */
static int run_steps(pl_pool *b, const pl_sample_params *p, int want, uint64_t draw)
{
    uint8_t steps[PL_N_STEPS];
    int n = 0, before = 0; /* steps before bias and mask */

    while (before < p->n_order && p->order[before] <= PL_DRY)
        before++;
    for (int i = 0, at = before; i < at; i++)
        before -= !acts(p, p->order[i], b->vocab);
    for (int i = 0; i < p->n_order; i++)
        if (acts(p, p->order[i], b->vocab))
            steps[n++] = p->order[i];
    for (int i = 0; i <= n; i++) {
        int step = i < n ? steps[i] : -1;
        if (i == before)
            pl_bias_and_mask(b, p);
        if (step == PL_PENALTIES || step == PL_DRY) {
            if (b->least > -FLT_MAX)
                pl_pool_gather(b);
            (step == PL_PENALTIES ? pl_penalize : pl_penalize_repetitions)(b, p);
            continue;
        }
        if (b->stale && pl_pool_refresh(b, want))
            return -1;
        if (step == PL_TEMPERATURE) {
            b->t = (float)fmin(fmax(temperature(b, p), PL_T_MIN), PL_T_MAX);
            b->weighed = 0;
        } else if (step >= 0) {
            pl_filter(b, p, step, draw, i + 1 < n && steps[i + 1] == PL_MIN_P ? p->min_p : 0);
        }
    }
    if (p->mirostat && p->temperature > 0)
        pl_filter_surprise(b, p->mirostat_mu);
    return 0;
}

/* The most probable tokens of the raw row; returns the logarithm of its sum of exp. */
static double report_top(pl_pool *b, const pl_sample_params *p, pl_sampled *out)
{
    double log_sum = b->top + log(b->k->sum_exp(b->row, b->vocab, b->top, 1));

    if (p->n_logprobs == 0 || !out->top_id || !out->top_logprob)
        return log_sum;
    pl_pool_best(b, p->n_logprobs < b->vocab ? p->n_logprobs : b->vocab);
    pl_pool_sort(b);
    for (int i = 0; i < p->n_logprobs; i++) {
        out->top_id[i] = i < b->n ? b->id[i] : -1;
        out->top_logprob[i] = i < b->n ? (float)(b->x[i] - log_sum) : -INFINITY;
    }
    b->whole = 1;
    return log_sum;
}

int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step, void *scratch,
              pl_sampled *out)
{
    pl_pool b;
    double log_sum = 0;
    const float *raw = logits;
    int want = p->temperature > 0 && !p->mirostat && p->top_k < vocab ? p->top_k : 0;

    pl_pool_init(&b, scratch, vocab);
    b.k = k;
    b.row = logits;
    b.whole = 1;
    b.least = -FLT_MAX;
    b.t = 1;
    want = want > p->n_logprobs ? want : p->n_logprobs;
    out->id = -1;
    out->logprob = 0;
    out->n_kept = 0;
    out->mirostat_mu = p->mirostat_mu;
    if (pl_pool_refresh(&b, want))
        return -1;
    if (p->n_logprobs >= 0) {
        log_sum = report_top(&b, p, out);
        if (acts(p, PL_PENALTIES, vocab) || acts(p, PL_DRY, vocab) || p->n_bias > 0)
            raw = memcpy(b.raw, logits, (size_t)vocab * sizeof *logits); /* else a token's own logit stays */
    }
    if (run_steps(&b, p, want, step))
        return -1;
    if (p->temperature > 0)
        draw(&b, p, step, out);
    else
        draw_best(&b, out);
    if (p->n_logprobs >= 0)
        out->logprob = (float)(raw[out->id] - log_sum);
    return 0;
}
