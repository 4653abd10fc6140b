/* The pages of a pool, cut from slabs. */
#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

#include "../cpu/arena.h"

/* Small pages are cut from slabs of about this size, so that huge pages serve them too. */
#define SLAB_BYTES ((int64_t)8 << 20)
/* In a pool with a limit, a slab takes at most 1/LIMIT_SHARE of it, so that one group's unused pages leave room for the
 * others. */
#define LIMIT_SHARE 32
/* Empty slabs kept per group, so that a series of short sequences does not map and clear memory each time. For a
 * group of states, as many as are used: each pass takes a new page for each of its sequences and returns the old
 * one. */
#define KEPT_EMPTY 1

typedef struct pl_slab {
    struct pl_slab *next; /* oldest first: pages are taken from the oldest, so that younger ones become empty */
    int group;
    int32_t n_pages, n_used;
    int64_t bytes;
    uint8_t *data;
    pl_page *free;
    pl_page page[];
} pl_slab;

struct pl_pool {
    int n_groups;
    int64_t users; /* the model and its sequences */
    int64_t limit, bytes, bytes_used;
    pl_group group[PL_MAX_GROUPS];
    int64_t page_bytes[PL_MAX_GROUPS];
    pl_slab *slabs[PL_MAX_GROUPS];
    int32_t n_empty[PL_MAX_GROUPS], n_used[PL_MAX_GROUPS]; /* slabs */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void pl_cache_lock(void)
{
    pthread_mutex_lock(&lock);
}

void pl_cache_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

static void survive_forks(void)
{
    pthread_atfork(pl_cache_lock, pl_cache_unlock, pl_cache_unlock);
}

pl_pool *pl_pool_new(const pl_group *groups, int n_groups, int64_t limit)
{
    if (n_groups < 0 || n_groups > PL_MAX_GROUPS)
        return NULL;
    pthread_once(&once, survive_forks);
    pl_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->n_groups = n_groups;
    pool->users = 1;
    pool->limit = limit > 0 ? limit : INT64_MAX;
    for (int g = 0; g < n_groups; g++) {
        pool->group[g] = groups[g];
        size_t bytes = pl_group_head_bytes(&groups[g]) * (size_t)groups[g].n_kv * (size_t)groups[g].n_layers;
        pool->page_bytes[g] = (int64_t)(((groups[g].state_bytes ? groups[g].state_bytes : bytes) + 63) / 64 * 64);
    }
    return pool;
}

static void unmap(pl_slab *list)
{
    for (pl_slab *s = list, *next; s; s = next) {
        next = s->next;
        pl_arena_free(s->data, (size_t)s->bytes);
        free(s);
    }
}

void pl_pool_free(pl_pool *pool)
{
    if (!pool)
        return;
    pl_cache_lock();
    int64_t left = --pool->users;
    pl_cache_unlock();
    if (left)
        return;
    for (int g = 0; g < pool->n_groups; g++)
        unmap(pool->slabs[g]);
    free(pool);
}

void pl_pool_enter(pl_pool *pool)
{
    pl_cache_lock();
    pool->users++;
    pl_cache_unlock();
}

static int64_t read_locked(const int64_t *field)
{
    pl_cache_lock();
    int64_t n = *field;
    pl_cache_unlock();
    return n;
}

int64_t pl_pool_bytes(pl_pool *pool)
{
    return read_locked(&pool->bytes);
}

int64_t pl_pool_bytes_used(pl_pool *pool)
{
    return read_locked(&pool->bytes_used);
}

const pl_group *pl_pool_groups(const pl_pool *pool, int *n)
{
    *n = pool->n_groups;
    return pool->group;
}

size_t pl_pool_page_bytes(const pl_pool *pool, int group)
{
    return (size_t)pool->page_bytes[group];
}

/* With the lock held: removes all but `keep` empty slabs of a group from the pool, for `unmap`. */
static pl_slab *cut_empty(pl_pool *pool, int g, int keep, pl_slab *list)
{
    for (pl_slab **at = &pool->slabs[g]; *at && pool->n_empty[g] > keep;) {
        pl_slab *s = *at;
        if (s->n_used) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        s->next = list;
        list = s;
        pool->n_empty[g]--;
        pool->bytes -= s->bytes;
    }
    return list;
}

void pl_pool_trim(pl_pool *pool)
{
    pl_slab *list = NULL;
    pl_cache_lock();
    for (int g = 0; g < pool->n_groups; g++) {
        const int used = pool->group[g].state_bytes ? pool->n_used[g] : 0;
        list = cut_empty(pool, g, used > KEPT_EMPTY ? used : KEPT_EMPTY, list);
    }
    pl_cache_unlock();
    unmap(list);
}

/* With the lock held: number of pages for a new slab; 0: the limit allows none. */
static int64_t slab_pages(const pl_pool *pool, int g)
{
    int64_t each = pool->page_bytes[g], most = (pool->limit - pool->bytes) / each;
    int64_t bytes = pool->limit / LIMIT_SHARE < SLAB_BYTES ? pool->limit / LIMIT_SHARE : SLAB_BYTES;
    int64_t n = bytes < each ? 1 : bytes / each;
    return n < most ? n : most;
}

/* With the lock held; released while the system maps memory. */
static int add_slab(pl_pool *pool, int g)
{
    int64_t n = slab_pages(pool, g), each = pool->page_bytes[g];
    if (n < 1) { /* free the empty slabs of all groups and try again */
        pl_slab *list = NULL;
        for (int i = 0; i < pool->n_groups; i++)
            list = cut_empty(pool, i, 0, list);
        pl_cache_unlock();
        unmap(list);
        pl_cache_lock();
        n = slab_pages(pool, g);
    }
    if (n < 1)
        return PL_CACHE_FULL;
    pool->bytes += n * each;
    pl_cache_unlock();
    pl_slab *s = calloc(1, sizeof *s + (size_t)n * sizeof *s->page);
    uint8_t *data = s ? pl_arena_alloc((size_t)(n * each), NULL) : NULL;
    if (!data)
        free(s);
    pl_cache_lock();
    if (!data) {
        pool->bytes -= n * each;
        return PL_CACHE_NO_MEMORY;
    }
    s->group = g;
    s->n_pages = (int32_t)n;
    s->bytes = n * each;
    s->data = data;
    for (int64_t i = n; i-- > 0;) {
        s->page[i] = (pl_page){.data = data + i * each, .slab = s, .next = s->free};
        s->free = &s->page[i];
    }
    pl_slab **end = &pool->slabs[g];
    while (*end)
        end = &(*end)->next;
    *end = s;
    pool->n_empty[g]++;
    return PL_CACHE_OK;
}

/* With the lock held: a free page of the group, or NULL. */
static pl_page *take_free(pl_pool *pool, int g)
{
    pl_slab *s = pool->slabs[g];
    while (s && !s->free)
        s = s->next;
    if (!s)
        return NULL;
    pl_page *p = s->free;
    s->free = p->next;
    if (s->n_used++ == 0) {
        pool->n_empty[g]--;
        pool->n_used[g]++;
    }
    pool->bytes_used += pool->page_bytes[g];
    p->refs = 1;
    return p;
}

void pl_pool_drop(pl_pool *pool, pl_page *p)
{
    if (!p || --p->refs)
        return;
    pl_slab *s = p->slab;
    p->used = 1;
    p->next = s->free;
    s->free = p;
    if (--s->n_used == 0) {
        pool->n_empty[s->group]++;
        pool->n_used[s->group]--;
    }
    pool->bytes_used -= pool->page_bytes[s->group];
}

int pl_pool_take(pl_pool *pool, int g, int32_t n, pl_page **pages)
{
    int status = PL_CACHE_OK;
    *pages = NULL;
    pl_cache_lock();
    while (n > 0 && !status) {
        pl_page *p = take_free(pool, g);
        if (!p) {
            status = add_slab(pool, g);
            continue;
        }
        p->next = *pages;
        *pages = p;
        n--;
    }
    while (status && *pages) {
        pl_page *p = *pages;
        *pages = p->next;
        pl_pool_drop(pool, p);
    }
    pl_cache_unlock();
    if (status)
        pl_pool_trim(pool);
    return status;
}
