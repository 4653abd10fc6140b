/* The data that operations work on, and the function of each kind (listed in table.c).
 *
 * Every thread of the team calls the same function. An operation divides its work by rows, by columns (tiles) or by
 * items in such a way that no result depends on the number of threads. The executor puts a barrier between two
 * operations unless both are divided by rows.
 */
#ifndef PL_OPS_H
#define PL_OPS_H

#include <stdatomic.h>

#include "../cache/sequence.h"
#include "../cpu/team.h"
#include "../kernels/kernels.h"
#include "blocking.h"
#include "table.h"

enum { PL_GATHERED = 256 }; /* most rows gathered at a time */

/* Forms of a buffer's rows for matrix products, and float32, which it always has. */
enum { PL_FORM_Q8 = 1, PL_FORM_BF16 = 2, PL_FORM_FLOAT = 4 };

/* A buffer of the plan: (rows, dim) float32, and the forms that linears read. */
typedef struct pl_buf {
    int dim, forms;
    int stored;    /* int8 terms of a row: the most that any reader uses */
    float *f;      /* (rows, dim) */
    int8_t *q;     /* (rows, stored, dim) */
    float *s;      /* (rows, dim / 32) */
    int16_t *sums; /* (rows, stored, dim / 16) */
    uint16_t *b;   /* (rows, dim rounded up to 2) */
} pl_buf;

/* Query rows of one sequence that attend together. */
typedef struct pl_qtile {
    int32_t row, n; /* first row in the pass, number of rows */
    int32_t end;    /* the sequence's slots after the pass */
} pl_qtile;

/* Consumes, and may overwrite, the logits of row wants[want]. Called once per such row, from any thread. Returns 0, or
 * PL_BAD_* if something is wrong with them. */
typedef int (*pl_consume_fn)(void *arg, int want, float *logits, int tid);

/* The rows of one sequence in a pass. */
typedef struct pl_part {
    int32_t row, n, seq; /* first row, number of rows, index into the pass's sequences */
} pl_part;

typedef struct pl_model_tables {
    const pl_kernels *kernels;
    pl_tuning tuning;
    const pl_segment *segs;
    const pl_mat *mats; /* packed; `data` of a plain matrix holds rows as in the file; of a stack: its first matrix */
    const int32_t *stacks; /* matrices of each stack */
    const float *const *vecs;
    const pl_rope_desc *ropes;
    int n_ropes;
    const pl_cache_desc *caches;
    const pl_group *groups;
    const pl_state_desc *states;
    const size_t *state_at; /* per group of recurrent layers: where its layers begin in a block, in floats */
    int state_group;        /* the pool's group of these states */
    const float *zeros;     /* as many as the widest convolution has channels */
    int gates;              /* floats per row of `gates` */
    pl_kv_type kv;
    int vocab;
    pl_buf *bufs;
    const uint8_t *finish; /* per operation: forms of its output that later operations read, float32 included */
} pl_model_tables;

/* One forward pass. */
typedef struct pl_run {
    const pl_model_tables *m;
    const pl_team *team;
    const pl_op *ops;
    int n_rows;
    const pl_row *rows;
    pl_seq *const *seqs;
    atomic_int *status;                       /* per sequence: PL_BAD_* */
    float *const *rope_cos, *const *rope_sin; /* per rope: (n_rows, n_rot / 2) */
    const pl_part *parts;
    int n_parts;
    int watched;  /* buffers are read between operations, or by a later pass */
    float *gates; /* (n_rows, m->gates): of one scan */
    const pl_qtile *qtiles;
    int n_qtiles, qtile_rows;                  /* qtile_rows: most rows of a query tile of this pass */
    float *const *scratch;                     /* per thread: pl_attend_scratch() floats */
    struct pl_expert_room *const *expert_room; /* per thread, if the plan has experts (experts.c) */
    void *const *gathered;                     /* per thread: pl_gather_bytes() */
    float *const *products;                    /* per thread: (2, PL_PRODUCTS) */
    void *const *kernel_scratch;               /* per thread: pl_kernels_scratch() bytes */
    float *partial;                            /* states: (items, at_once + 1) x pl_attend_state() floats, or NULL */
    int at_once;                               /* chunks of an item that are computed side by side */
    int own_keys;                              /* each thread attends for its own rows (pl_attend_by_rows) */
    atomic_int *next;                          /* (n_ops, 2) work counters, zero at the start */
    const int32_t *wants;                      /* (n_wants) rows that want logits, ascending */
    const int32_t *hiddens;                    /* (n_hiddens) rows that want their hidden state, ascending */
    int n_wants, n_hiddens;
    pl_buf *head_rows;     /* normed rows of one block of the head */
    float *logits;         /* (PL_HEAD_ROWS, vocab), used if `store` is NULL */
    float *store;          /* (n_wants, vocab) or NULL */
    float *hidden;         /* (n_hiddens, dim) */
    pl_consume_fn consume; /* called if `store` is NULL */
    void *consume_arg;
} pl_run;

/* The form besides float32 that products with matrices of this format read, or 0. */
int pl_format_form(const pl_format *f);
/* Takes `bytes` at offset *at of the block at `base` and advances *at; base NULL: only advances. */
void *pl_cut(void *base, size_t *at, size_t bytes);
/* Assigns the memory for `rows` rows of a buffer. */
void pl_buf_layout(pl_buf *b, size_t rows, void *base, size_t *at);
/* Writes columns [from, to) of a row in `forms`; from and to: multiples of 32, or the end. x: the columns' floats. */
void pl_buf_put(const pl_kernels *k, const pl_buf *b, int forms, int row, int from, int to, const float *x);
/* The same with the buffer's own floats. */
void pl_buf_finish(const pl_kernels *k, const pl_buf *b, int forms, int row, int from, int to);
/* The rows of a buffer from `row` on, as a kernel reads them. */
pl_acts pl_buf_acts(const pl_buf *b, int row);

/* Marks the sequence of a row as failed. */
static inline void pl_bad(const pl_run *r, int row, int what)
{
    atomic_fetch_or_explicit(&r->status[r->rows[row].seq], what, memory_order_relaxed);
}

/* Forms besides float32 in which an operation must write its output. */
static inline int pl_finishes(const pl_run *r, const pl_op *op)
{
    return r->m->finish[op - r->ops] & ~PL_FORM_FLOAT;
}

/* Whether it must write float32 as well. */
static inline int pl_leaves_floats(const pl_run *r, const pl_op *op)
{
    return r->watched || r->m->finish[op - r->ops] & PL_FORM_FLOAT;
}

/* This thread's rows [*from, *to) of the pass. */
static inline void pl_my_rows(const pl_run *r, int tid, int *from, int *to)
{
    int64_t a, b;
    pl_share(r->n_rows, 1, tid, pl_team_size(r->team), &a, &b);
    *from = (int)a;
    *to = (int)b;
}

/* Whether w has float weights, with a kernel that divides rows and weights itself. */
static inline int pl_divides(const pl_model_tables *m, const pl_mat *w)
{
    return w->format->is_float && m->kernels->matmul_scratch[w->format->id];
}

/* Whether the threads divide an operation by rows, as pl_my_rows does: what one operation writes is then in the caches
 * of the thread that reads it next. Attention: see pl_attend_by_rows. Products, which are otherwise divided by tiles:
 * each thread must have a quarter of a step, and half of the rows that would meet the same unpacked weights by tiles.
 * As each thread then reads all weights, they must be few, or be read no more often than by tiles. */
int pl_divides_rows(const pl_run *r, const pl_op *op);

/* This thread's rows [*from, *to) of an operation's products. */
void pl_product_rows(const pl_run *r, const pl_op *op, int tid, int *from, int *to);

/* How many of the `left` rows an operation multiplies by the segment before it uses their products: as many as are
 * allowed at once; of a thread's own rows, steps of about equal size. */
int pl_rows_at_once(const pl_run *r, const pl_op *op, const pl_segment *seg, int left);

/* How many tiles n rows meet before their products are used, an even number (blocks of 32 are quantised): few enough
 * that the products are still cached then. With few rows, those of all tiles are. */
static inline int pl_tiles_at_once(const pl_run *r, int n, int tiles)
{
    const pl_tuning *t = &r->m->tuning;
    const int most = n > t->step_rows ? t->step_rows * t->step_tiles / n : t->step_tiles;
    return r->n_rows <= PL_FEW_ROWS || tiles <= most ? tiles : most < 2 ? 2 : most & ~1;
}

/* The same for operations that can also use the products of all tiles together: all tiles, if the activations of n rows
 * do not fit into a panel, which would have to be laid out again for each step. */
static inline int pl_tiles_or_all(const pl_run *r, const pl_mat *w, int n, int tiles)
{
    return (int64_t)n * w->k * 9 / 8 > r->m->tuning.panel_bytes ? tiles : pl_tiles_at_once(r, n, tiles);
}

/* Where products of n rows, from `row` on, for columns [c0, c1) of a buffer wait until they are used: the address of
 * the first row's column 0, and the distance between rows. */
typedef struct pl_products {
    float *y;
    ptrdiff_t stride;
} pl_products;

/* Many products lie densely in the thread's own memory (i: which half of it): in the buffer, rows whose distance is a
 * power of two would evict each other from the caches. */
pl_products pl_products_at(const pl_run *r, const pl_buf *b, int row, int n, int c0, int c1, int i, int tid);

/* y(n, stride)[column + r] = scale * row_scale[r] * (mats[seg.mat] row r . acts) + bias[r] for rows of tiles
 * [tile0, tile1) of the segment, on thread tid. again: 1: the thread's last product had the same rows of `in`, which
 * have not changed since. */
void pl_segment_run(const pl_run *r, const pl_segment *seg, int tile0, int tile1, const pl_buf *in, int row0, int n,
                    float *y, ptrdiff_t y_stride, int tid, int again);
/* The same for `w` in place of the segment's matrix, whose vectors begin at entry `first`; y: from w's column 0 on. */
void pl_product_run(const pl_run *r, const pl_segment *seg, const pl_mat *w, int first, int tile0, int tile1,
                    const pl_buf *in, int row0, int n, float *y, ptrdiff_t y_stride, int tid, int again);
/* Tiles of the segment's matrix, or of one matrix of its stack. */
int pl_segment_tiles(const pl_model_tables *m, const pl_segment *seg);
/* This thread's tiles [*from, *to) of segment s, in a linear of all matrices of a stack; all tiles if rows are divided.
 * Segments side by side are divided as a whole; other operations have one segment, or two with the same tiles. */
void pl_my_tiles(const pl_run *r, const pl_op *op, int s, int tid, int *from, int *to);

/* Prefetches the first weights that this thread will need in `op`. Called before a barrier, to use the waiting time. */
void pl_op_prefetch(const pl_run *r, const pl_op *op, int tid);

/* y = act(g) * u, or act(g) if u is NULL, with the operation's limit and parameters. g and u are overwritten if there
 * is a limit; y may be g or u. */
void pl_act_row(const pl_model_tables *m, const pl_op *op, float *g, float *u, int n, float *y);

/* The norm of a row of n by norm, linear_add or head; y may be x. */
void pl_norm_row(const pl_model_tables *m, const pl_op *op, const float *x, int n, float *y);

void pl_op_embed(const pl_run *r, const pl_op *op, int tid);
void pl_op_norm(const pl_run *r, const pl_op *op, int tid);
void pl_op_linear(const pl_run *r, const pl_op *op, int tid);
void pl_op_head_norm(const pl_run *r, const pl_op *op, int tid);
void pl_op_rope_append(const pl_run *r, const pl_op *op, int tid);
void pl_op_attend(const pl_run *r, const pl_op *op, int tid);
void pl_op_linear_add(const pl_run *r, const pl_op *op, int tid);
void pl_op_glu(const pl_run *r, const pl_op *op, int tid);
void pl_op_head(const pl_run *r, const pl_op *op, int tid);
void pl_op_route(const pl_run *r, const pl_op *op, int tid);
void pl_op_experts(const pl_run *r, const pl_op *op, int tid);
void pl_op_experts_add(const pl_run *r, const pl_op *op, int tid);
void pl_op_scale_add(const pl_run *r, const pl_op *op, int tid);
void pl_op_gate(const pl_run *r, const pl_op *op, int tid);
void pl_op_reorder(const pl_run *r, const pl_op *op, int tid);
void pl_op_reattend(const pl_run *r, const pl_op *op, int tid);
void pl_op_conv(const pl_run *r, const pl_op *op, int tid);
void pl_op_scan(const pl_run *r, const pl_op *op, int tid);

/* Checks beyond those that the table describes, called after buffers and segments have been checked. They return the
 * name of what does not fit, or NULL. */
const char *pl_check_norm(const pl_plan *p, const pl_op *op);
const char *pl_check_gate(const pl_plan *p, const pl_op *op);
const char *pl_check_reorder(const pl_plan *p, const pl_op *op);
const char *pl_check_reattend(const pl_plan *p, const pl_op *op);
const char *pl_check_conv(const pl_plan *p, const pl_op *op);
const char *pl_check_scan(const pl_plan *p, const pl_op *op);
const char *pl_check_head_norm(const pl_plan *p, const pl_op *op);
const char *pl_check_rope_append(const pl_plan *p, const pl_op *op);
const char *pl_check_attend(const pl_plan *p, const pl_op *op);
const char *pl_check_linear(const pl_plan *p, const pl_op *op);
const char *pl_check_linear_add(const pl_plan *p, const pl_op *op);
const char *pl_check_glu(const pl_plan *p, const pl_op *op);
const char *pl_check_head(const pl_plan *p, const pl_op *op);
const char *pl_check_route(const pl_plan *p, const pl_op *op);
const char *pl_check_experts(const pl_plan *p, const pl_op *op);
const char *pl_check_experts_add(const pl_plan *p, const pl_op *op);
const char *pl_check_scale_add(const pl_plan *p, const pl_op *op);
/* For operations with an activation; gated: one that multiplies something. */
const char *pl_check_act(const pl_plan *p, const pl_op *op, int gated);
/* For operations that norm rows of n. */
const char *pl_check_norm_of(const pl_plan *p, const pl_op *op, int n);
/* For operations on queries, keys and values side by side; for operations on a layer of the cache. */
const char *pl_check_heads(const pl_plan *p, const pl_op *op);
const char *pl_check_queries(const pl_plan *p, const pl_op *op); /* the same, or on queries alone */
const char *pl_check_cache_layer(const pl_plan *p, const pl_op *op);

/* Matrix e of a stack. */
static inline pl_mat pl_mat_part(const pl_mat *w, int e)
{
    pl_mat part = *w;
    part.data += e * ((w->rows + PL_TILE - 1) / PL_TILE) * w->tile_bytes;
    return part;
}

/* The buffer that a segment reads. */
static inline int pl_segment_in(const pl_op *op, const pl_segment *seg)
{
    return seg->in >= 0 ? seg->in : op->in;
}

static inline int pl_inside(int32_t id, int32_t n)
{
    return id >= 0 && id < n;
}

/* Whether `id` is a vector of n floats. */
static inline int pl_has_vec(const pl_plan *p, int32_t id, int32_t n)
{
    return pl_inside(id, p->n_vecs) && p->vecs[id].n == n;
}

/* Computes cosines and sines of this thread's rows for every rope of the plan. */
void pl_rope_angles(const pl_run *r, int tid);

/* Floats of a recurrent layer's state: the convolution's part, and both. */
static inline size_t pl_state_conv_part(const pl_state_desc *d)
{
    return ((size_t)(d->taps - 1) * d->channels + 15) / 16 * 16;
}

static inline size_t pl_state_floats(const pl_state_desc *d)
{
    size_t blocks = ((size_t)d->dv + PL_SCAN_COLUMNS - 1) / PL_SCAN_COLUMNS;
    return pl_state_conv_part(d) + (size_t)d->n_v * blocks * d->dk * PL_SCAN_COLUMNS;
}

/* Floats of one attention state (top, sum, acc) of `m` rows of width dv. */
static inline size_t pl_attend_state(int m, int dv)
{
    return (size_t)m * (2 + (size_t)dv);
}
/* Whether each thread attends for its own rows: if every row is of another sequence, and what the threads' rows see
 * differs by less than a tenth. */
int pl_attend_by_rows(const pl_run *r);
/* Floats of scratch per thread for a cache group with tiles of `rows` rows. */
size_t pl_attend_scratch(const pl_cache_desc *c, int rows);
/* Lays out what a thread needs for experts at `base` and returns its bytes, 0 if no operation has experts; base NULL:
 * only the size. */
size_t pl_experts_layout(const pl_plan *p, int max_rows, struct pl_expert_room **room, void *base);
/* Bytes that a thread needs to gather the rows of experts and the columns of heads. bufs: with their forms. */
size_t pl_gather_bytes(const pl_plan *p, const pl_buf *bufs, int max_rows);
/* Lays out n <= PL_GATHERED rows of k columns in such memory: those of a buffer, in `forms` and float32. */
void pl_gather_begin(pl_buf *rows, void *memory, const pl_buf *in, int k, int forms, int n);
/* Row `at` of them = the columns of a row of `in` from `column` on, a multiple of 32 for int8. floats: also in
 * float32. */
void pl_gather_row(const pl_buf *rows, const pl_buf *in, int row, int column, int at, int floats);
/* Query rows per tile of a group: enough heads x rows to share each key, few enough for the first-level cache. */
int pl_attend_tile_rows(const pl_cache_desc *c);

#endif
