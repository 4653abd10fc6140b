/* A matrix product added to the residual stream, after a post-norm if there is one. */
#include "ops.h"

const char *pl_check_linear_add(const pl_plan *p, const pl_op *op)
{
    return op->vec < 0 ? NULL : pl_check_norm_of(p, op, p->buf_dim[op->out]);
}

/* Each thread computes its own columns and, without a post-norm, adds them. */
static void add_products(const pl_run *r, const pl_op *op, int forms, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *tmp = &m->bufs[op->tmp], *out = &m->bufs[op->out];
    int dim = out->dim, first, end;
    pl_my_tiles(r, op, 0, tid, &first, &end);
    int c0 = first * PL_TILE, c1 = end * PL_TILE < dim ? end * PL_TILE : dim;
    for (int row = 0, n; row < r->n_rows && first < end; row += n) {
        n = pl_rows_at_once(r, &m->segs[op->seg], row);
        pl_segment_run(r, &m->segs[op->seg], first, end, &m->bufs[op->in], row, n, tmp->f + (size_t)row * dim, dim, tid,
                       0);
        for (int i = row; i < row + n && op->vec < 0; i++) {
            float *x = out->f + (size_t)i * dim + c0, *t = tmp->f + (size_t)i * dim + c0;
            if (op->scale != 1.0f)
                m->kernels->scale(t, op->scale, c1 - c0, t);
            m->kernels->add(x, t, c1 - c0, x);
            pl_buf_finish(m->kernels, out, forms, i, c0, c1);
        }
    }
}

void pl_op_linear_add(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_kernels *k = m->kernels;
    const pl_buf *out = &m->bufs[op->out];
    int dim = out->dim, from, to, forms = pl_finishes(r, op);
    add_products(r, op, forms, tid);
    if (op->vec < 0)
        return;
    pl_team_barrier(r->team); /* a norm needs the whole row */
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        float *t = m->bufs[op->tmp].f + (size_t)i * dim, *x = out->f + (size_t)i * dim;
        pl_norm_row(m, op, t, dim, t);
        if (op->scale != 1.0f)
            k->scale(t, op->scale, dim, t);
        k->add(x, t, dim, x);
        pl_buf_finish(k, out, forms, i, 0, dim);
    }
}
