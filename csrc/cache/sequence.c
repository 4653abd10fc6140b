/* Sequences: each call is passed on to all of a sequence's stores. */
#include <stdlib.h>

#include "store.h"

pl_seq *pl_seq_new(pl_pool *pool)
{
    int n;
    const pl_group *groups = pl_pool_groups(pool, &n);
    pl_seq *seq = calloc(1, sizeof *seq);
    if (!seq)
        return NULL;
    seq->pool = pool;
    seq->n_stores = n;
    for (int i = 0; i < n; i++)
        seq->store[i] =
            (pl_store){.type = groups[i].state_bytes ? &pl_state_store : &pl_paged_store, .pool = pool, .group = i};
    pl_pool_enter(pool);
    return seq;
}

void pl_seq_free(pl_seq *seq)
{
    if (!seq)
        return;
    for (int i = 0; i < seq->n_stores; i++)
        seq->store[i].type->free(&seq->store[i]);
    pl_pool_free(seq->pool);
    free(seq);
}

pl_seq *pl_seq_fork(pl_seq *seq)
{
    pl_seq *fork = pl_seq_new(seq->pool);
    for (int i = 0; fork && i < seq->n_stores; i++)
        if (seq->store[i].type->fork(&seq->store[i], &fork->store[i])) {
            pl_seq_free(fork);
            return NULL;
        }
    if (fork)
        fork->length = seq->length;
    return fork;
}

/* Whether a store freed something that it kept only to rewind to. */
static int spare(pl_seq *seq, int32_t from)
{
    for (int i = 0; i < seq->n_stores; i++)
        if (seq->store[i].type->spare && seq->store[i].type->spare(&seq->store[i], from))
            return 1;
    return 0;
}

/* If memory is short for one store, another frees what it keeps only to rewind to. */
int pl_seq_reserve(pl_seq *seq, int32_t from, int32_t upto)
{
    int status;
    do {
        status = PL_CACHE_OK;
        for (int i = 0; i < seq->n_stores && !status; i++)
            status = seq->store[i].type->reserve(&seq->store[i], from, upto);
        if (!status)
            return PL_CACHE_OK;
        pl_seq_roll_back(seq);
    } while (spare(seq, from));
    return status;
}

void pl_seq_commit(pl_seq *seq, int32_t upto)
{
    seq->length = upto;
    for (int i = 0; i < seq->n_stores; i++)
        seq->store[i].type->commit(&seq->store[i], upto);
}

void pl_seq_roll_back(pl_seq *seq)
{
    for (int i = 0; i < seq->n_stores; i++)
        seq->store[i].type->roll_back(&seq->store[i], seq->length);
}

/* If one store can only go back further than n, the others must follow, and may have to go back further still. */
int32_t pl_seq_reach(const pl_seq *seq, int32_t n)
{
    for (int i = 0; i < seq->n_stores;) {
        int32_t m = seq->store[i].type->reach(&seq->store[i], n);
        i = m < n ? 0 : i + 1;
        n = m;
    }
    return n;
}

int pl_seq_reaches(const pl_seq *seq, int32_t n)
{
    return pl_seq_reach(seq, n) == n;
}

int64_t pl_seq_pages(const pl_seq *seq, const pl_page **pages, size_t *bytes, int64_t most)
{
    int64_t n = 0;
    for (int i = 0; i < seq->n_stores; i++) {
        const pl_store *s = &seq->store[i];
        for (int32_t j = 0; j < s->n + 2 + s->n_marks; j++) {
            const pl_page *page = j < s->n        ? s->pages[j]
                                  : j == s->n     ? s->state
                                  : j == s->n + 1 ? s->next
                                                  : s->marks[j - s->n - 2].state;
            if (!page)
                continue;
            if (n < most) {
                pages[n] = page;
                bytes[n] = pl_pool_page_bytes(s->pool, s->group);
            }
            n++;
        }
    }
    return n;
}

void pl_seq_extents(const pl_seq *seq, pl_extent *extents)
{
    for (int i = 0; i < seq->n_stores; i++) {
        const pl_store *s = &seq->store[i];
        extents[i] = (pl_extent){.first = s->first, .rows = s->rows, .n_marks = s->n_marks, .passing = s->passing};
        for (int j = 0; j < s->n_marks; j++)
            extents[i].marks[j] = s->marks[j].length;
    }
}

int pl_seq_restore(pl_seq *seq, int32_t length, const pl_extent *extents)
{
    int status = PL_CACHE_OK;
    for (int i = 0; i < seq->n_stores && !status; i++)
        status = seq->store[i].type->restore(&seq->store[i], length, &extents[i]);
    seq->length = length;
    if (status)
        pl_seq_rewind(seq, 0);
    return status;
}

int32_t pl_seq_rows(const pl_seq *seq, int32_t rows)
{
    int32_t room = PL_MARK_TOKENS - seq->length % PL_MARK_TOKENS, states = 0;
    for (int i = 0; i < seq->n_stores; i++)
        states |= seq->store[i].type == &pl_state_store;
    return states && rows > room ? room : rows;
}

int32_t pl_seq_rewind(pl_seq *seq, int32_t n)
{
    if (n >= seq->length)
        return seq->length;
    n = pl_seq_reach(seq, n);
    seq->length = n;
    for (int i = 0; i < seq->n_stores; i++)
        seq->store[i].type->rewind(&seq->store[i], n);
    return n;
}
