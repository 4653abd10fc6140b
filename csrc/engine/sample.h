/* Chooses the next token from one row of logits. */
#ifndef PL_SAMPLE_H
#define PL_SAMPLE_H

#include <stdint.h>
#include "../kernels/kernels.h"

/* The steps, in their default order. A step acts on what the ones before left: filters on the probabilities of those
 * tokens, renormalised. Ties go to the lower id. At least one token always stays. A token of logit -inf is never kept.
 *   penalties    of tokens that occur among the recent ones: first a logit above 0 is divided and one below multiplied
 *                by repeat_penalty (Keskar et al. 2019; 0 and 1 are off), then presence_penalty + count *
 *                frequency_penalty is subtracted
 *   dry          of tokens that would go on with a repetition (pl_dry_match): multiplier * base ^ (length -
 *                allowed_length) is subtracted, at most 1e30
 *   top_n_sigma  tokens within this many standard deviations (of the logits left) of the best (Tang et al. 2024); 0: all
 *   top_k        the k most probable; 0: all
 *   typical_p    the smallest set of at least this probability, tokens whose surprise is nearest to the entropy first
 *                (locally typical sampling, Meister et al. 2023); 0 and 1: all
 *   top_p        the smallest prefix of the sorted tokens of at least this probability (nucleus, Holtzman et al. 2020)
 *   min_p        tokens of at least min_p times the probability of the best
 *   xtc          with probability xtc_probability, of the tokens of at least xtc_threshold only the least probable
 *                stays (exclude top choices)
 *   temperature  logits / t, t the temperature or, with a dynatemp_range, low + (high - low) * (H / ln n) ^ exponent of
 *                the n tokens left and their entropy H; low and high are the temperature -+ the range, at least 0
 * A step that `order` does not have does not act. Bias and mask act before the first step in `order` that is neither
 * penalties nor dry. A temperature of 0 is greedy, wherever it stands: filters do not matter then.
 * With mirostat (2; Basu et al. 2021, with what was sampled told by its renormalised probability) no filter acts, but
 * last of all tokens of more than mu bits of surprise go, and mu becomes mu - eta * (bits of the token drawn - tau). */
enum {
    PL_PENALTIES,
    PL_DRY,
    PL_TOP_N_SIGMA,
    PL_TOP_K,
    PL_TYPICAL_P,
    PL_TOP_P,
    PL_MIN_P,
    PL_XTC,
    PL_TEMPERATURE,
    PL_N_STEPS
};

typedef struct pl_sample_params {
    float temperature, top_p, min_p, typical_p, top_n_sigma;
    float xtc_probability, xtc_threshold, dynatemp_range, dynatemp_exponent;
    int32_t top_k;
    int32_t n_order;
    uint8_t order[PL_N_STEPS]; /* (n_order) */
    uint64_t seed;
    const uint32_t *mask; /* (ceil(vocab / 32)) bits of allowed tokens, or NULL */
    int32_t n_bias;       /* additions to logits: id, value; ids outside the vocabulary do nothing */
    const int32_t *bias_id;
    const float *bias;
    int32_t n_logprobs;    /* alternatives wanted; < 0: no log probabilities at all */
    const int32_t *target; /* the token to report, an id of the vocabulary, in place of a draw; or NULL */
    float repeat_penalty, presence_penalty, frequency_penalty;
    int32_t n_recent;
    const int32_t *recent; /* ids outside the vocabulary do nothing */
    float dry_multiplier, dry_base;
    int32_t dry_allowed_length, n_dry; /* what pl_dry_match found */
    const int32_t *dry_id, *dry_length;
    int32_t mirostat; /* 0 or 2 */
    float mirostat_tau, mirostat_eta;
    double mirostat_mu;
} pl_sample_params;

typedef struct pl_sampled {
    int32_t id;
    float logprob;      /* natural log of softmax(raw logits) at id, before all of the above; 0: not wanted */
    double mirostat_mu; /* for the next draw */
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
 * the counter (step, stream). The same on every machine. Stream 0 draws tokens, 1 is XTC's. */
double pl_sample_uniform(uint64_t seed, uint64_t step, uint32_t stream);

/* Repetitions that the next token might go on with (DRY; p-e-w 2024): wherever the last tokens of `ids` (n) occur earlier
 * in it, the token that followed and how many they are, where these are at least `least` (and 1). breaks (n) or NULL:
 * nonzero where a token ends or holds a sequence breaker: no repetition reaches over one, none is said to follow.
 * An id may come several times; the longest counts. z, out_id, out_length (n). Returns how many; linear in n. */
int pl_dry_match(const int32_t *ids, const uint8_t *breaks, int n, int least, int32_t *z, int32_t *out_id,
                 int32_t *out_length);

/* step: which draw of this seed (0, 1, ...): random numbers depend on (seed, step) alone (a counter-based generator).
 * The draw is the inverse CDF of its number over the tokens left: most probable first where they are at
 * most 1024 (their weights then come from float64 arithmetic that is the same on every ISA), in the order of ids beyond
 * that or when nothing filters (the weights are then the kernels').
 * logits (vocab) may be overwritten. Returns 0; PL_SAMPLE_LOGITS when one is NaN or +inf or none is finite;
 * PL_SAMPLE_OPTIONS when that is so after penalties, bias and mask, but not before. */
enum { PL_SAMPLE_LOGITS = -1, PL_SAMPLE_OPTIONS = -2 };
int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step, void *scratch,
              pl_sampled *out);

#endif
