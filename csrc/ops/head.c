/* The head: the final norm of the rows that want their hidden state; final norm and logits of the rows that want those,
 * in blocks of at most 16 rows. */
#include <string.h>

#include "ops.h"

/* Whether every value is finite, that is, does not have all exponent bits set. */
static int all_finite(const float *x, int n)
{
    uint32_t bad = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

const char *pl_check_head(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_norm_of(p, op, p->buf_dim[op->in]);
    if (wrong)
        return wrong;
    return op == p->ops + p->n_ops - 1 ? NULL : "a head before the end";
}

static void store_hidden(const pl_run *r, const pl_op *op, int tid)
{
    const pl_buf *in = &r->m->bufs[op->in];
    for (int i = tid; i < r->n_hiddens; i += pl_team_size(r->team)) {
        float *y = r->hidden + (size_t)i * in->dim;
        pl_norm_row(r->m, op, in->f + (size_t)r->hiddens[i] * in->dim, in->dim, y);
        if (!all_finite(y, in->dim))
            pl_bad(r, r->hiddens[i], PL_BAD_LOGITS);
    }
}

void pl_op_head(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_kernels *k = m->kernels;
    const pl_buf *in = &m->bufs[op->in], *h = r->head_rows;
    const pl_segment *seg = &m->segs[op->seg]; /* an encoder has none, and none of its rows wants logits */
    int size = pl_team_size(r->team), vocab = m->vocab;
    int64_t from, to;
    store_hidden(r, op, tid);
    pl_share((vocab + PL_TILE - 1) / PL_TILE, 1, tid, size, &from, &to);
    int c0 = (int)from * PL_TILE, c1 = to * PL_TILE < vocab ? (int)to * PL_TILE : vocab;
    for (int base = 0; base < r->n_wants; base += PL_HEAD_ROWS) {
        int n = r->n_wants - base < PL_HEAD_ROWS ? r->n_wants - base : PL_HEAD_ROWS;
        float *y = r->store ? r->store + (size_t)base * vocab : r->logits;
        for (int i = tid; i < n; i += size) {
            pl_norm_row(m, op, in->f + (size_t)r->wants[base + i] * in->dim, in->dim, h->f + (size_t)i * h->dim);
            pl_buf_finish(k, h, h->forms, i, 0, h->dim);
        }
        pl_team_barrier(r->team);
        if (from < to)
            pl_segment_run(r, seg, (int)from, (int)to, h, 0, n, y, vocab, tid, 0);
        for (int i = 0; i < n && c0 < c1; i++) {
            float *yi = y + (size_t)i * vocab + c0;
            if (op->cap > 0)
                k->softcap(yi, op->cap, c1 - c0, yi);
            if (r->store && !all_finite(yi, c1 - c0))
                pl_bad(r, r->wants[base + i], PL_BAD_LOGITS);
        }
        pl_team_barrier(r->team);
        if (!r->store) {
            for (int i = tid; i < n; i += size) {
                int wrong = r->consume(r->consume_arg, base + i, y + (size_t)i * vocab, tid);
                if (wrong)
                    pl_bad(r, r->wants[base + i], wrong);
            }
            if (base + n < r->n_wants)
                pl_team_barrier(r->team);
        }
    }
}
