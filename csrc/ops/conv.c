/* The causal convolution of recurrent layers, divided by channels. */
#include <string.h>

#include "ops.h"

static int inputs(const pl_op *op)
{
    return op->flags & PL_CONV_GATED ? 3 : 1; /* times the channels */
}

const char *pl_check_conv(const pl_plan *p, const pl_op *op)
{
    if (!pl_inside(op->state, p->n_states) || !pl_inside(op->state_layer, p->states[op->state].n_layers))
        return "its state";
    const pl_state_desc *d = &p->states[op->state];
    if (p->buf_dim[op->out] != d->channels)
        return "its output's width";
    if (op->column < 0 || (int64_t)op->column + (int64_t)inputs(op) * d->channels > p->buf_dim[op->in])
        return "its columns";
    if (!pl_has_vec(p, op->vec, d->taps * d->channels) || (op->vec2 >= 0 && !pl_has_vec(p, op->vec2, d->channels)))
        return "its weight";
    return pl_act_name(op->act) && op->act != PL_ACT_OAI && op->act != PL_ACT_XIELU ? NULL : "its activation";
}

/* The input of a part's row t, from channel c on; t < 0: a row before the pass. *by: its factor, or NULL. */
static const float *input(const pl_run *r, const pl_op *op, const pl_part *part, int t, int c, const float **by)
{
    const pl_model_tables *m = r->m;
    const pl_state_desc *d = &m->states[op->state];
    const pl_buf *in = &m->bufs[op->in];
    *by = NULL;
    if (t < 0) {
        const float *state = pl_seq_state(r->seqs[part->seq], m->state_group);
        if (!state)
            return m->zeros;
        state += m->state_at[op->state] + (size_t)op->state_layer * pl_state_floats(d);
        return state + (size_t)(d->taps - 1 + t) * d->channels + c;
    }
    const float *x = in->f + (size_t)(part->row + t) * in->dim + op->column + c;
    if (op->flags & PL_CONV_GATED) {
        *by = x;
        x += 2 * (size_t)d->channels;
    }
    return x;
}

static void run_row(const pl_run *r, const pl_op *op, const pl_part *part, int i, int c0, int c1, int forms)
{
    const pl_model_tables *m = r->m;
    const pl_state_desc *d = &m->states[op->state];
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    float *y = out->f + (size_t)(part->row + i) * out->dim + c0;
    const float *last = NULL;
    pl_conv c = {.taps = d->taps,
                 .w = m->vecs[op->vec] + c0,
                 .w_stride = d->channels,
                 .bias = op->vec2 < 0 ? NULL : m->vecs[op->vec2] + c0};
    for (int j = 0; j < d->taps; j++)
        c.x[j] = input(r, op, part, i - (d->taps - 1) + j, c0, &c.by[j]);
    if (op->flags & PL_CONV_GATED)
        last = in->f + (size_t)(part->row + i) * in->dim + op->column + d->channels + c0;
    m->kernels->conv(&c, c1 - c0, y);
    if (op->act != PL_ACT_NONE || last)
        m->kernels->glu[op->act](y, last, NULL, c1 - c0, y);
    pl_buf_finish(m->kernels, out, forms, part->row + i, c0, c1);
}

/* The last inputs of a part -> the next state. Returns whether they are finite. */
static int keep(const pl_run *r, const pl_op *op, const pl_part *part, int c0, int c1)
{
    const pl_state_desc *d = &r->m->states[op->state];
    float *next = pl_seq_next(r->seqs[part->seq], r->m->state_group) + r->m->state_at[op->state] +
                  (size_t)op->state_layer * pl_state_floats(d);
    uint32_t bad = 0;
    for (int j = 0; j < d->taps - 1; j++) {
        const float *by, *x = input(r, op, part, part->n - (d->taps - 1) + j, c0, &by);
        float *to = next + (size_t)j * d->channels + c0;
        for (int c = 0; c < c1 - c0; c++) {
            uint32_t u;
            to[c] = by ? x[c] * by[c] : x[c];
            memcpy(&u, to + c, sizeof u);
            bad |= (u & 0x7f800000u) == 0x7f800000u;
        }
    }
    return !bad;
}

void pl_op_conv(const pl_run *r, const pl_op *op, int tid)
{
    const int n = r->m->states[op->state].channels, forms = pl_finishes(r, op);
    int64_t from, to;
    pl_share((n + PL_TILE - 1) / PL_TILE, forms ? 2 : 1, tid, pl_team_size(r->team), &from, &to);
    const int c0 = (int)from * PL_TILE, c1 = to * PL_TILE < n ? (int)to * PL_TILE : n;
    for (int p = 0; p < r->n_parts && c0 < c1; p++) {
        const pl_part *part = &r->parts[p];
        for (int i = 0; i < part->n; i++)
            run_row(r, op, part, i, c0, c1, forms);
        if (!keep(r, op, part, c0, c1))
            pl_bad(r, part->row, PL_BAD_KEYS);
    }
}
