/* The store of recurrent layers: a block of fixed size per length, immutable once its pass is over.
 *
 * When a pass ends, the block that it started from may become a mark: for good if the pass was one row after a pass of
 * several (the end of a prompt, but for its last token) or if it started at a multiple of PL_MARK_TOKENS; otherwise
 * until the next pass ends, so that the latest token can be computed again. If there are more marks than the group
 * allows, the older of the two that are closest together is dropped. */
#include "store.h"

/* Takes another reference. */
static pl_page *share(pl_page *page)
{
    pl_cache_lock();
    if (page)
        page->refs++;
    pl_cache_unlock();
    return page;
}

static void drop(pl_store *s, pl_page **page)
{
    pl_cache_lock();
    pl_pool_drop(s->pool, *page);
    *page = NULL;
    pl_cache_unlock();
}

static void drop_mark(pl_store *s, int at)
{
    pl_cache_lock();
    pl_pool_drop(s->pool, s->marks[at].state);
    s->n_marks--;
    for (int i = at; i < s->n_marks; i++)
        s->marks[i] = s->marks[i + 1];
    pl_cache_unlock();
}

static int32_t reach(const pl_store *s, int32_t n)
{
    int32_t best = 0;
    if (n >= s->length)
        return s->length;
    for (int i = 0; i < s->n_marks && s->marks[i].length <= n; i++)
        best = s->marks[i].length;
    return best;
}

static void rewind_to(pl_store *s, int32_t n)
{
    drop(s, &s->next);
    if (n >= s->length)
        return;
    while (s->n_marks && s->marks[s->n_marks - 1].length > n) {
        drop_mark(s, s->n_marks - 1);
        s->passing = 0;
    }
    drop(s, &s->state);
    s->state = n ? share(s->marks[s->n_marks - 1].state) : NULL;
    s->length = n;
    s->rows = 0;
    pl_pool_trim(s->pool);
}

/* Whether nothing else refers to a page. */
static int is_own(const pl_page *page)
{
    pl_cache_lock();
    const int own = page->refs == 1;
    pl_cache_unlock();
    return own;
}

/* If memory is short, frees the oldest mark, but not one that a pass starts from, nor one whose state is shared: that
 * would free nothing. */
static int spare(pl_store *s, int32_t from)
{
    for (int i = 0; i < s->n_marks; i++)
        if (s->marks[i].length != from && is_own(s->marks[i].state)) {
            s->passing = s->passing && i + 1 < s->n_marks;
            drop_mark(s, i);
            return 1;
        }
    return 0;
}

/* A pass over part of a plan starts before the length, in a fork of the sequence; engine/pass.c has checked that there
 * is a state. */
static int reserve(pl_store *s, int32_t from, int32_t upto)
{
    (void)upto;
    rewind_to(s, from);
    int status = pl_pool_take(s->pool, s->group, 1, &s->next);
    while (status && spare(s, -1))
        status = pl_pool_take(s->pool, s->group, 1, &s->next);
    return status;
}

/* If there are too many marks, drops the older of the closest two; the last mark, which may be passing, is left out. */
static void thin(pl_store *s)
{
    int at = 0, n;
    if (s->n_marks <= pl_pool_groups(s->pool, &n)[s->group].marks)
        return;
    for (int i = 1; i + 2 < s->n_marks; i++)
        if (s->marks[i + 1].length - s->marks[i].length < s->marks[at + 1].length - s->marks[at].length)
            at = i;
    drop_mark(s, at);
}

static void commit(pl_store *s, int32_t length)
{
    int32_t from = s->length;
    int stays = from % PL_MARK_TOKENS == 0 || (length - from == 1 && s->rows > 1);
    int known = s->n_marks && s->marks[s->n_marks - 1].length == from;
    if (s->passing && !known)
        drop_mark(s, s->n_marks - 1);
    if (known) {
        s->passing = s->passing && !stays;
        drop(s, &s->state);
    } else if (s->state) {
        s->marks[s->n_marks++] = (pl_mark){from, s->state};
        s->passing = !stays;
        thin(s);
    }
    s->state = s->next;
    s->next = NULL;
    s->rows = length - from;
    s->length = length;
    pl_pool_trim(s->pool);
}

static void roll_back(pl_store *s, int32_t length)
{
    (void)length;
    drop(s, &s->next);
    pl_pool_trim(s->pool);
}

static int fork_states(const pl_store *s, pl_store *to)
{
    pl_cache_lock();
    to->state = s->state;
    to->length = s->length;
    to->rows = s->rows;
    to->n_marks = s->n_marks;
    to->passing = s->passing;
    if (to->state)
        to->state->refs++;
    for (int i = 0; i < s->n_marks; i++) {
        to->marks[i] = s->marks[i];
        to->marks[i].state->refs++;
    }
    pl_cache_unlock();
    return 0;
}

static int restore(pl_store *s, int32_t length, const pl_extent *e)
{
    if (e->rows < 0 || e->n_marks < 0 || e->n_marks > PL_MAX_MARKS || e->passing < 0 || e->passing > 1 ||
        (e->passing && !e->n_marks) || (e->n_marks && !length))
        return -1;
    for (int i = 0; i < e->n_marks; i++)
        if (e->marks[i] <= (i ? e->marks[i - 1] : 0) || e->marks[i] > length)
            return -1;
    pl_page *list;
    int status = pl_pool_take(s->pool, s->group, e->n_marks + (length > 0), &list);
    if (status || !list)
        return status;
    pl_cache_lock();
    s->state = list;
    for (int i = 0; i < e->n_marks; i++) {
        list = list->next;
        s->marks[i] = (pl_mark){e->marks[i], list};
    }
    s->n_marks = e->n_marks;
    s->passing = e->passing;
    s->rows = e->rows;
    s->length = length;
    pl_cache_unlock();
    return PL_CACHE_OK;
}

static void free_states(pl_store *s)
{
    drop(s, &s->next);
    drop(s, &s->state);
    while (s->n_marks)
        drop_mark(s, s->n_marks - 1);
    pl_pool_trim(s->pool);
}

const pl_store_type pl_state_store = {reserve,   commit,  roll_back,   fork_states, reach,
                                      rewind_to, restore, free_states, spare};
