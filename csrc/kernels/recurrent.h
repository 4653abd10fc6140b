/* The kernels of recurrent layers, for every tier with vectors: written once, in the compiler's vector types. The file
 * that includes this defines PL_VEC, the floats of a vector, and PL_VEC_FMA(a, b, c), a * b + c rounded once. */
#ifndef PL_KERNELS_RECURRENT_H
#define PL_KERNELS_RECURRENT_H

#include <string.h>

#include "common.h"

typedef float pl_vec __attribute__((vector_size(4 * PL_VEC)));
typedef float pl_vec_at __attribute__((vector_size(4 * PL_VEC), aligned(4), may_alias)); /* in memory */

PL_INLINE pl_vec pl_vec_load(const float *p)
{
    return *(const pl_vec_at *)p;
}

PL_INLINE pl_vec pl_vec_first(const float *p, int n)
{
    float part[PL_VEC] = {0};
    for (int i = 0; i < n; i++)
        part[i] = p[i];
    return pl_vec_load(part);
}

/* ---- convolution ------------------------------------------------------------------------------------------------- */

/* Channels i .. i + PL_VEC - 1, or the first n of them if `whole` is 0. */
PL_INLINE pl_vec pl_conv_at(const pl_conv *c, int i, const int whole, int n)
{
    pl_vec sum = {0};
    for (int j = 0; j < c->taps; j++) {
        const float *w = c->w + j * c->w_stride + i;
        pl_vec x = whole ? pl_vec_load(c->x[j] + i) : pl_vec_first(c->x[j] + i, n);
        if (c->by[j])
            x = x * (whole ? pl_vec_load(c->by[j] + i) : pl_vec_first(c->by[j] + i, n));
        x = (whole ? pl_vec_load(w) : pl_vec_first(w, n)) * x;
        sum = j ? sum + x : x;
    }
    if (c->bias)
        sum = sum + (whole ? pl_vec_load(c->bias + i) : pl_vec_first(c->bias + i, n));
    return sum;
}

static void pl_conv_row(const pl_conv *c, int n, float *y)
{
    int i = 0;
    for (; i + PL_VEC <= n; i += PL_VEC)
        *(pl_vec_at *)(y + i) = pl_conv_at(c, i, 1, PL_VEC);
    if (i < n) {
        const pl_vec sum = pl_conv_at(c, i, 0, n - i);
        for (int j = 0; i + j < n; j++)
            y[i + j] = sum[j];
    }
}

/* ---- recurrence -------------------------------------------------------------------------------------------------- */

#define PL_VECS (PL_SCAN_COLUMNS / PL_VEC)
#define PL_SCAN_TOGETHER (PL_VEC == 8 ? 2 : 4) /* rows; their sums stay in registers, of which AVX2 has 16 */

typedef struct pl_cols {
    pl_vec v[PL_VECS];
} pl_cols;

PL_INLINE pl_cols pl_cols_load(const float *p)
{
    pl_cols x;
    for (int i = 0; i < PL_VECS; i++)
        x.v[i] = pl_vec_load(p + PL_VEC * i);
    return x;
}

PL_INLINE void pl_cols_store(float *p, pl_cols x)
{
    for (int i = 0; i < PL_VECS; i++)
        *(pl_vec_at *)(p + PL_VEC * i) = x.v[i];
}

/* acc[j] += S[k] * x[k]: the step of S^T x. */
PL_INLINE void pl_cols_add(pl_cols *acc, pl_cols s, float x)
{
    const pl_vec all = x - (pl_vec){0};
    for (int i = 0; i < PL_VECS; i++)
        acc->v[i] = PL_VEC_FMA(s.v[i], all, acc->v[i]);
}

PL_INLINE pl_cols pl_cols_sum(const pl_cols acc[4])
{
    pl_cols sum;
    for (int i = 0; i < PL_VECS; i++)
        sum.v[i] = (acc[0].v[i] + acc[2].v[i]) + (acc[1].v[i] + acc[3].v[i]);
    return sum;
}

/* S[k] = fma(k, w, S[k] * decay). */
PL_INLINE pl_cols pl_cols_step(float *state, float decay, float key, pl_cols w)
{
    pl_cols s = pl_cols_load(state);
    const pl_vec all = key - (pl_vec){0};
    for (int i = 0; i < PL_VECS; i++)
        s.v[i] = PL_VEC_FMA(all, w.v[i], s.v[i] * decay);
    pl_cols_store(state, s);
    return s;
}

/* v and out: (16). each: decays has one for each key channel. */
PL_INLINE void pl_scan_row(const pl_scan *s, const float *q, const float *key, const float *v, float decay,
                           const float *decays, const int each, float gain, float q_scale, float k_scale, float *out)
{
    const int dk = s->dk;
    const float into = gain * k_scale;
    const pl_cols value = pl_cols_load(v);
    pl_cols acc[4] = {{{{0}}}}, w = value;
    int k = 0;
    if (s->delta) {
        const float from = each ? k_scale : decay * k_scale;
        for (; k + 4 <= dk; k += 4)
            for (int j = 0; j < 4; j++)
                pl_cols_add(&acc[j], pl_cols_load(s->state + PL_SCAN_COLUMNS * (k + j)),
                            each ? key[k + j] * decays[k + j] : key[k + j]);
        for (int j = 0; k < dk; k++, j++)
            pl_cols_add(&acc[j], pl_cols_load(s->state + PL_SCAN_COLUMNS * k), each ? key[k] * decays[k] : key[k]);
        const pl_cols held = pl_cols_sum(acc);
        for (int i = 0; i < PL_VECS; i++)
            w.v[i] = w.v[i] - held.v[i] * from;
    }
    for (int i = 0; i < PL_VECS; i++)
        w.v[i] = w.v[i] * into;
    memset(acc, 0, sizeof acc);
    for (k = 0; k + 4 <= dk; k += 4)
        for (int j = 0; j < 4; j++)
            pl_cols_add(&acc[j],
                        pl_cols_step(s->state + PL_SCAN_COLUMNS * (k + j), each ? decays[k + j] : decay, key[k + j], w),
                        q[k + j]);
    for (int j = 0; k < dk; k++, j++)
        pl_cols_add(&acc[j], pl_cols_step(s->state + PL_SCAN_COLUMNS * k, each ? decays[k] : decay, key[k], w), q[k]);
    pl_cols sum = pl_cols_sum(acc);
    for (int i = 0; i < PL_VECS; i++)
        sum.v[i] = sum.v[i] * q_scale + value.v[i] * s->skip;
    pl_cols_store(out, sum);
}

/* Some rows, without delta: what they add to the state does not depend on it, so it is read and written only once. */
typedef struct pl_scan_rows_at {
    const float *q[PL_SCAN_TOGETHER], *key[PL_SCAN_TOGETHER];
    pl_vec w[PL_SCAN_TOGETHER], decay[PL_SCAN_TOGETHER], acc[PL_SCAN_TOGETHER][4];
} pl_scan_rows_at;

PL_INLINE void pl_scan_channel(pl_scan_rows_at *r, float *state, int k, int j)
{
    pl_vec held = pl_vec_load(state);
    for (int i = 0; i < PL_SCAN_TOGETHER; i++) {
        held = PL_VEC_FMA(r->key[i][k] - (pl_vec){0}, r->w[i], held * r->decay[i]);
        r->acc[i][j] = PL_VEC_FMA(held, r->q[i][k] - (pl_vec){0}, r->acc[i][j]);
    }
    *(pl_vec_at *)state = held;
}

/* Rows `first` .. first + PL_SCAN_TOGETHER - 1. */
static void pl_scan_together(const pl_scan *s, int first)
{
    const ptrdiff_t stride = s->stride, gates = s->gate_stride;
    for (int c = 0; c < PL_SCAN_COLUMNS; c += PL_VEC) {
        pl_scan_rows_at r = {.acc = {{{0}}}};
        float *state = s->state + c;
        for (int i = 0; i < PL_SCAN_TOGETHER; i++) {
            const ptrdiff_t gate = (first + i) * gates;
            r.q[i] = s->q + (first + i) * stride;
            r.key[i] = s->k + (first + i) * stride;
            r.decay[i] = s->decay[gate] - (pl_vec){0};
            r.w[i] = pl_vec_load(s->v + (first + i) * stride + c) * (s->gain[gate] * s->k_scale[gate]);
        }
        int k = 0;
        for (; k + 4 <= s->dk; k += 4)
            for (int j = 0; j < 4; j++)
                pl_scan_channel(&r, state + PL_SCAN_COLUMNS * (k + j), k + j, j);
        for (int j = 0; j < 3; j++) /* unrolled: j must be known for acc to stay in registers */
            if (k + j < s->dk)
                pl_scan_channel(&r, state + PL_SCAN_COLUMNS * (k + j), k + j, j);
        for (int i = 0; i < PL_SCAN_TOGETHER; i++) {
            const pl_vec sum = (r.acc[i][0] + r.acc[i][2]) + (r.acc[i][1] + r.acc[i][3]);
            *(pl_vec_at *)(s->out + (first + i) * s->out_stride + c) =
                sum * s->q_scale[(first + i) * gates] + pl_vec_load(s->v + (first + i) * stride + c) * s->skip;
        }
    }
}

static int pl_scan_rows(const pl_scan *s)
{
    const int whole = s->cols == PL_SCAN_COLUMNS;
    int i = 0;
    for (; whole && !s->delta && i + PL_SCAN_TOGETHER <= s->n; i += PL_SCAN_TOGETHER)
        pl_scan_together(s, i);
    for (; i < s->n; i++) {
        const ptrdiff_t at = i * s->stride, gate = i * s->gate_stride;
        float v[PL_SCAN_COLUMNS] = {0}, part[PL_SCAN_COLUMNS], *out = s->out + i * s->out_stride;
        for (int j = 0; j < s->cols; j++)
            v[j] = s->v[at + j];
        if (s->decays)
            pl_scan_row(s, s->q + at, s->k + at, v, 0.0f, s->decays + gate, 1, s->gain[gate], s->q_scale[gate],
                        s->k_scale[gate], whole ? out : part);
        else
            pl_scan_row(s, s->q + at, s->k + at, v, s->decay[gate], NULL, 0, s->gain[gate], s->q_scale[gate],
                        s->k_scale[gate], whole ? out : part);
        for (int j = 0; j < s->cols && !whole; j++)
            out[j] = part[j];
    }
    pl_cols none = {{{0}}}; /* 0 * x: NaN where x is infinite or NaN */
    for (int k = 0; k < s->dk; k++) {
        const pl_cols state = pl_cols_load(s->state + PL_SCAN_COLUMNS * k);
        for (int i = 0; i < PL_VECS; i++)
            none.v[i] += state.v[i] * 0.0f;
    }
    float all[PL_SCAN_COLUMNS], sum = 0;
    pl_cols_store(all, none);
    for (int j = 0; j < PL_SCAN_COLUMNS; j++)
        sum += all[j];
    return !(sum == 0.0f);
}

#endif
