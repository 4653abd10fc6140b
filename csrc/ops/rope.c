/* Rotates queries and keys, appends keys and values to the cache. Angles are computed once per pass, for all layers. */
#include <string.h>

#include "ops.h"

/* sin and cos of x >= 0 in float64, times `scale`: reduced by pi/2 in two parts (Cody & Waite 1980), then the Taylor
 * series, whose remainder is below 2e-17 for |r| <= pi/4. The error stays below 1e-10 for positions up to 2^20, far
 * under float32's own rounding. */
static void sincos64(double x, double scale, float *s, float *c)
{
    const double two_over_pi = 0.63661977236758134308, hi = 1.57079632673412561417, lo = 6.07710050650619224932e-11;
    int64_t n = (int64_t)(x * two_over_pi + 0.5);
    double r = (x - (double)n * hi) - (double)n * lo, z = r * r;
    double ps =
        r *
        (1 + z * (-1.0 / 6 +
                  z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800 + z / 6227020800.0))))));
    double pc =
        1 + z * (-0.5 + z * (1.0 / 24 +
                             z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 +
                                                                       z * (1.0 / 479001600 - z / 87178291200.0))))));
    double sn = n & 1 ? pc : ps, cs = n & 1 ? ps : pc;
    *s = (float)(scale * (n & 2 ? -sn : sn));
    *c = (float)(scale * ((n + 1) & 2 ? -cs : cs));
}

void pl_rope_angles(const pl_run *r, int tid)
{
    int from, to;
    pl_my_rows(r, tid, &from, &to);
    for (int p = 0; p < r->m->n_ropes; p++) {
        const pl_rope_desc *d = &r->m->ropes[p];
        int half = d->n_rot / 2;
        for (int i = from; i < to; i++)
            for (int j = 0; j < half; j++)
                sincos64((double)r->rows[i].pos * d->freq[j], d->scale, r->rope_sin[p] + (size_t)i * half + j,
                         r->rope_cos[p] + (size_t)i * half + j);
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
        beyond |= (u & 0x7fffffff) >= limit; /* signed: the vector instructions of the baseline compare only those */
    }
    return !beyond;
}

const char *pl_check_rope_append(const pl_plan *p, const pl_op *op)
{
    const char *wrong = op->flags & PL_ROTATE_ONLY ? pl_check_queries(p, op) : pl_check_cache_layer(p, op);
    if (wrong)
        return wrong;
    if (op->vec != -1 && (op->width < 1 || op->each < 1 || !pl_has_vec(p, op->vec, op->each)))
        return "its factors";
    if (op->rope == -1)
        return op->flags & PL_ROTATE_ONLY ? "its rope" : NULL;
    int dk = p->caches[op->cache].dk;
    int fits = pl_inside(op->rope, p->n_ropes) && p->ropes[op->rope].n_rot <= dk - p->ropes[op->rope].first;
    return fits ? NULL : "its rope";
}

/* Rotates a row's heads, and multiplies its queries by the factor of its position. */
static void rotate(const pl_run *r, const pl_op *op, int row, float *x, int heads)
{
    const pl_model_tables *m = r->m;
    const pl_cache_desc *c = &m->caches[op->cache];
    if (op->rope >= 0) {
        const pl_rope_desc *rope = &m->ropes[op->rope];
        const float *cos = r->rope_cos[op->rope] + (size_t)row * (rope->n_rot / 2);
        const float *sin = r->rope_sin[op->rope] + (size_t)row * (rope->n_rot / 2);
        for (int h = 0; h < heads; h++)
            m->kernels->rope(x + (size_t)h * c->dk + rope->first, cos, sin, rope->n_rot, rope->halves);
    }
    if (op->vec >= 0) {
        int at = r->rows[row].pos / op->width;
        m->kernels->scale(x, m->vecs[op->vec][at < op->each ? at : op->each - 1], c->n_q * c->dk, x);
    }
}

/* Appends a row's keys and values, k and then v.
 *
 * If they are not finite, they are not stored and their sequence fails. So the cache holds only finite numbers, even in
 * slots beyond a sequence's length; the attention kernels rely on it, multiplying what a row does not see by 0. */
static void append(const pl_run *r, const pl_op *op, int i, const float *k)
{
    const pl_model_tables *m = r->m;
    const pl_cache_desc *c = &m->caches[op->cache];
    const pl_group *g = &m->groups[op->cache];
    const pl_row *row = &r->rows[i];
    const float *v = c->shared ? k : k + (size_t)c->n_kv * c->dk;
    const int each = c->shared ? c->dk : c->dv; /* columns from a value to the next */
    if (!storable(k, c->n_kv * (c->shared ? c->dk : c->dk + c->dv), m->kv)) {
        pl_bad(r, i, PL_BAD_KEYS);
        return;
    }
    for (int h = 0; h < c->n_kv; h++) {
        uint8_t *page = pl_seq_keys(r->seqs[row->seq], g, op->cache, op->cache_layer, h, row->slot);
        m->kernels->kv_append[m->kv](k + (size_t)h * c->dk, v + (size_t)h * each, c->dk, c->dv, row->slot % PL_PAGE,
                                     page, page + g->k_bytes);
    }
}

/* Prefetches what append() writes for row i. A key has a place in each line of its group of slots, and for decoded rows
 * these lines are in memory: with 16 sequences of SmolLM2, this halves the operation's time. Rows of a prompt share
 * lines. */
static void append_ahead(const pl_run *r, const pl_op *op, int i)
{
    static const size_t sizes[PL_N_KV] = {[PL_KV_F32] = 4, [PL_KV_F16] = 2, [PL_KV_BF16] = 2, [PL_KV_INT8] = 1};
    const pl_model_tables *m = r->m;
    const pl_cache_desc *c = &m->caches[op->cache];
    const pl_group *g = &m->groups[op->cache];
    const pl_row *row = &r->rows[i];
    const int slot = row->slot % PL_PAGE;
    const size_t keys = (size_t)((c->dk + 1) & ~1) * PL_SLOTS * sizes[m->kv], value = (size_t)c->dv * sizes[m->kv];
    if (i > 0 && row[-1].seq == row->seq && slot % PL_SLOTS)
        return;
    for (int h = 0; h < c->n_kv; h++) {
        const uint8_t *page = pl_seq_keys(r->seqs[row->seq], g, op->cache, op->cache_layer, h, row->slot);
        pl_prefetch_write(page + (size_t)(slot / PL_SLOTS) * keys, keys);
        pl_prefetch_write(page + g->k_bytes + (size_t)(slot & ~1) * value, 2 * value); /* two share lines in bf16 */
    }
}

void pl_op_rope_append(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *b = &m->bufs[op->in];
    const pl_cache_desc *c = &m->caches[op->cache];
    int from, to, forms = pl_finishes(r, op), q = c->n_q * c->dk, heads = b->dim > q ? c->n_q + c->n_kv : c->n_q;
    const int appends = !(op->flags & PL_ROTATE_ONLY);
    pl_my_rows(r, tid, &from, &to);
    if (appends && from < to)
        append_ahead(r, op, from);
    for (int i = from; i < to; i++) {
        float *x = b->f + (size_t)i * b->dim;
        if (appends && i + 1 < to)
            append_ahead(r, op, i + 1);
        rotate(r, op, i, x, heads);
        if (appends)
            append(r, op, i, x + q);
        pl_buf_finish(m->kernels, b, forms, i, 0, b->dim);
    }
}
