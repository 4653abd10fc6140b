/* Starts threads to find out how many the system allows. */
#include "limit.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

typedef struct probe {
    pthread_mutex_t gate;
} probe;

static void *probe_thread(void *arg)
{
    probe *p = arg;
    void *volatile m = malloc(64); /* like a real thread: the C library reserves an arena for it */
    free(m);
    pthread_mutex_lock(&p->gate);
    pthread_mutex_unlock(&p->gate);
    return NULL;
}

int pl_thread_limit(int threads)
{
    probe p;
    pthread_t *t = malloc((size_t)threads * sizeof *t);
    int n = 0;
    if (!t)
        return 1;
    pthread_mutex_init(&p.gate, NULL);
    pthread_mutex_lock(&p.gate);
    while (n < threads - 1 && pthread_create(&t[n], NULL, probe_thread, &p) == 0)
        n++;
    pthread_mutex_unlock(&p.gate);
    for (int i = 0; i < n; i++)
        pthread_join(t[i], NULL);
    pthread_mutex_destroy(&p.gate);
    free(t);
    if (n == threads - 1)
        return threads;
    /* At the limit: give the system time to deduct the threads that just ended, and leave room for what an OpenMP
     * library allocates per thread besides its stack. With a quarter of the threads, clang's library never ran out of
     * memory; with three quarters it did. */
    struct timespec rest = {0, 5000000};
    nanosleep(&rest, NULL);
    return n < 8 ? 1 : n / 4;
}
