/* setpriority(2), of which Linux has one for each thread. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "settle.h"

#include <limits.h>
#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include "arena.h"
#include "clock.h"
#include "team.h"
#include "thread.h"

enum {
    SLOW_PAGES = 3, /* fewer may be due to an interrupt, or to the end of backed memory */
    FAILURES = 8,   /* consecutive pages that could not be gathered, after which the rest is left as it is */
    LOWEST = 19,
    WAIT_NS = 20000000, /* without a job: the engine is idle */
    BUSY_PAUSES = 20,   /* if it never is: pauses after gathering a page, each as long as that took */
};
#define STACK_BYTES ((size_t)256 << 10)
#define BUSY_NS INT64_C(10000000000) /* of work without idle time */

void pl_settle_init(pl_settle *s, void *p, size_t bytes, int64_t slow_ns)
{
    *s = (pl_settle){.p = p, .bytes = bytes, .slow_ns = slow_ns ? slow_ns : PL_SLOW_PAGE_NS};
}

void pl_settle_touch(pl_settle *s, uint8_t *at, size_t n)
{
    if (!s->bytes)
        return;
    if (atomic_load_explicit(&s->pages, memory_order_relaxed) != PL_PAGES_HUGE) {
        pl_arena_provide(at, n);
        return;
    }
    const int64_t start = pl_thread_ns();
    *(volatile uint8_t *)(at + n - 1) = 0;
    if (pl_thread_ns() - start < s->slow_ns || atomic_fetch_add(&s->slow, 1) + 1 < SLOW_PAGES)
        return;
    if (atomic_exchange(&s->pages, PL_PAGES_GATHERING) == PL_PAGES_HUGE)
        pl_arena_shrink(s->p, s->bytes);
}

void pl_settle_beside(pl_settle *s, void *p, size_t bytes)
{
    s->beside = s->bytes ? p : NULL;
    s->beside_bytes = s->bytes ? bytes : 0;
}

enum { STOPPED, RESTS, BUSY };

/* Waits until the engine is idle, or for `most` nanoseconds. ended: jobs ended at the last check. */
static int wait_for_rest(const pl_settle *s, int64_t most, unsigned *ended)
{
    unsigned now;
    for (int64_t waited = 0; !atomic_load(&s->stop); waited += WAIT_NS) {
        const int rests = pl_team_rests(&now) && now == *ended;
        *ended = now;
        if (rests)
            return RESTS;
        if (waited > most)
            return BUSY;
        nanosleep(&(struct timespec){.tv_nsec = WAIT_NS}, NULL);
    }
    return STOPPED;
}

/* Gathers an arena's memory until `most_failures` consecutive huge pages could not be had; 0 then, or if it is stopped.
 * *most: nanoseconds to wait for the engine to be idle. */
static int gather_all(const pl_settle *s, char *p, size_t bytes, int most_failures, int64_t *most, unsigned *ended)
{
    int failed = 0;
    for (size_t at = 0; at < bytes && failed < most_failures; at += PL_HUGE_PAGE) {
        const int now = wait_for_rest(s, *most, ended);
        if (now == STOPPED)
            return 0;
        const int64_t start = pl_now_ns();
        failed = pl_arena_gather(p + at, bytes - at) ? failed + 1 : 0;
        if (now == BUSY)
            *most = BUSY_PAUSES * (pl_now_ns() - start);
    }
    return failed < most_failures;
}

static void *gather(void *arg)
{
    pl_settle *s = arg;
    int64_t most = BUSY_NS;
    unsigned ended = 0;
#if defined(__linux__)
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOWEST);
#endif
    const int all = gather_all(s, s->p, s->bytes, FAILURES, &most, &ended);
    /* what nobody has written yet cannot be gathered, but will be huge */
    gather_all(s, s->beside, s->beside_bytes, INT_MAX, &most, &ended);
    atomic_store(&s->pages, all ? PL_PAGES_GATHERED : PL_PAGES_SMALL);
    return NULL;
}

void pl_settle_start(pl_settle *s)
{
    if (atomic_load(&s->pages) != PL_PAGES_GATHERING || s->pid)
        return;
    if (s->beside)
        pl_arena_shrink(s->beside, s->beside_bytes);
    if (pl_thread_start(&s->thread, gather, s, STACK_BYTES))
        s->pid = getpid();
    else
        atomic_store(&s->pages, PL_PAGES_SMALL);
}

void pl_settle_stop(pl_settle *s)
{
    atomic_store(&s->stop, 1);
    if (s->pid == getpid())
        pthread_join(s->thread, NULL);
    s->pid = 0;
}
