/* Columns in another order, for weights whose groups hold columns that are not neighbours (GPTQ's act-order). */
#include "ops.h"

const char *pl_check_reorder(const pl_plan *p, const pl_op *op)
{
    const int n = p->buf_dim[op->out], m = p->buf_dim[op->in];
    if (!pl_inside(op->vec, p->n_vecs) || p->vecs[op->vec].n != n)
        return "its order";
    for (int i = 0; i < n; i++) {
        const float column = p->vecs[op->vec].data[i];
        if (!(column >= 0) || column >= (float)m || column != (float)(int)column)
            return "a column of its order";
    }
    return NULL;
}

void pl_op_reorder(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    const float *order = m->vecs[op->vec];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        const float *x = in->f + (size_t)i * in->dim;
        float *y = out->f + (size_t)i * out->dim;
        for (int c = 0; c < out->dim; c++)
            y[c] = x[(int)order[c]];
        pl_buf_finish(m->kernels, out, forms, i, 0, out->dim);
    }
}
