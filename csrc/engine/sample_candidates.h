/* The tokens that are still in while the sampler's steps act. Private to engine/sample*.c.
 *
 * They take three forms, each made from the one before when a function needs it:
 *   ROW      the row itself, its tokens of logit >= least: nothing has been gathered yet
 *   LIST     n ids and their logits
 *   WEIGHED  the list, and the weight of each, exp((x - top) / t)
 * `top` and `t` are what weights are relative to. Once logits were altered or the best was dropped, pl_candidates_refresh
 * comes before the next filter: run_steps in sample.c sees to it.
 */
#ifndef PL_SAMPLE_CANDIDATES_H
#define PL_SAMPLE_CANDIDATES_H

#include "sample.h"

#define PL_SORTED_MAX 1024 /* lists up to this size are drawn from in sorted order, with float64 weights */
#define PL_DIGIT 2048      /* values of a radix digit of 11 bits */
#define PL_T_MIN 0x1p-126f /* temperatures are normal numbers, and so are their inverses: no 0 * inf */
#define PL_T_MAX 0x1p126f

typedef enum { PL_ROW, PL_LIST, PL_WEIGHED } pl_form;

typedef struct pl_candidates {
    const pl_kernels *k;
    pl_form form;
    float *row; /* (vocab) the logits */
    int vocab;
    float least; /* ROW: -FLT_MAX for all that are possible */
    float top;   /* the best logit, at least of those that were in once */
    float t;     /* temperature so far, in PL_T_MIN to PL_T_MAX */
    int n;
    int32_t *id;                /* (vocab) LIST: ids, ascending until pl_candidates_sort */
    float *x;                   /* (vocab) LIST: their logits */
    float *w;                   /* (vocab) WEIGHED */
    float *d;                   /* (vocab) room for a pass */
    uint32_t *key;              /* (vocab) sort keys, ascending = kept first */
    int32_t *sub;               /* (vocab) room of pl_candidates_cut */
    uint64_t *sort, *sort_room; /* (vocab) each; the same memory as w, d, key and sub */
    float *raw;                 /* (vocab) room for the logits as they were */
    double *sum;                /* (max(PL_DIGIT, vocab / PL_SORTED_MAX + 1)) */
    float *block;               /* (vocab / 16 + 1) maxima of the row's blocks of block_size logits, for _best */
    int block_size;             /* 64 or 16; 0: not computed */
} pl_candidates;

/* All tokens of a row, in scratch. With scratch NULL only the bytes are counted. */
size_t pl_candidates_init(pl_candidates *c, void *scratch, int vocab);

/* Takes top anew; of a ROW also the maxima of blocks when a search for `want` tokens pays for it. -1 where a logit is NaN or
 * +inf, or none is finite. */
int pl_candidates_refresh(pl_candidates *c, int want);

/* LIST of the row's tokens with logit >= least. */
void pl_candidates_collect(pl_candidates *c, float least);

/* LIST where it is a ROW; pl_candidates_apply_bound: where it is a ROW with a bound. */
void pl_candidates_gather(pl_candidates *c);
void pl_candidates_apply_bound(pl_candidates *c);

/* LIST of the `want` best tokens of the whole row, ties to the lower id; pl_candidates_refresh must have seen it. */
void pl_candidates_best(pl_candidates *c, int want);

/* Where the logit of a candidate is, or NULL. */
float *pl_candidates_at(pl_candidates *c, int32_t id);

/* How many there are. */
int pl_candidates_count(pl_candidates *c);

/* exp((x - top) / t) in float64. */
double pl_candidates_weight(const pl_candidates *c, float x);

/* The sum of weights. WEIGHED, but for a ROW without a bound, which stays one. */
double pl_candidates_mass(pl_candidates *c);

void pl_candidates_keys(pl_candidates *c, const float *by, int descending);

/* Keeps the smallest set of ascending keys (ties: ascending ids) whose weights (or numbers, with w NULL) add up to at
 * least target; everything where rounding never lets them. The form and the order of ids stay. */
void pl_candidates_cut(pl_candidates *c, const float *w, double target);

/* Drops what is below a logit. */
void pl_candidates_keep_from(pl_candidates *c, float least);

/* LIST, most probable first, ties to the lower id. w, d, key and sub are lost. */
void pl_candidates_sort(pl_candidates *c);

/* One filter. next_min_p: of the min_p that acts next, or 0: what that drops need not be found before. Nonzero where it may
 * have dropped the best. */
int pl_filter(pl_candidates *c, const pl_sample_params *p, int step, uint64_t draw, double next_min_p);

/* The filter that mirostat is, of the whole row. */
void pl_filter_surprise(pl_candidates *c, double mu);

/* The steps that alter logits; of bias and mask nonzero where they have. */
void pl_penalize(pl_candidates *c, const pl_sample_params *p);
void pl_penalize_repetitions(pl_candidates *c, const pl_sample_params *p);
int pl_bias_and_mask(pl_candidates *c, const pl_sample_params *p);

#endif
