/* A matrix product added to the residual stream, after a post-norm if there is one. */
#include "ops.h"

const char *pl_check_linear_add(const pl_plan *p, const pl_op *op)
{
    return op->vec < 0 ? NULL : pl_check_norm_of(p, op, p->buf_dim[op->out]);
}

/* Each thread computes its own columns or rows and, without a post-norm, adds them. */
static void add_products(const pl_run *r, const pl_op *op, int forms, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *tmp = &m->bufs[op->tmp], *out = &m->bufs[op->out];
    const pl_segment *seg = &m->segs[op->seg];
    const int dim = out->dim;
    int from, to, row, end;
    pl_my_tiles(r, op, 0, tid, &from, &to);
    pl_product_rows(r, op, tid, &row, &end);
    for (int n; row < end && from < to; row += n) {
        n = pl_rows_at_once(r, op, seg, end - row);
        const int step = pl_tiles_or_all(r, &m->mats[seg->mat], n, to - from);
        for (int t = from; t < to; t += step) {
            const int t1 = t + step < to ? t + step : to;
            const int c0 = t * PL_TILE, c1 = t1 * PL_TILE < dim ? t1 * PL_TILE : dim;
            const pl_products made = op->vec < 0 ? pl_products_at(r, tmp, row, n, c0, c1, 0, tid)
                                                 : (pl_products){tmp->f + (size_t)row * dim, dim};
            const int ahead = op->vec < 0 && r->n_rows <= PL_FEW_ROWS; /* another thread's norm has read `out` */
            for (int i = 0; i < n && ahead; i++)
                pl_prefetch_write(out->f + (size_t)(row + i) * dim + c0, sizeof(float) * (size_t)(c1 - c0));
            pl_segment_run(r, seg, t, t1, &m->bufs[op->in], row, n, made.y, made.stride, tid, t > from);
            for (int i = 0; i < n && op->vec < 0; i++) {
                float *x = out->f + (size_t)(row + i) * dim + c0, *y = made.y + i * made.stride + c0;
                if (op->scale != 1.0f)
                    m->kernels->scale(y, op->scale, c1 - c0, y);
                m->kernels->add(x, y, c1 - c0, x);
                pl_buf_finish(m->kernels, out, forms, row + i, c0, c1);
            }
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
    if (!pl_divides_rows(r, op))
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
