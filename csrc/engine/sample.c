/* The sampler: log probabilities, penalties, bias and mask, then filters (sample_filter.c), then the draw. */
#include "sample_filter.h"

#include <float.h>
#include <math.h>
#include <string.h>

size_t pl_sample_scratch(int vocab)
{
    pl_pool b;
    return pl_pool_init(&b, NULL, vocab);
}

double pl_sample_uniform(uint64_t seed, uint64_t step)
{
    uint32_t c[4] = {(uint32_t)step, (uint32_t)(step >> 32), 0, 0};
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(b >> 32) ^ c1 ^ key0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c3 ^ key1;
        c[3] = (uint32_t)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return (double)(((uint64_t)c[1] << 32 | c[0]) >> 11) * 0x1p-53;
}

static int valid(int32_t id, int vocab)
{
    return id >= 0 && id < vocab;
}

/* The pool's arrays hold no tokens yet: sub serves as a table of counts, of which only the entries used are cleared. */
static void penalize(const pl_sample_params *p, float *row, int vocab, int32_t *count)
{
    float repeat = p->repeat_penalty > 0 ? p->repeat_penalty : 1;

    for (int i = 0; i < p->n_recent; i++)
        if (valid(p->recent[i], vocab))
            count[p->recent[i]] = 0;
    for (int i = 0; i < p->n_recent; i++)
        if (valid(p->recent[i], vocab))
            count[p->recent[i]]++;
    for (int i = 0; i < p->n_recent; i++) {
        int32_t id = p->recent[i];
        if (!valid(id, vocab) || count[id] == 0)
            continue;
        row[id] = row[id] > 0 ? row[id] / repeat : row[id] * repeat;
        row[id] -= p->presence_penalty + (float)count[id] * p->frequency_penalty;
        count[id] = 0; /* once per token */
    }
}

static void forbid(const uint32_t *mask, float *row, int vocab)
{
    for (int at = 0; at < vocab; at += 32) {
        uint32_t allowed = mask[at / 32];
        int n = vocab - at < 32 ? vocab - at : 32;
        if (allowed == 0xffffffffu)
            continue;
        for (int i = 0; i < n; i++)
            if (!(allowed >> i & 1))
                row[at + i] = -INFINITY;
    }
}

/* Returns 1 when the row may have changed. */
static int adjust(const pl_sample_params *p, float *row, int vocab, pl_pool *b)
{
    int penalties = p->n_recent > 0 && ((p->repeat_penalty > 0 && p->repeat_penalty != 1) || p->presence_penalty != 0 ||
                                        p->frequency_penalty != 0);

    if (!penalties && p->n_bias <= 0 && !p->mask)
        return 0;
    if (p->n_logprobs >= 0 && (penalties || p->n_bias > 0))
        memcpy(b->raw, row, (size_t)vocab * sizeof *row);
    else
        b->raw = row; /* a mask leaves the logits of the tokens it allows */
    if (penalties)
        penalize(p, row, vocab, b->sub);
    for (int i = 0; i < p->n_bias; i++)
        if (valid(p->bias_id[i], vocab))
            row[p->bias_id[i]] += p->bias[i];
    if (p->mask)
        forbid(p->mask, row, vocab);
    return 1;
}

/* exp((x - top) / t) in float64; safe for every t > 0, infinity too. */
static double weight(float x, float top, float t)
{
    return exp(((double)x - top) / t);
}

/* Index drawn from n logits in the order given, as exp((x - top) / t): sums of blocks first, then within one block. */
static int draw_long(const pl_kernels *k, const float *x, int n, float top, float t, double u, double *sum,
                     double *total)
{
    float d[PL_SORTED_MAX], e[PL_SORTED_MAX], inv_t = 1 / t;
    int c = 0, blocks = 0, last = -1, len;
    double at = 0, target;

    inv_t = inv_t < FLT_MAX ? inv_t > FLT_MIN ? inv_t : FLT_MIN : FLT_MAX; /* 0 * inf and -inf * 0 are NaN */
    *total = 0;
    for (int i = 0; i < n; i += PL_SORTED_MAX) {
        sum[blocks] = k->sum_exp(x + i, n - i < PL_SORTED_MAX ? n - i : PL_SORTED_MAX, top, inv_t);
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
    k->exp(d, len, e);
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
static int draw_sorted(const pl_pool *b, float top, float t, double u, double *total)
{
    double at = 0, target;
    int last = 0;

    for (int i = 0; i < b->n; i++)
        at += weight(b->x[i], top, t);
    *total = at;
    target = u * at;
    at = 0;
    for (int i = 0; i < b->n; i++) {
        double w = weight(b->x[i], top, t);
        if (w > 0) {
            last = i;
            at += w;
            if (at > target)
                break;
        }
    }
    return last;
}

static void report_kept(const pl_pool *b, float top, float t, double total, pl_sampled *out)
{
    for (int i = 0; i < b->n && i < out->kept_room; i++) {
        out->kept_id[i] = b->id[i];
        out->kept_prob[i] = (float)(weight(b->x[i], top, t) / total);
    }
}

static void choose(const pl_kernels *k, const pl_sample_params *p, const float *row, int vocab, float top,
                   uint64_t step, pl_pool *b, pl_sampled *out)
{
    int wants_kept = out->kept_id && out->kept_prob && out->kept_room > 0, filtered, drawn;
    float t = p->temperature;
    double total, u;

    if (!(t > 0)) {
        k->collect(row, vocab, top, &out->id, 1);
        out->n_kept = 1;
        if (wants_kept) {
            out->kept_id[0] = out->id;
            out->kept_prob[0] = 1;
        }
        return;
    }
    u = pl_sample_uniform(p->seed, step);
    filtered = pl_pool_filter(k, b, p, row, vocab, top);
    if (!filtered) {
        out->id = draw_long(k, row, vocab, top, t, u, b->sum, &total);
        out->n_kept = k->collect(row, vocab, -FLT_MAX, b->id, 0);
        if (!wants_kept)
            return;
        pl_pool_collect(k, b, row, vocab, -FLT_MAX);
        pl_pool_sort(b, row);
        report_kept(b, top, t, total, out);
        return;
    }
    out->n_kept = b->n;
    if (b->n <= PL_SORTED_MAX) {
        pl_pool_sort(b, row);
        top = b->x[0]; /* typical sampling may have dropped the row's best */
        drawn = draw_sorted(b, top, t, u, &total);
        out->id = b->id[drawn];
    } else {
        top = k->max(b->x, b->n);
        drawn = draw_long(k, b->x, b->n, top, t, u, b->sum, &total);
        out->id = b->id[drawn];
        if (wants_kept)
            pl_pool_sort(b, row);
    }
    if (wants_kept)
        report_kept(b, top, t, total, out);
}

/* The most probable tokens of the raw row; returns the logarithm of its sum of exp. */
static double report_top(const pl_kernels *k, const pl_sample_params *p, const float *row, int vocab, float top,
                         pl_pool *b, pl_sampled *out)
{
    double log_sum = top + log(k->sum_exp(row, vocab, top, 1));

    if (p->n_logprobs == 0 || !out->top_id || !out->top_logprob)
        return log_sum;
    pl_pool_best(k, b, row, vocab, p->n_logprobs < vocab ? p->n_logprobs : vocab);
    pl_pool_sort(b, row);
    for (int i = 0; i < p->n_logprobs; i++) {
        out->top_id[i] = i < b->n ? b->id[i] : -1;
        out->top_logprob[i] = i < b->n ? (float)(b->x[i] - log_sum) : -INFINITY;
    }
    return log_sum;
}

int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step, void *scratch,
              pl_sampled *out)
{
    pl_pool b;
    float top;
    double log_sum = 0;
    int want = p->temperature > 0 && p->top_k < vocab ? p->top_k : 0;

    pl_pool_init(&b, scratch, vocab);
    want = want > p->n_logprobs ? want : p->n_logprobs;
    out->id = -1;
    out->logprob = 0;
    out->n_kept = 0;
    top = pl_pool_top(k, &b, logits, vocab, want);
    if (!(top >= -FLT_MAX && top <= FLT_MAX))
        return -1;
    if (p->n_logprobs >= 0)
        log_sum = report_top(k, p, logits, vocab, top, &b, out);
    if (adjust(p, logits, vocab, &b)) {
        top = pl_pool_top(k, &b, logits, vocab, want);
        if (!(top >= -FLT_MAX && top <= FLT_MAX))
            return -1;
    } else {
        b.raw = logits;
    }
    choose(k, p, logits, vocab, top, step, &b, out);
    if (p->n_logprobs >= 0)
        out->logprob = (float)(b.raw[out->id] - log_sum);
    return 0;
}
