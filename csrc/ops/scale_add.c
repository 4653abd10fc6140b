/* Scales columns of rows at some positions and adds a vector, or another buffer before that, to them. */
#include <string.h>

#include "ops.h"

const char *pl_check_scale_add(const pl_plan *p, const pl_op *op)
{
    if (op->width < 1 || op->column < 0 || op->width > p->buf_dim[op->out] - op->column)
        return "its columns";
    if (op->width > p->buf_dim[op->in] - op->column)
        return "its input's columns";
    if (op->pos_from < 0 || op->pos_from >= op->pos_to)
        return "its positions";
    int64_t each = op->each ? (int64_t)op->pos_to - op->pos_from : 1;
    int fits = op->vec < 0 || (pl_inside(op->vec, p->n_vecs) && p->vecs[op->vec].n == op->width * each);
    return fits ? NULL : "what it adds";
}

void pl_op_scale_add(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_kernels *k = m->kernels;
    const pl_buf *b = &m->bufs[op->out], *in = &m->bufs[op->in];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        int pos = r->rows[i].pos;
        if (pos < op->pos_from || pos >= op->pos_to)
            continue;
        float *y = b->f + (size_t)i * b->dim + op->column;
        const float *x = NULL;
        if (in != b)
            k->add(y, in->f + (size_t)i * in->dim + op->column, op->width, y);
        if (op->vec >= 0)
            x = m->vecs[op->vec] + (op->each ? (size_t)(pos - op->pos_from) * op->width : 0);
        if (x && op->scale == 0.0f) { /* replace: 0 * y would keep NaN and inf */
            memcpy(y, x, sizeof(float) * (size_t)op->width);
        } else {
            if (op->scale != 1.0f)
                k->scale(y, op->scale, op->width, y);
            if (x)
                k->add(y, x, op->width, y);
        }
        pl_buf_finish(k, b, forms, i, 0, b->dim);
    }
}
