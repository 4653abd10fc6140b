/* The embedding: looks up a row for each token. */
#include "ops.h"

void pl_op_embed(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *out = &m->bufs[op->out];
    const pl_mat *w = &m->mats[m->segs[op->seg].mat];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        float *y = out->f + (size_t)i * out->dim;
        int token = r->rows[i].token;
        if (w->tile_bytes)
            m->kernels->unpack_row[w->format->id](w, token, y);
        else
            pl_decode(w->format, w->data + pl_row_bytes(w->format, w->k) * token, y, w->k);
        if (op->scale != 1.0f)
            m->kernels->scale(y, op->scale, out->dim, y);
        pl_buf_finish(m->kernels, out, forms, i, 0, out->dim);
    }
}
