/* Sequences: what a model keeps of the tokens it has processed, in reference-counted pages from one pool per model.
 *
 * A sequence owns stores, one per group of layers, behind one interface (store.h). A page of keys and values
 * holds 64 tokens of all layers and KV heads of its group, [layer][kv head][keys | values], in the layout that the
 * attention kernel reads; pages are shared by forks and copied when one of them writes. What recurrent layers keep is
 * an immutable block of fixed size: a pass reads the block of the sequence's length and writes another. Some
 * blocks of earlier lengths stay as marks, to which a sequence can rewind.
 *
 * All functions may be called from any thread, and in the child of a fork whatever the parent's other threads were
 * doing; a sequence has one user at a time.
 */
#ifndef PL_SEQUENCE_H
#define PL_SEQUENCE_H

#include "../kernels/kernels.h"
#include "pool.h"

#define PL_MAX_MARKS 8
#define PL_MARK_TOKENS 2048 /* a state at a multiple of this stays as a mark */

/* The recurrent layers' state after `length` tokens. */
typedef struct pl_mark {
    int32_t length;
    pl_page *state;
} pl_mark;

/* One group's part of a sequence. */
typedef struct pl_store {
    const struct pl_store_type *type;
    pl_pool *pool;
    int32_t group;
    pl_page **pages; /* page i holds slots [64 i, 64 i + 64); NULL: released, the window has passed it */
    int32_t n, room;
    int32_t first; /* pages before this one are released */
    /* states: */
    pl_page *state, *next; /* after `length` tokens (NULL: none, all zeros); what a pass writes */
    int32_t length, rows;  /* rows: of the last pass */
    pl_mark marks[PL_MAX_MARKS + 1];
    int32_t n_marks; /* in ascending order of length */
    int passing;     /* 1: the next pass drops the last mark */
} pl_store;

/* What a sequence holds of one group, without the contents of its pages. */
typedef struct pl_extent {
    int32_t first; /* pages of keys and values before this one are released */
    /* states: as in pl_store */
    int32_t rows, n_marks, passing;
    int32_t marks[PL_MAX_MARKS + 1]; /* their lengths */
} pl_extent;

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

/* The greatest length up to n to which the sequence can go back. */
int32_t pl_seq_reach(const pl_seq *seq, int32_t n);
/* Whether the sequence can go back to exactly n tokens. */
int pl_seq_reaches(const pl_seq *seq, int32_t n);
/* The pages that the sequence holds, each with its bytes; forks hold some of the same. Writes the first `most` of them
 * and returns how many there are. */
int64_t pl_seq_pages(const pl_seq *seq, const pl_page **pages, size_t *bytes, int64_t most);
/* For each group: what the sequence holds. */
void pl_seq_extents(const pl_seq *seq, pl_extent *extents);
/* Turns an empty sequence into one of `length` tokens that holds what `extents` say; the caller fills all of its pages,
 * in the order of pl_seq_pages. PL_CACHE_OK, the reason for failure, or -1 if no sequence of the model can hold that;
 * after a failure it is empty. */
int pl_seq_restore(pl_seq *seq, int32_t length, const pl_extent *extents);
/* How many of `rows` further rows one pass should take, so that the states at multiples of 2,048 tokens are kept. */
int32_t pl_seq_rows(const pl_seq *seq, int32_t rows);

/* Keys of (layer, head) in the page of `slot`. */
static inline uint8_t *pl_seq_keys(const pl_seq *s, const pl_group *g, int group, int32_t layer, int32_t head,
                                   int32_t slot)
{
    return s->store[group].pages[slot / PL_PAGE]->data + ((size_t)layer * g->n_kv + head) * pl_group_head_bytes(g);
}

/* The recurrent layers' state that a pass starts from, NULL: zeros; and the one that it writes. group: that of
 * states. */
static inline const float *pl_seq_state(const pl_seq *s, int group)
{
    return s->store[group].state ? (const float *)s->store[group].state->data : NULL;
}

static inline float *pl_seq_next(const pl_seq *s, int group)
{
    return (float *)s->store[group].next->data;
}

#endif
