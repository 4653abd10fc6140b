/* Decides which forms each buffer has besides float32, and which operation writes them. */
#include "model.h"

int pl_op_forms(const pl_plan *p, const pl_op *op, int buf)
{
    const pl_op_desc *d = &pl_op_table[op->kind];
    int forms = 0;
    for (int s = op->seg; d->multiplies && !d->own_rows && s < op->seg + op->n_seg; s++)
        if (pl_segment_in(op, &p->segs[s]) == buf)
            forms |= pl_format_form(pl_format_from_gguf(p->mats[p->segs[s].mat].gguf_type));
    return forms;
}

/* Int8 terms of every segment's activations: the most that the plan, the options or an operation using the segment
 * requires. Set before buffers are laid out, because their sizes depend on it. */
static void set_terms(pl_model *m, pl_segment *segs)
{
    for (int i = 0; i < m->plan.n_ops; i++) {
        const pl_op *op = &m->plan.ops[i];
        const pl_op_desc *d = &pl_op_table[op->kind];
        int least = d->least_terms > m->options.least_terms ? d->least_terms : m->options.least_terms;
        for (int s = op->seg; d->multiplies && s < op->seg + op->n_seg; s++)
            if (segs[s].terms < least)
                segs[s].terms = least;
    }
}

/* Forms of operation i's output that are read before it is overwritten. */
static int forms_after(const pl_plan *p, int i)
{
    int buf = p->ops[i].out, forms = 0;
    for (int j = i + 1; j < p->n_ops; j++) {
        const pl_op *op = &p->ops[j];
        const pl_op_desc *d = &pl_op_table[op->kind];
        forms |= pl_op_forms(p, op, buf);
        if (d->writes & PL_OUT && !pl_op_keeps(p, op) && op->out == buf)
            break;
    }
    return forms;
}

/* Whether operation i's output is read as float32 before it is overwritten. Products that read its rows in another form
 * do not count. */
static int floats_are_read(const pl_plan *p, int i)
{
    const int buf = p->ops[i].out;
    for (int j = i + 1; j < p->n_ops; j++) {
        const pl_op *op = &p->ops[j];
        const pl_op_desc *d = &pl_op_table[op->kind];
        const int multiplies = d->multiplies && !d->own_rows && !d->routed;
        if ((!multiplies && op->in == buf) || (d->reads & PL_TMP && op->tmp == buf) ||
            (pl_op_reads_out(p, op) && op->out == buf))
            return 1;
        for (int s = op->seg; multiplies && s < op->seg + op->n_seg; s++) {
            const pl_mat_desc *mat = &p->mats[p->segs[s].mat];
            const int whole = mat->k == p->buf_dim[buf]; /* else parts of rows are gathered */
            if (pl_segment_in(op, &p->segs[s]) == buf &&
                !(whole && pl_format_form(pl_format_from_gguf(mat->gguf_type))))
                return 1;
        }
        if (d->writes & PL_OUT && op->out == buf)
            return 0;
    }
    return 0;
}

void pl_forms_set(pl_model *m, pl_segment *segs, uint8_t *finish)
{
    set_terms(m, segs);
    for (int i = 0; i < m->plan.n_bufs; i++)
        m->bufs[i] = (pl_buf){.dim = m->plan.buf_dim[i], .stored = m->options.least_terms};
    for (int i = 0; i < m->plan.n_ops; i++) {
        const pl_op *op = &m->plan.ops[i];
        const pl_op_desc *d = &pl_op_table[op->kind];
        if (!d->multiplies)
            continue;
        pl_buf *in = &m->bufs[op->in];
        if (d->own_rows) {
            m->head_op = i;
            m->head_rows = (pl_buf){.dim = in->dim, .stored = d->least_terms};
            in = &m->head_rows;
        }
        for (int s = op->seg; s < op->seg + op->n_seg; s++) {
            if (!d->own_rows)
                in = &m->bufs[pl_segment_in(op, &segs[s])];
            in->forms |= pl_format_form(m->mats[segs[s].mat].format);
            in->stored = segs[s].terms > in->stored ? segs[s].terms : in->stored;
        }
    }
    for (int i = 0; i < m->plan.n_ops; i++)
        if (pl_op_table[m->plan.ops[i].kind].writes & PL_OUT)
            finish[i] = (uint8_t)(forms_after(&m->plan, i) | (floats_are_read(&m->plan, i) ? PL_FORM_FLOAT : 0));
}
