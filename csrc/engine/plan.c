/* Validates a plan; the executor then trusts every id, shape and size in it. */
#include "model.h"

#include <stdlib.h>

#define MAX_DIM (1 << 24)
#define MAX_FREQ (1 << 20) /* radians per position: angles stay below 2^51, where quarter turns are counted exactly */

#define FAIL(...) return pl_fail(error, PL_E_PLAN, __VA_ARGS__)

static pl_status check_buffers(const pl_plan *p, pl_error *error)
{
    if (p->n_ops < 1 || p->n_bufs < 1 || p->vocab < 1)
        FAIL("a plan needs operations, buffers and a vocabulary");
    for (int i = 0; i < p->n_bufs; i++)
        if (p->buf_dim[i] < 1 || p->buf_dim[i] > MAX_DIM)
            FAIL("buffer %d: %d columns", i, p->buf_dim[i]);
    for (int i = 0; i < p->n_vecs; i++)
        if (p->vecs[i].n < 1 || !p->vecs[i].data)
            FAIL("vector %d is empty", i);
    return PL_OK;
}

static pl_status check_matrices(const pl_plan *p, pl_error *error)
{
    for (int i = 0; i < p->n_mats; i++) {
        const pl_mat_desc *m = &p->mats[i];
        const pl_format *f = pl_format_from_gguf(m->gguf_type);
        if (!f)
            FAIL("matrix %d: type %d is not supported", i, m->gguf_type);
        if (m->rows < 1 || m->k < 1 || m->rows > MAX_DIM || m->k > MAX_DIM)
            FAIL("matrix %d: shape (%d, %d)", i, m->rows, m->k);
        int64_t row = pl_row_bytes(f, m->k);
        if (row < 0 || (!f->is_float && m->k % PL_BLOCK))
            FAIL("matrix %d: %d columns are not a multiple of %s's block", i, m->k, f->name);
        if (m->bytes != row * m->rows)
            FAIL("matrix %d: %lld bytes, expected %lld", i, (long long)m->bytes, (long long)(row * m->rows));
    }
    for (int i = 0; i < p->n_segs; i++) {
        const pl_segment *s = &p->segs[i];
        if (!pl_inside(s->mat, p->n_mats) || s->column < 0)
            FAIL("segment %d: no such matrix or column", i);
        if (s->bias >= 0 && !pl_has_vec(p, s->bias, p->mats[s->mat].rows))
            FAIL("segment %d: its bias does not have %d entries", i, p->mats[s->mat].rows);
        if (s->terms != 1 && s->terms != 2)
            FAIL("segment %d: %d terms, expected 1 or 2", i, s->terms);
    }
    return PL_OK;
}

static pl_status check_attention(const pl_plan *p, pl_error *error)
{
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

/* Names what is wrong with an operation's buffers, or NULL. */
static const char *check_op_buffers(const pl_plan *p, const pl_op *op, const pl_op_desc *d)
{
    int used = d->reads | d->writes | d->scratch;
    if (used & PL_IN && !pl_inside(op->in, p->n_bufs))
        return "its input";
    if (used & PL_OUT && !pl_inside(op->out, p->n_bufs))
        return "its output";
    if (used & PL_IN && used & PL_OUT && (op->in == op->out) != d->in_place)
        return "writing into its input";
    if (used & PL_TMP && (!pl_inside(op->tmp, p->n_bufs) || p->buf_dim[op->tmp] != p->buf_dim[op->out] ||
                          op->tmp == op->in || op->tmp == op->out))
        return "its temporary";
    return NULL;
}

/* Names what is wrong with an operation's segments, or NULL. */
static const char *check_op_segments(const pl_plan *p, const pl_op *op, const pl_op_desc *d)
{
    if (d->segments == PL_SEGS_NONE)
        return op->n_seg == 0 ? NULL : "its list of segments";
    if (op->n_seg < 1 || (d->n_segs && op->n_seg != d->n_segs) || op->seg < 0 || op->seg > p->n_segs - op->n_seg)
        return "its list of segments";
    int in = p->buf_dim[d->segments == PL_SEGS_LOOKUP ? op->out : op->in], column = 0;
    int out = d->segments == PL_SEGS_LOOKUP || d->segments == PL_SEGS_VOCAB ? p->vocab : p->buf_dim[op->out];
    for (int s = op->seg; s < op->seg + op->n_seg; s++) {
        const pl_mat_desc *m = &p->mats[p->segs[s].mat];
        if (m->plain && d->segments != PL_SEGS_LOOKUP)
            return "a matrix that is not packed";
        if (m->k != in)
            return "a matrix' columns";
        if (d->segments == PL_SEGS_SIDE_BY_SIDE) { /* segments neither overlap nor leave a gap */
            if (p->segs[s].column != column || m->rows > out - column)
                return "a segment's columns";
        } else if (m->rows != out || p->segs[s].column != 0) {
            return d->segments == PL_SEGS_WHOLE ? "a matrix' rows" : "the vocabulary";
        }
        column += m->rows;
    }
    return d->segments != PL_SEGS_SIDE_BY_SIDE || column == out ? NULL : "its segments' columns";
}

static pl_status check_op(const pl_plan *p, int i, pl_error *error)
{
    const pl_op *op = &p->ops[i];
    if (op->kind < 0 || op->kind >= PL_N_OPS)
        FAIL("operation %d: unknown kind %d", i, op->kind);
    const pl_op_desc *d = &pl_op_table[op->kind];
    const char *wrong = check_op_buffers(p, op, d);
    if (!wrong)
        wrong = check_op_segments(p, op, d);
    if (!wrong && d->check)
        wrong = d->check(p, op);
    if (wrong)
        FAIL("operation %d (%s, layer %d): %s does not fit", i, d->name, op->layer, wrong);
    return PL_OK;
}

/* What a buffer holds when an operation reads it. */
enum { NOTHING, FLOATS, ALL_FORMS };

/* Every operation must read what an earlier one has written, in a form that was written; a layer's keys and values must
 * be stored once, before they are read. buf: what each buffer holds; stored: a flag per layer of the cache, group after
 * group; layer0: index of each group's first layer in it. */
static pl_status check_flow(const pl_plan *p, uint8_t *buf, uint8_t *stored, const int *layer0, pl_error *error)
{
    for (int i = 0; i < p->n_ops; i++) {
        const pl_op *op = &p->ops[i];
        const pl_op_desc *d = &pl_op_table[op->kind];
        const char *wrong = NULL;
        if ((d->reads & PL_IN && buf[op->in] == NOTHING) || (d->reads & PL_OUT && buf[op->out] == NOTHING))
            wrong = "reads a buffer that nothing has written";
        else if (pl_op_forms(p, op) && buf[op->in] != ALL_FORMS)
            wrong = "multiplies a temporary, which has no int8 or bf16 form";
        uint8_t *layer = d->stores || d->attends ? &stored[layer0[op->cache] + op->cache_layer] : NULL;
        if (!wrong && d->stores && *layer)
            wrong = "stores keys and values of a layer a second time";
        else if (!wrong && d->attends && !d->stores && !*layer)
            wrong = "reads keys and values before they are stored";
        if (wrong)
            FAIL("operation %d (%s, layer %d) %s", i, d->name, op->layer, wrong);
        if (d->stores)
            *layer = 1;
        if (d->scratch & PL_TMP)
            buf[op->tmp] = FLOATS;
        if (d->writes & PL_OUT && !(d->keeps && buf[op->out] == FLOATS))
            buf[op->out] = ALL_FORMS;
    }
    return PL_OK;
}

pl_status pl_plan_check(const pl_plan *p, pl_error *error)
{
    pl_status status = check_buffers(p, error);
    status = status ? status : check_matrices(p, error);
    status = status ? status : check_attention(p, error);
    for (int i = 0; i < p->n_ops && !status; i++)
        status = check_op(p, i, error);
    if (status)
        return status;
    int layer0[PL_MAX_GROUPS + 1] = {0};
    for (int i = 0; i < p->n_caches; i++)
        layer0[i + 1] = layer0[i] + p->caches[i].n_layers;
    uint8_t *state = calloc((size_t)p->n_bufs + (size_t)layer0[p->n_caches], 1);
    if (!state)
        return pl_fail(error, PL_E_MEMORY, "no memory to check a plan");
    status = check_flow(p, state, state + p->n_bufs, layer0, error);
    free(state);
    return status;
}
