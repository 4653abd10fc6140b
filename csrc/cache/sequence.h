/* Sequences: what a model keeps of the tokens it has processed, in reference-counted pages from one pool per model.
 *
 * A sequence owns stores, one per group of layers, behind one interface (store.h): paged keys and values today. A page
 * holds 64 tokens of all layers and KV heads of its group, [layer][kv head][keys | values], in the layout that the
 * attention kernel reads. Pages are shared by forks and copied when one of them writes.
 *
 * All functions may be called from any thread, and in the child of a fork whatever the parent's other threads were
 * doing; a sequence has one user at a time.
 */
#ifndef PL_SEQUENCE_H
#define PL_SEQUENCE_H

#include "../kernels/kernels.h"
#include "pool.h"

/* One group's part of a sequence. */
typedef struct pl_store {
    const struct pl_store_type *type;
    pl_pool *pool;
    int32_t group;
    pl_page **pages; /* page i holds slots [64 i, 64 i + 64); NULL: released, the window has passed it */
    int32_t n, room;
    int32_t first; /* pages before this one are released */
} pl_store;

typedef struct pl_seq {
    pl_pool *pool;
    int32_t length; /* tokens stored */
    int32_t n_stores;
    pl_store store[PL_MAX_GROUPS]; /* (n_stores), in the order of the groups */
} pl_seq;

pl_seq *pl_seq_new(pl_pool *pool); /* NULL if out of memory */
void pl_seq_free(pl_seq *seq);
/* A second sequence with the same contents; NULL if out of memory. */
pl_seq *pl_seq_fork(pl_seq *seq);
/* Makes slots [from, upto), from <= length, writable. PL_CACHE_OK, or the reason for failure; the sequence is then
 * unchanged. */
int pl_seq_reserve(pl_seq *seq, int32_t from, int32_t upto);
/* Slots [length, upto) have been written: the length becomes upto. Releases pages that no later row can see. */
void pl_seq_commit(pl_seq *seq, int32_t upto);
/* After a failed or cancelled pass: releases what was reserved beyond the length. */
void pl_seq_roll_back(pl_seq *seq);
/* Forgets tokens from n on. Returns the new length: n, or less if a store cannot go back to n (the tokens in between
 * must then be computed again). */
int32_t pl_seq_rewind(pl_seq *seq, int32_t n);

/* Keys of (layer, head) in the page of `slot`. */
static inline uint8_t *pl_seq_keys(const pl_seq *s, const pl_group *g, int group, int32_t layer, int32_t head,
                                   int32_t slot)
{
    return s->store[group].pages[slot / PL_PAGE]->data + ((size_t)layer * g->n_kv + head) * pl_group_head_bytes(g);
}

#endif
