/* The tokens that are still in while the sampler's filters act. Private to engine/sample*.c. */
#ifndef PL_SAMPLE_FILTER_H
#define PL_SAMPLE_FILTER_H

#include "sample.h"

#define PL_SORTED_MAX 1024 /* pools up to this size are drawn from in sorted order, with float64 weights */
#define PL_DIGIT 2048      /* values of a radix digit of 11 bits */

typedef struct pl_pool {
    int n;
    int32_t *id;                /* (vocab) ids, ascending until pl_pool_sort */
    float *x;                   /* (vocab) their logits */
    float *w;                   /* (vocab) their weights exp(x - top) */
    float *d;                   /* (vocab) room for a pass */
    uint32_t *key;              /* (vocab) sort keys, ascending = kept first */
    int32_t *sub;               /* (vocab) room of pl_pool_cut */
    uint64_t *sort, *sort_room; /* (vocab) each; the same memory as w, d, key and sub */
    float *raw;                 /* (vocab) the logits before penalties and bias */
    double *sum;                /* (max(PL_DIGIT, vocab / PL_SORTED_MAX + 1)) */
    float *block;               /* (vocab / 16 + 1) maxima of the row's blocks */
    int block_size;             /* logits of a block: 64 or 16; 0: not computed */
} pl_pool;

/* Carves the pool out of scratch; with scratch NULL only the bytes are counted. */
size_t pl_pool_init(pl_pool *b, void *scratch, int vocab);

/* The row's maximum (NaN if any is NaN); keeps the maxima of blocks when a search for `want` tokens pays for it. */
float pl_pool_top(const pl_kernels *k, pl_pool *b, const float *row, int vocab, int want);

/* The pool becomes the `want` best tokens of the row, ties to the lower id; pl_pool_top must have seen this row. */
void pl_pool_best(const pl_kernels *k, pl_pool *b, const float *row, int vocab, int want);

/* The pool becomes every token with logit >= least (finite). */
void pl_pool_collect(const pl_kernels *k, pl_pool *b, const float *row, int vocab, float least);

/* Most probable first, ties to the lower id. w, d, key and sub are lost. */
void pl_pool_sort(pl_pool *b, const float *row);

/* Applies top_k, typical_p, top_p and min_p. Returns 1, or 0 when none of them is on (the pool is then untouched). */
int pl_pool_filter(const pl_kernels *k, pl_pool *b, const pl_sample_params *p, const float *row, int vocab, float top);

#endif
