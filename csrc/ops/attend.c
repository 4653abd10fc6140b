/* Attention over cached keys and values.
 *
 * The unit of work is a tile of query rows of one sequence x one KV head, whose query heads share every key that is
 * loaded. Keys are processed in chunks of 256 from slot 0, each with a state of its own. Chunks merge from left to
 * right whichever threads computed them, so a few rows that see many keys can be spread over threads without changing a
 * bit. If every row is of another sequence, each stays with the thread that stored its keys, as long as threads get
 * about equal work.
 */
#include <string.h>

#include "ops.h"

const char *pl_check_attend(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_queries(p, op);
    if (wrong)
        return wrong;
    const pl_cache_desc *c = &p->caches[op->cache];
    if (!pl_inside(op->cache_layer, c->n_layers))
        return "its cache layer";
    if (!(op->cap >= 0)) /* NaN too */
        return "its cap";
    if (op->vec != -1 && !pl_has_vec(p, op->vec, c->n_q))
        return "its sinks";
    return p->buf_dim[op->out] == c->n_q * c->dv ? NULL : "its output's width";
}

int pl_attend_tile_rows(const pl_cache_desc *c)
{
    int rows = 48 / (c->n_q / c->n_kv);
    return rows < 1 ? 1 : rows > 16 ? 16 : rows;
}

size_t pl_attend_scratch(const pl_cache_desc *c, int rows)
{
    size_t m = (size_t)rows * (c->n_q / c->n_kv);
    return m * c->dk + 2 * pl_attend_state((int)m, c->dv) + 2 * m * PL_CHUNK_PAGES;
}

typedef struct tile {
    const pl_run *r;
    const pl_op *op;
    const pl_cache_desc *c;
    const pl_group *g;
    const pl_row *rows; /* (n) rows of the tile */
    int row, n, head;   /* first row in the pass, number of rows, KV head */
    int heads, m;       /* query heads of the KV head; query rows = n * heads */
    int from, to;       /* slots that any row sees: [from, to) */
    int end;            /* slots of the sequence */
    float *q, *spare;   /* (m, dk); a state */
    float *columns;     /* room for those of a row of the output */
    int *lo, *hi;       /* (PL_CHUNK_PAGES, m) */
    void *kernel_scratch;
} tile;

/* The slots [*from, *to) that a row sees. end: the sequence's slots after the pass. */
static void seen(const pl_cache_desc *c, int slot, int end, int *from, int *to)
{
    int64_t first = c->window ? (int64_t)slot - c->window + 1 : 0;
    int64_t after = c->causal ? (int64_t)slot + 1 : c->window ? (int64_t)slot + c->window : end;
    *from = first > 0 ? (int)first : 0;
    *to = after < end ? (int)after : end;
}

static tile tile_of(const pl_run *r, const pl_op *op, int item, int tid)
{
    tile t = {.r = r, .op = op, .c = &r->m->caches[op->cache], .g = &r->m->groups[op->cache]};
    const pl_qtile *qt = &r->qtiles[item / t.c->n_kv];
    t.row = qt->row;
    t.n = qt->n;
    t.rows = r->rows + qt->row;
    t.head = item % t.c->n_kv;
    t.heads = t.c->n_q / t.c->n_kv;
    t.m = t.n * t.heads;
    int after;
    seen(t.c, t.rows[0].slot, qt->end, &t.from, &after);
    seen(t.c, t.rows[t.n - 1].slot, qt->end, &after, &t.to);
    t.end = qt->end;
    size_t state = pl_attend_state(t.m, t.c->dv);
    t.q = r->scratch[tid] + state; /* the first state is the caller's */
    t.spare = t.q + (size_t)t.m * t.c->dk;
    t.lo = (int *)(t.spare + state);
    t.hi = t.lo + PL_CHUNK_PAGES * t.m;
    t.columns = r->products[tid];
    t.kernel_scratch = r->kernel_scratch[tid];
    return t;
}

static void gather_queries(const tile *t)
{
    const pl_buf *in = &t->r->m->bufs[t->op->in];
    for (int i = 0; i < t->n; i++)
        memcpy(t->q + (size_t)i * t->heads * t->c->dk,
               in->f + (size_t)(t->row + i) * in->dim + (size_t)t->head * t->heads * t->c->dk,
               sizeof(float) * t->heads * t->c->dk);
}

static int clip(int slot, int base)
{
    int v = slot - base;
    return v < 0 ? 0 : v > PL_PAGE ? PL_PAGE : v;
}

static const uint8_t *page_keys(const tile *t, int page)
{
    return pl_seq_keys(t->r->seqs[t->rows[0].seq], t->g, t->op->cache, t->op->cache_layer, t->head, page * PL_PAGE);
}

/* The first page of a chunk with keys that the tile sees. */
static int first_page(const tile *t, int chunk)
{
    int first = chunk * PL_CHUNK_PAGES, seen = t->from / PL_PAGE;
    return first < seen ? seen : first;
}

/* Computes the state of one chunk of keys: (m) top, (m) sum, (m, dv) acc. after: the page that this thread reads next,
 * or NULL. */
static void run_chunk(const tile *t, int chunk, float *state, const uint8_t *after)
{
    int m = t->m, dv = t->c->dv;
    float *top = state, *sum = top + m, *acc = sum + m;
    for (int i = 0; i < m; i++)
        top[i] = PL_TOP_NONE;
    memset(sum, 0, sizeof(float) * (m + (size_t)m * dv));
    int first = first_page(t, chunk), last = (t->to - 1) / PL_PAGE;
    if (last >= (chunk + 1) * PL_CHUNK_PAGES)
        last = (chunk + 1) * PL_CHUNK_PAGES - 1;
    const uint8_t *keys = page_keys(t, first);
    pl_attend_page pages[PL_CHUNK_PAGES];
    for (int p = first; p <= last; p++) {
        int base = p * PL_PAGE, *los = t->lo + (p - first) * m, *his = t->hi + (p - first) * m;
        const uint8_t *next = p < last ? page_keys(t, p + 1) : after;
        for (int i = 0; i < t->n; i++) {
            int lo, hi;
            seen(t->c, t->rows[i].slot, t->end, &lo, &hi);
            for (int h = 0; h < t->heads; h++) {
                los[i * t->heads + h] = clip(lo, base);
                his[i * t->heads + h] = clip(hi, base);
            }
        }
        pages[p - first] = (pl_attend_page){.m = m,
                                            .dk = t->c->dk,
                                            .dv = dv,
                                            .scale = t->op->scale,
                                            .cap = t->op->cap,
                                            .q = t->q,
                                            .q_stride = t->c->dk,
                                            .k = keys,
                                            .v = keys + t->g->k_bytes,
                                            .next = next,
                                            .next_bytes = t->g->k_bytes + t->g->v_bytes,
                                            .turns = t->r->m->tuning.ahead_turns,
                                            .lo = los,
                                            .hi = his,
                                            .top = top,
                                            .sum = sum,
                                            .acc = acc,
                                            .scratch = t->kernel_scratch};
        keys = next;
    }
    t->r->m->kernels->attend[t->r->m->kv](pages, last - first + 1);
}

static void merge(const tile *t, float *a, const float *b)
{
    int m = t->m;
    t->r->m->kernels->attend_merge(m, t->c->dv, a, a + m, a + 2 * m, b, b + m, b + 2 * m);
}

/* The factor for acc: 1 / sum; with a sink, a score without a value, the sum includes its exponential. */
static float share(const tile *t, float top, float sum, int head)
{
    if (t->op->vec < 0)
        return 1.0f / sum;
    const float sink = t->r->m->vecs[t->op->vec][t->head * t->heads + head], most = sink > top ? sink : top;
    float e[2] = {top - most, sink - most};
    t->r->m->kernels->exp(e, 2, e);
    return e[0] / (sum * e[0] + e[1]);
}

/* acc / sum -> the output rows. */
static void write_out(const tile *t, const float *state)
{
    const pl_model_tables *tables = t->r->m;
    int forms = pl_finishes(t->r, t->op);
    const pl_buf *out = &tables->bufs[t->op->out];
    int m = t->m, dv = t->c->dv, width = t->heads * dv, column = t->head * width;
    const int floats = pl_leaves_floats(t->r, t->op) || width % PL_BLOCK || width > PL_PRODUCTS;
    for (int i = 0; i < t->n; i++) {
        float *y = floats ? out->f + (size_t)(t->row + i) * out->dim + column : t->columns;
        for (int h = 0; h < t->heads; h++) {
            int j = i * t->heads + h;
            float by = share(t, state[j], state[m + j], h);
            tables->kernels->scale(state + 2 * m + (size_t)j * dv, by, dv, y + h * dv);
        }
        if (width % PL_BLOCK == 0)
            pl_buf_put(tables->kernels, out, forms, t->row + i, column, column + width, y);
    }
}

static int first_chunk(const tile *t)
{
    return t->from / PL_CHUNK_KEYS;
}

static int last_chunk(const tile *t)
{
    return (t->to - 1) / PL_CHUNK_KEYS;
}

static void attend_whole(const pl_run *r, const pl_op *op, int item, int tid)
{
    tile t = tile_of(r, op, item, tid);
    float *state = r->scratch[tid];
    int last = last_chunk(&t);
    gather_queries(&t);
    for (int c = first_chunk(&t); c <= last; c++) {
        float *to = c == first_chunk(&t) ? state : t.spare;
        run_chunk(&t, c, to, c < last ? page_keys(&t, first_page(&t, c + 1)) : NULL);
        if (to != state)
            merge(&t, state, to);
    }
    write_out(&t, state);
}

/* ---- few tiles, many keys: chunks side by side ------------------------------------------------------------------- */

/* Chunks in rounds: of each tile `wide` chunks from `first` on, then the next ones, and so on. Chunk i of all is in
 * round i / (items * wide), and belongs to tile i / wide % items. */
typedef struct parts {
    int items, first, wide, rounds;
} parts;

static parts parts_of(const pl_run *r, const pl_op *op, int tid)
{
    const int n_kv = r->m->caches[op->cache].n_kv;
    parts p = {.items = r->n_qtiles * n_kv, .first = INT32_MAX};
    int last = 0;
    for (int i = 0; i < p.items; i += n_kv) {
        const tile t = tile_of(r, op, i, tid);
        p.first = first_chunk(&t) < p.first ? first_chunk(&t) : p.first;
        last = last_chunk(&t) > last ? last_chunk(&t) : last;
    }
    p.wide = last - p.first < r->at_once ? last - p.first + 1 : r->at_once;
    p.rounds = (last - p.first) / p.wide + 1;
    return p;
}

static int item_of(const parts *p, int i)
{
    return i / p->wide % p->items;
}

static int chunk_of(const parts *p, int i)
{
    return p->first + i / (p->wide * p->items) * p->wide + i % p->wide;
}

/* The state of a chunk of this round, or (place at_once) of all before it. */
static float *partial_of(const pl_run *r, const pl_op *op, int item, int place)
{
    const pl_cache_desc *c = &r->m->caches[op->cache];
    size_t state = pl_attend_state(r->qtile_rows * (c->n_q / c->n_kv), c->dv);
    return r->partial + ((size_t)item * (r->at_once + 1) + place) * state;
}

/* Claims the next chunk with keys that its tile sees; a number beyond the last round means that none is left. */
static int claim_chunk(const pl_run *r, const pl_op *op, const parts *p, int tid)
{
    const int all = p->rounds * p->items * p->wide;
    atomic_int *next = r->next + 2 * (op - r->ops);
    int i;
    while ((i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) < all) {
        const tile t = tile_of(r, op, item_of(p, i), tid);
        const int chunk = chunk_of(p, i);
        if (chunk >= first_chunk(&t) && chunk <= last_chunk(&t))
            return i;
    }
    return all;
}

/* Merges a round's chunks of a tile into its state; after its last chunk, writes the output. */
static void merge_round(const pl_run *r, const pl_op *op, const parts *p, int round, int item, int tid)
{
    const tile t = tile_of(r, op, item, tid);
    const int from = p->first + round * p->wide;
    float *state = partial_of(r, op, item, r->at_once);
    for (int i = 0; i < p->wide; i++) {
        const float *one = partial_of(r, op, item, i);
        if (from + i == first_chunk(&t))
            memcpy(state, one, sizeof(float) * pl_attend_state(t.m, t.c->dv));
        else if (from + i > first_chunk(&t) && from + i <= last_chunk(&t))
            merge(&t, state, one);
    }
    if (last_chunk(&t) >= from && last_chunk(&t) < from + p->wide)
        write_out(&t, state);
}

static void attend_parts(const pl_run *r, const pl_op *op, int tid)
{
    const parts p = parts_of(r, op, tid);
    const int each = p.items * p.wide, size = pl_team_size(r->team);
    int i = claim_chunk(r, op, &p, tid);
    for (int round = 0; round < p.rounds; round++) {
        while (i < (round + 1) * each) { /* claims the next early, to prefetch its keys */
            int after = claim_chunk(r, op, &p, tid);
            const uint8_t *keys = NULL;
            if (after < p.rounds * each) {
                tile t = tile_of(r, op, item_of(&p, after), tid);
                keys = page_keys(&t, first_page(&t, chunk_of(&p, after)));
            }
            tile t = tile_of(r, op, item_of(&p, i), tid);
            gather_queries(&t);
            run_chunk(&t, chunk_of(&p, i), partial_of(r, op, item_of(&p, i), i % p.wide), keys);
            i = after;
        }
        pl_team_barrier(r->team);
        for (int item = tid; item < p.items; item += size)
            merge_round(r, op, &p, round, item, tid);
        if (round + 1 < p.rounds)
            pl_team_barrier(r->team);
    }
}

/* Prefetches the keys and values of an item's first page: of another sequence or head than those that were just
 * read. */
static void prefetch_item(const pl_run *r, const pl_op *op, int item, int tid)
{
    const tile t = tile_of(r, op, item, tid);
    const int page = first_page(&t, first_chunk(&t)), slots = (clip(t.to, page * PL_PAGE) + PL_SLOTS - 1) & -PL_SLOTS;
    const uint8_t *keys = page_keys(&t, page), *values = keys + t.g->k_bytes;
    for (size_t i = 0; i < t.g->k_bytes / PL_PAGE * slots; i += 64)
        __builtin_prefetch(keys + i, 0, 2);
    for (size_t i = 0; i < t.g->v_bytes / PL_PAGE * slots; i += 64)
        __builtin_prefetch(values + i, 0, 2);
}

int pl_attend_by_rows(const pl_run *r)
{
    const int size = pl_team_size(r->team);
    int64_t most = 0, all = 0;
    if (size == 1 || r->partial || r->n_parts != r->n_rows)
        return 0;
    for (int tid = 0; tid < size; tid++) {
        int64_t keys = 0;
        int from, to;
        pl_my_rows(r, tid, &from, &to);
        for (int i = from; i < to; i++)
            keys += r->rows[i].slot + PL_PAGE; /* a row without keys takes time, too */
        most = keys > most ? keys : most;
        all += keys;
    }
    return 10 * size * most < 11 * all;
}

enum { ENOUGH = 4 }; /* items per thread from which on it matters little if one is claimed early */

/* Attends for rows that are each of another sequence: this thread's own, whose keys rope_append has just put into its
 * caches, or any. Claims the next item early, to prefetch its keys. */
static void attend_decoding(const pl_run *r, const pl_op *op, int items, int tid)
{
    const int n_kv = r->m->caches[op->cache].n_kv;
    atomic_int *next = r->next + 2 * (op - r->ops);
    if (r->own_keys) {
        int from, to;
        pl_my_rows(r, tid, &from, &to);
        for (int i = from * n_kv; i < to * n_kv; i++) {
            if (i + 1 < to * n_kv)
                prefetch_item(r, op, i + 1, tid);
            attend_whole(r, op, i, tid);
        }
        return;
    }
    int i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
    while (i < items) {
        int after = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
        if (after < items)
            prefetch_item(r, op, after, tid);
        attend_whole(r, op, i, tid);
        i = after;
    }
}

void pl_op_attend(const pl_run *r, const pl_op *op, int tid)
{
    const pl_cache_desc *c = &r->m->caches[op->cache];
    const pl_buf *out = &r->m->bufs[op->out];
    int items = r->n_qtiles * c->n_kv, forms = pl_finishes(r, op);
    atomic_int *next = r->next + 2 * (op - r->ops);
    int i;
    if (r->partial) {
        attend_parts(r, op, tid);
    } else if (r->own_keys || (r->n_parts == r->n_rows && items >= ENOUGH * pl_team_size(r->team))) {
        attend_decoding(r, op, items, tid);
    } else {
        /* the last tiles see the most keys, so they start first */
        while ((i = items - 1 - atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) >= 0)
            attend_whole(r, op, i, tid);
    }
    if (forms && (c->n_q / c->n_kv * c->dv) % PL_BLOCK) { /* a head's columns are not whole blocks: quantise rows */
        int from, to;
        if (!r->own_keys)
            pl_team_barrier(r->team);
        pl_my_rows(r, tid, &from, &to);
        for (int j = from; j < to; j++)
            pl_buf_finish(r->m->kernels, out, forms, j, 0, out->dim);
    }
}
