/* The candidate tokens, which the sampler's steps narrow down. Private to engine/sample*.c.
 *
 * They take three forms, each made from the one before when a function needs it:
 *   ROW      the row of logits itself; candidates are the tokens with logit >= least, not yet gathered
 *   LIST     n ids and their logits
 *   WEIGHED  the list, and the weight of each token, exp((x - top) / t)
 * After logits were altered or the best token was dropped, run_steps in sample.c calls pl_candidates_refresh, which
 * computes `top` again, before the next filter.
 */
#ifndef PL_SAMPLE_CANDIDATES_H
#define PL_SAMPLE_CANDIDATES_H

#include "sample.h"

#define PL_SORTED_MAX 1024 /* lists up to this size are drawn from in sorted order, with float64 weights */
#define PL_DIGIT 2048      /* values of a radix digit of 11 bits */
#define PL_LN2 0.69314718055994530942
#define PL_T_MIN 0x1p-126f /* temperatures are normal numbers, and so are their inverses: no 0 * inf */
#define PL_T_MAX 0x1p126f

typedef enum { PL_ROW, PL_LIST, PL_WEIGHED } pl_form;

typedef struct pl_candidates {
    const pl_kernels *k;
    pl_form form;
    float *row; /* (vocab) the logits */
    int vocab;
    float least; /* ROW: the lower bound; -FLT_MAX: none */
    float top;   /* the best logit at the last refresh; that token may have been dropped since */
    float t;     /* temperature so far, in PL_T_MIN to PL_T_MAX */
    int n;
    int32_t *id;                /* (vocab) LIST: ids, ascending until pl_candidates_sort */
    float *x;                   /* (vocab) LIST: their logits */
    float *w;                   /* (vocab) WEIGHED */
    float *d;                   /* (vocab) scratch */
    uint32_t *key;              /* (vocab) sort keys, ascending = kept first */
    int32_t *sub;               /* (vocab) scratch of pl_candidates_cut */
    uint64_t *sort, *sort_room; /* (vocab) each; the same memory as w, d, key and sub */
    float *raw;                 /* (vocab) space for a copy of the raw logits */
    double *sum;                /* (max(PL_DIGIT, vocab / PL_SORTED_MAX + 1)) */
    float *block;               /* (vocab / 16 + 1) maxima of the row's blocks of block_size logits, for _best */
    int block_size;             /* 64 or 16; 0: not computed */
} pl_candidates;

/* Lays out the arrays in `scratch` and returns the bytes they take; scratch NULL: only the bytes. */
size_t pl_candidates_init(pl_candidates *c, void *scratch, int vocab);

/* Computes `top`, and for a ROW also the maxima of blocks if they speed up a search for `want` tokens. -1 if a logit is
 * NaN or +inf, or none is finite. */
int pl_candidates_refresh(pl_candidates *c, int want);

/* Makes a LIST of the row's tokens with logit >= least. */
void pl_candidates_collect(pl_candidates *c, float least);

/* Turns a ROW into a LIST; pl_candidates_apply_bound does so only for a ROW with a bound. */
void pl_candidates_gather(pl_candidates *c);
void pl_candidates_apply_bound(pl_candidates *c);

/* Makes a LIST of the `want` best tokens of the whole row, ties to the lower id. pl_candidates_refresh must have been
 * called since the row last changed. */
void pl_candidates_best(pl_candidates *c, int want);

/* Address of a candidate's logit; NULL if the token is not a candidate. */
float *pl_candidates_at(pl_candidates *c, int32_t id);

/* Number of candidates. */
int pl_candidates_count(pl_candidates *c);

/* exp((x - top) / t) in float64. */
double pl_candidates_weight(const pl_candidates *c, float x);

/* The sum of weights. The form becomes WEIGHED, except that a ROW without a bound stays a ROW. */
double pl_candidates_mass(pl_candidates *c);

/* Fills `key` from `by` (n): sort keys, ascending or descending. */
void pl_candidates_keys(pl_candidates *c, const float *by, int descending);

/* Keeps the smallest set, in ascending order of keys (ties: of ids), whose weights w (w NULL: whose number) add up to
 * at least target; all tokens if they never do because of rounding. Form and order of ids do not change. */
void pl_candidates_cut(pl_candidates *c, const float *w, double target);

/* Drops the tokens with a logit below `least`. */
void pl_candidates_keep_from(pl_candidates *c, float least);

/* Sorts a LIST, most probable first, ties to the lower id. Overwrites w, d, key and sub. */
void pl_candidates_sort(pl_candidates *c);

/* Applies one filter. next_min_p: min_p if that filter acts next, else 0; tokens that it will drop need not be
 * collected now. Returns nonzero if the best token may have been dropped. */
int pl_filter(pl_candidates *c, const pl_sample_params *p, int step, uint64_t draw, double next_min_p);

/* Mirostat's filter, on the whole row: drops tokens with more than mu bits of surprise. */
void pl_filter_surprise(pl_candidates *c, double mu);

/* The steps that alter logits; pl_bias_and_mask returns nonzero if it did. */
void pl_penalize(pl_candidates *c, const pl_sample_params *p);
void pl_penalize_repetitions(pl_candidates *c, const pl_sample_params *p);
int pl_bias_and_mask(pl_candidates *c, const pl_sample_params *p);

#endif
