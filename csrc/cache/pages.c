#include "pages.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../cpu/arena.h"

/* Pages are cut from slabs of about this size, so that huge pages serve small pages too. */
#define SLAB_BYTES ((size_t)8 << 20)
/* Pages that a window could let go of are kept this long, so that short rewinds find them. */
#define WINDOW_SLACK PL_PAGE_TOKENS

struct pl_page {
    uint8_t *data;
    int32_t refs;
    int32_t group;
    pl_page *next; /* free list */
};

typedef struct slab {
    void *data;
    size_t bytes;
    pl_page *pages;
    struct slab *next;
} slab;

struct pl_pool {
    pthread_mutex_t lock;
    int n_groups;
    int64_t users; /* the model and its sequences */
    int64_t bytes, bytes_used;
    pl_group group[PL_MAX_GROUPS];
    size_t page_bytes[PL_MAX_GROUPS];
    pl_page *free[PL_MAX_GROUPS];
    slab *slabs;
};

uint8_t *pl_page_data(const pl_page *page)
{
    return page->data;
}

pl_pool *pl_pool_new(const pl_group *groups, int n_groups)
{
    if (n_groups < 0 || n_groups > PL_MAX_GROUPS)
        return NULL;
    pl_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pool->n_groups = n_groups;
    pool->users = 1;
    for (int g = 0; g < n_groups; g++) {
        pool->group[g] = groups[g];
        size_t bytes = pl_group_head_bytes(&groups[g]) * (size_t)groups[g].n_kv * (size_t)groups[g].n_layers;
        pool->page_bytes[g] = (bytes + 63) / 64 * 64;
    }
    return pool;
}

static void release_pool(pl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    int64_t left = --pool->users;
    pthread_mutex_unlock(&pool->lock);
    if (left)
        return;
    for (slab *s = pool->slabs, *next; s; s = next) {
        next = s->next;
        pl_arena_free(s->data, s->bytes);
        free(s->pages);
        free(s);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void pl_pool_free(pl_pool *pool)
{
    if (pool)
        release_pool(pool);
}

int64_t pl_pool_bytes(pl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    int64_t n = pool->bytes;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

int64_t pl_pool_bytes_used(pl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    int64_t n = pool->bytes_used;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

/* With the lock held. */
static int add_slab(pl_pool *pool, int g)
{
    size_t each = pool->page_bytes[g], n = SLAB_BYTES / each;
    if (n == 0)
        n = 1;
    slab *s = calloc(1, sizeof *s);
    pl_page *pages = calloc(n, sizeof *pages);
    void *data = s && pages ? pl_arena_alloc(n * each, &(int){0}) : NULL;
    if (!data) {
        free(s);
        free(pages);
        return -1;
    }
    *s = (slab){data, n * each, pages, pool->slabs};
    pool->slabs = s;
    pool->bytes += (int64_t)(n * each);
    for (size_t i = n; i-- > 0;) {
        pages[i] = (pl_page){(uint8_t *)data + i * each, 0, g, pool->free[g]};
        pool->free[g] = &pages[i];
    }
    return 0;
}

/* With the lock held. Pages on the free list are zero. */
static pl_page *take_page(pl_pool *pool, int g)
{
    if (!pool->free[g] && add_slab(pool, g))
        return NULL;
    pl_page *p = pool->free[g];
    pool->free[g] = p->next;
    p->refs = 1;
    pool->bytes_used += (int64_t)pool->page_bytes[g];
    return p;
}

/* With the lock held. */
static void drop_page(pl_pool *pool, pl_page *p)
{
    if (!p || --p->refs)
        return;
    memset(p->data, 0, pool->page_bytes[p->group]);
    p->next = pool->free[p->group];
    pool->free[p->group] = p;
    pool->bytes_used -= (int64_t)pool->page_bytes[p->group];
}

pl_seq *pl_seq_new(pl_pool *pool)
{
    pl_seq *seq = calloc(1, sizeof *seq);
    if (!seq)
        return NULL;
    seq->pool = pool;
    pthread_mutex_lock(&pool->lock);
    pool->users++;
    pthread_mutex_unlock(&pool->lock);
    return seq;
}

void pl_seq_free(pl_seq *seq)
{
    if (!seq)
        return;
    pl_pool *pool = seq->pool;
    pthread_mutex_lock(&pool->lock);
    for (int g = 0; g < pool->n_groups; g++)
        for (int32_t i = 0; i < seq->table[g].n; i++)
            drop_page(pool, seq->table[g].pages[i]);
    pthread_mutex_unlock(&pool->lock);
    for (int g = 0; g < pool->n_groups; g++)
        free(seq->table[g].pages);
    free(seq);
    release_pool(pool);
}

static int table_room(pl_table *t, int32_t n)
{
    if (n <= t->room)
        return 0;
    int32_t room = n + n / 2 + 4;
    pl_page **pages = realloc(t->pages, (size_t)room * sizeof *pages);
    if (!pages)
        return -1;
    t->pages = pages;
    t->room = room;
    return 0;
}

pl_seq *pl_seq_fork(pl_seq *seq)
{
    pl_seq *fork = pl_seq_new(seq->pool);
    if (!fork)
        return NULL;
    pl_pool *pool = seq->pool;
    for (int g = 0; g < pool->n_groups; g++)
        if (table_room(&fork->table[g], seq->table[g].n)) {
            pl_seq_free(fork);
            return NULL;
        }
    pthread_mutex_lock(&pool->lock);
    for (int g = 0; g < pool->n_groups; g++) {
        const pl_table *from = &seq->table[g];
        pl_table *to = &fork->table[g];
        for (int32_t i = 0; i < from->n; i++) {
            to->pages[i] = from->pages[i];
            if (to->pages[i])
                to->pages[i]->refs++;
        }
        to->n = from->n;
        to->first = from->first;
    }
    pthread_mutex_unlock(&pool->lock);
    fork->length = seq->length;
    return fork;
}

/* With the lock held: drops pages from `n` on. */
static void cut_table(pl_pool *pool, pl_table *t, int32_t n)
{
    while (t->n > n)
        drop_page(pool, t->pages[--t->n]);
}

/* With the lock held: makes a shared page this sequence's own. */
static int own_page(pl_pool *pool, int g, pl_page **page)
{
    if (!*page || (*page)->refs == 1) /* none: the window has left it */
        return 0;
    pl_page *own = take_page(pool, g);
    if (!own)
        return -1;
    memcpy(own->data, (*page)->data, pool->page_bytes[g]);
    drop_page(pool, *page);
    *page = own;
    return 0;
}

int pl_seq_reserve(pl_seq *seq, int32_t from, int32_t upto)
{
    pl_pool *pool = seq->pool;
    int32_t need = (upto + PL_PAGE_TOKENS - 1) / PL_PAGE_TOKENS;
    int32_t written = from / PL_PAGE_TOKENS; /* first page that will be written on */
    int32_t before[PL_MAX_GROUPS];
    int failed = 0;
    for (int g = 0; g < pool->n_groups; g++)
        if (table_room(&seq->table[g], need))
            return -1;
    pthread_mutex_lock(&pool->lock);
    for (int g = 0; g < pool->n_groups; g++)
        before[g] = seq->table[g].n;
    for (int g = 0; g < pool->n_groups && !failed; g++) {
        pl_table *t = &seq->table[g];
        for (int32_t i = written; i < t->n && i < need && !failed; i++)
            failed = own_page(pool, g, &t->pages[i]);
        while (t->n < need && !failed) {
            pl_page *p = take_page(pool, g);
            if (p)
                t->pages[t->n++] = p;
            else
                failed = 1;
        }
    }
    if (failed)
        for (int g = 0; g < pool->n_groups; g++)
            cut_table(pool, &seq->table[g], before[g]);
    pthread_mutex_unlock(&pool->lock);
    return failed ? -1 : 0;
}

void pl_seq_commit(pl_seq *seq, int32_t upto)
{
    pl_pool *pool = seq->pool;
    seq->length = upto;
    for (int g = 0; g < pool->n_groups; g++) {
        int32_t window = pool->group[g].window;
        if (!window)
            continue;
        pl_table *t = &seq->table[g];
        /* pages wholly before what row `upto` sees; 0 first, for the subtraction could leave int32 */
        int32_t gone = window > upto ? 0 : (upto - window + 1 - WINDOW_SLACK) / PL_PAGE_TOKENS;
        if (gone <= t->first)
            continue;
        pthread_mutex_lock(&pool->lock);
        for (; t->first < gone; t->first++) {
            drop_page(pool, t->pages[t->first]);
            t->pages[t->first] = NULL;
        }
        pthread_mutex_unlock(&pool->lock);
    }
}

int32_t pl_seq_rewind(pl_seq *seq, int32_t n)
{
    pl_pool *pool = seq->pool;
    if (n >= seq->length)
        return seq->length;
    for (int g = 0; g < pool->n_groups; g++) {
        int32_t oldest = pool->group[g].window ? n - pool->group[g].window + 1 : 0;
        if (oldest < 0)
            oldest = 0;
        if (oldest / PL_PAGE_TOKENS < seq->table[g].first)
            n = 0;
    }
    int32_t keep = (n + PL_PAGE_TOKENS - 1) / PL_PAGE_TOKENS;
    pthread_mutex_lock(&pool->lock);
    for (int g = 0; g < pool->n_groups; g++) {
        cut_table(pool, &seq->table[g], keep);
        if (n == 0)
            seq->table[g].first = 0;
    }
    pthread_mutex_unlock(&pool->lock);
    seq->length = n;
    return n;
}
