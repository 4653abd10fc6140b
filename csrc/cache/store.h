/* The interface of a store, one group's part of a sequence. Private to cache/. */
#ifndef PL_STORE_H
#define PL_STORE_H

#include "sequence.h"

/* The functions of one kind of store. Called without the lock. */
typedef struct pl_store_type {
    int (*reserve)(pl_store *s, int32_t from, int32_t upto); /* PL_CACHE_*; roll_back cleans up after a failure */
    void (*commit)(pl_store *s, int32_t length);
    void (*roll_back)(pl_store *s, int32_t length); /* length: the sequence's */
    int (*fork)(const pl_store *s, pl_store *to);   /* `to` is empty; nonzero if out of memory */
    int32_t (*reach)(const pl_store *s, int32_t n); /* the greatest length <= n to which it can rewind */
    void (*rewind)(pl_store *s, int32_t n);         /* n: a length that reach() returned */
    /* Takes the pages of an extent; s is empty. PL_CACHE_*, or -1 if no store can hold that. */
    int (*restore)(pl_store *s, int32_t length, const pl_extent *extent);
    void (*free)(pl_store *s);
    /* Frees the oldest of what is kept only to rewind to, but not what a pass from `from` on needs. Returns whether
     * there was any. NULL: it keeps nothing. */
    int (*spare)(pl_store *s, int32_t from);
} pl_store_type;

extern const pl_store_type pl_paged_store; /* keys and values: pages.c */
extern const pl_store_type pl_state_store; /* states of recurrent layers: states.c */

#endif
