/* The steps that alter logits: penalties, DRY, bias and mask. */
#include "sample_candidates.h"

#include <math.h>

#define MOST_PENALTY 1e30 /* of DRY: keeps every logit finite */

static int valid(int32_t id, int vocab)
{
    return id >= 0 && id < vocab;
}

/* Penalties are in units of logits / t. `sub`, which only pl_candidates_cut needs, serves as a table of counts; only
 * the entries used are cleared. */
void pl_penalize(pl_candidates *c, const pl_sample_params *p)
{
    float repeat = p->repeat_penalty > 0 ? p->repeat_penalty : 1;
    int32_t *count = c->sub;

    for (int i = 0; i < p->n_recent; i++)
        if (valid(p->recent[i], c->vocab))
            count[p->recent[i]] = 0;
    for (int i = 0; i < p->n_recent; i++)
        if (valid(p->recent[i], c->vocab))
            count[p->recent[i]]++;
    for (int i = 0; i < p->n_recent; i++) {
        int32_t id = p->recent[i];
        float *x;
        if (!valid(id, c->vocab) || count[id] == 0)
            continue;
        x = pl_candidates_at(c, id);
        if (x) {
            *x = *x > 0 ? *x / repeat : *x * repeat;
            *x -= (p->presence_penalty + (float)count[id] * p->frequency_penalty) * c->t;
        }
        count[id] = 0; /* once per token */
    }
}

void pl_penalize_repetitions(pl_candidates *c, const pl_sample_params *p)
{
    int32_t *longest = c->sub;

    for (int i = 0; i < p->n_dry; i++)
        if (valid(p->dry_id[i], c->vocab))
            longest[p->dry_id[i]] = 0;
    for (int i = 0; i < p->n_dry; i++)
        if (valid(p->dry_id[i], c->vocab) && longest[p->dry_id[i]] < p->dry_length[i])
            longest[p->dry_id[i]] = p->dry_length[i];
    for (int i = 0; i < p->n_dry; i++) {
        int32_t id = p->dry_id[i];
        float *x;
        if (!valid(id, c->vocab) || longest[id] == 0)
            continue;
        x = pl_candidates_at(c, id);
        if (x)
            *x -= (float)fmin(p->dry_multiplier * pow(p->dry_base, longest[id] - p->dry_allowed_length) * c->t,
                              MOST_PENALTY);
        longest[id] = 0;
    }
}

static void forbid(pl_candidates *c, const uint32_t *mask)
{
    for (int at = 0; at < c->vocab; at += 32) {
        int n = c->vocab - at < 32 ? c->vocab - at : 32;
        uint32_t left = ~mask[at / 32] & (n < 32 ? (1u << n) - 1 : 0xffffffffu);
        if (left == 0xffffffffu)
            for (int i = 0; i < 32; i++)
                c->row[at + i] = -INFINITY;
        else /* mostly few per word */
            for (; left; left &= left - 1)
                c->row[at + __builtin_ctz(left)] = -INFINITY;
    }
}

/* Acts on the whole row: only penalties and DRY act before it. */
int pl_bias_and_mask(pl_candidates *c, const pl_sample_params *p)
{
    for (int i = 0; i < p->n_bias; i++)
        if (valid(p->bias_id[i], c->vocab))
            c->row[p->bias_id[i]] += p->bias[i];
    if (p->mask)
        forbid(c, p->mask);
    return p->n_bias > 0 || p->mask;
}
