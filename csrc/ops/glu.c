/* The gated unit. */
#include "ops.h"

const char *pl_check_glu(const pl_plan *p, const pl_op *op)
{
    (void)p;
    return pl_act_name(op->act) ? NULL : "its activation";
}

void pl_op_glu(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_kernels *k = m->kernels;
    const pl_buf *in = &m->bufs[op->in], *up = &m->bufs[op->tmp], *out = &m->bufs[op->out];
    const pl_segment *seg = &m->segs[op->seg];
    /* Tiles per step, an even number (blocks of 32 are quantised): few enough that the columns of both halves are
     * still cached when they are multiplied. With few rows, all tiles are. */
    int dim = out->dim, step = r->n_rows <= 16 ? pl_segment_tiles(m, seg) : m->tuning.step_tiles & ~1;
    int from, to, forms = pl_finishes(r, op);
    pl_my_tiles(r, op, 0, tid, &from, &to);
    for (int row = 0, n; row < r->n_rows; row += n) {
        n = pl_rows_at_once(r, row);
        for (int t = from; t < to; t += step) {
            int t1 = t + step < to ? t + step : to;
            int c0 = t * PL_TILE, c1 = t1 * PL_TILE < dim ? t1 * PL_TILE : dim;
            float *gate = out->f + (size_t)row * dim;
            const float *other = up->f + (size_t)row * dim;
            pl_segment_run(r, &seg[0], t, t1, in, row, n, gate, dim, tid, t > from);
            pl_segment_run(r, &seg[1], t, t1, in, row, n, up->f + (size_t)row * dim, dim, tid, 1);
            for (int i = 0; i < n; i++) {
                float *g = gate + (size_t)i * dim + c0;
                k->glu[op->act](g, other + (size_t)i * dim + c0, c1 - c0, g);
                pl_buf_finish(k, out, forms, row + i, c0, c1);
            }
        }
    }
}
