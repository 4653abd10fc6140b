/* The interface of a store, and the pool's blocks that stores are made of. Private to cache/.
 *
 * One lock of the process guards reference counts, lists and tables; never the contents of a block, which are cleared and
 * copied, and never the system's memory, which is mapped and unmapped, while nobody holds it. Nothing else is locked
 * under it, and it is held across a fork, so that the child finds everything in order.
 */
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

/* A block of a pool, all of one group of the same size. */
struct pl_page {
    uint8_t *data;
    int32_t refs;
    int32_t used; /* before: must be cleared */
    struct pl_slab *slab;
    pl_page *next;
};

void pl_cache_lock(void);
void pl_cache_unlock(void);

const pl_group *pl_pool_groups(const pl_pool *pool, int *n);
size_t pl_pool_page_bytes(const pl_pool *pool, int group);

/* For who else uses the pool: it is freed with the last of them. */
void pl_pool_enter(pl_pool *pool);

/* Takes n pages, all or none, linked by `next`, with one reference each: PL_CACHE_*. Zero where not `used`. */
int pl_pool_take(pl_pool *pool, int group, int32_t n, pl_page **pages);
/* With the lock held: one reference less. */
void pl_pool_drop(pl_pool *pool, pl_page *page);
/* Gives memory that has become free back to the system, but for a little. */
void pl_pool_trim(pl_pool *pool);

#endif
