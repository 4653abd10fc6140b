/* Operations on whole rows: embedding, norms, rotary positions and the append to the cache. */
#include <string.h>

#include "ops.h"

int pl_op_starts_by_rows(const pl_op *op)
{
    return op->kind == PL_OP_EMBED || op->kind == PL_OP_NORM || op->kind == PL_OP_HEAD_NORM ||
           op->kind == PL_OP_ROPE_APPEND || op->kind == PL_OP_SCALE_ADD;
}

int pl_op_ends_by_rows(const pl_op *op)
{
    return pl_op_starts_by_rows(op) || (op->kind == PL_OP_LINEAR_ADD && op->vec >= 0);
}

static void my_rows(const pl_run *r, int tid, int *from, int *to)
{
    int64_t a, b;
    pl_share(r->n_rows, 1, tid, pl_team_size(r->team), &a, &b);
    *from = (int)a;
    *to = (int)b;
}

void pl_op_embed(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *out = &m->bufs[op->out];
    const pl_mat *w = &m->mats[m->segs[op->seg].mat];
    int from, to;
    my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        float *y = out->f + (size_t)i * out->dim;
        int token = r->rows[i].token;
        if (w->tile_bytes)
            m->kernels->unpack_row[w->format->id](w, token, y);
        else
            w->format->decode(w->data + pl_row_bytes(w->format, w->k) * token, y, w->k);
        if (op->scale != 1.0f)
            m->kernels->scale(y, op->scale, out->dim, y);
        pl_buf_finish(m->kernels, out, i, 0, out->dim);
    }
}

void pl_op_norm(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *in = &m->bufs[op->in], *out = &m->bufs[op->out];
    int from, to;
    my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        m->kernels->rms_norm(in->f + (size_t)i * in->dim, m->vecs[op->vec], in->dim, op->eps,
                             out->f + (size_t)i * out->dim);
        pl_buf_finish(m->kernels, out, i, 0, out->dim);
    }
}

void pl_op_head_norm(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *b = &m->bufs[op->in];
    const pl_cache_desc *c = &m->caches[op->cache];
    int from, to;
    my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        float *x = b->f + (size_t)i * b->dim;
        for (int h = 0; h < c->n_q + c->n_kv; h++, x += c->dk)
            m->kernels->rms_norm(x, m->vecs[h < c->n_q ? op->vec : op->vec2], c->dk, op->eps, x);
    }
}

/* Whether the cache can hold n keys or values as finite numbers: the bits of each are below its type's limit. */
static int storable(const float *x, int n, pl_kv_type kv)
{
    /* what rounds to infinity: 65520 in f16, 2^128 (1 - 2^-9) in bf16; int8 has float32 scales */
    const int32_t limit = kv == PL_KV_F16 ? 0x477ff000 : kv == PL_KV_BF16 ? 0x7f7f8000 : 0x7f800000;
    int32_t beyond = 0;
    for (int i = 0; i < n; i++) {
        int32_t u;
        memcpy(&u, x + i, sizeof u);
        beyond |= (u & 0x7fffffff) >= limit; /* signed: the baseline's vectors compare no other */
    }
    return !beyond;
}

/* A key or value that is no number would spoil the rows before it too (the attention kernels multiply what a row does
 * not see by 0): so it fails the pass, whoever asks for logits, and never stays in the cache. */
void pl_op_rope_append(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *b = &m->bufs[op->in];
    const pl_cache_desc *c = &m->caches[op->cache];
    const pl_group *g = &m->groups[op->cache];
    const pl_rope_desc *rope = &m->ropes[op->rope];
    int from, to;
    my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        const pl_row *row = &r->rows[i];
        float *x = b->f + (size_t)i * b->dim;
        const float *cos = r->rope_cos[op->rope] + (size_t)i * (rope->n_rot / 2);
        const float *sin = r->rope_sin[op->rope] + (size_t)i * (rope->n_rot / 2);
        for (int h = 0; h < c->n_q + c->n_kv; h++)
            m->kernels->rope(x + (size_t)h * c->dk, cos, sin, rope->n_rot, rope->halves);
        const float *k = x + (size_t)c->n_q * c->dk, *v = k + (size_t)c->n_kv * c->dk;
        if (!storable(k, c->n_kv * (c->dk + c->dv), m->kv))
            atomic_fetch_or(r->bad, PL_BAD_CACHE);
        for (int h = 0; h < c->n_kv; h++) {
            uint8_t *page = pl_seq_keys(r->seqs[row->seq], g, op->cache, op->cache_layer, h, row->slot);
            m->kernels->kv_append[m->kv](k + (size_t)h * c->dk, v + (size_t)h * c->dv, c->dk, c->dv,
                                         row->slot % PL_PAGE, page, page + g->k_bytes);
        }
    }
}

void pl_op_scale_add(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_kernels *k = m->kernels;
    const pl_buf *b = &m->bufs[op->out];
    int from, to;
    my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        int pos = r->rows[i].pos;
        if (pos < op->pos_from || pos >= op->pos_to)
            continue;
        float *y = b->f + (size_t)i * b->dim + op->column;
        const float *x = NULL;
        if (op->vec >= 0)
            x = m->vecs[op->vec] + (op->each ? (size_t)(pos - op->pos_from) * op->width : 0);
        if (x && op->scale == 0.0f) { /* replaced, whatever was there */
            memcpy(y, x, sizeof(float) * (size_t)op->width);
        } else {
            if (op->scale != 1.0f)
                k->scale(y, op->scale, op->width, y);
            if (x)
                k->add(y, x, op->width, y);
        }
        pl_buf_finish(k, b, i, 0, b->dim);
    }
}
