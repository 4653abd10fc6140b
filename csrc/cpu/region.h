/* A region: one function on several threads at once. */
#ifndef PL_REGION_H
#define PL_REGION_H

/* Runs fn(arg, tid, size) for tid in [0, size) and returns when all have ended; tid 0 is the caller's thread. size: the
 * number of threads that started, 1 to `threads`. */
void pl_region_run(int threads, void (*fn)(void *arg, int tid, int size), void *arg);

/* Whether OpenMP starts the threads; its environment variables then apply. */
int pl_region_openmp(void);

/* The processors of place i, from 0 on, if OpenMP was told to bind threads to places (OMP_PROC_BIND, OMP_PLACES) ->
 * how many; 0: there is no such place, or it has more than `most`. */
int pl_region_place(int i, int *processors, int most);

#endif
