/* Root mean square norms: of rows, and of each query and key head. */
#include "ops.h"

const char *pl_check_norm(const pl_plan *p, const pl_op *op)
{
    if (!pl_has_vec(p, op->vec, p->buf_dim[op->in]))
        return "its weight";
    return p->buf_dim[op->in] == p->buf_dim[op->out] ? NULL : "its width";
}

void pl_op_norm(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        m->kernels->rms_norm(in->f + (size_t)i * in->dim, m->vecs[op->vec], in->dim, op->eps,
                             out->f + (size_t)i * out->dim);
        pl_buf_finish(m->kernels, out, forms, i, 0, out->dim);
    }
}

const char *pl_check_head_norm(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_heads(p, op);
    if (wrong)
        return wrong;
    int dk = p->caches[op->cache].dk;
    return pl_has_vec(p, op->vec, dk) && pl_has_vec(p, op->vec2, dk) ? NULL : "its weight";
}

void pl_op_head_norm(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *b = &m->bufs[op->in];
    const pl_cache_desc *c = &m->caches[op->cache];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        float *x = b->f + (size_t)i * b->dim;
        for (int h = 0; h < c->n_q + c->n_kv; h++, x += c->dk)
            m->kernels->rms_norm(x, m->vecs[h < c->n_q ? op->vec : op->vec2], c->dk, op->eps, x);
        pl_buf_finish(m->kernels, b, forms, i, 0, b->dim);
    }
}
