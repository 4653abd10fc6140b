/* The recurrence of recurrent layers, row after row.
 *
 * The unit of work is 16 columns of one value head's state of one sequence: they do not depend on other columns, and
 * stay in the first-level cache while the sequence's rows pass. */
#include <string.h>

#include "ops.h"

static int is_delta(const pl_op *op)
{
    return (op->flags & PL_SCAN_DELTA) != 0;
}

static int is_each(const pl_op *op)
{
    return (op->flags & PL_SCAN_EACH) != 0;
}

const char *pl_check_scan(const pl_plan *p, const pl_op *op)
{
    if (!pl_inside(op->state, p->n_states) || !pl_inside(op->state_layer, p->states[op->state].n_layers))
        return "its state";
    const pl_state_desc *d = &p->states[op->state];
    if (d->n_v < 1 || (is_each(op) && !is_delta(op)))
        return "its state";
    const int64_t n = d->n_v, dts = is_each(op) ? n * d->dk : n, gates = dts + (is_delta(op) ? n : 0);
    if (p->buf_dim[op->in] != 2 * d->n_k * d->dk + d->n_v * d->dv)
        return "its input's width";
    if (p->buf_dim[op->out] != d->n_v * d->dv)
        return "its output's width";
    if (op->column < 0 || op->column > p->buf_dim[op->tmp] - gates)
        return "its gates' columns";
    return pl_has_vec(p, op->vec, n + dts + (is_delta(op) ? 0 : n)) ? NULL : "its vector";
}

/* log(1 + t), 0 <= t <= 1: 2 artanh(t / (2 + t)); the rest of the series is below 1e-11. */
static float log1p_of(float t)
{
    const double s = t / (2.0 + t), z = s * s;
    double sum = 0;
    for (int i = 21; i > 0; i -= 2)
        sum = sum * z + 1.0 / i;
    return (float)(2 * s * sum);
}

/* q_scale or k_scale of a head: by / sqrt(sum of squares + eps); eps = 0: by. */
static float scale_of(const float *x, int n, float eps, float by)
{
    float lane[16] = {0};
    int i = 0;
    if (eps == 0.0f)
        return by;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++)
            lane[j] += x[i + j] * x[i + j];
    for (int j = 0; i < n; i++, j++)
        lane[j] += x[i] * x[i];
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return by / __builtin_sqrtf(lane[0] + eps);
}

/* exp(a softplus(dt + bias)) for n dt, of which `each` have one a. */
static void compute_decays(const pl_kernels *k, const float *dt, const float *bias, const float *a, int n, int each,
                           float *decay)
{
    for (int i = 0; i < n; i++) {
        const float x = dt[i] + bias[i];
        decay[i] = x > 0 ? -x : x;
    }
    k->exp(decay, n, decay);
    for (int i = 0; i < n; i++) {
        const float x = dt[i] + bias[i];
        decay[i] = a[i / each] * ((x < 0 ? 0 : x) + log1p_of(decay[i]));
    }
    k->exp(decay, n, decay);
}

/* For one row: decay and gain (n_v) of each value head, scales (n_k) of each query and key; then, if each key channel
 * has its own, the decays (n_v, dk), and those of heads are left as they are. */
static void compute_gates(const pl_run *r, const pl_op *op, int row, float *decay)
{
    const pl_model_tables *m = r->m;
    const pl_state_desc *d = &m->states[op->state];
    const pl_buf *in = &m->bufs[op->in], *tmp = &m->bufs[op->tmp];
    const int n = d->n_v, delta = is_delta(op);
    const float *beta = tmp->f + (size_t)row * tmp->dim + op->column, *dt = beta + (delta ? n : 0);
    const float *a = m->vecs[op->vec], *bias = a + n;
    float *gain = decay + n, *q_scale = gain + n, *k_scale = q_scale + d->n_k;
    if (is_each(op)) {
        compute_decays(m->kernels, dt, bias, a, n * d->dk, d->dk, k_scale + d->n_k);
    } else {
        for (int j = 0; j < n; j++) {
            const float x = dt[j] + bias[j];
            gain[j] = x > 0 ? -x : x;
        }
        m->kernels->exp(gain, n, gain);
        for (int j = 0; j < n; j++) {
            const float x = dt[j] + bias[j];
            gain[j] = (x < 0 ? 0 : x) + log1p_of(gain[j]);
            gain[j] = gain[j] < op->cap ? op->cap : gain[j];
            gain[j] = op->limit > 0.0f && gain[j] > op->limit ? op->limit : gain[j];
            decay[j] = a[j] * gain[j];
        }
        m->kernels->exp(decay, n, decay);
    }
    if (delta) {
        for (int j = 0; j < n; j++)
            gain[j] = -beta[j];
        m->kernels->exp(gain, n, gain);
        for (int j = 0; j < n; j++)
            gain[j] = 1.0f / (1.0f + gain[j]);
    }
    const float *x = in->f + (size_t)row * in->dim + (delta ? 0 : n * d->dv);
    const float *q = delta ? x : x + d->n_k * d->dk, *k = delta ? x + d->n_k * d->dk : x;
    for (int h = 0; h < d->n_k; h++) {
        q_scale[h] = scale_of(q + (size_t)h * d->dk, d->dk, op->eps, op->scale);
        k_scale[h] = scale_of(k + (size_t)h * d->dk, d->dk, op->eps, 1.0f);
    }
}

static void run_item(const pl_run *r, const pl_op *op, const pl_part *part, int head, int block, int blocks)
{
    const pl_model_tables *m = r->m;
    const pl_state_desc *d = &m->states[op->state];
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    const int delta = is_delta(op), key = d->tiled ? head % d->n_k : head / (d->n_v / d->n_k);
    const int column = head * d->dv + block * PL_SCAN_COLUMNS, left = d->dv - block * PL_SCAN_COLUMNS;
    const size_t floats = (size_t)d->dk * PL_SCAN_COLUMNS;
    const size_t at = m->state_at[op->state] + (size_t)op->state_layer * pl_state_floats(d) + pl_state_conv_part(d) +
                      ((size_t)head * blocks + block) * floats;
    const float *x = in->f + (size_t)part->row * in->dim, *gates = r->gates + (size_t)part->row * m->gates;
    const float *before = pl_seq_state(r->seqs[part->seq], m->state_group);
    const int keys = d->n_k * d->dk, values = d->n_v * d->dv;
    const pl_scan s = {.n = part->n,
                       .dk = d->dk,
                       .cols = left < PL_SCAN_COLUMNS ? left : PL_SCAN_COLUMNS,
                       .delta = delta,
                       .q = x + (delta ? 0 : values + keys) + key * d->dk,
                       .k = x + (delta ? keys : values) + key * d->dk,
                       .v = x + (delta ? 2 * keys : 0) + column,
                       .stride = in->dim,
                       .decay = gates + head,
                       .gain = gates + d->n_v + head,
                       .q_scale = gates + 2 * d->n_v + key,
                       .k_scale = gates + 2 * d->n_v + d->n_k + key,
                       .gate_stride = m->gates,
                       .decays = is_each(op) ? gates + 2 * (d->n_v + d->n_k) + (size_t)head * d->dk : NULL,
                       .skip = delta ? 0.0f : m->vecs[op->vec][2 * d->n_v + head],
                       .state = pl_seq_next(r->seqs[part->seq], m->state_group) + at,
                       .out = out->f + (size_t)part->row * out->dim + column,
                       .out_stride = out->dim};
    if (before)
        memcpy(s.state, before + at, sizeof(float) * floats);
    else
        memset(s.state, 0, sizeof(float) * floats);
    if (m->kernels->scan(&s))
        pl_bad(r, part->row, PL_BAD_KEYS);
}

void pl_op_scan(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_state_desc *d = &m->states[op->state];
    const int blocks = (d->dv + PL_SCAN_COLUMNS - 1) / PL_SCAN_COLUMNS, each = d->n_v * blocks;
    const int64_t items = (int64_t)r->n_parts * each;
    int from, to, i, forms = pl_finishes(r, op);
    atomic_int *next = r->next + 2 * (op - r->ops);
    pl_my_rows(r, tid, &from, &to);
    for (int row = from; row < to; row++)
        compute_gates(r, op, row, r->gates + (size_t)row * m->gates);
    pl_team_barrier(r->team);
    while ((i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) < items)
        run_item(r, op, &r->parts[i / each], i % each / blocks, i % blocks, blocks);
    if (forms) {
        pl_team_barrier(r->team);
        for (int row = from; row < to; row++)
            pl_buf_finish(m->kernels, &m->bufs[op->out], forms, row, 0, m->bufs[op->out].dim);
    }
}
