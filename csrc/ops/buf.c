/* Buffers: their layout, and the forms in which matrix products read their rows. */
#include "ops.h"

int pl_format_form(const pl_format *f)
{
    return !f->is_float ? PL_FORM_Q8 : f->id == PL_BF16 ? PL_FORM_BF16 : 0;
}

void *pl_cut(void *base, size_t *at, size_t bytes)
{
    void *p = base ? (char *)base + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return p;
}

void pl_buf_layout(pl_buf *b, size_t rows, void *base, size_t *at)
{
    size_t dim = (size_t)b->dim;
    b->f = pl_cut(base, at, rows * dim * sizeof(float));
    if (b->forms & PL_FORM_Q8) {
        b->q = pl_cut(base, at, rows * (size_t)b->stored * dim + dim);
        b->s = pl_cut(base, at, rows * (dim / 32) * sizeof(float));
        b->sums = pl_cut(base, at, (rows + 1) * (size_t)b->stored * (dim / 16) * sizeof(int16_t));
    }
    if (b->forms & PL_FORM_BF16)
        b->b = pl_cut(base, at, rows * ((dim + 1) / 2 * 2) * sizeof(uint16_t));
}

void pl_buf_put(const pl_kernels *k, const pl_buf *b, int forms, int row, int from, int to, const float *x)
{
    if (forms & PL_FORM_Q8) {
        int8_t *q = b->q + (size_t)row * b->stored * b->dim;
        int16_t *sums = b->sums + (size_t)row * b->stored * (b->dim / 16);
        float *s = b->s + (size_t)row * (b->dim / 32);
        k->quantize(x, to - from, b->stored, q + from, q + b->dim + from, s + from / 32, sums + from / 16,
                    sums + b->dim / 16 + from / 16);
    }
    if (forms & PL_FORM_BF16)
        k->to_bf16(x, to - from, b->b + (size_t)row * ((b->dim + 1) / 2 * 2) + from);
}

void pl_buf_finish(const pl_kernels *k, const pl_buf *b, int forms, int row, int from, int to)
{
    pl_buf_put(k, b, forms, row, from, to, b->f + (size_t)row * b->dim + from);
}

pl_acts pl_buf_acts(const pl_buf *b, int row)
{
    size_t r = (size_t)row;
    pl_acts a = {.k = b->dim, .terms = b->stored, .stored = b->stored, .f = b->f + r * b->dim, .f_stride = b->dim};
    if (b->forms & PL_FORM_Q8) {
        a.q = b->q + r * b->stored * b->dim;
        a.s = b->s + r * (b->dim / 32);
        a.sums = b->sums + r * b->stored * (b->dim / 16);
    }
    if (b->forms & PL_FORM_BF16)
        a.b = b->b + r * ((b->dim + 1) / 2 * 2);
    return a;
}
