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
    /* Tiles per step, an even number (blocks of 32 are quantised): few enough that the columns of both halves are
     * still cached when they are multiplied. With few rows, all tiles are. */
    int dim = out->dim, step = r->n_rows <= 16 ? pl_segment_tiles(m, seg) : m->tuning.step_tiles & ~1;
    int from, to, forms = pl_finishes(r, op);
    pl_my_tiles(r, op, 0, tid, &from, &to);
    for (int row = 0, n; row < r->n_rows; row += n) {
        n = pl_rows_at_once(r, seg, row);
        for (int t = from; t < to; t += step) {
            int t1 = t + step < to ? t + step : to;
            int c0 = t * PL_TILE, c1 = t1 * PL_TILE < dim ? t1 * PL_TILE : dim;
            float *gate = out->f + (size_t)row * dim, *other = up ? up->f + (size_t)row * dim : NULL;
            pl_segment_run(r, &seg[0], t, t1, in, row, n, gate, dim, tid, t > from);
            if (up)
                pl_segment_run(r, &seg[1], t, t1, in, row, n, other, dim, tid, 1);
            for (int i = 0; i < n; i++) {
                size_t at = (size_t)i * dim + c0;
                pl_act_row(m, op, gate + at, up ? other + at : NULL, c1 - c0, gate + at);
                pl_buf_finish(m->kernels, out, forms, row + i, c0, c1);
            }
        }
    }
}
