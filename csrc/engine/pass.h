/* A queued or running forward pass, with copies of the caller's arrays. */
#ifndef PL_PASS_H
#define PL_PASS_H

#include "model.h"

typedef struct pl_pass_body {
    pl_run run;
    pl_pass pass;
    int whole;  /* all operations run: the sequences grow by the rows */
    int forked; /* seqs are forks, freed at the end: the pass stores keys and values without changing its sequences */
    pl_row *rows;
    pl_seq **seqs;      /* (n_seqs) */
    atomic_int *status; /* (n_seqs) PL_BAD_* */
    pl_part *parts;
    int n_parts;
    pl_qtile *qtiles;
    int32_t *wants, *hiddens;
    pl_sample_params *sample;
    uint64_t *step;
    pl_sampled *sampled;
    pl_tap *feeds, *taps;
    atomic_int stop_at; /* operations from here on do not run; set by thread 0 before a barrier, read after it */
} pl_pass_body;

/* Checks every number of a pass. */
pl_status pl_pass_check(const pl_model *m, const pl_pass *pass, pl_error *error);
/* Copies a checked pass and reserves the slots of its rows. */
pl_status pl_pass_new(pl_model *m, const pl_pass *pass, pl_pass_body **body, pl_error *error);
/* Lengthens the sequences of a whole pass that ran by their rows, except those that failed (status); rolls back all
 * others. Copies statuses and samples to the caller. */
void pl_pass_settle(pl_pass_body *b, int ran);
void pl_pass_free(pl_pass_body *b);

#endif
