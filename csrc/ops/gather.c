/* Rows, or the columns of a head or an expert, side by side as a kernel reads them. */
#include <string.h>

#include "ops.h"

void pl_gather_begin(pl_buf *rows, void *memory, const pl_buf *in, int k, int forms, int n)
{
    size_t size = 0;
    *rows = (pl_buf){.dim = k, .forms = forms, .stored = in->stored};
    pl_buf_layout(rows, (size_t)n, memory, &size);
}

void pl_gather_row(const pl_buf *rows, const pl_buf *in, int row, int column, int at, int floats)
{
    const size_t w = (size_t)rows->dim, dim = (size_t)in->dim, terms = (size_t)in->stored;
    const size_t c = (size_t)column, from = (size_t)row, to = (size_t)at;
    if (floats)
        memcpy(rows->f + to * w, in->f + from * dim + c, w * sizeof(float));
    if (rows->forms & PL_FORM_BF16) {
        uint16_t *b = rows->b + to * ((w + 1) / 2 * 2);
        memcpy(b, in->b + from * ((dim + 1) / 2 * 2) + c, w * sizeof *b);
        if (w & 1)
            b[w] = 0;
    }
    if (!(rows->forms & PL_FORM_Q8))
        return;
    memcpy(rows->s + to * (w / 32), in->s + from * (dim / 32) + c / 32, w / 32 * sizeof(float));
    for (size_t t = 0; t < terms; t++) {
        memcpy(rows->q + (to * terms + t) * w, in->q + (from * terms + t) * dim + c, w);
        memcpy(rows->sums + (to * terms + t) * (w / 16), in->sums + (from * terms + t) * (dim / 16) + c / 16,
               w / 16 * sizeof(int16_t));
    }
}

/* Whether an operation gathers rows of its input: those of an expert, or the columns of a head. */
static int gathers(const pl_plan *p, const pl_op *op, const pl_segment *seg)
{
    return pl_op_table[op->kind].routed ||
           (op->kind == PL_OP_LINEAR && p->mats[seg->mat].k != p->buf_dim[pl_segment_in(op, seg)]);
}

size_t pl_gather_bytes(const pl_plan *p, const pl_buf *bufs, int max_rows)
{
    size_t bytes = 0, n = (size_t)(max_rows < PL_GATHERED ? max_rows : PL_GATHERED);
    for (int i = 0; i < p->n_ops; i++) {
        const pl_op *op = &p->ops[i];
        for (int s = op->seg; pl_op_table[op->kind].multiplies && s < op->seg + op->n_seg; s++) {
            const pl_segment *seg = &p->segs[s];
            if (!gathers(p, op, seg))
                continue;
            const pl_buf *in = &bufs[pl_segment_in(op, seg)];
            pl_buf rows = {.dim = p->mats[seg->mat].k, .forms = in->forms, .stored = in->stored};
            size_t size = 0;
            pl_buf_layout(&rows, n, NULL, &size);
            bytes = size > bytes ? size : bytes;
        }
    }
    return bytes;
}
