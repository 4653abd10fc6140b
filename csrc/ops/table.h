/* What the engine knows of each kind of operation: one row of a table (table.c), which the validator, the executor, the
 * buffers' forms, prefetching and Python's listings read. */
#ifndef PL_TABLE_H
#define PL_TABLE_H

#include "op.h"

struct pl_run;

/* An operation's buffers, as bits of a set. */
enum { PL_IN = 1, PL_OUT = 2, PL_TMP = 4 };

/* How an operation shares out its work where it starts and where it ends. */
typedef enum {
    PL_BY_ROWS,  /* each row on the thread that pl_my_rows gives it to */
    PL_BY_TILES, /* columns, 16 by 16 */
    PL_BY_ITEMS, /* tiles of queries x heads: whoever comes first */
} pl_sharing;

/* What an operation's segments are. */
typedef enum {
    PL_SEGS_NONE,
    PL_SEGS_LOOKUP,       /* one (vocab, out): a row for each token, read and not multiplied */
    PL_SEGS_SIDE_BY_SIDE, /* one or more, which fill the columns of out one after another */
    PL_SEGS_WHOLE,        /* n_segs of (out, in) */
    PL_SEGS_VOCAB,        /* one (vocab, in) */
} pl_segs;

typedef struct pl_op_desc {
    const char *name;
    void (*run)(const struct pl_run *r, const pl_op *op, int tid);
    const char *(*check)(const pl_plan *plan, const pl_op *op); /* what else does not fit, or NULL; may be NULL */
    uint8_t reads, writes, scratch; /* sets of buffers; scratch: float32 rows, whose other forms are not written */
    uint8_t in_place;               /* out is in; otherwise they are two */
    uint8_t keeps;                  /* some rows or columns of what it writes stay as they were */
    uint8_t multiplies;             /* its matrices read `in`, in their formats' forms ... */
    uint8_t own_rows;               /* ... or rows of its own made from it: the head's */
    uint8_t segments, n_segs;       /* pl_segs; how many, 0: any */
    uint8_t terms;                  /* least int8 terms of its activations */
    uint8_t stores, attends;        /* appends to its layer of the cache; reads it */
    uint8_t wanted;                 /* computes only rows that ask for logits */
    uint8_t start, end, end_vec;    /* pl_sharing; end_vec: at the end of an operation that has a vec */
} pl_op_desc;

extern const pl_op_desc pl_op_table[PL_N_OPS];

/* Name of activation i = 0, 1, ..., NULL after the last. */
const char *pl_act_name(int i);
/* The same of norms. */
const char *pl_norm_name(int i);

#endif
