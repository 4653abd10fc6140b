/* A kernel's products alone, on the calling thread: see pl_trial_new. */
#include <stdlib.h>
#include <string.h>

#include "../kernels/select.h"
#include "model.h"

struct pl_trial {
    const pl_kernels *kernels;
    const pl_format *format;
    int n;
    int64_t tile_bytes;
    pl_tuning tuning;
    pl_acts acts;
    void *memory;
};

int64_t pl_tile_size(int format, int64_t k)
{
    return k > 0 && pl_format_row(format, k) > 0 ? pl_tile_bytes(pl_format_from_gguf(format), k) : -1;
}

pl_status pl_pack_rows(int format, const uint8_t *raw, int rows, int k, uint8_t *packed, pl_error *error)
{
    if (rows < 1 || pl_tile_size(format, k) < 0)
        return pl_fail(error, PL_E_ARGUMENT, "rows of that length cannot be packed");
    pl_kernels_get(pl_isa_find("scalar"))->pack[pl_format_from_gguf(format)->id](raw, rows, k, packed);
    return PL_OK;
}

/* Assigns the memory of the activations from `base`, and returns its bytes; base NULL: only the bytes. */
static size_t layout(pl_trial *t, size_t n, size_t k, size_t terms, void *base)
{
    size_t at = 0;
    if (t->format->id == PL_BF16) {
        t->acts.b = pl_cut(base, &at, n * ((k + 1) & ~(size_t)1) * sizeof *t->acts.b);
    } else if (t->format->is_float) {
        t->acts.f = pl_cut(base, &at, n * k * sizeof *t->acts.f);
    } else {
        t->acts.q = pl_cut(base, &at, n * terms * k);
        t->acts.s = pl_cut(base, &at, n * (k / 32) * sizeof *t->acts.s);
        t->acts.sums = pl_cut(base, &at, n * terms * (k / 16) * sizeof *t->acts.sums);
    }
    return at;
}

/* Writes the activations x (n, k) in the format's form. */
static void fill(pl_trial *t, const float *x)
{
    const pl_acts *a = &t->acts;
    const size_t k = (size_t)a->k, terms = (size_t)a->terms;
    for (size_t i = 0; i < (size_t)t->n; i++, x += k) {
        if (a->b)
            t->kernels->to_bf16(x, a->k, (uint16_t *)a->b + i * ((k + 1) & ~(size_t)1));
        else if (a->f)
            memcpy((float *)a->f + i * k, x, k * sizeof *x);
        else {
            int8_t *q = (int8_t *)a->q + i * terms * k;
            int16_t *sums = (int16_t *)a->sums + i * terms * (k / 16);
            t->kernels->quantize(x, a->k, a->terms, q, q + (terms - 1) * k, (float *)a->s + i * (k / 32), sums,
                                 sums + (terms - 1) * (k / 16));
        }
    }
}

pl_status pl_trial_new(int isa, int format, int k, int n, int terms, const pl_tuning *tuning, const float *x,
                       pl_trial **out, pl_error *error)
{
    const pl_kernels *kernels = pl_kernels_get(isa);
    const int64_t tile = pl_tile_size(format, k);
    *out = NULL;
    if (!kernels)
        return pl_fail(error, PL_E_ISA, "the kernels of that instruction set are not available");
    if (tile < 0 || k > 1 << 20 || n < 1 || n > 1 << 16 || terms < 1 || terms > 2 || pl_tuning_wrong(tuning))
        return pl_fail(error, PL_E_ARGUMENT, "a number of the product is out of range");
    const pl_format *f = pl_format_from_gguf(format);
    pl_trial *t = calloc(1, sizeof *t);
    if (!t)
        return pl_fail(error, PL_E_MEMORY, "no memory for a product");
    *t = (pl_trial){.kernels = kernels, .format = f, .n = n, .tile_bytes = tile, .tuning = *tuning};
    t->acts = (pl_acts){.k = k, .terms = terms, .stored = terms, .f_stride = k, .tuning = &t->tuning};
    const size_t bytes = (layout(t, (size_t)n, (size_t)k, (size_t)terms, NULL) + 63) / 64 * 64;
    t->memory = aligned_alloc(64, bytes);
    if (!t->memory) {
        free(t);
        return pl_fail(error, PL_E_MEMORY, "no memory for the activations of a product");
    }
    memset(t->memory, 0, bytes);
    layout(t, (size_t)n, (size_t)k, (size_t)terms, t->memory);
    fill(t, x);
    *out = t;
    return PL_OK;
}

void pl_trial_free(pl_trial *t)
{
    if (t)
        free(t->memory);
    free(t);
}

size_t pl_trial_scratch(const pl_trial *t)
{
    return t->kernels->matmul_scratch[t->format->id];
}

void pl_trial_run(const pl_trial *t, const uint8_t *packed, int tiles, int times, void *scratch, float *y)
{
    const pl_mat w = {t->format, tiles * PL_TILE, t->acts.k, t->tile_bytes, packed};
    pl_acts acts = t->acts;
    acts.scratch = scratch;
    for (int i = 0; i < times; i++, acts.again = 1)
        t->kernels->matmul[t->format->id](&w, 0, tiles, &acts, t->n, y, w.rows);
}
