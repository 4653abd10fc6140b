/* Norms of rows, of groups of their columns, and of each query and key head. */
#include <string.h>

#include "ops.h"

typedef void (*norm_fn)(const pl_kernels *k, const float *x, const float *w, const float *b, int n, float eps,
                        float *y);

static void rms(const pl_kernels *k, const float *x, const float *w, const float *b, int n, float eps, float *y)
{
    (void)b;
    k->rms_norm(x, w, n, eps, y);
}

static void layer(const pl_kernels *k, const float *x, const float *w, const float *b, int n, float eps, float *y)
{
    k->layer_norm(x, w, b, n, eps, y);
}

/* rms_norm divides by the root of the mean, which is that of the sum over sqrt(n). */
static void l2(const pl_kernels *k, const float *x, const float *w, const float *b, int n, float eps, float *y)
{
    (void)b;
    k->rms_norm(x, w, n, eps / (float)n, y);
    k->scale(y, 1.0f / __builtin_sqrtf((float)n), n, y);
}

static void none(const pl_kernels *k, const float *x, const float *w, const float *b, int n, float eps, float *y)
{
    (void)k, (void)w, (void)b, (void)eps;
    memmove(y, x, sizeof(float) * (size_t)n);
}

static const struct {
    const char *name;
    norm_fn run;
    int weight, bias; /* 1: vec may be its weight, vec2 its bias */
} norms[PL_N_NORMS] = {[PL_NORM_RMS] = {"rms", rms, 1, 0},
                       [PL_NORM_LAYER] = {"layer", layer, 1, 1},
                       [PL_NORM_L2] = {"l2", l2, 1, 0},
                       [PL_NORM_NONE] = {"none", none, 0, 0}};

const char *pl_norm_name(int i)
{
    return i >= 0 && i < PL_N_NORMS ? norms[i].name : NULL;
}

static const float *vec_of(const pl_model_tables *m, int32_t vec)
{
    return vec < 0 ? NULL : m->vecs[vec];
}

void pl_norm_row(const pl_model_tables *m, const pl_op *op, const float *x, int n, float *y)
{
    norms[op->norm].run(m->kernels, x, vec_of(m, op->vec), vec_of(m, op->vec2), n, op->eps, y);
}

const char *pl_check_norm_of(const pl_plan *p, const pl_op *op, int n)
{
    if (!pl_inside(op->norm, PL_N_NORMS))
        return "its kind of norm";
    if (op->vec != -1 && !(norms[op->norm].weight && pl_has_vec(p, op->vec, n)))
        return "its norm's weight";
    return op->vec2 == -1 || (norms[op->norm].bias && pl_has_vec(p, op->vec2, n)) ? NULL : "its norm's bias";
}

const char *pl_check_norm(const pl_plan *p, const pl_op *op)
{
    int in = p->buf_dim[op->in], out = p->buf_dim[op->out], width = op->width ? op->width : in;
    if (op->column < 0 || op->width < 0 || width > in - op->column || width > out - op->column)
        return "its columns";
    if (!op->width && in != out)
        return "its width";
    if (op->each < 0 || op->each > width || (op->each && width % op->each))
        return "its groups";
    return pl_check_norm_of(p, op, op->flags & PL_PER_HEAD || !op->each ? width : op->each);
}

/* Norms n columns of x in groups of `each`. own: each group has its own weights. */
static void norm_groups(const pl_model_tables *m, const pl_op *op, int32_t vec, const float *x, int n, int each,
                        int own, float *y)
{
    const float *w = vec_of(m, vec), *b = op->kind == PL_OP_NORM ? vec_of(m, op->vec2) : NULL;
    for (int i = 0; i < n; i += each)
        norms[op->norm].run(m->kernels, x + i, w && own ? w + i : w, b && own ? b + i : b, each, op->eps, y + i);
}

void pl_op_norm(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    int from, to, forms = pl_finishes(r, op), width = op->width ? op->width : in->dim;
    /* Rows that are read only in other forms need not leave the caches. */
    const int floats = pl_leaves_floats(r, op) || width < out->dim || out->dim > PL_PRODUCTS;
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        float *y = floats ? out->f + (size_t)i * out->dim : r->products[tid];
        norm_groups(m, op, op->vec, in->f + (size_t)i * in->dim + op->column, width, op->each ? op->each : width,
                    op->flags & PL_PER_HEAD, y + op->column);
        pl_buf_put(m->kernels, out, forms, i, 0, out->dim, y);
    }
}

const char *pl_check_head_norm(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_heads(p, op);
    if (wrong)
        return wrong;
    if (!pl_inside(op->norm, PL_N_NORMS) || !norms[op->norm].weight)
        return "its kind of norm";
    const pl_cache_desc *c = &p->caches[op->cache];
    int whole = op->flags & (PL_ALL_HEADS | PL_PER_HEAD);
    return pl_has_vec(p, op->vec, whole ? c->n_q * c->dk : c->dk) &&
                   pl_has_vec(p, op->vec2, whole ? c->n_kv * c->dk : c->dk)
               ? NULL
               : "its weight";
}

void pl_op_head_norm(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *b = &m->bufs[op->in];
    const pl_cache_desc *c = &m->caches[op->cache];
    int from, to, forms = pl_finishes(r, op), q = c->n_q * c->dk, k = c->n_kv * c->dk;
    int all = op->flags & PL_ALL_HEADS, own = op->flags & PL_PER_HEAD;
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        float *x = b->f + (size_t)i * b->dim;
        norm_groups(m, op, op->vec, x, q, all ? q : c->dk, own, x);
        norm_groups(m, op, op->vec2, x + q, k, all ? k : c->dk, own, x + q);
        pl_buf_finish(m->kernels, b, forms, i, 0, b->dim);
    }
}
