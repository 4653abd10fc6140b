/* Validates a plan; the executor then trusts every id, shape and size in it. */
#include "model.h"

#include <stdlib.h>

#define MAX_DIM (1 << 24)
#define MAX_FREQ (1 << 20) /* radians per position: angles stay below 2^51, where quarter turns are counted exactly */

#define MAX_SCALE 1e6

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
        if (m->stack < 1 || m->stack > PL_MAX_EXPERTS || (m->plain && m->stack > 1) || m->rows > INT32_MAX / m->stack)
            FAIL("matrix %d: a stack of %d with %d rows each", i, m->stack, m->rows);
        if (m->bytes != row * m->rows * m->stack)
            FAIL("matrix %d: %lld bytes, expected %lld", i, (long long)m->bytes, (long long)(row * m->rows * m->stack));
    }
    for (int i = 0; i < p->n_segs; i++) {
        const pl_segment *s = &p->segs[i];
        if (!pl_inside(s->mat, p->n_mats) || s->column < 0)
            FAIL("segment %d: no such matrix or column", i);
        int64_t outputs = (int64_t)p->mats[s->mat].rows * p->mats[s->mat].stack;
        if (s->bias >= 0 && (!pl_inside(s->bias, p->n_vecs) || p->vecs[s->bias].n != outputs))
            FAIL("segment %d: its bias does not have %lld entries", i, (long long)outputs);
        if (s->row_scale != -1 && (!pl_inside(s->row_scale, p->n_vecs) || p->vecs[s->row_scale].n != outputs))
            FAIL("segment %d: its row scales do not have %lld entries", i, (long long)outputs);
        if (s->terms != 1 && s->terms != 2)
            FAIL("segment %d: %d terms, expected 1 or 2", i, s->terms);
    }
    return PL_OK;
}

static pl_status check_attention(const pl_plan *p, pl_error *error)
{
    for (int i = 0; i < p->n_ropes; i++) {
        const pl_rope_desc *r = &p->ropes[i];
        if (r->first < 0 || r->first > MAX_DIM || !(r->scale > 0 && r->scale <= MAX_SCALE)) /* NaN too */
            FAIL("rope %d: scale %g, from dimension %d on", i, r->scale, r->first);
        if (r->n_rot < 2 || r->n_rot % 2 || r->n_rot > MAX_DIM || !r->freq)
            FAIL("rope %d: %d rotated dimensions", i, r->n_rot);
        for (int j = 0; j < r->n_rot / 2; j++)
            if (!(r->freq[j] >= 0 && r->freq[j] <= MAX_FREQ)) /* NaN too */
                FAIL("rope %d: frequency %d is %g, expected 0 to %d", i, j, r->freq[j], MAX_FREQ);
    }
    if (p->n_caches < (p->n_states < 1) || p->n_caches > PL_MAX_CACHES)
        FAIL("%d cache groups, expected %d to %d", p->n_caches, p->n_states < 1, PL_MAX_CACHES);
    for (int i = 0; i < p->n_caches; i++) {
        const pl_cache_desc *c = &p->caches[i];
        if (c->n_layers < 1 || c->n_layers > 4096 || c->n_q < 1 || c->n_kv < 1 || c->n_q > 4096 || c->n_q % c->n_kv ||
            c->dk < 1 || c->dv < 1 || c->dk > 4096 || c->dv > 4096 || c->window < 0 ||
            (c->causal != 0 && c->causal != 1) || (c->shared != 0 && c->shared != 1) || (c->shared && c->dv > c->dk))
            FAIL("cache group %d: %d layers of %d query heads, %d kv heads, widths %d and %d, window %d, causal %d, "
                 "shared %d",
                 i, c->n_layers, c->n_q, c->n_kv, c->dk, c->dv, c->window, c->causal, c->shared);
    }
    return PL_OK;
}

static pl_status check_states(const pl_plan *p, pl_error *error)
{
    if (p->n_states < 0 || p->n_states > PL_MAX_CACHES)
        FAIL("%d groups of recurrent layers, expected 0 to %d", p->n_states, PL_MAX_CACHES);
    for (int i = 0; i < p->n_states; i++) {
        const pl_state_desc *d = &p->states[i];
        if (d->n_layers < 1 || d->n_layers > 4096 || d->taps < 2 || d->taps > PL_MOST_TAPS || d->channels < 1 ||
            d->channels > MAX_DIM)
            FAIL("recurrent layers %d: %d layers, %d taps of %d channels", i, d->n_layers, d->taps, d->channels);
        if (d->n_v < 0 || d->n_v > 4096 ||
            (d->n_v && (d->n_k < 1 || d->n_v % d->n_k || d->dk < 1 || d->dk > 4096 || d->dv < 1 || d->dv > 4096)))
            FAIL("recurrent layers %d: %d value heads of %d, %d key heads of %d", i, d->n_v, d->dv, d->n_k, d->dk);
    }
    return PL_OK;
}

/* Names what is wrong with an operation's buffers, or NULL. */
static const char *check_op_buffers(const pl_plan *p, const pl_op *op, const pl_op_desc *d)
{
    int used = d->reads | d->writes | pl_op_scratch(op);
    if (used & PL_IN && !pl_inside(op->in, p->n_bufs))
        return "its input";
    if (used & PL_OUT && !pl_inside(op->out, p->n_bufs))
        return "its output";
    if (used & PL_IN && used & PL_OUT && d->in_place != PL_MAYBE && (op->in == op->out) != d->in_place)
        return "writing into its input";
    if (used & PL_TMP && (!pl_inside(op->tmp, p->n_bufs) || op->tmp == op->in || op->tmp == op->out ||
                          (!d->own_tmp && d->scratch & PL_TMP && p->buf_dim[op->tmp] != p->buf_dim[op->out])))
        return "its temporary";
    return NULL;
}

/* Names what is wrong with an operation's segments, or NULL. */
static const char *check_op_segments(const pl_plan *p, const pl_op *op, const pl_op_desc *d)
{
    if (d->segments == PL_SEGS_NONE)
        return op->n_seg == 0 ? NULL : "its list of segments";
    if (op->n_seg == 0 && op->seg == 0 && d->segments == PL_SEGS_VOCAB) /* an encoder's head */
        return NULL;
    if (op->n_seg < 1 || (d->n_segs && op->n_seg != d->n_segs) || op->seg < 0 || op->seg > p->n_segs - op->n_seg)
        return "its list of segments";
    int in = p->buf_dim[d->segments == PL_SEGS_LOOKUP ? op->out : op->in];
    int out = d->segments == PL_SEGS_LOOKUP || d->segments == PL_SEGS_VOCAB ? p->vocab
              : d->segments == PL_SEGS_SCORES                               ? p->buf_dim[op->tmp]
                                                                            : p->buf_dim[op->out];
    for (int s = op->seg; s < op->seg + op->n_seg; s++) {
        const pl_mat_desc *m = &p->mats[p->segs[s].mat];
        if (m->plain && d->segments != PL_SEGS_LOOKUP)
            return "a matrix that is not packed";
        if (p->segs[s].in != -1 && d->segments != PL_SEGS_SIDE_BY_SIDE)
            return "a segment's input";
        if (d->segments == PL_SEGS_EXPERTS || d->segments == PL_SEGS_SIDE_BY_SIDE) /* `check` knows their shape */
            continue;
        if (m->k != in)
            return "a matrix's columns";
        if (m->stack != 1)
            return "a stack of matrices";
        if (m->rows != out || p->segs[s].column != 0)
            return d->segments == PL_SEGS_WHOLE || d->segments == PL_SEGS_SCORES ? "a matrix's rows" : "the vocabulary";
    }
    return NULL;
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

/* Whether operation i's tmp was last written by a route, to as many experts as its matrices have. */
static int is_routed(const pl_plan *p, int i)
{
    const pl_op *op = &p->ops[i];
    for (int j = i - 1; j >= 0; j--) {
        const pl_op *before = &p->ops[j];
        const pl_op_desc *d = &pl_op_table[before->kind];
        if (d->writes & PL_OUT && before->out == op->tmp)
            return d->routes && before->top_k == op->top_k &&
                   p->buf_dim[before->tmp] == p->mats[p->segs[op->seg].mat].stack;
        if (d->scratch & PL_TMP && before->tmp == op->tmp)
            return 0;
    }
    return 0;
}

/* Every operation must read what an earlier one has written, in a form that was written; a layer's keys and values must
 * be stored once, before they are read, and each part of a recurrent layer's state must be written once. buf: what each
 * buffer holds; stored: a flag per layer of the cache, group after group, then the parts written per recurrent layer;
 * layer0: index of each group's first layer in it. */
static pl_status check_flow(const pl_plan *p, uint8_t *buf, uint8_t *stored, const int *layer0, pl_error *error)
{
    for (int i = 0; i < p->n_ops; i++) {
        const pl_op *op = &p->ops[i];
        const pl_op_desc *d = &pl_op_table[op->kind];
        const char *wrong = NULL;
        int reads_out = pl_op_reads_out(p, op);
        int unwritten = 0, unformed = 0;
        for (int s = op->seg; d->multiplies && !d->own_rows && s < op->seg + op->n_seg; s++) {
            int in = pl_segment_in(op, &p->segs[s]);
            unwritten |= buf[in] == NOTHING;
            unformed |= pl_op_forms(p, op, in) && buf[in] != ALL_FORMS;
        }
        if (unwritten || (d->reads & PL_IN && buf[op->in] == NOTHING) || (reads_out && buf[op->out] == NOTHING) ||
            (d->reads & PL_TMP && buf[op->tmp] == NOTHING))
            wrong = "reads a buffer that nothing has written";
        else if (unformed)
            wrong = "multiplies a temporary, which has no int8 or bf16 form";
        else if (d->routed && !is_routed(p, i))
            wrong = "has no route to its experts";
        int stores = pl_op_stores(op);
        uint8_t *layer = stores || d->attends ? &stored[layer0[op->cache] + op->cache_layer] : NULL;
        if (!wrong && stores && *layer)
            wrong = "stores keys and values of a layer a second time";
        else if (!wrong && d->attends && !*layer)
            wrong = "reads keys and values before they are stored";
        uint8_t *parts = d->recurs ? &stored[layer0[p->n_caches + op->state] + op->state_layer] : NULL;
        if (!wrong && d->recurs && *parts & d->recurs)
            wrong = "writes a state of a layer a second time";
        if (wrong)
            FAIL("operation %d (%s, layer %d) %s", i, d->name, op->layer, wrong);
        if (stores)
            *layer = 1;
        if (d->recurs)
            *parts |= d->recurs;
        if (pl_op_scratch(op) & PL_TMP)
            buf[op->tmp] = FLOATS;
        if (d->writes & PL_OUT && !(pl_op_keeps(p, op) && buf[op->out] == FLOATS))
            buf[op->out] = d->routes ? FLOATS : ALL_FORMS;
    }
    return PL_OK;
}

pl_status pl_plan_check(const pl_plan *p, pl_error *error)
{
    pl_status status = check_buffers(p, error);
    status = status ? status : check_matrices(p, error);
    status = status ? status : check_attention(p, error);
    status = status ? status : check_states(p, error);
    for (int i = 0; i < p->n_ops && !status; i++)
        status = check_op(p, i, error);
    if (status)
        return status;
    int layer0[2 * PL_MAX_CACHES + 1] = {0}, groups = p->n_caches + p->n_states;
    for (int i = 0; i < groups; i++)
        layer0[i + 1] = layer0[i] + (i < p->n_caches ? p->caches[i].n_layers : p->states[i - p->n_caches].n_layers);
    uint8_t *state = calloc((size_t)p->n_bufs + (size_t)layer0[groups], 1);
    if (!state)
        return pl_fail(error, PL_E_MEMORY, "no memory to check a plan");
    status = check_flow(p, state, state + p->n_bufs, layer0, error);
    free(state);
    return status;
}
