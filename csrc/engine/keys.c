/* Keys and values of a sequence as its cache has them, for inspection. Each tier lays out its pages in its own way, and
 * only its attention can read them. So attention does: a query that is 1 in one channel and 0 elsewhere has that
 * channel of a key as its score, and a query that sees only one key gives that key's value. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 16 /* channels read at a time: so many states fit into a thread's scratch */

typedef struct body {
    pl_keys k;      /* its arrays are the caller's */
    float *queries; /* (dk, dk) */
    atomic_int next;
} body;

/* One KV head's keys and values of a page. */
static void read_page(const pl_model *m, const body *b, int head, int page, int tid)
{
    const pl_cache_desc *c = &m->plan.caches[b->k.cache];
    const pl_group *g = &m->groups[b->k.cache];
    const int first = page * PL_PAGE, n = b->k.n - first < PL_PAGE ? b->k.n - first : PL_PAGE;
    const int rows = m->qtile_rows < ROWS ? m->qtile_rows : ROWS;
    const uint8_t *page_k = pl_seq_keys(b->k.seq, g, b->k.cache, b->k.layer, head, first);
    const size_t at = (size_t)head * b->k.n + first;
    for (int slot = 0; slot < n; slot++) {
        float *keys = b->k.keys + (at + slot) * c->dk, *values = b->k.values + (at + slot) * c->dv;
        float sum[ROWS], *acc = m->scratch[tid];
        int lo[ROWS], hi[ROWS];
        for (int d = 0; d < c->dk; d += rows) {
            const int some = c->dk - d < rows ? c->dk - d : rows;
            for (int i = 0; i < some; i++) {
                lo[i] = slot;
                hi[i] = slot + 1;
                keys[d + i] = PL_TOP_NONE;
                sum[i] = 0;
            }
            memset(acc, 0, sizeof(float) * (size_t)some * c->dv);
            pl_attend_page a = {.m = some,
                                .dk = c->dk,
                                .dv = c->dv,
                                .scale = 1,
                                .q = b->queries + (size_t)d * c->dk,
                                .q_stride = c->dk,
                                .k = page_k,
                                .v = page_k + g->k_bytes,
                                .lo = lo,
                                .hi = hi,
                                .top = keys + d,
                                .sum = sum,
                                .acc = acc,
                                .scratch = m->kernel_scratch[tid]};
            m->tables.kernels->attend[m->tables.kv](&a, 1);
        }
        memcpy(values, acc, sizeof(float) * (size_t)c->dv);
    }
}

static void keys_job(void *arg, const pl_team *team, int tid)
{
    (void)team;
    pl_task *task = arg;
    const pl_model *m = task->model;
    body *b = task->body;
    const pl_store *store = &b->k.seq->store[b->k.cache];
    const int heads = m->plan.caches[b->k.cache].n_kv, pages = (b->k.n + PL_PAGE - 1) / PL_PAGE;
    int i;
    while ((i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed)) < pages * heads) {
        if (atomic_load_explicit(&task->cancel, memory_order_relaxed))
            return;
        if (i % pages >= store->first) /* the window has passed the others */
            read_page(m, b, i / pages, i % pages, tid);
    }
}

static pl_status keys_finish(pl_task *task, pl_error *error)
{
    body *b = task->body;
    free(b->queries);
    free(b);
    return atomic_load(&task->cancel) ? pl_fail(error, PL_E_CANCELLED, "reading keys was cancelled") : PL_OK;
}

pl_status pl_keys_start(pl_model *m, const pl_keys *k, pl_task **out, pl_error *error)
{
    if (k->cache < 0 || k->cache >= m->plan.n_caches || k->layer < 0 || k->layer >= m->plan.caches[k->cache].n_layers ||
        k->n < 1 || k->n > k->seq->length || !k->keys || !k->values)
        return pl_fail(error, PL_E_ARGUMENT, "keys of layer %d of cache %d, %d of %d tokens", k->layer, k->cache, k->n,
                       k->seq->length);
    const size_t dk = (size_t)m->plan.caches[k->cache].dk;
    pl_task *task = calloc(1, sizeof *task);
    body *b = calloc(1, sizeof *b);
    float *queries = calloc(dk * dk, sizeof *queries);
    if (!task || !b || !queries) {
        free(task);
        free(b);
        free(queries);
        return pl_fail(error, PL_E_MEMORY, "no memory for %zu queries", dk);
    }
    for (size_t i = 0; i < dk; i++)
        queries[i * dk + i] = 1;
    b->k = *k;
    b->queries = queries;
    *task = (pl_task){.model = m, .body = b, .finish = keys_finish, .total = 1};
    return pl_task_start(task, keys_job, out, error);
}
