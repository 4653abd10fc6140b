/* One engine thread per process owns the OpenMP team and alone opens parallel regions.
 *
 * Callers submit jobs; the engine thread runs them one at a time in order of arrival. After fork, the child
 * starts its own engine thread at its first submit. All functions may be called from any thread.
 */
#ifndef PL_TEAM_H
#define PL_TEAM_H

#include <stdint.h>

typedef struct pl_team pl_team; /* the threads of a running job */

/* Runs on every thread of the region at once: tid in [0, size). */
typedef void (*pl_job_fn)(void *arg, const pl_team *team, int tid);

int pl_team_size(const pl_team *team);     /* threads that started: may be fewer than requested */
void pl_team_barrier(const pl_team *team); /* all threads of the job; spins briefly, then yields; acquire/release */

typedef struct pl_job pl_job;
/* Queues fn(arg) on `threads` threads (>= 1). NULL if out of memory or if no thread can be started. */
pl_job *pl_job_submit(pl_job_fn fn, void *arg, int threads);
/* Waits at most `ms` milliseconds (0: does not wait). Returns 1 if the job has finished (what it wrote is visible), 0
 * if not yet, -1 if it never will: the process was forked while the job was queued or running, and only the parent runs
 * it. */
int pl_job_wait(pl_job *job, int ms);
/* Call only after pl_job_wait has returned 1 or -1. */
void pl_job_free(pl_job *job);
/* Whether no job is waiting or running; *ended: how many have ended in all. */
int pl_team_rests(unsigned *ended);
/* Share `tid`, [*from, *to), of `n` elements divided into `size` ranges of whole units. */
static inline void pl_share(int64_t n, int64_t unit, int tid, int size, int64_t *from, int64_t *to)
{
    int64_t units = (n + unit - 1) / unit;
    int64_t a = units * tid / size * unit, b = units * (tid + 1) / size * unit;
    *from = a < n ? a : n;
    *to = b < n ? b : n;
}

#endif
