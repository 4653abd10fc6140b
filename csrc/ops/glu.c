/* The feed-forward unit, gated or plain. */
#include "ops.h"

const char *pl_check_act(const pl_plan *p, const pl_op *op, int gated)
{
    if (!pl_act_name(op->act) || (op->act == PL_ACT_OAI && !gated))
        return "its activation";
    if (!(op->limit >= 0)) /* NaN too */
        return "its limit";
    int fits = op->act == PL_ACT_XIELU ? pl_has_vec(p, op->vec, PL_XIELU_PARAMETERS) : op->vec < 0;
    return fits ? NULL : "its activation's parameters";
}

void pl_act_row(const pl_model_tables *m, const pl_op *op, float *g, float *u, int n, float *y)
{
    if (op->limit > 0) {
        m->kernels->clip(g, -__builtin_inff(), op->limit, n, g);
        if (u)
            m->kernels->clip(u, -op->limit, op->limit, n, u);
    }
    m->kernels->glu[op->act](g, u, op->vec < 0 ? NULL : m->vecs[op->vec], n, y);
}

const char *pl_check_glu(const pl_plan *p, const pl_op *op)
{
    return op->n_seg > 2 ? "its list of segments" : pl_check_act(p, op, op->n_seg == 2);
}

void pl_op_glu(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *up = op->n_seg == 2 ? &m->bufs[op->tmp] : NULL, *out = &m->bufs[op->out];
    const pl_segment *seg = &m->segs[op->seg];
    const int dim = out->dim, forms = pl_finishes(r, op), floats = pl_leaves_floats(r, op);
    int from, to, row, end;
    pl_my_tiles(r, op, 0, tid, &from, &to);
    pl_product_rows(r, op, tid, &row, &end);
    for (int n; row < end; row += n) {
        n = pl_rows_at_once(r, op, seg, end - row);
        const int step = pl_tiles_at_once(r, n, to - from);
        for (int t = from; t < to; t += step) {
            const int t1 = t + step < to ? t + step : to;
            const int c0 = t * PL_TILE, c1 = t1 * PL_TILE < dim ? t1 * PL_TILE : dim;
            const pl_products gate = pl_products_at(r, out, row, n, c0, c1, 0, tid);
            const pl_products other = up ? pl_products_at(r, up, row, n, c0, c1, 1, tid) : gate;
            pl_segment_run(r, &seg[0], t, t1, in, row, n, gate.y, gate.stride, tid, t > from);
            if (up)
                pl_segment_run(r, &seg[1], t, t1, in, row, n, other.y, other.stride, tid, 1);
            for (int i = 0; i < n; i++) {
                float *g = gate.y + i * gate.stride + c0, *u = up ? other.y + i * other.stride + c0 : NULL;
                float *y = floats ? out->f + (size_t)(row + i) * dim + c0 : g;
                pl_act_row(m, op, g, u, c1 - c0, y);
                pl_buf_put(m->kernels, out, forms, row + i, c0, c1, y);
            }
        }
    }
}
