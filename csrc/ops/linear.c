/* Matrix products whose outputs lie side by side. */
#include "ops.h"

void pl_op_linear(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    int from, to, again = 0, forms = pl_finishes(r, op);
    for (int s = 0; s < op->n_seg; s++) {
        pl_my_tiles(r, op, s, tid, &from, &to);
        if (from == to)
            continue;
        pl_segment_run(r, &m->segs[op->seg + s], from, to, in, 0, r->n_rows, out->f, out->dim, tid, again);
        again = 1;
    }
    if (forms) {
        pl_team_barrier(r->team);
        pl_my_rows(r, tid, &from, &to);
        for (int i = from; i < to; i++)
            pl_buf_finish(m->kernels, out, forms, i, 0, out->dim);
    }
}
