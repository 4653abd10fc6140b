/* Rotates queries and keys, appends keys and values to the cache. Angles are computed once per pass, for all layers. */
#include <string.h>

#include "ops.h"

/* sin and cos of x >= 0 in float64: reduced by pi/2 in two parts (Cody & Waite 1980), then the Taylor series, whose
 * what follows is below 2e-17 for |r| <= pi/4. The error stays below 1e-10 for positions up to 2^20, far under
 * float32's own rounding. */
static void sincos64(double x, float *s, float *c)
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
    *s = (float)(n & 2 ? -sn : sn);
    *c = (float)((n + 1) & 2 ? -cs : cs);
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
                sincos64((double)r->rows[i].pos * d->freq[j], r->rope_sin[p] + (size_t)i * half + j,
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
    const char *wrong = pl_check_cache_layer(p, op);
    if (wrong)
        return wrong;
    int fits = pl_inside(op->rope, p->n_ropes) && p->ropes[op->rope].n_rot <= p->caches[op->cache].dk;
    return fits ? NULL : "its rope";
}

/* If keys or values are not finite, they are not stored and their sequence fails. So the cache holds only finite
 * numbers, even in slots beyond a sequence's length; the attention kernels rely on it, multiplying what a row does not
 * see by 0. */
void pl_op_rope_append(const pl_run *r, const pl_op *op, int tid)
{
    const pl_model_tables *m = r->m;
    const pl_buf *b = &m->bufs[op->in];
    const pl_cache_desc *c = &m->caches[op->cache];
    const pl_group *g = &m->groups[op->cache];
    const pl_rope_desc *rope = &m->ropes[op->rope];
    int from, to, forms = pl_finishes(r, op);
    pl_my_rows(r, tid, &from, &to);
    for (int i = from; i < to; i++) {
        const pl_row *row = &r->rows[i];
        float *x = b->f + (size_t)i * b->dim;
        const float *cos = r->rope_cos[op->rope] + (size_t)i * (rope->n_rot / 2);
        const float *sin = r->rope_sin[op->rope] + (size_t)i * (rope->n_rot / 2);
        for (int h = 0; h < c->n_q + c->n_kv; h++)
            m->kernels->rope(x + (size_t)h * c->dk, cos, sin, rope->n_rot, rope->halves);
        const float *k = x + (size_t)c->n_q * c->dk, *v = k + (size_t)c->n_kv * c->dk;
        int ok = storable(k, c->n_kv * (c->dk + c->dv), m->kv);
        if (!ok)
            pl_bad(r, i, PL_BAD_KEYS);
        for (int h = 0; h < c->n_kv && ok; h++) {
            uint8_t *page = pl_seq_keys(r->seqs[row->seq], g, op->cache, op->cache_layer, h, row->slot);
            m->kernels->kv_append[m->kv](k + (size_t)h * c->dk, v + (size_t)h * c->dv, c->dk, c->dv,
                                         row->slot % PL_PAGE, page, page + g->k_bytes);
        }
        pl_buf_finish(m->kernels, b, forms, i, 0, b->dim);
    }
}
