/* Chooses the next token from one row of logits. */
#ifndef PL_SAMPLE_H
#define PL_SAMPLE_H

#include <stdint.h>
#include "../kernels/kernels.h"

/* Filters act in this order, each on what the one before left, renormalised; a value that switches it off is given:
 * penalties (1, 0, 0), bias and mask, top_k (0), typical_p (0 or 1), top_p (1), min_p (0): these on probabilities at
 * temperature 1; then temperature (0 = greedy: the filters do not matter), then the draw.
 * Ties go to the lower id. At least one token always stays. A token whose logit is -inf is never kept.
 *   top_k      the k most probable
 *   typical_p  the smallest set of at least this probability, tokens whose surprise is nearest to the entropy first
 *              (locally typical sampling, Meister et al. 2023)
 *   top_p      the smallest prefix of the sorted tokens of at least this probability (nucleus, Holtzman et al. 2020)
 *   min_p      tokens of at least min_p times the probability of the best */
typedef struct pl_sample_params {
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;
    const uint32_t *mask; /* (ceil(vocab / 32)) bits of allowed tokens, or NULL */
    int32_t n_bias;       /* additions to logits: id, value; ids outside the vocabulary do nothing */
    const int32_t *bias_id;
    const float *bias;
    int32_t n_logprobs; /* alternatives wanted; < 0: no log probabilities at all */
    float typical_p;
    /* Penalties of tokens that occur among the recent ones. First a logit above 0 is divided and one below multiplied
     * by repeat_penalty (Keskar et al. 2019; 0 is off, too), then presence_penalty + count * frequency_penalty is
     * subtracted. */
    float repeat_penalty, presence_penalty, frequency_penalty;
    int32_t n_recent;
    const int32_t *recent; /* ids outside the vocabulary do nothing */
} pl_sample_params;

typedef struct pl_sampled {
    int32_t id;
    float logprob;      /* natural log of softmax(raw logits) at id, before all of the above; 0: not wanted */
    int32_t n_kept;     /* tokens that the filters left */
    int32_t *top_id;    /* (n_logprobs) most probable tokens of the raw logits, or NULL; where fewer are ... */
    float *top_logprob; /* ... possible, the rest is -1 and -inf */
    int32_t *kept_id;   /* (kept_room) or NULL: the tokens that were left, most probable first ... */
    float *kept_prob;   /* ... and the probabilities drawn from */
    int32_t kept_room;
} pl_sampled;

/* Bytes of scratch that pl_sample needs for a vocabulary; aligned to 8. */
size_t pl_sample_scratch(int vocab);

/* The random number of a draw: uniform in [0, 1), 53 bits of Philox-4x32-10 (Salmon et al. 2011) of the key `seed` and
 * the counter `step`. The same on every machine. */
double pl_sample_uniform(uint64_t seed, uint64_t step);

/* step: which draw of this seed (0, 1, ...): the random number depends on (seed, step) alone (a counter-based
 * generator). The draw is the inverse CDF of that number over the tokens left: most probable first where they are at
 * most 1024 (their weights then come from float64 arithmetic that is the same on every ISA), in the order of ids beyond
 * that or when nothing filters (the weights are then the kernels').
 * logits (vocab) may be overwritten. Returns 0, or -1 when a logit is NaN or +inf (also after penalties and bias), or
 * when none is finite, or none that the mask and bias allow. */
int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step, void *scratch,
              pl_sampled *out);

#endif
