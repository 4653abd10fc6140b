/* Norms of rows, and of each query and key head. */
#include "ops.h"

static void rms(const pl_model_tables *m, const pl_op *op, const float *x, int n, float *y)
{
    m->kernels->rms_norm(x, m->vecs[op->vec], n, op->eps, y);
}

static void layer(const pl_model_tables *m, const pl_op *op, const float *x, int n, float *y)
{
    m->kernels->layer_norm(x, m->vecs[op->vec], op->vec2 < 0 ? NULL : m->vecs[op->vec2], n, op->eps, y);
}

static const struct {
    const char *name;
    void (*run)(const pl_model_tables *m, const pl_op *op, const float *x, int n, float *y);
    int bias; /* 1: vec2 may be its bias */
} norms[PL_N_NORMS] = {[PL_NORM_RMS] = {"rms", rms, 0}, [PL_NORM_LAYER] = {"layer", layer, 1}};

const char *pl_norm_name(int i)
{
    return i >= 0 && i < PL_N_NORMS ? norms[i].name : NULL;
}

void pl_norm_row(const pl_model_tables *m, const pl_op *op, const float *x, int n, float *y)
{
    norms[op->norm].run(m, op, x, n, y);
}

const char *pl_check_norm_of(const pl_plan *p, const pl_op *op, int n)
{
    if (!pl_inside(op->norm, PL_N_NORMS))
        return "its kind of norm";
    if (!pl_has_vec(p, op->vec, n))
        return "its norm's weight";
    return op->vec2 < 0 || (norms[op->norm].bias && pl_has_vec(p, op->vec2, n)) ? NULL : "its norm's bias";
}

const char *pl_check_norm(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_norm_of(p, op, p->buf_dim[op->in]);
    return wrong ? wrong : p->buf_dim[op->in] == p->buf_dim[op->out] ? NULL : "its width";
}

void pl_op_norm(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        pl_norm_row(m, op, in->f + (size_t)i * in->dim, in->dim, out->f + (size_t)i * out->dim);
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
