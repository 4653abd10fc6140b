/* Chooses the next token from one row of logits. */
#ifndef PL_SAMPLE_H
#define PL_SAMPLE_H

#include <stdint.h>
#include "../kernels/kernels.h"

/* The steps, in their default order. Each step acts on the tokens that the steps before it kept; filters use the
 * probabilities of those tokens, renormalised. Ties go to the lower id. At least one token is always kept, and a token
 * of logit -inf never is.
 *   penalties    for tokens among the recent ones: a logit above 0 is divided and one below 0 multiplied by
 *                repeat_penalty (Keskar et al. 2019; 0 and 1 are off), then presence_penalty + count *
 *                frequency_penalty is subtracted
 *   dry          for tokens that would continue a repetition (pl_dry_match): multiplier * base ^ (length -
 *                allowed_length) is subtracted, at most 1e30
 *   top_n_sigma  keeps tokens within this many standard deviations of the best logit (Tang et al. 2024), the deviation
 *                being that of the logits kept so far; 0: all
 *   top_k        keeps the k most probable; 0: all
 *   typical_p    keeps the smallest set with at least this probability, taking first the tokens whose surprise is
 *                nearest to the entropy (locally typical sampling, Meister et al. 2023); 0 and 1: all
 *   top_p        keeps the smallest prefix of the sorted tokens with at least this probability (nucleus, Holtzman et
 *                al. 2020)
 *   min_p        keeps tokens with at least min_p times the probability of the best
 *   xtc          with probability xtc_probability, drops all but the least probable of the tokens with at least
 *                xtc_threshold (exclude top choices)
 *   temperature  logits / t, where t is the temperature or, with a dynatemp_range, low + (high - low) * (H / ln n) ^
 *                exponent for the n tokens kept so far and their entropy H; low and high are the temperature minus and
 *                plus the range, at least 0
 * Steps missing from `order` do not act. Bias and mask act before the first step in `order` that is neither penalties
 * nor dry. A temperature of 0 is greedy, wherever it stands in `order`: filters then have no effect.
 * With mirostat (2; Basu et al. 2021, the surprise of a drawn token being that of its renormalised probability) no
 * filter acts; instead, after all steps, tokens with more than mu bits of surprise are dropped, and eta * (bits of
 * the drawn token - tau) is subtracted from mu. */
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
    int32_t n_bias;       /* values added to the logits of ids; ids outside the vocabulary are ignored */
    const int32_t *bias_id;
    const float *bias;
    int32_t n_logprobs;    /* alternatives to report; < 0: no log probabilities at all */
    const int32_t *target; /* a token of the vocabulary to report instead of drawing one, or NULL */
    float repeat_penalty, presence_penalty, frequency_penalty;
    int32_t n_recent;
    const int32_t *recent; /* ids outside the vocabulary are ignored */
    float dry_multiplier, dry_base;
    int32_t dry_allowed_length, n_dry; /* n_dry: matches of pl_dry_match */
    const int32_t *dry_id, *dry_length;
    int32_t mirostat; /* 0 or 2 */
    float mirostat_tau, mirostat_eta;
    double mirostat_mu;
} pl_sample_params;

typedef struct pl_sampled {
    int32_t id;
    float logprob;      /* natural log of softmax(raw logits) at id, before any step; 0: not requested */
    double mirostat_mu; /* for the next draw */
    int32_t n_kept;     /* number of tokens that the filters kept */
    int32_t *top_id;    /* (n_logprobs) most probable tokens of the raw logits, or NULL; if fewer are ... */
    float *top_logprob; /* ... possible, the rest is -1 and -inf */
    int32_t *kept_id;   /* (kept_room) or NULL: the kept tokens, most probable first ... */
    float *kept_prob;   /* ... and the probabilities from which the token was drawn */
    int32_t kept_room;
} pl_sampled;

/* Bytes of scratch that pl_sample needs for a vocabulary; aligned to 8. */
size_t pl_sample_scratch(int vocab);

/* The random number of a draw: uniform in [0, 1), 53 bits of Philox-4x32-10 (Salmon et al. 2011) of the key `seed` and
 * the counter (step, stream). The same on every machine. Stream 0 draws tokens, stream 1 decides XTC. */
double pl_sample_uniform(uint64_t seed, uint64_t step, uint32_t stream);

/* Repetitions that the next token might continue (DRY; p-e-w 2024): for each earlier place where the last tokens of
 * `ids` (n) occur, the token that followed there and the number of tokens that match, if at least `least` (and 1).
 * breaks (n) or NULL: nonzero where a token ends or contains a sequence breaker; no match extends over such a token or
 * reports it. An id may be reported several times; the longest match counts. z, out_id, out_length (n). Returns the
 * number of matches; linear in n. */
int pl_dry_match(const int32_t *ids, const uint8_t *breaks, int n, int least, int32_t *z, int32_t *out_id,
                 int32_t *out_length);

/* step: number of this draw for its seed (0, 1, ...); random numbers depend on (seed, step) alone (a counter-based
 * generator). The draw applies the inverse CDF of the kept tokens to the random number. Up to 1024 tokens are ordered
 * by probability, the most probable first, and weighted in float64 arithmetic that is the same on every ISA; more
 * tokens, or an unfiltered row, are taken in the order of ids and weighted by the tier's kernels.
 * logits (vocab) may be overwritten. Returns 0; PL_SAMPLE_LOGITS if a logit is NaN or +inf or none is finite;
 * PL_SAMPLE_OPTIONS if that is so only after penalties, bias and mask. */
enum { PL_SAMPLE_LOGITS = -1, PL_SAMPLE_OPTIONS = -2 };
int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step, void *scratch,
              pl_sampled *out);

#endif
