/* Validates a plan: after this, the executor trusts every id, shape and size in it. */
#include <stdarg.h>
#include <stdio.h>

#include "model.h"

#define MAX_DIM (1 << 24)
#define MAX_FREQ (1 << 20) /* of a rotation, per position: angles stay below 2^51, an exact number of quarter turns */

pl_status pl_fail(pl_error *error, pl_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return status;
}

#define FAIL(...) return pl_fail(error, PL_E_PLAN, __VA_ARGS__)

static const char *const names[PL_N_OPS] = {"embed",  "norm",       "linear", "head_norm", "rope_append",
                                            "attend", "linear_add", "glu",    "head",      "scale_add"};

static int inside(int32_t id, int32_t n)
{
    return id >= 0 && id < n;
}

/* A vector of n floats. */
static int has_vec(const pl_plan *p, int32_t id, int32_t n)
{
    return inside(id, p->n_vecs) && p->vecs[id].n == n;
}

static pl_status check_tables(const pl_plan *p, pl_error *error)
{
    if (p->n_ops < 1 || p->n_bufs < 1 || p->vocab < 1)
        FAIL("a plan needs operations, buffers and a vocabulary");
    for (int i = 0; i < p->n_bufs; i++)
        if (p->buf_dim[i] < 1 || p->buf_dim[i] > MAX_DIM)
            FAIL("buffer %d: %d columns", i, p->buf_dim[i]);
    for (int i = 0; i < p->n_vecs; i++)
        if (p->vecs[i].n < 1 || !p->vecs[i].data)
            FAIL("vector %d is empty", i);
    for (int i = 0; i < p->n_mats; i++) {
        const pl_mat_desc *m = &p->mats[i];
        const pl_format *f = pl_format_from_gguf(m->gguf_type);
        if (!f)
            FAIL("matrix %d: type %d is not supported", i, m->gguf_type);
        if (m->rows < 1 || m->k < 1 || m->rows > MAX_DIM || m->k > MAX_DIM)
            FAIL("matrix %d: shape (%d, %d)", i, m->rows, m->k);
        int64_t row = pl_row_bytes(f, m->k);
        if (row < 0 || (!(f->flags & PL_FLOAT) && m->k % PL_BLOCK))
            FAIL("matrix %d: %d columns are no multiple of %s's block", i, m->k, f->name);
        if (!m->src || m->bytes != row * m->rows)
            FAIL("matrix %d: %lld bytes, expected %lld", i, (long long)m->bytes, (long long)(row * m->rows));
    }
    for (int i = 0; i < p->n_segs; i++) {
        const pl_segment *s = &p->segs[i];
        if (!inside(s->mat, p->n_mats) || s->column < 0)
            FAIL("segment %d: no such matrix or column", i);
        if (s->bias >= 0 && !has_vec(p, s->bias, p->mats[s->mat].rows))
            FAIL("segment %d: its bias does not have %d entries", i, p->mats[s->mat].rows);
    }
    for (int i = 0; i < p->n_ropes; i++) {
        const pl_rope_desc *r = &p->ropes[i];
        if (r->n_rot < 2 || r->n_rot % 2 || r->n_rot > MAX_DIM || !r->freq)
            FAIL("rope %d: %d rotated dimensions", i, r->n_rot);
        for (int j = 0; j < r->n_rot / 2; j++)
            if (!(r->freq[j] >= 0 && r->freq[j] <= MAX_FREQ)) /* NaN too */
                FAIL("rope %d: frequency %d is %g, expected 0 to %d", i, j, r->freq[j], MAX_FREQ);
    }
    if (p->n_caches < 1 || p->n_caches > PL_MAX_GROUPS)
        FAIL("%d cache groups, expected 1 to %d", p->n_caches, PL_MAX_GROUPS);
    for (int i = 0; i < p->n_caches; i++) {
        const pl_cache_desc *c = &p->caches[i];
        if (c->n_layers < 1 || c->n_layers > 4096 || c->n_q < 1 || c->n_kv < 1 || c->n_q > 4096 || c->n_q % c->n_kv ||
            c->dk < 1 || c->dv < 1 || c->dk > 4096 || c->dv > 4096 || c->window < 0)
            FAIL("cache group %d: %d layers of %d query heads, %d kv heads, widths %d and %d, window %d", i,
                 c->n_layers, c->n_q, c->n_kv, c->dk, c->dv, c->window);
    }
    return PL_OK;
}

static pl_status check_op(const pl_plan *p, int i, pl_error *error)
{
    const pl_op *op = &p->ops[i];
    if (op->kind < 0 || op->kind >= PL_N_OPS)
        FAIL("operation %d: unknown kind %d", i, op->kind);
    const char *name = names[op->kind];
#define NEED(condition, what)                                                                                          \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            FAIL("operation %d (%s, layer %d): %s does not fit", i, name, op->layer, what);                            \
    } while (0)
    int in = 0, out = 0;
    if (op->kind != PL_OP_EMBED) {
        NEED(inside(op->in, p->n_bufs), "its input");
        in = p->buf_dim[op->in];
    }
    if (op->kind != PL_OP_HEAD && op->kind != PL_OP_HEAD_NORM && op->kind != PL_OP_ROPE_APPEND) {
        NEED(inside(op->out, p->n_bufs), "its output");
        NEED(op->kind == PL_OP_EMBED || (op->out == op->in) == (op->kind == PL_OP_SCALE_ADD), "writing into its input");
        out = p->buf_dim[op->out];
    }
    int segs = op->kind == PL_OP_LINEAR ? op->n_seg : op->kind == PL_OP_GLU ? 2 : 1;
    int has_segs = op->kind == PL_OP_EMBED || op->kind == PL_OP_LINEAR || op->kind == PL_OP_LINEAR_ADD ||
                   op->kind == PL_OP_GLU || op->kind == PL_OP_HEAD;
    NEED(has_segs || op->n_seg == 0, "its list of segments"); /* of one that reads no matrix */
    if (has_segs) {
        int column =
            0; /* a linear's segments stand side by side: none writes over another, and no column is left out */
        NEED(op->n_seg == segs && segs >= 1 && op->seg >= 0 && op->seg <= p->n_segs - segs, "its list of segments");
        for (int s = op->seg; s < op->seg + segs; s++) {
            const pl_mat_desc *m = &p->mats[p->segs[s].mat];
            NEED(!m->mapped || op->kind == PL_OP_EMBED, "a matrix that is not packed");
            NEED(m->k == (op->kind == PL_OP_EMBED ? out : in), "a matrix' columns");
            NEED(p->segs[s].terms == 1 || p->segs[s].terms == 2, "terms");
            if (op->kind == PL_OP_EMBED || op->kind == PL_OP_HEAD)
                NEED(m->rows == p->vocab && p->segs[s].column == 0, "the vocabulary");
            else if (op->kind == PL_OP_LINEAR)
                NEED(p->segs[s].column == column && m->rows <= out - column, "a segment's columns");
            else
                NEED(m->rows == out && p->segs[s].column == 0, "a matrix' rows");
            column += m->rows;
        }
        NEED(op->kind != PL_OP_LINEAR || column == out, "its segments' columns");
    }
    if (op->kind == PL_OP_NORM || op->kind == PL_OP_HEAD)
        NEED(has_vec(p, op->vec, in), "its weight");
    if (op->kind == PL_OP_NORM)
        NEED(in == out, "its width");
    if (op->kind == PL_OP_LINEAR_ADD)
        NEED(op->vec < 0 || has_vec(p, op->vec, out), "its post-norm");
    if (op->kind == PL_OP_LINEAR_ADD || op->kind == PL_OP_GLU)
        NEED(inside(op->tmp, p->n_bufs) && p->buf_dim[op->tmp] == out && op->tmp != op->in && op->tmp != op->out,
             "its temporary");
    if (op->kind == PL_OP_GLU)
        NEED(op->act == PL_ACT_SILU || op->act == PL_ACT_GELU_TANH, "its activation");
    if (op->kind == PL_OP_HEAD_NORM || op->kind == PL_OP_ROPE_APPEND || op->kind == PL_OP_ATTEND) {
        NEED(inside(op->cache, p->n_caches), "its cache group");
        const pl_cache_desc *c = &p->caches[op->cache];
        NEED(in == c->n_q * c->dk + c->n_kv * (c->dk + c->dv), "its input's width");
        if (op->kind == PL_OP_HEAD_NORM)
            NEED(has_vec(p, op->vec, c->dk) && has_vec(p, op->vec2, c->dk), "its weight");
        else
            NEED(inside(op->cache_layer, c->n_layers), "its cache layer");
        if (op->kind == PL_OP_ROPE_APPEND)
            NEED(inside(op->rope, p->n_ropes) && p->ropes[op->rope].n_rot <= c->dk, "its rope");
        if (op->kind == PL_OP_ATTEND)
            NEED(out == c->n_q * c->dv, "its output's width");
    }
    if (op->kind == PL_OP_SCALE_ADD) {
        NEED(op->width >= 1 && op->column >= 0 && op->width <= out - op->column, "its columns");
        NEED(op->pos_from >= 0 && op->pos_from < op->pos_to, "its positions");
        NEED(op->vec < 0 || (inside(op->vec, p->n_vecs) &&
                             p->vecs[op->vec].n == op->width * (op->each ? (int64_t)op->pos_to - op->pos_from : 1)),
             "what it adds");
    }
    NEED(op->kind != PL_OP_HEAD || i == p->n_ops - 1, "a head before the end");
    return PL_OK;
}

pl_status pl_plan_check(const pl_plan *p, pl_error *error)
{
    pl_status status = check_tables(p, error);
    for (int i = 0; i < p->n_ops && !status; i++)
        status = check_op(p, i, error);
    return status;
}
