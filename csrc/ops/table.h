/* The descriptor of each kind of operation, one row of the table in table.c. Validator, executor, forms, prefetching
 * and Python's listings read it. */
#ifndef PL_TABLE_H
#define PL_TABLE_H

#include "op.h"

struct pl_run;

/* An operation's buffers, as bits of a set. */
enum { PL_IN = 1, PL_OUT = 2, PL_TMP = 4 };

/* A property that depends on the operation. */
enum { PL_MAYBE = 2 };

/* How an operation divides its work among threads, at its start and at its end. */
typedef enum {
    PL_BY_ROWS,  /* each row belongs to the thread that pl_my_rows assigns */
    PL_BY_TILES, /* columns, in tiles of 16; with many rows, by rows (pl_divides_rows) */
    PL_BY_ITEMS, /* query tiles x KV heads, each claimed by the next free thread; or rows (pl_divides_rows) */
} pl_sharing;

/* Parts of a recurrent layer's state. */
enum { PL_CONV_PART = 1, PL_SCAN_PART = 2 };

/* The shapes of an operation's segments. */
typedef enum {
    PL_SEGS_NONE,
    PL_SEGS_LOOKUP,       /* one (vocab, out): a row per token, looked up, not multiplied */
    PL_SEGS_SIDE_BY_SIDE, /* one or more, which fill the columns of out from left to right */
    PL_SEGS_WHOLE,        /* n_segs of (out, in) */
    PL_SEGS_VOCAB,        /* one (vocab, in) */
    PL_SEGS_SCORES,       /* one (tmp, in) */
    PL_SEGS_EXPERTS,      /* n_segs stacks of matrices, from which a row reads its experts' */
} pl_segs;

typedef struct pl_op_desc {
    const char *name;
    void (*run)(const struct pl_run *r, const pl_op *op, int tid);
    const char *(*check)(const pl_plan *plan, const pl_op *op); /* names what else does not fit; may be NULL */
    uint8_t reads, writes, scratch; /* sets of buffers; scratch: only its float32 rows are written */
    uint8_t own_tmp;                /* the width of `tmp` is not that of `out`; `check` checks it */
    uint8_t scratch_segs;           /* `scratch` is used with at least this many segments */
    uint8_t in_place;               /* `out` is the same buffer as `in` (PL_MAYBE: or another); else they differ */
    uint8_t keeps;                  /* some rows or columns of `out` keep their values; PL_MAYBE: if width is not all */
    uint8_t multiplies;             /* multiplies `in`, in the forms that its matrices need ... */
    uint8_t own_rows;               /* ... or rows of its own, computed from `in` (the head) */
    uint8_t segments, n_segs;       /* pl_segs; their number, 0: any */
    uint8_t least_terms;            /* minimum int8 terms of its activations */
    uint8_t stores, attends;        /* appends to its layer of the cache, unless a flag says otherwise; reads it */
    uint8_t recurs;                 /* PL_CONV_PART, PL_SCAN_PART: reads and writes this part of its layer's state */
    uint8_t wanted;                 /* computes only rows with want */
    uint8_t routes, routed;         /* writes a row's experts into `out`; reads them from `tmp` */
    uint8_t start, end, end_vec;    /* pl_sharing; end_vec: the end, if the operation has a vec */
} pl_op_desc;

extern const pl_op_desc pl_op_table[PL_N_OPS];

/* Whether some rows or columns of an operation's output keep their values; whether its output must already hold values;
 * whether it appends to its layer of the cache. */
int pl_op_keeps(const pl_plan *plan, const pl_op *op);
int pl_op_reads_out(const pl_plan *plan, const pl_op *op);
int pl_op_stores(const pl_op *op);
/* The operation's scratch buffers. */
int pl_op_scratch(const pl_op *op);
/* Name of activation i = 0, 1, ..., NULL after the last. */
const char *pl_act_name(int i);
/* The same for norms. */
const char *pl_norm_name(int i);

#endif
