/* Chooses the next token from one row of logits. */
#ifndef PL_SAMPLE_H
#define PL_SAMPLE_H

#include <stdint.h>
#include "../kernels/kernels.h"

/* Filters act in this order, each on what the one before left, renormalised; a value that switches it off is given:
 * bias and mask, top_k (0), top_p (1), min_p (0): these on probabilities at temperature 1; then temperature (0 = greedy),
 * then the draw. Ties go to the lower id. At least one token always stays. */
typedef struct pl_sample_params {
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;
    const uint32_t *mask;       /* (ceil(vocab / 32)) bits of allowed tokens, or NULL */
    int32_t n_bias;             /* additions to logits: id, value */
    const int32_t *bias_id;
    const float *bias;
    int32_t n_logprobs;         /* alternatives wanted; < 0: no log probabilities at all */
} pl_sample_params;

typedef struct pl_sampled {
    int32_t id;
    float logprob;              /* natural log of softmax(raw logits) at id: before bias, mask and filters */
    int32_t n_kept;             /* tokens that the filters left */
    int32_t *top_id;            /* (n_logprobs) most probable tokens of the raw logits, or NULL */
    float *top_logprob;
    int32_t *kept_id;           /* (kept_room) or NULL: the tokens that were left, most probable first ... */
    float *kept_prob;           /* ... and the probabilities drawn from */
    int32_t kept_room;
} pl_sampled;

/* Bytes of scratch that pl_sample needs for a vocabulary. */
size_t pl_sample_scratch(int vocab);

/* step: which draw of this seed (0, 1, ...): the random number depends on (seed, step) alone (a counter-based generator).
 * logits (vocab) may be overwritten. Returns 0, or -1 when a logit is NaN or +inf, or none is finite. */
int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step, void *scratch, pl_sampled *out);

#endif
