/* Runs single kernels of one tier for a test, on another machine or on this one: reads requests from stdin, writes
 * results to stdout. Every array lies between two unmapped pages, at the end or the start of the space between them, so
 * that a kernel that reads or writes beyond it crashes this program. Usage: serve TIER. The client is
 * tests/kernels/remote.py.
 *
 * Request: the head below, n_arrays `array_head`s, then the arrays' bytes. Reply: a double, then all bytes again. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/detect.h"
#include "kernels/select.h"

enum { MOST_INTS = 12, MOST_FLOATS = 4, MOST_ARRAYS = 10 };

typedef struct request {
    char op[16];
    int64_t n_arrays;
    int64_t i[MOST_INTS];
    float f[MOST_FLOATS];
} request;

typedef struct array_head {
    int64_t bytes; /* -1: NULL */
    int64_t place; /* 0: at the end of its space, 1: at the start, -1 - j: array j */
} array_head;

typedef struct call {
    const pl_kernels *k;
    const int64_t *i;
    const float *f;
    void **a;
} call;

static double op_isa(call c)
{
    strcpy(c.a[0], c.k->isa);
    return 0;
}

static pl_mat matrix(call c)
{
    const pl_format *f = pl_format_get((pl_format_id)c.i[0]);
    return (pl_mat){f, (int)c.i[1], (int)c.i[2], pl_tile_bytes(f, c.i[2]), c.a[0]};
}

static double op_pack(call c)
{
    c.k->pack[c.i[0]](c.a[0], (int)c.i[1], (int)c.i[2], c.a[1]);
    return 0;
}

static double op_unpack_row(call c)
{
    const pl_mat w = matrix(c);
    c.k->unpack_row[c.i[0]](&w, (int)c.i[3], c.a[1]);
    return 0;
}

static double op_matmul(call c)
{
    const pl_mat w = matrix(c);
    pl_tuning tuning;
    const int32_t *drawn = c.a[8];
    pl_tuning_default(pl_isa_find(c.k->isa), &tuning);
    for (int j = 0; drawn && j < PL_N_TUNING; j++)
        if (drawn[j] >= 0)
            memcpy((char *)&tuning + sizeof *drawn * (size_t)j, drawn + j, sizeof *drawn);
    pl_acts x = {w.k, (int)c.i[6], (int)c.i[10], c.a[2], c.i[7], c.a[3], c.a[4], c.a[5], c.a[6], c.a[7], &tuning, 0};
    for (int64_t times = 0; times < c.i[9]; times++, x.again = 1)
        c.k->matmul[c.i[0]](&w, (int)c.i[3], (int)c.i[4], &x, (int)c.i[5], c.a[1], c.i[8]);
    return 0;
}

static double op_matmul_scratch(call c)
{
    return (double)c.k->matmul_scratch[c.i[0]];
}

static double op_quantize(call c)
{
    const int k = (int)c.i[0], terms = (int)c.i[1];
    int8_t *q = c.a[1];
    int16_t *sums = c.a[3];
    c.k->quantize(c.a[0], k, terms, q, terms == 2 ? q + k : NULL, c.a[2], sums, terms == 2 ? sums + k / 16 : NULL);
    return 0;
}

static double op_to_bf16(call c)
{
    c.k->to_bf16(c.a[0], (int)c.i[0], c.a[1]);
    return 0;
}

static double op_rms_norm(call c)
{
    c.k->rms_norm(c.a[0], c.a[1], (int)c.i[0], c.f[0], c.a[2]);
    return 0;
}

static double op_layer_norm(call c)
{
    c.k->layer_norm(c.a[0], c.a[1], c.a[2], (int)c.i[0], c.f[0], c.a[3]);
    return 0;
}

static double op_add(call c)
{
    c.k->add(c.a[0], c.a[1], (int)c.i[0], c.a[2]);
    return 0;
}

static double op_scale(call c)
{
    c.k->scale(c.a[0], c.f[0], (int)c.i[0], c.a[1]);
    return 0;
}

static double op_glu(call c)
{
    c.k->glu[c.i[1]](c.a[0], c.a[1], c.a[2], (int)c.i[0], c.a[3]);
    return 0;
}

static double op_clip(call c)
{
    c.k->clip(c.a[0], c.f[0], c.f[1], (int)c.i[0], c.a[1]);
    return 0;
}

static double op_rope(call c)
{
    c.k->rope(c.a[0], c.a[1], c.a[2], (int)c.i[0], (int)c.i[1]);
    return 0;
}

static double op_softcap(call c)
{
    c.k->softcap(c.a[0], c.f[0], (int)c.i[0], c.a[1]);
    return 0;
}

static double op_from_f16(call c)
{
    if (!c.k->from_f16)
        return 1;
    c.k->from_f16(c.a[0], c.i[0], c.a[1]);
    return 0;
}

static double op_from_bf16(call c)
{
    c.k->from_bf16(c.a[0], c.i[0], c.a[1]);
    return 0;
}

/* f's table, of these values. middle: (15) */
static void use_table(pl_fit *f, const float *values, float *middle)
{
    if (!values)
        return;
    for (int i = 0; i < 15; i++)
        middle[i] = (values[i] + values[i + 1]) / 2;
    f->table = values;
    f->middle = middle;
}

static double op_fit(call c)
{
    pl_fit f = {.kind = (pl_fit_kind)c.i[0],
                .n = (int)c.i[1],
                .lo = (int)c.i[2],
                .hi = (int)c.i[3],
                .tries = (int)c.i[4],
                .centred = (int)c.i[6],
                .repeats = (int)c.i[5]};
    float middle[15];
    use_table(&f, c.a[2], middle);
    for (int i = 0; i < f.tries; i++)
        f.spread[i] = c.f[i];
    return c.k->fit(&f, (int)c.i[7], c.a[0], c.a[1], (float *)c.a[1] + PL_FIT_GROUPS) != 0;
}

static double op_fit_codes(call c)
{
    pl_fit f = {.n = (int)c.i[1], .lo = (int)c.i[2], .hi = (int)c.i[3]};
    float middle[15];
    use_table(&f, c.a[4], middle);
    c.k->fit_codes(&f, (int)c.i[0], c.a[0], c.a[1], c.a[2], c.a[3]);
    return 0;
}

static double op_fit_whole(call c)
{
    const int *i = (const int[]){(int)c.i[0], (int)c.i[1], (int)c.i[2], (int)c.i[3], (int)c.i[4]};
    return c.k->fit_whole(i[0], i[1], i[2], i[3], i[4], c.a[0], c.a[1], c.a[2]) != 0;
}

static double op_conv(call c)
{
    const int taps = (int)c.i[0], n = (int)c.i[1];
    pl_conv v = {.taps = taps, .w = c.a[2], .w_stride = n, .bias = c.a[3]};
    for (int j = 0; j < taps; j++) {
        v.x[j] = (const float *)c.a[0] + (size_t)j * n;
        v.by[j] = c.i[2] >> j & 1 ? (const float *)c.a[1] + (size_t)j * n : NULL;
    }
    c.k->conv(&v, n, c.a[4]);
    return 0;
}

static double op_scan(call c)
{
    const int64_t n = c.i[0], dk = c.i[1], cols = c.i[2];
    const float *x = c.a[0], *gates = c.a[1];
    const pl_scan s = {.n = (int)n,
                       .dk = (int)dk,
                       .cols = (int)cols,
                       .delta = (int)c.i[3],
                       .q = x,
                       .k = x + dk,
                       .v = x + 2 * dk,
                       .stride = 2 * dk + cols,
                       .decay = gates,
                       .gain = gates + 1,
                       .q_scale = gates + 2,
                       .k_scale = gates + 3,
                       .gate_stride = (ptrdiff_t)c.i[4],
                       .decays = c.i[4] > 4 ? gates + 4 : NULL,
                       .skip = c.f[0],
                       .state = c.a[2],
                       .out = c.a[3],
                       .out_stride = cols};
    return c.k->scan(&s);
}

static double op_page_bytes(call c)
{
    int64_t *bytes = c.a[0];
    bytes[0] = (int64_t)c.k->k_bytes[c.i[0]]((int)c.i[1]);
    bytes[1] = (int64_t)c.k->v_bytes[c.i[0]]((int)c.i[2]);
    return 0;
}

static double op_kv_append(call c)
{
    c.k->kv_append[c.i[0]](c.a[0], c.a[1], (int)c.i[1], (int)c.i[2], (int)c.i[3], c.a[2], c.a[3]);
    return 0;
}

enum { RUN = 4 }; /* pages of a call */

static double op_attend(call c)
{
    const int64_t m = c.i[1], dk = c.i[2], dv = c.i[3];
    const size_t k_bytes = c.k->k_bytes[c.i[0]]((int)dk), v_bytes = c.k->v_bytes[c.i[0]]((int)dv);
    pl_attend_page pages[RUN];
    for (int64_t page = 0; page < c.i[5]; page++) {
        pages[page % RUN] = (pl_attend_page){.m = (int)m,
                                             .dk = (int)dk,
                                             .dv = (int)dv,
                                             .scale = c.f[0],
                                             .cap = c.f[1],
                                             .q = c.a[0],
                                             .q_stride = c.i[4],
                                             .k = (const char *)c.a[1] + page * (int64_t)k_bytes,
                                             .v = (const char *)c.a[2] + page * (int64_t)v_bytes,
                                             .lo = (const int *)c.a[3] + page * m,
                                             .hi = (const int *)c.a[4] + page * m,
                                             .top = c.a[5],
                                             .sum = c.a[6],
                                             .acc = c.a[7],
                                             .scratch = c.a[8]};
        if (page % RUN == RUN - 1 || page + 1 == c.i[5])
            c.k->attend[c.i[0]](pages, (int)(page % RUN) + 1);
    }
    return 0;
}

static double op_attend_scratch(call c)
{
    return (double)c.k->attend_scratch[c.i[0]];
}

static double op_attend_merge(call c)
{
    c.k->attend_merge((int)c.i[0], (int)c.i[1], c.a[0], c.a[1], c.a[2], c.a[3], c.a[4], c.a[5]);
    return 0;
}

static double op_max(call c)
{
    return c.k->max(c.a[0], (int)c.i[0]);
}

static double op_sum_exp(call c)
{
    return c.k->sum_exp(c.a[0], (int)c.i[0], c.f[0], c.f[1]);
}

static double op_sum_exp_dot(call c)
{
    return c.k->sum_exp_dot(c.a[0], (int)c.i[0], c.f[0], c.f[1], c.a[1]);
}

static double op_moments(call c)
{
    double *out = c.a[1];
    c.k->moments(c.a[0], (int)c.i[0], c.f[0], out, out + 1);
    return 0;
}

static double op_collect(call c)
{
    return c.k->collect(c.a[0], (int)c.i[0], c.f[0], c.a[1], (int)c.i[1]);
}

static double op_softmax(call c)
{
    c.k->softmax(c.a[0], (int)c.i[0]);
    return 0;
}

static double op_exp(call c)
{
    c.k->exp(c.a[0], (int)c.i[0], c.a[1]);
    return 0;
}

static double op_peak_read(call c)
{
    *(uint64_t *)c.a[1] = c.k->peak.read(c.a[0], (size_t)c.i[0], 0);
    return 0;
}

static double op_peak_i8(call c)
{
    return c.k->peak.i8(c.i[0]);
}

static double op_peak_f32(call c)
{
    return c.k->peak.f32(c.i[0]);
}

static const struct {
    const char *name;
    double (*run)(call c);
} ops[] = {
    {"isa", op_isa},
    {"pack", op_pack},
    {"unpack_row", op_unpack_row},
    {"matmul", op_matmul},
    {"matmul_scratch", op_matmul_scratch},
    {"quantize", op_quantize},
    {"to_bf16", op_to_bf16},
    {"rms_norm", op_rms_norm},
    {"layer_norm", op_layer_norm},
    {"add", op_add},
    {"scale", op_scale},
    {"glu", op_glu},
    {"clip", op_clip},
    {"rope", op_rope},
    {"softcap", op_softcap},
    {"from_f16", op_from_f16},
    {"from_bf16", op_from_bf16},
    {"fit", op_fit},
    {"fit_codes", op_fit_codes},
    {"fit_whole", op_fit_whole},
    {"conv", op_conv},
    {"scan", op_scan},
    {"page_bytes", op_page_bytes},
    {"kv_append", op_kv_append},
    {"attend", op_attend},
    {"attend_scratch", op_attend_scratch},
    {"attend_merge", op_attend_merge},
    {"max", op_max},
    {"sum_exp", op_sum_exp},
    {"sum_exp_dot", op_sum_exp_dot},
    {"moments", op_moments},
    {"collect", op_collect},
    {"softmax", op_softmax},
    {"exp", op_exp},
    {"peak_read", op_peak_read},
    {"peak_i8", op_peak_i8},
    {"peak_f32", op_peak_f32},
};

static void stop(const char *why)
{
    fprintf(stderr, "serve: %s\n", why);
    exit(2);
}

static void receive(void *to, size_t n)
{
    if (n && fread(to, n, 1, stdin) != 1)
        stop("a request ends early");
}

/* Space for `bytes` between two unmapped pages. */
typedef struct room {
    char *area, *data;
    size_t size;
} room;

static room make_room(array_head h)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)h.bytes;
    const size_t middle = bytes ? (bytes + page - 1) / page * page : page;
    room r = {.size = middle + 2 * page};
    r.area = mmap(NULL, r.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r.area == MAP_FAILED || mprotect(r.area + page, middle, PROT_READ | PROT_WRITE))
        stop("no memory");
    r.data = r.area + page + (h.place == 0 ? middle - bytes : 0);
    return r;
}

static void answer(const pl_kernels *k, const request *q)
{
    array_head head[MOST_ARRAYS];
    room rooms[MOST_ARRAYS];
    void *a[MOST_ARRAYS] = {0};
    if (q->n_arrays < 0 || q->n_arrays > MOST_ARRAYS)
        stop("too many arrays");
    receive(head, (size_t)q->n_arrays * sizeof *head);
    for (int64_t j = 0; j < q->n_arrays; j++) {
        if (head[j].place < 0) {
            a[j] = a[-1 - head[j].place];
        } else if (head[j].bytes >= 0) {
            rooms[j] = make_room(head[j]);
            a[j] = rooms[j].data;
            receive(a[j], (size_t)head[j].bytes);
        }
    }
    size_t op = 0;
    while (op < sizeof ops / sizeof *ops && strncmp(ops[op].name, q->op, sizeof q->op))
        op++;
    if (op == sizeof ops / sizeof *ops)
        stop("unknown kernel");
    const double result = ops[op].run((call){k, q->i, q->f, a});
    fwrite(&result, sizeof result, 1, stdout);
    for (int64_t j = 0; j < q->n_arrays; j++)
        if (head[j].place >= 0 && head[j].bytes >= 0) {
            fwrite(a[j], 1, (size_t)head[j].bytes, stdout);
            munmap(rooms[j].area, rooms[j].size);
        }
    fflush(stdout);
}

/* The tier's kernels, or NULL. */
static const pl_kernels *kernels(const char *name)
{
#ifdef PL_TILES_EMULATED /* which the processor need not have */
    static pl_kernels k;
    if (!strcmp(name, "amx") && pl_kernels_get(PL_ISA_AVX512BF16)) {
        pl_kernels_scalar(&k);
        pl_kernels_avx2(&k);
        pl_kernels_avx512(&k);
        pl_kernels_avx512bf16(&k);
        pl_kernels_amx(&k);
        return &k;
    }
#endif
    return pl_kernels_get(pl_isa_find(name));
}

int main(int argc, char **argv)
{
    const pl_kernels *k = argc == 2 ? kernels(argv[1]) : NULL;
    request q;
    if (!k)
        stop("usage: serve TIER, one that this program holds and this processor runs");
    while (fread(&q, sizeof q, 1, stdin) == 1)
        answer(k, &q);
    return 0;
}
