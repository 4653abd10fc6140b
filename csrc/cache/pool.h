/* A pool of blocks: the memory of one model's sequences, taken from the system in slabs and counted by reference.
 *
 * One lock of the process guards reference counts, lists and tables; never the contents of a block, which are cleared and
 * copied, and never the system's memory, which is mapped and unmapped, while nobody holds it. Nothing else is locked
 * under it, and it is held across a fork, so that the child finds everything in order.
 */
#ifndef PL_POOL_H
#define PL_POOL_H

#include <stddef.h>
#include <stdint.h>

#define PL_MAX_GROUPS 8

typedef struct pl_pool pl_pool;

/* Layers whose blocks have one size. */
typedef struct pl_group {
    int32_t n_layers, n_kv;
    int32_t window;          /* tokens that a row sees, itself included; 0 = all */
    size_t k_bytes, v_bytes; /* of one page of one KV head of one layer */
} pl_group;

/* A block of a pool. */
typedef struct pl_page {
    uint8_t *data;
    int32_t refs;
    int32_t used; /* before: must be cleared */
    struct pl_slab *slab;
    struct pl_page *next;
} pl_page;

/* Why blocks could not be taken. */
enum { PL_CACHE_OK, PL_CACHE_NO_MEMORY, PL_CACHE_FULL /* the pool's limit is reached */ };

/* NULL without memory. `groups` is copied. limit: bytes that the pool may take from the system; 0: no limit. */
pl_pool *pl_pool_new(const pl_group *groups, int n_groups, int64_t limit);
/* One user more; the pool is freed when its last user frees it. */
void pl_pool_enter(pl_pool *pool);
void pl_pool_free(pl_pool *pool);
int64_t pl_pool_bytes(pl_pool *pool);      /* memory taken from the system */
int64_t pl_pool_bytes_used(pl_pool *pool); /* of pages in use */

const pl_group *pl_pool_groups(const pl_pool *pool, int *n);
size_t pl_pool_page_bytes(const pl_pool *pool, int group);

static inline size_t pl_group_head_bytes(const pl_group *g)
{
    return g->k_bytes + g->v_bytes;
}

/* ---- for stores ------------------------------------------------------------------------------------------------- */

void pl_cache_lock(void);
void pl_cache_unlock(void);
/* Takes n pages, all or none, linked by `next`, with one reference each: PL_CACHE_*. Zero where not `used`. */
int pl_pool_take(pl_pool *pool, int group, int32_t n, pl_page **pages);
/* With the lock held: one reference less. */
void pl_pool_drop(pl_pool *pool, pl_page *page);
/* Returns slabs that have become empty to the system, but for one of each group. */
void pl_pool_trim(pl_pool *pool);

#endif
