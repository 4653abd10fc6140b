/* Drives csrc/cpu/team.c for the thread sanitizer. Every shared word here is a plain variable, so only the queue, its
 * waits and its barriers order the accesses; the sanitizer reports any two that are not ordered.
 *
 * PLANT=job|barrier|wait in the environment omits one of these orderings on purpose: the sanitizer must then report it.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/team.h"

enum { MAX_TEAM = 4, WORDS = 64, CALLERS = 4, JOBS = 30 };

static const char *plant = "";
static long shared_by_jobs; /* jobs run one at a time: each may add to it */

typedef struct work {
    int in[WORDS], half[MAX_TEAM], out[WORDS], size;
    long order;
} work;

static int planted(const char *what)
{
    return !strcmp(plant, what);
}

/* Twice, with barriers between: every thread fills its share, then all threads read everything. */
static void run(void *arg, const pl_team *team, int tid)
{
    work *w = arg;
    int size = pl_team_size(team);
    int64_t from, to;
    pl_share(WORDS, 4, tid, size, &from, &to);
    if (tid == 0 || planted("job"))
        w->size = size, w->order = ++shared_by_jobs;
    for (int round = 0; round < 3; round++) {
        for (int64_t i = from; i < to; i++)
            w->out[i] = w->in[i] + round;
        if (!planted("barrier"))
            pl_team_barrier(team);
        w->half[tid] = 0;
        for (int i = 0; i < WORDS; i++)
            w->half[tid] += w->out[i];
        pl_team_barrier(team);
    }
}

static int check(const work *w)
{
    int sum = 0;
    for (int i = 0; i < WORDS; i++)
        sum += w->in[i] + 2;
    for (int t = 0; t < w->size; t++)
        if (w->half[t] != sum)
            return 1;
    return w->order < 1;
}

/* A job for which its caller does not wait before queueing the next, so that several are queued. */
static void *call(void *arg)
{
    long number = (long)arg, wrong = 0;
    for (int i = 0; i < JOBS; i++) {
        work *w[3];
        pl_job *job[3];
        for (int j = 0; j < 3; j++) {
            w[j] = calloc(1, sizeof *w[j]);
            for (int k = 0; k < WORDS; k++)
                w[j]->in[k] = (int)number + i + j + k;
            job[j] = pl_job_submit(run, w[j], 1 + (int)(number + i / 20) % MAX_TEAM);
            if (!job[j])
                abort();
        }
        if (i % 10 == 9)
            usleep(2000);                       /* the engine and its team fall asleep */
        while (planted("wait") && !w[2]->order) /* by eye */
            sched_yield();
        for (int j = 2; j >= 0; j--) {
            while (pl_job_wait(job[j], i % 3) == 0) /* polls, times out, waits */
                ;
            wrong += check(w[j]);
            pl_job_free(job[j]);
            free(w[j]);
        }
    }
    return (void *)wrong;
}

/* Two threads wait for one job. */
static void *wait_too(void *arg)
{
    while (pl_job_wait(arg, 1) != 1)
        ;
    return NULL;
}

int main(void)
{
    pthread_t caller[CALLERS], other;
    long wrong = 0;
    plant = getenv("PLANT") ? getenv("PLANT") : "";
    for (long i = 0; i < CALLERS; i++)
        pthread_create(&caller[i], NULL, call, (void *)i);
    for (int i = 0; i < CALLERS; i++) {
        void *bad;
        pthread_join(caller[i], &bad);
        wrong += (long)bad;
    }
    for (int i = 0; i < 20; i++) {
        work *w = calloc(1, sizeof *w);
        pl_job *job = pl_job_submit(run, w, 2);
        pthread_create(&other, NULL, wait_too, job);
        wait_too(job);
        pthread_join(other, NULL);
        wrong += check(w);
        free(w);
        pl_job_free(job);
    }
    printf("%d jobs, %ld wrong\n", CALLERS * JOBS * 3 + 20, wrong);
    return wrong != 0 && !*plant;
}
