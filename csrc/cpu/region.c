/* An OpenMP region; or, with PL_REGION_PTHREADS, one of POSIX threads, if there is no OpenMP, and for sanitizers, since
 * gcc's thread sanitizer does not see the synchronisation inside its own OpenMP library. */
#include "region.h"

#if defined(PL_REGION_PTHREADS)

#include <pthread.h>
#include <stdlib.h>

typedef struct region {
    void (*fn)(void *arg, int tid, int size);
    void *arg;
    pthread_mutex_t gate; /* held until all threads are started */
    int came, size;
} region;

static void *enter(void *p)
{
    region *r = p;
    pthread_mutex_lock(&r->gate);
    int tid = ++r->came;
    pthread_mutex_unlock(&r->gate);
    r->fn(r->arg, tid, r->size);
    return NULL;
}

void pl_region_run(int threads, void (*fn)(void *arg, int tid, int size), void *arg)
{
    region r = {.fn = fn, .arg = arg, .gate = PTHREAD_MUTEX_INITIALIZER, .size = 1};
    pthread_t *others = malloc((size_t)threads * sizeof *others);
    pthread_mutex_lock(&r.gate);
    while (others && r.size < threads && !pthread_create(&others[r.size], NULL, enter, &r))
        r.size++;
    pthread_mutex_unlock(&r.gate);
    fn(arg, 0, r.size);
    for (int i = 1; i < r.size; i++)
        pthread_join(others[i], NULL);
    free(others);
}

int pl_region_openmp(void)
{
    return 0;
}

int pl_region_place(int i, int *processors, int most)
{
    (void)i, (void)processors, (void)most;
    return 0;
}

#else

#include <omp.h>

void pl_region_run(int threads, void (*fn)(void *arg, int tid, int size), void *arg)
{
    omp_set_dynamic(0);
#pragma omp parallel num_threads(threads)
    fn(arg, omp_get_thread_num(), omp_get_num_threads());
}

int pl_region_openmp(void)
{
    return 1;
}

int pl_region_place(int i, int *processors, int most)
{
    const int n = i < omp_get_num_places() ? omp_get_place_num_procs(i) : 0;
    if (n < 1 || n > most)
        return 0;
    omp_get_place_proc_ids(i, processors);
    return n;
}

#endif
