/* The engine thread, its queue of jobs and its OpenMP team: see team.h.
 *
 * One mutex guards the queue. The engine's last access to a job is the store to `done`, so that a waiter that sees it
 * may free the job immediately. A sleeping waiter is woken through a node on its own stack.
 */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "team.h"

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "clock.h"
#include "limit.h"
#include "region.h"
#include "thread.h"
#include "topology.h"

#define LINE 128 /* two cache lines of 64 bytes: processors fetch adjacent lines in pairs */
#define STACK_BYTES ((size_t)8 << 20)

/* Polls of a barrier (about 20 ns each) before it yields between polls (about 0.4 us each). */
#define SPINS 1000
#define SPINS_CROWDED 50 /* more threads than processors: the awaited threads need this one's processor */
/* A yield that takes longer than this has let foreign threads run (another library's, or another program's). Each
 * further yield would cost another of their time slices, so for a while waiting threads sleep instead, for which the
 * scheduler favours them when they wake. Decoding SmolLM2 beside a BLAS that keeps both cores of a Zen 4 busy,
 * milliseconds per token, median (worst): 19 (193) when yielding, 10 (12) when sleeping; 2.7 without the BLAS. */
#define LATE_NS 1000000
#define COMPANY_TURNS 1000 /* barriers before yielding is tried again */

/* How long a waiter, and the idle engine with its team, poll before they sleep. They yield between polls: otherwise
 * they could occupy the very processor that the other side needs. Round trip of an empty job of one thread, median, two
 * busy cores of a Zen 4: 4.4 us; 9.3 us without polling; 32 us (next call immediately) to 78 us (after 30 us) when
 * polling without yielding. */
#define WAITER_SPIN_NS 20000
#define ENGINE_SPIN_NS 50000

typedef struct barrier {
    _Alignas(LINE) atomic_int arrived;
    _Alignas(LINE) atomic_uint phase;
    _Alignas(LINE) atomic_int asleep;
    atomic_int company; /* barriers at which to sleep rather than yield */
    pthread_mutex_t lock;
    pthread_cond_t passed;
} barrier;

/* Each thread of a region has its own. */
struct pl_team {
    int size, spins;
    barrier *barrier;
};

typedef struct sleeper {
    pthread_cond_t wake;
    struct sleeper *next;
} sleeper;

struct pl_job {
    pl_job_fn fn;
    void *arg;
    int threads;
    int born; /* value of q.forks when it was submitted */
    atomic_int done;
    struct pl_job *next;
    sleeper *sleepers;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t arrival;
    pl_job *first, **last;    /* guarded by lock */
    int running;              /* the engine thread exists */
    int asleep;               /* threads waiting for `arrival`: the engine and its team */
    atomic_int queued;        /* number of queued jobs, for polling without the lock */
    atomic_uint begun, ended; /* of all jobs */
    atomic_int forks;
} q = {.lock = PTHREAD_MUTEX_INITIALIZER};

static barrier team_barrier = {.lock = PTHREAD_MUTEX_INITIALIZER}; /* one job at a time, so one barrier */

/* How the engine passes jobs to its team. */
static struct {
    pl_job *job;                    /* NULL: the region ends */
    _Alignas(LINE) atomic_int turn; /* counts the jobs of a region */
    _Alignas(LINE) atomic_int sleeping;
} shift;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

static inline void pause_once(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` does nothing on most cores */
#endif
}

/* Polls `word` for `ns` nanoseconds; 1 as soon as it is no longer `old`. */
static int spin(atomic_int *word, int old, int64_t ns)
{
    int64_t until = pl_now_ns() + ns;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old)
                return 1;
            pause_once();
        }
        sched_yield();
    } while (pl_now_ns() < until);
    return 0;
}

static void init_cond(pthread_cond_t *c)
{
#if defined(__APPLE__)
    pthread_cond_init(c, NULL);
#else
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
#endif
}

static void wait_until(pthread_cond_t *c, int64_t deadline)
{
#if defined(__APPLE__) /* has no condition on the monotonic clock, but a relative wait */
    int64_t left = deadline - pl_now_ns();
    struct timespec t = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    if (left > 0)
        pthread_cond_timedwait_relative_np(c, &q.lock, &t);
#else
    struct timespec t = {(time_t)(deadline / 1000000000), (long)(deadline % 1000000000)};
    pthread_cond_timedwait(c, &q.lock, &t);
#endif
}

/* ---- floating-point mode ----------------------------------------------------------------------------------------- */

/* Round to nearest, keep denormals, trap no exceptions. Set explicitly: a thread inherits its creator's mode. */
#if defined(__x86_64__)
typedef unsigned fp_mode;
static fp_mode enter_fp(void)
{
    fp_mode was = _mm_getcsr();
    _mm_setcsr(0x1f80); /* MXCSR after reset */
    return was;
}
static void leave_fp(fp_mode was)
{
    _mm_setcsr(was);
}
#else
typedef fenv_t fp_mode;
static fp_mode enter_fp(void)
{
    fp_mode was;
    fegetenv(&was);
    fesetenv(FE_DFL_ENV);
    return was;
}
static void leave_fp(fp_mode was)
{
    fesetenv(&was);
}
#endif

/* ---- barrier ----------------------------------------------------------------------------------------------------- */

int pl_team_size(const pl_team *team)
{
    return team->size;
}

/* Sleeps until the phase changes. */
static void sleep_through(barrier *b, unsigned phase)
{
    pthread_mutex_lock(&b->lock);
    atomic_fetch_add(&b->asleep, 1);
    while (atomic_load(&b->phase) == phase)
        pthread_cond_wait(&b->passed, &b->lock);
    atomic_fetch_sub(&b->asleep, 1);
    pthread_mutex_unlock(&b->lock);
}

/* Lets other threads run until the phase changes. crowded: the awaited threads are among them. */
static void yield_through(barrier *b, unsigned phase, int crowded)
{
    if (atomic_load_explicit(&b->company, memory_order_relaxed) > 0 && !crowded) {
        atomic_fetch_sub_explicit(&b->company, 1, memory_order_relaxed);
        sleep_through(b, phase);
        return;
    }
    for (int64_t then = pl_now_ns(), now; atomic_load_explicit(&b->phase, memory_order_acquire) == phase; then = now) {
        sched_yield();
        now = pl_now_ns();
        if (now - then > LATE_NS && !crowded) {
            atomic_store_explicit(&b->company, COMPANY_TURNS, memory_order_relaxed);
            sleep_through(b, phase);
            return;
        }
    }
}

/* Zen 4, two threads on two cores: 0.04 us per barrier (omp barrier: 0.24 us). */
void pl_team_barrier(const pl_team *team)
{
    barrier *b = team->barrier;
    if (team->size == 1)
        return;
    /* The phase cannot change before this thread arrives. */
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) == team->size - 1) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        /* It and a sleeper write one word, then read the other's: one sees the change. In qemu, loads pass stores. */
        atomic_exchange(&b->phase, phase + 1);
        if (atomic_load(&b->asleep)) {
            pthread_mutex_lock(&b->lock);
            pthread_cond_broadcast(&b->passed);
            pthread_mutex_unlock(&b->lock);
        }
        return;
    }
    for (int i = 0; i < team->spins; i++) {
        if (atomic_load_explicit(&b->phase, memory_order_acquire) != phase)
            return;
        pause_once();
    }
    yield_through(b, phase, team->spins == SPINS_CROWDED);
}

/* ---- the engine thread ------------------------------------------------------------------------------------------- */

static pl_job *take_job(int look)
{
    if (look)
        spin(&q.queued, 0, ENGINE_SPIN_NS);
    pthread_mutex_lock(&q.lock);
    while (!q.first) {
        q.asleep++;
        pthread_cond_wait(&q.arrival, &q.lock);
        q.asleep--;
    }
    pl_job *job = q.first;
    q.first = job->next;
    if (!q.first)
        q.last = &q.first;
    atomic_fetch_add(&q.begun, 1);
    atomic_fetch_sub(&q.queued, 1);
    pthread_mutex_unlock(&q.lock);
    return job;
}

static void finish_job(pl_job *job)
{
    pthread_mutex_lock(&q.lock);
    sleeper *s = job->sleepers;
    atomic_store_explicit(&job->done, 1, memory_order_release);
    atomic_fetch_add(&q.ended, 1);
    for (; s; s = s->next) /* sleepers cannot return before the unlock */
        pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&q.lock);
}

int pl_team_rests(unsigned *ended)
{
    *ended = atomic_load(&q.ended);
    return !atomic_load(&q.queued) && atomic_load(&q.begun) == *ended;
}

/* ---- the region -------------------------------------------------------------------------------------------------- */

/* A region stays open for consecutive jobs with the same number of threads. Between jobs the team waits here rather
 * than in the OpenMP library, whose wait spins for milliseconds (gcc) and so, on a machine with no processor to spare,
 * keeps the engine from waking up. */
static void post(pl_job *job)
{
    shift.job = job;
    atomic_fetch_add(&shift.turn, 1);
    /* This thread and a worker about to sleep each write one word, then read the other's: one sees the change. */
    if (atomic_load(&shift.sleeping)) {
        pthread_mutex_lock(&q.lock);
        pthread_cond_broadcast(&q.arrival);
        pthread_mutex_unlock(&q.lock);
    }
}

/* The next job; NULL: leave the region. A worker wakes as soon as a job is queued, together with the engine. */
static pl_job *next_post(int turn, int look)
{
    for (;;) {
        if (look)
            spin(&shift.turn, turn, ENGINE_SPIN_NS);
        if (atomic_load(&shift.turn) != turn)
            return shift.job;
        pthread_mutex_lock(&q.lock);
        atomic_fetch_add(&shift.sleeping, 1);
        while (atomic_load(&shift.turn) == turn && !(look && q.first)) {
            q.asleep++;
            pthread_cond_wait(&q.arrival, &q.lock);
            q.asleep--;
        }
        atomic_fetch_sub(&shift.sleeping, 1);
        pthread_mutex_unlock(&q.lock);
        sched_yield(); /* lets the engine run */
    }
}

static void run_job(const pl_job *job, const pl_team *team, int tid)
{
    fp_mode was = enter_fp();
    job->fn(job->arg, team, tid);
    leave_fp(was);
    pl_team_barrier(team);
}

typedef struct region {
    pl_job *job; /* the next job */
    int crowded;
} region;

static void work(void *arg, int tid, int size)
{
    region *r = arg;
    pl_team team = {size, r->crowded ? SPINS_CROWDED : SPINS, &team_barrier};
    if (tid == 0) {
        for (int asked = r->job->threads; r->job->threads == asked; r->job = take_job(!r->crowded)) {
            post(r->job);
            run_job(r->job, &team, 0);
            finish_job(r->job);
        }
        post(NULL);
    } else {
        pl_job *mine;
        for (unsigned turn = 0; (mine = next_post((int)turn, !r->crowded)); turn++) /* wraps, as shift.turn does */
            run_job(mine, &team, tid);
    }
}

/* Runs `job` and those after it that want the same number of threads; returns the first that does not. */
static pl_job *run_region(pl_job *job, int threads, int processors)
{
    region r = {job, threads > processors};
    atomic_store(&shift.turn, 0);
    pl_region_run(threads, work, &r);
    return r.job;
}

static void *engine_main(void *unused)
{
    (void)unused;
    pl_topology machine;
    pl_topology_read("", &machine);
    int processors = machine.logical;
    if (machine.quota > 0 && machine.quota < processors)
        processors = machine.quota < 1 ? 1 : (int)machine.quota;

    int threads = 1;
    for (pl_job *job = take_job(0);;) {
        /* A smaller team ends the threads that it does not need, so the limit is checked whenever a team grows. */
        threads = job->threads > threads ? pl_thread_limit(job->threads) : job->threads;
        job = run_region(job, threads, processors);
    }
    return NULL;
}

/* ---- fork -------------------------------------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&q.lock);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&q.lock);
}

static void reset(void)
{
    q.first = NULL;
    q.last = &q.first;
    q.running = q.asleep = 0;
    atomic_store(&q.queued, 0);
    atomic_store(&q.ended, atomic_load(&q.begun));
    atomic_store(&shift.sleeping, 0);
    atomic_store(&team_barrier.arrived, 0); /* the parent may have forked during a barrier */
    atomic_store(&team_barrier.asleep, 0);
    pthread_mutex_init(&team_barrier.lock, NULL);
    init_cond(&team_barrier.passed);
    init_cond(&q.arrival);
}

/* Only the thread that called fork exists here. Unfinished jobs belong to the parent. */
static void after_fork_child(void)
{
    pthread_mutex_init(&q.lock, NULL);
    atomic_fetch_add(&q.forks, 1);
    reset();
}

static void start_once(void)
{
    reset();
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

pl_job *pl_job_submit(pl_job_fn fn, void *arg, int threads)
{
    pl_job *job = malloc(sizeof *job);
    if (!job)
        return NULL;
    pthread_once(&once, start_once);
    *job = (pl_job){.fn = fn, .arg = arg};
    job->threads = threads < 1 ? 1 : threads > PL_MOST_THREADS ? PL_MOST_THREADS : threads;
    job->born = atomic_load(&q.forks);
    pthread_mutex_lock(&q.lock);
    if (!q.running && !(q.running = pl_thread_start(NULL, engine_main, NULL, STACK_BYTES))) {
        pthread_mutex_unlock(&q.lock);
        free(job);
        return NULL;
    }
    *q.last = job;
    q.last = &job->next;
    atomic_fetch_add_explicit(&q.queued, 1, memory_order_relaxed);
    if (q.asleep)
        pthread_cond_broadcast(&q.arrival);
    pthread_mutex_unlock(&q.lock);
    return job;
}

static int is_done(const pl_job *job)
{
    return atomic_load_explicit(&((pl_job *)job)->done, memory_order_acquire);
}

int pl_job_wait(pl_job *job, int ms)
{
    if (is_done(job))
        return 1;
    if (job->born != atomic_load(&q.forks))
        return -1;
    if (ms <= 0)
        return 0;
    int64_t deadline = pl_now_ns() + (int64_t)ms * 1000000;
    if (spin(&job->done, 0, WAITER_SPIN_NS))
        return 1;

    sleeper self = {.next = NULL};
    init_cond(&self.wake);
    pthread_mutex_lock(&q.lock);
    int done = is_done(job);
    if (!done) {
        self.next = job->sleepers;
        job->sleepers = &self;
        while (!(done = is_done(job)) && pl_now_ns() < deadline)
            wait_until(&self.wake, deadline);
        if (!done) { /* once a job is done, its list is no longer read */
            sleeper **s = &job->sleepers;
            while (*s != &self)
                s = &(*s)->next;
            *s = self.next;
        }
    }
    pthread_mutex_unlock(&q.lock);
    pthread_cond_destroy(&self.wake);
    return done;
}

void pl_job_free(pl_job *job)
{
    free(job);
}
