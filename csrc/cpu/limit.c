/* Threads of our own, to see how many may exist. */
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
    void *volatile m = malloc(64); /* as a real thread does: the C library reserves an arena for it */
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
    /* At the limit: let the system count those out that just ended, and leave room. What an OpenMP library needs for a
     * thread besides its stack is not ours to know: with a quarter of the threads clang's never ran out, with three
     * quarters it did. */
    struct timespec rest = {0, 5000000};
    nanosleep(&rest, NULL);
    return n < 8 ? 1 : n / 4;
}
