/* The store of keys and values: a table of pages. */
#include <stdlib.h>
#include <string.h>

#include "store.h"

/* Tokens for which a page stays after the window has passed it, so that short rewinds still find it. */
#define WINDOW_SLACK PL_PAGE

static int32_t pages_for(int32_t tokens)
{
    return (int32_t)(((int64_t)tokens + PL_PAGE - 1) / PL_PAGE);
}

static int32_t window(const pl_store *s)
{
    int n;
    return pl_pool_groups(s->pool, &n)[s->group].window;
}

/* Room for n pages. The table is replaced under the lock, like everything that a forked child reads. */
static int make_room(pl_store *s, int32_t n)
{
    if (n <= s->room)
        return 0;
    int32_t room = n + n / 2 + 4;
    pl_page **pages = malloc((size_t)room * sizeof *pages), **old = s->pages;
    if (!pages)
        return -1;
    if (s->n)
        memcpy(pages, old, (size_t)s->n * sizeof *pages);
    pl_cache_lock();
    s->pages = pages;
    s->room = room;
    pl_cache_unlock();
    free(old);
    return 0;
}

/* Replaces a shared page by a copy that belongs to this sequence alone. */
static int own_page(pl_store *s, pl_page **at)
{
    pl_page *page = *at, *own;
    pl_cache_lock();
    int shared = page && page->refs > 1; /* NULL: released, the window has passed it */
    pl_cache_unlock();
    if (!shared)
        return PL_CACHE_OK;
    int status = pl_pool_take(s->pool, s->group, 1, &own);
    if (status)
        return status;
    memcpy(own->data, page->data, pl_pool_page_bytes(s->pool, s->group));
    pl_cache_lock();
    *at = own;
    pl_pool_drop(s->pool, page);
    pl_cache_unlock();
    return PL_CACHE_OK;
}

static int append_pages(pl_store *s, int32_t n)
{
    pl_page *list;
    int status = pl_pool_take(s->pool, s->group, n, &list);
    if (status)
        return status;
    for (pl_page *p = list; p; p = p->next)
        if (p->used)
            memset(p->data, 0, pl_pool_page_bytes(s->pool, s->group));
    pl_cache_lock();
    for (; list; list = list->next)
        s->pages[s->n++] = list;
    pl_cache_unlock();
    return PL_CACHE_OK;
}

static int reserve(pl_store *s, int32_t from, int32_t upto)
{
    int32_t need = pages_for(upto);
    if (make_room(s, need))
        return PL_CACHE_NO_MEMORY;
    for (int32_t i = from / PL_PAGE; i < s->n && i < need; i++) {
        int status = own_page(s, &s->pages[i]);
        if (status)
            return status;
    }
    return s->n < need ? append_pages(s, need - s->n) : PL_CACHE_OK;
}

static void commit(pl_store *s, int32_t length)
{
    /* Pages wholly before the window of row `length`. w > length is tested first: the subtraction could overflow. */
    int32_t w = window(s);
    int32_t gone = w == 0 || w > length ? 0 : (length - w + 1 - WINDOW_SLACK) / PL_PAGE;
    if (gone <= s->first)
        return;
    pl_cache_lock();
    for (; s->first < gone; s->first++) {
        pl_pool_drop(s->pool, s->pages[s->first]);
        s->pages[s->first] = NULL;
    }
    pl_cache_unlock();
    pl_pool_trim(s->pool);
}

static void cut(pl_store *s, int32_t length)
{
    int32_t keep = pages_for(length);
    if (s->n <= keep && length)
        return;
    pl_cache_lock();
    while (s->n > keep)
        pl_pool_drop(s->pool, s->pages[--s->n]);
    if (length == 0)
        s->first = 0;
    pl_cache_unlock();
    pl_pool_trim(s->pool);
}

static int fork_table(const pl_store *s, pl_store *to)
{
    if (make_room(to, s->n))
        return -1;
    pl_cache_lock();
    for (int32_t i = 0; i < s->n; i++) {
        to->pages[i] = s->pages[i];
        if (to->pages[i])
            to->pages[i]->refs++;
    }
    to->n = s->n;
    to->first = s->first;
    pl_cache_unlock();
    return 0;
}

static int32_t reach(const pl_store *s, int32_t n)
{
    int32_t w = window(s), oldest = w && n >= w ? n - w + 1 : 0;
    return oldest / PL_PAGE < s->first ? 0 : n;
}

static int restore(pl_store *s, int32_t length, const pl_extent *e)
{
    int32_t n = pages_for(length), w = window(s);
    int32_t oldest = w == 0 || w > length ? 0 : length - w + 1;
    if (e->first < 0 || e->first > n || e->first > oldest / PL_PAGE)
        return -1;
    if (make_room(s, n))
        return PL_CACHE_NO_MEMORY;
    pl_page *list;
    int status = pl_pool_take(s->pool, s->group, n - e->first, &list);
    if (status)
        return status;
    pl_cache_lock();
    while (s->n < e->first)
        s->pages[s->n++] = NULL;
    for (; list; list = list->next)
        s->pages[s->n++] = list;
    s->first = e->first;
    pl_cache_unlock();
    return PL_CACHE_OK;
}

static void free_table(pl_store *s)
{
    cut(s, 0);
    free(s->pages);
}

const pl_store_type pl_paged_store = {reserve, commit, cut, fork_table, reach, cut, restore, free_table, NULL};
