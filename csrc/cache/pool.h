/* A pool of pages: the memory of one model's sequences, allocated in slabs, with reference-counted pages.
 *
 * One lock per process guards reference counts, lists and tables. It is not held while pages are cleared or copied, or
 * while memory is mapped or unmapped. No other lock is taken under it, and it is held across a fork, so that the child
 * finds a consistent state.
 */
#ifndef PL_POOL_H
#define PL_POOL_H

#include <stddef.h>
#include <stdint.h>

#define PL_MAX_CACHES 8                   /* groups of keys and values */
#define PL_MAX_GROUPS (PL_MAX_CACHES + 1) /* and the states of recurrent layers */

typedef struct pl_pool pl_pool;

/* Layers that share pages, all of the same size. With state_bytes, a page is not for 64 tokens: it holds what all
 * recurrent layers of a model keep of a sequence. */
typedef struct pl_group {
    int32_t n_layers, n_kv;
    int32_t window;          /* tokens that a row sees, including itself; 0 = all */
    size_t k_bytes, v_bytes; /* keys and values of one KV head of one layer in a page */
    size_t state_bytes;      /* 0: keys and values */
    int32_t marks;           /* most earlier states that a sequence keeps, 1 to PL_MAX_MARKS */
} pl_group;

/* A page of a pool. */
typedef struct pl_page {
    uint8_t *data;
    int32_t refs;
    int32_t used; /* was in use earlier: must be cleared */
    struct pl_slab *slab;
    struct pl_page *next;
} pl_page;

/* Why pages could not be allocated. */
enum { PL_CACHE_OK, PL_CACHE_NO_MEMORY, PL_CACHE_FULL /* the pool's limit is reached */ };

/* NULL if out of memory. `groups` is copied. limit: bytes that the pool may take from the system; 0: no limit. */
pl_pool *pl_pool_new(const pl_group *groups, int n_groups, int64_t limit);
/* Adds a user. Each user calls pl_pool_free; the last call releases the memory. */
void pl_pool_enter(pl_pool *pool);
void pl_pool_free(pl_pool *pool);
int64_t pl_pool_bytes(pl_pool *pool);      /* memory taken from the system */
int64_t pl_pool_bytes_used(pl_pool *pool); /* memory of pages in use */

const pl_group *pl_pool_groups(const pl_pool *pool, int *n);
size_t pl_pool_page_bytes(const pl_pool *pool, int group);

static inline size_t pl_group_head_bytes(const pl_group *g)
{
    return g->k_bytes + g->v_bytes;
}

/* ---- for stores ------------------------------------------------------------------------------------------------- */

void pl_cache_lock(void);
void pl_cache_unlock(void);
/* Allocates n pages, all or none, linked by `next`, with one reference each: PL_CACHE_*. Pages not `used` are zero. */
int pl_pool_take(pl_pool *pool, int group, int32_t n, pl_page **pages);
/* With the lock held: drops one reference. */
void pl_pool_drop(pl_pool *pool, pl_page *page);
/* Returns empty slabs to the system, except one per group. */
void pl_pool_trim(pl_pool *pool);

#endif
