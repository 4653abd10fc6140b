/* Paged keys and values: pages of 64 tokens, reference-counted, copied on write.
 *
 * A pool belongs to one model. A page of a group holds 64 tokens of all its layers and KV heads:
 * [layer][kv head][keys | values], in the layout that the attention kernel reads.
 * All functions may be called from any thread; a sequence has one user at a time.
 */
#ifndef PL_PAGES_H
#define PL_PAGES_H

#include <stddef.h>
#include <stdint.h>

#define PL_PAGE_TOKENS 64
#define PL_MAX_GROUPS 8

typedef struct pl_pool pl_pool;
typedef struct pl_page pl_page;

typedef struct pl_group {
    int32_t n_layers, n_kv;
    int32_t window;          /* tokens that a row sees, itself included; 0 = all */
    size_t k_bytes, v_bytes; /* of one page of one KV head of one layer */
} pl_group;

typedef struct pl_table {
    pl_page **pages; /* page i holds slots [64 i, 64 i + 64); NULL where the window has left it */
    int32_t n, room;
    int32_t first; /* pages before this one have been let go */
} pl_table;

typedef struct pl_seq {
    pl_pool *pool;
    int32_t length; /* tokens whose keys and values are stored */
    pl_table table[PL_MAX_GROUPS];
} pl_seq;

/* NULL without memory. `groups` is copied. */
pl_pool *pl_pool_new(const pl_group *groups, int n_groups);
/* The pool goes when its last sequence has gone too. */
void pl_pool_free(pl_pool *pool);
int64_t pl_pool_bytes(pl_pool *pool);      /* memory taken from the system */
int64_t pl_pool_bytes_used(pl_pool *pool); /* of pages in use */

pl_seq *pl_seq_new(pl_pool *pool);
void pl_seq_free(pl_seq *seq);
/* A second sequence with the same contents; pages are shared until one of the two writes. NULL without memory. */
pl_seq *pl_seq_fork(pl_seq *seq);
/* Makes room for slots [from, upto), from <= length: own, writable pages. 0, or -1 without memory (then no page is
 * missing that was there). */
int pl_seq_reserve(pl_seq *seq, int32_t from, int32_t upto);
/* Slots [length, upto) have been written. Lets go of pages that no later row can see. */
void pl_seq_commit(pl_seq *seq, int32_t upto);
/* Forgets tokens from n on. Returns the length that is left: n, or 0 when a window has let go of pages that row n
 * would see (everything must be computed again). */
int32_t pl_seq_rewind(pl_seq *seq, int32_t n);

static inline size_t pl_group_head_bytes(const pl_group *g)
{
    return g->k_bytes + g->v_bytes;
}

uint8_t *pl_page_data(const pl_page *page);

/* Keys of (layer, head) in the page of `slot`. */
static inline uint8_t *pl_seq_keys(const pl_seq *s, const pl_group *g, int group, int32_t layer, int32_t head,
                                   int32_t slot)
{
    return pl_page_data(s->table[group].pages[slot / PL_PAGE_TOKENS]) +
           ((size_t)layer * g->n_kv + head) * pl_group_head_bytes(g);
}

#endif
