/* Attention over cached keys and values.
 *
 * The unit of work is a tile of query rows of one sequence x one KV head, whose query heads share every key that is
 * loaded. Keys are processed in chunks of 256 from slot 0, each with a state of its own. Chunks merge from left to
 * right whichever threads computed them, so a few rows that see many keys can be spread over threads without changing a
 * bit.
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
    return m * c->dk + 2 * pl_attend_state((int)m, c->dv) + 2 * m;
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
    int *lo, *hi;       /* (m) */
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
    t.hi = t.lo + t.m;
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
    for (int p = first; p <= last; p++) {
        int base = p * PL_PAGE;
        const uint8_t *next = p < last ? page_keys(t, p + 1) : after;
        for (int i = 0; i < t->n; i++) {
            int lo, hi;
            seen(t->c, t->rows[i].slot, t->end, &lo, &hi);
            for (int h = 0; h < t->heads; h++) {
                t->lo[i * t->heads + h] = clip(lo, base);
                t->hi[i * t->heads + h] = clip(hi, base);
            }
        }
        pl_attend_page a = {.m = m,
                            .dk = t->c->dk,
                            .dv = dv,
                            .scale = t->op->scale,
                            .cap = t->op->cap,
                            .q = t->q,
                            .q_stride = t->c->dk,
                            .k = keys,
                            .v = keys + t->g->k_bytes,
                            .next = next,
                            .lo = t->lo,
                            .hi = t->hi,
                            .top = top,
                            .sum = sum,
                            .acc = acc,
                            .scratch = t->kernel_scratch};
        t->r->m->kernels->attend[t->r->m->kv](&a);
        keys = next;
    }
}

static void merge(const tile *t, float *a, const float *b)
{
    int m = t->m;
    t->r->m->kernels->attend_merge(m, t->c->dv, a, a + m, a + 2 * m, b, b + m, b + 2 * m);
}

/* What acc is multiplied by: 1 / sum; with a sink, a score without a value, the sum has its exponential as well. */
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
    for (int i = 0; i < t->n; i++) {
        float *y = out->f + (size_t)(t->row + i) * out->dim + column;
        for (int h = 0; h < t->heads; h++) {
            int j = i * t->heads + h;
            float by = share(t, state[j], state[m + j], h);
            tables->kernels->scale(state + 2 * m + (size_t)j * dv, by, dv, y + h * dv);
        }
        if (width % PL_BLOCK == 0)
            pl_buf_finish(tables->kernels, out, forms, t->row + i, column, column + width);
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

static float *partial_of(const pl_run *r, const pl_op *op, int item, int chunk)
{
    const pl_cache_desc *c = &r->m->caches[op->cache];
    size_t state = pl_attend_state(r->qtile_rows * (c->n_q / c->n_kv), c->dv);
    return r->partial + ((size_t)item * r->max_chunks + chunk) * state;
}

/* Claims the next chunk with keys that its tile sees, as item * max_chunks + chunk; -1: none is left. */
static int claim_chunk(const pl_run *r, const pl_op *op, int tid)
{
    int items = r->n_qtiles * r->m->caches[op->cache].n_kv, i;
    atomic_int *next = r->next + 2 * (op - r->ops);
    while ((i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) < items * r->max_chunks) {
        tile t = tile_of(r, op, i / r->max_chunks, tid);
        if (i % r->max_chunks >= first_chunk(&t) && i % r->max_chunks <= last_chunk(&t))
            return i;
    }
    return -1;
}

void pl_op_attend(const pl_run *r, const pl_op *op, int tid)
{
    const pl_cache_desc *c = &r->m->caches[op->cache];
    const pl_buf *out = &r->m->bufs[op->out];
    int items = r->n_qtiles * c->n_kv, size = pl_team_size(r->team), forms = pl_finishes(r, op);
    atomic_int *next = r->next + 2 * (op - r->ops);
    int i;
    if (!r->partial) {
        /* the last tiles see the most keys, so they start first */
        while ((i = items - 1 - atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) >= 0)
            attend_whole(r, op, i, tid);
    } else {
        for (i = claim_chunk(r, op, tid); i >= 0;) { /* claims the next early, to prefetch its keys */
            int after = claim_chunk(r, op, tid);
            const uint8_t *keys = NULL;
            if (after >= 0) {
                tile t = tile_of(r, op, after / r->max_chunks, tid);
                keys = page_keys(&t, first_page(&t, after % r->max_chunks));
            }
            tile t = tile_of(r, op, i / r->max_chunks, tid);
            gather_queries(&t);
            run_chunk(&t, i % r->max_chunks, partial_of(r, op, i / r->max_chunks, i % r->max_chunks), keys);
            i = after;
        }
        pl_team_barrier(r->team);
        for (i = tid; i < items; i += size) {
            tile t = tile_of(r, op, i, tid);
            float *state = partial_of(r, op, i, first_chunk(&t));
            for (int chunk = first_chunk(&t) + 1; chunk <= last_chunk(&t); chunk++)
                merge(&t, state, partial_of(r, op, i, chunk));
            write_out(&t, state);
        }
    }
    if (forms && (c->n_q / c->n_kv * c->dv) % PL_BLOCK) { /* a head's columns are not whole blocks: quantise rows */
        int from, to;
        pl_team_barrier(r->team);
        pl_my_rows(r, tid, &from, &to);
        for (int j = from; j < to; j++)
            pl_buf_finish(r->m->kernels, out, forms, j, 0, out->dim);
    }
}
