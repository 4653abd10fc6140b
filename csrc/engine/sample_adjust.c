/* What alters logits: penalties, DRY, bias and mask. */
#include "sample_pool.h"

#include <math.h>

#define MOST_PENALTY 1e30 /* of DRY: leaves every logit finite */

static int valid(int32_t id, int vocab)
{
    return id >= 0 && id < vocab;
}

/* A penalty is one of logits / t. No step of the pool is under way: sub serves as a table of counts, of which only the
 * entries used are cleared. */
void pl_penalize(pl_pool *b, const pl_sample_params *p)
{
    float repeat = p->repeat_penalty > 0 ? p->repeat_penalty : 1;
    int32_t *count = b->sub;

    for (int i = 0; i < p->n_recent; i++)
        if (valid(p->recent[i], b->vocab))
            count[p->recent[i]] = 0;
    for (int i = 0; i < p->n_recent; i++)
        if (valid(p->recent[i], b->vocab))
            count[p->recent[i]]++;
    for (int i = 0; i < p->n_recent; i++) {
        int32_t id = p->recent[i];
        float *x;
        if (!valid(id, b->vocab) || count[id] == 0)
            continue;
        x = pl_pool_at(b, id);
        if (x) {
            *x = *x > 0 ? *x / repeat : *x * repeat;
            *x -= (p->presence_penalty + (float)count[id] * p->frequency_penalty) * b->t;
        }
        count[id] = 0; /* once per token */
    }
    b->stale = 1;
}

void pl_penalize_repetitions(pl_pool *b, const pl_sample_params *p)
{
    int32_t *longest = b->sub;

    for (int i = 0; i < p->n_dry; i++)
        if (valid(p->dry_id[i], b->vocab))
            longest[p->dry_id[i]] = 0;
    for (int i = 0; i < p->n_dry; i++)
        if (valid(p->dry_id[i], b->vocab) && longest[p->dry_id[i]] < p->dry_length[i])
            longest[p->dry_id[i]] = p->dry_length[i];
    for (int i = 0; i < p->n_dry; i++) {
        int32_t id = p->dry_id[i];
        float *x;
        if (!valid(id, b->vocab) || longest[id] == 0)
            continue;
        x = pl_pool_at(b, id);
        if (x)
            *x -= (float)fmin(p->dry_multiplier * pow(p->dry_base, longest[id] - p->dry_allowed_length) * b->t,
                              MOST_PENALTY);
        longest[id] = 0;
    }
    b->stale = 1;
}

static void forbid(pl_pool *b, const uint32_t *mask)
{
    for (int at = 0; at < b->vocab; at += 32) {
        uint32_t allowed = mask[at / 32];
        int n = b->vocab - at < 32 ? b->vocab - at : 32;
        if (allowed == 0xffffffffu)
            continue;
        for (int i = 0; i < n; i++)
            if (!(allowed >> i & 1))
                b->row[at + i] = -INFINITY;
    }
}

/* Of the whole row: nothing but penalties acted before. */
void pl_bias_and_mask(pl_pool *b, const pl_sample_params *p)
{
    for (int i = 0; i < p->n_bias; i++)
        if (valid(p->bias_id[i], b->vocab))
            b->row[p->bias_id[i]] += p->bias[i];
    if (p->mask)
        forbid(b, p->mask);
    if (p->n_bias > 0 || p->mask)
        b->stale = 1;
}
