/* Threads allocate, share and release pages of one pool while the process forks. Each child does the same with its own
 * sequence and with one that no thread was using, then exits; a lock held by one of the parent's threads would block it
 * until the alarm. Prints the number of children that succeeded. With an argument nothing forks, and the main thread
 * does a child's work: for the thread sanitizer, whose own locks may be held in a child.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/sequence.h"

enum { THREADS = 3, FORKS = 40, SECONDS = 20 };

static pl_pool *pool;
static atomic_int over;
static const pl_group GROUPS[] = {{2, 2, 0, 4096, 4096}, {1, 1, 70, 2048, 4096}};

/* Writes `byte` over the pages of slots [from, upto). */
static void fill(pl_seq *seq, int32_t from, int32_t upto, int byte)
{
    for (int g = 0; g < 2; g++)
        for (int32_t slot = from / PL_PAGE * PL_PAGE; slot < upto; slot += PL_PAGE)
            memset(pl_seq_keys(seq, &GROUPS[g], g, 0, 0, slot), byte, 64);
}

static int is_zero(const pl_seq *seq, int32_t slot)
{
    static const uint8_t zero[64];
    return !memcmp(pl_seq_keys(seq, &GROUPS[0], 0, 0, 0, slot), zero, 64) &&
           !memcmp(pl_seq_keys(seq, &GROUPS[1], 1, 0, 0, slot), zero, 64);
}

/* 1: a new page was not zero, or a page changed under its owner; -1: out of memory. */
static int use(pl_seq *seq, int byte)
{
    int32_t n = seq->length;
    if (pl_seq_reserve(seq, n, n + 300))
        return -1;
    if (!is_zero(seq, n + 299))
        return 1;
    fill(seq, n, n + 300, byte);
    pl_seq_commit(seq, n + 300);
    pl_seq *fork = pl_seq_fork(seq);
    if (!fork || pl_seq_reserve(fork, n + 300, n + 301))
        return -1;
    fill(fork, n + 300, n + 301, byte + 1);
    int wrong = *pl_seq_keys(seq, &GROUPS[0], 0, 0, 0, n + 299) != byte;
    pl_seq_roll_back(fork);
    pl_seq_free(fork);
    return wrong || pl_seq_rewind(seq, 0) != 0;
}

static void *work(void *arg)
{
    for (int i = 0; !atomic_load(&over); i++) {
        pl_seq *seq = pl_seq_new(pool);
        if (!seq || use(seq, 1 + (int)(long)arg) || use(seq, 1 + (int)(long)arg))
            abort();
        pl_seq_free(seq);
    }
    return NULL;
}

static int child(pl_seq *idle)
{
    alarm(SECONDS);
    pl_seq *seq = pl_seq_new(pool);
    int wrong = !seq || use(seq, 77) || use(idle, 78);
    pl_seq_free(seq);
    return wrong;
}

int main(int argc, char **argv)
{
    (void)argv;
    pthread_t thread[THREADS];
    int well = 0;
    pool = pl_pool_new(GROUPS, 2, 0);
    pl_seq *idle = pool ? pl_seq_new(pool) : NULL;
    if (!idle)
        return 1;
    for (long i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, work, (void *)i);
    for (int i = 0; i < FORKS; i++) {
        int status = 1;
        pid_t pid = argc > 1 ? -1 : fork();
        if (pid == 0)
            _exit(child(idle));
        if (pid > 0)
            waitpid(pid, &status, 0);
        else
            status = child(idle);
        well += status == 0;
    }
    atomic_store(&over, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    pl_seq_free(idle);
    int left = pl_pool_bytes_used(pool) != 0;
    pl_pool_free(pool);
    printf("%d of %d children ended well\n", well, FORKS);
    return well != FORKS || left;
}
