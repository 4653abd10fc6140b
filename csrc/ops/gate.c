/* Gates of outputs: of each column, of each head, or of whole rows. */
#include "ops.h"

#define AT_ONCE 64 /* gates of several columns each, computed together */

const char *pl_check_gate(const pl_plan *p, const pl_op *op)
{
    int n = p->buf_dim[op->out];
    if (op->each < 1)
        return "its groups";
    if (op->column < 0 || op->column > p->buf_dim[op->in] - (n + op->each - 1) / op->each)
        return "its columns";
    return pl_act_name(op->act) && op->act != PL_ACT_OAI && op->act != PL_ACT_XIELU ? NULL : "its activation";
}

static void gate_groups(const pl_kernels *k, const pl_op *op, const float *g, float *y, int n)
{
    float a[AT_ONCE];
    for (int i = 0; i < n; g += AT_ONCE) {
        int groups = (n - i + op->each - 1) / op->each;
        groups = groups < AT_ONCE ? groups : AT_ONCE;
        k->glu[op->act](g, NULL, NULL, groups, a);
        for (int j = 0; j < groups; j++, i += op->each)
            k->scale(y + i, a[j], n - i < op->each ? n - i : op->each, y + i);
    }
}

void pl_op_gate(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        const float *g = in->f + (size_t)i * in->dim + op->column;
        float *y = out->f + (size_t)i * out->dim;
        if (op->each == 1)
            m->kernels->glu[op->act](g, y, NULL, out->dim, y);
        else
            gate_groups(m->kernels, op, g, y, out->dim);
        pl_buf_finish(m->kernels, out, forms, i, 0, out->dim);
    }
}
