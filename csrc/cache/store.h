/* The interface of a store: what a sequence owns for a group of layers. Private to cache/. */
#ifndef PL_STORE_H
#define PL_STORE_H

#include "sequence.h"

/* What a kind of store does for its sequence. Called without the lock. */
typedef struct pl_store_type {
    int (*reserve)(pl_store *s, int32_t from,
                   int32_t upto); /* PL_CACHE_*; a failure leaves what a roll back releases */
    void (*commit)(pl_store *s, int32_t length);
    void (*roll_back)(pl_store *s, int32_t length); /* back to this length, which is the sequence's */
    int (*fork)(const pl_store *s, pl_store *to);   /* `to` is empty; nonzero without memory */
    int32_t (*reach)(const pl_store *s, int32_t n); /* the greatest length <= n that it can rewind to */
    void (*rewind)(pl_store *s, int32_t n);         /* to a length that it reaches */
    void (*free)(pl_store *s);
} pl_store_type;

extern const pl_store_type pl_paged_store; /* keys and values: pages.c */

#endif
