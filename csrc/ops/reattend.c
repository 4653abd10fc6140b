/* Recomputes one head's attention at some positions, over fewer keys or with given weights. For experiments; the
 * attention kernel gets one row at a time. */
#include <string.h>

#include "ops.h"

const char *pl_check_reattend(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_queries(p, op);
    if (wrong)
        return wrong;
    const pl_cache_desc *c = &p->caches[op->cache];
    if (!pl_inside(op->cache_layer, c->n_layers) || !c->causal)
        return "its cache layer";
    if (!(op->cap >= 0)) /* NaN too */
        return "its cap";
    if (p->buf_dim[op->out] != c->n_q * c->dv)
        return "its output's width";
    if (!pl_inside(op->column, c->n_q))
        return "its head";
    if (op->pos_from < 0 || op->pos_from >= op->pos_to || op->width < 1)
        return "its positions";
    int64_t each = op->each ? (int64_t)op->pos_to - op->pos_from : 1;
    if (!pl_inside(op->vec, p->n_vecs) || p->vecs[op->vec].n != op->width * each)
        return "its weights";
    return op->vec2 == -1 || pl_has_vec(p, op->vec2, c->n_q) ? NULL : "its sinks";
}

/* Adds the keys [lo, hi) of a page to the state (top, sum, acc) of a row. */
static void enter(const pl_run *r, const pl_op *op, int row, int page, int lo, int hi, float *state, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_cache_desc *c = &m->caches[op->cache];
    const pl_group *g = &m->groups[op->cache];
    const pl_buf *in = &m->bufs[op->in];
    const int kv_head = op->column / (c->n_q / c->n_kv);
    const uint8_t *keys =
        pl_seq_keys(r->seqs[r->rows[row].seq], g, op->cache, op->cache_layer, kv_head, page * PL_PAGE);
    pl_attend_page a = {.m = 1,
                        .dk = c->dk,
                        .dv = c->dv,
                        .scale = op->scale,
                        .cap = op->cap,
                        .q = in->f + (size_t)row * in->dim + (size_t)op->column * c->dk,
                        .q_stride = c->dk,
                        .k = keys,
                        .v = keys + g->k_bytes,
                        .lo = &lo,
                        .hi = &hi,
                        .top = state,
                        .sum = state + 1,
                        .acc = state + 2,
                        .scratch = r->kernel_scratch[tid]};
    m->kernels->attend[m->kv](&a, 1);
}

static void begin(float *state, int dv)
{
    memset(state, 0, sizeof(float) * (2 + (size_t)dv));
    state[0] = PL_TOP_NONE;
}

/* The factor for acc. */
static float share(const pl_run *r, const pl_op *op, float top, float sum)
{
    if (op->vec2 < 0)
        return 1.0f / sum;
    const float sink = r->m->vecs[op->vec2][op->column], most = sink > top ? sink : top;
    float e[2] = {top - most, sink - most};
    r->m->kernels->exp(e, 2, e);
    return e[0] / (sum * e[0] + e[1]);
}

/* Attention over the keys [from, to) that `allowed` (width) does not exclude; 0 if it excludes all. */
static void attend_some(const pl_run *r, const pl_op *op, int row, int from, int to, const float *allowed, float *y,
                        int tid)
{
    const int dv = r->m->caches[op->cache].dv;
    float *state = r->scratch[tid];
    begin(state, dv);
    for (int j = from; j < to;) {
        const int page = j / PL_PAGE, end = (page + 1) * PL_PAGE < to ? (page + 1) * PL_PAGE : to;
        int last = j;
        while (last < end && (last >= op->width || allowed[last] != 0))
            last++;
        if (last > j)
            enter(r, op, row, page, j % PL_PAGE, last - page * PL_PAGE, state, tid);
        j = last < end ? last + 1 : last;
    }
    if (state[1] == 0)
        memset(y, 0, sizeof(float) * (size_t)dv);
    else
        r->m->kernels->scale(state + 2, share(r, op, state[0], state[1]), dv, y);
}

/* The sum of weights (width) times values of the keys [from, to). */
static void weigh(const pl_run *r, const pl_op *op, int row, int from, int to, const float *weights, float *y, int tid)
{
    const int dv = r->m->caches[op->cache].dv;
    float *state = r->scratch[tid];
    memset(y, 0, sizeof(float) * (size_t)dv);
    for (int j = from; j < to && j < op->width; j++) {
        if (weights[j] == 0)
            continue;
        begin(state, dv);
        enter(r, op, row, j / PL_PAGE, j % PL_PAGE, j % PL_PAGE + 1, state, tid); /* its own weight is 1 */
        r->m->kernels->scale(state + 2, weights[j], dv, state + 2);
        r->m->kernels->add(y, state + 2, dv, y);
    }
}

void pl_op_reattend(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_cache_desc *c = &m->caches[op->cache];
    const pl_buf *out = &m->bufs[op->out];
    int first, end, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &first, &end);
    for (int i = first; i < end; i++) {
        const int pos = r->rows[i].pos, slot = r->rows[i].slot;
        if (pos < op->pos_from || pos >= op->pos_to)
            continue;
        const float *vec = m->vecs[op->vec] + (op->each ? (size_t)(pos - op->pos_from) * op->width : 0);
        float *y = out->f + (size_t)i * out->dim + (size_t)op->column * c->dv;
        const int from = c->window && slot >= c->window ? slot - c->window + 1 : 0;
        if (op->flags & PL_WEIGHTS)
            weigh(r, op, i, from, slot + 1, vec, y, tid);
        else
            attend_some(r, op, i, from, slot + 1, vec, y, tid);
        pl_buf_finish(m->kernels, out, forms, i, 0, out->dim);
    }
}
