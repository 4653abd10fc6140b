/* The tokens that are still in while the sampler's steps act. Private to engine/sample*.c. */
#ifndef PL_SAMPLE_POOL_H
#define PL_SAMPLE_POOL_H

#include "sample.h"

#define PL_SORTED_MAX 1024 /* pools up to this size are drawn from in sorted order, with float64 weights */
#define PL_DIGIT 2048      /* values of a radix digit of 11 bits */
#define PL_T_MIN 0x1p-126f /* temperatures are normal numbers, and so are their inverses: no 0 * inf */
#define PL_T_MAX 0x1p126f

typedef struct pl_pool {
    const pl_kernels *k;
    float *row; /* (vocab) the logits */
    int vocab;
    int whole;   /* the pool is the row still, its tokens of logit >= least: n, id and x mean nothing yet */
    float least; /* -FLT_MAX: all that are possible */
    int stale;   /* logits have changed since top was taken */
    int weighed; /* w is valid */
    float top;   /* what weights are relative to: the best logit, at least of those that were in once */
    float t;     /* temperature so far, in PL_T_MIN to PL_T_MAX */
    int n;
    int32_t *id;                /* (vocab) ids, ascending until pl_pool_sort */
    float *x;                   /* (vocab) their logits */
    float *w;                   /* (vocab) their weights exp((x - top) / t) */
    float *d;                   /* (vocab) room for a pass */
    uint32_t *key;              /* (vocab) sort keys, ascending = kept first */
    int32_t *sub;               /* (vocab) room of pl_pool_cut */
    uint64_t *sort, *sort_room; /* (vocab) each; the same memory as w, d, key and sub */
    float *raw;                 /* (vocab) room for the logits as they were */
    double *sum;                /* (max(PL_DIGIT, vocab / PL_SORTED_MAX + 1)) */
    float *block;               /* (vocab / 16 + 1) maxima of the row's blocks */
    int block_size;             /* logits of a block: 64 or 16; 0: not computed */
} pl_pool;

/* Carves the pool out of scratch; with scratch NULL only the bytes are counted. */
size_t pl_pool_init(pl_pool *b, void *scratch, int vocab);

/* Takes top anew; for the whole row also the maxima of blocks when a search for `want` tokens pays for it. -1 where a
 * logit is NaN or +inf, or none is finite. */
int pl_pool_refresh(pl_pool *b, int want);

/* The whole row becomes the pool's n, id and x: its tokens with logit >= least. */
void pl_pool_collect(pl_pool *b, float least);

/* As pl_pool_collect with its own `least`, where that has not been done. */
void pl_pool_gather(pl_pool *b);

/* The pool becomes the `want` best tokens of the whole row, ties to the lower id; pl_pool_refresh must have seen it. */
void pl_pool_best(pl_pool *b, int want);

/* Where the logit of a token in the pool is, or NULL. */
float *pl_pool_at(pl_pool *b, int32_t id);

/* How many tokens there are. */
int pl_pool_count(pl_pool *b);

/* exp((x - top) / t) in float64. */
double pl_pool_weight(const pl_pool *b, float x);

/* The sum of weights; of a collected pool each one, too. */
double pl_pool_mass(pl_pool *b);

void pl_pool_keys(pl_pool *b, const float *by, int descending);

/* Keeps the smallest set of ascending keys (ties: ascending ids) whose weights (or numbers, with w NULL) add up to at
 * least target; everything where rounding never lets them. Afterwards the pool is still in the order of ids. */
void pl_pool_cut(pl_pool *b, const float *w, double target);

/* Drops what is below a logit. */
void pl_pool_keep_from(pl_pool *b, float least);

/* Most probable first, ties to the lower id. w, d, key and sub are lost. */
void pl_pool_sort(pl_pool *b);

/* One filter. next_min_p: of the min_p that acts next, or 0: what that drops need not be found before. */
void pl_filter(pl_pool *b, const pl_sample_params *p, int step, uint64_t draw, double next_min_p);

/* The filter that mirostat is, of the whole row. */
void pl_filter_surprise(pl_pool *b, double mu);

/* The steps that alter logits. */
void pl_penalize(pl_pool *b, const pl_sample_params *p);
void pl_penalize_repetitions(pl_pool *b, const pl_sample_params *p);
void pl_bias_and_mask(pl_pool *b, const pl_sample_params *p);

#endif
