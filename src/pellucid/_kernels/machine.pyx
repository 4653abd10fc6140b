"""Access to csrc/cpu, for tests and benchmarks.
Each extension module contains its own copy of the C core, so this one's engine thread is not the inference engine's.
"""

from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "cpu/detect.h":
    ctypedef enum pl_isa:
        PL_N_ISA
    const char *pl_isa_name(pl_isa isa) nogil
    int pl_isa_built(pl_isa isa) nogil
    int pl_isa_runs(pl_isa isa) nogil
    int pl_isa_find(const char *name) nogil
    pl_isa pl_isa_best() nogil
    const char *pl_cpu_name() nogil

cdef extern from "cpu/region.h":
    int pl_region_openmp() nogil

cdef extern from "cpu/topology.h":
    ctypedef struct pl_topology:
        int logical
        int physical
        int quick
        double quota
        double processors
        int threads
        char why[128]
    void pl_topology_read(const char *root, pl_topology *t) nogil

cdef extern from "cpu/arena.h":
    int pl_arena_has_huge(const char *folder) nogil
    void *pl_arena_alloc(size_t bytes, int *huge) nogil
    void pl_arena_free(void *p, size_t bytes) nogil

cdef extern from "cpu/team.h":
    ctypedef struct pl_team:
        pass
    ctypedef struct pl_job:
        pass
    ctypedef void (*pl_job_fn)(void *arg, const pl_team *team, int tid) noexcept nogil
    int pl_team_size(const pl_team *team) nogil
    void pl_team_barrier(const pl_team *team) nogil
    pl_job *pl_job_submit(pl_job_fn fn, void *arg, int threads) nogil
    int pl_job_wait(pl_job *job, int ms) nogil
    void pl_job_free(pl_job *job) nogil
    void pl_share(int64_t n, int64_t unit, int tid, int size, int64_t *begin, int64_t *end) nogil

cdef extern from *:
    """
    #include <fenv.h>
    #include <float.h>
    #include <stdint.h>
    #include <time.h>
    #if defined(__SSE2__)
    #include <xmmintrin.h>
    #endif

    static int64_t now_ns(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }

    /* Rounds down and, if there are such bits, flushes denormals and reads them as zero. */
    static void spoil_fp(void)
    {
        fesetround(FE_DOWNWARD);
    #if defined(__SSE2__)
        _mm_setcsr(_mm_getcsr() | 0x8040);
    #endif
    }

    static unsigned get_fp(void)
    {
    #if defined(__SSE2__)
        return _mm_getcsr() & ~0x3fu;           /* without the exception flags */
    #else
        return (unsigned)fegetround();
    #endif
    }

    static void reset_fp(void)
    {
        fesetenv(FE_DFL_ENV);
    }

    /* Judged by arithmetic: a tie goes to even, more than half goes up, denormals are kept, nothing traps. */
    static int fp_is_clean(void)
    {
        volatile float one = 1.0f, half_ulp = FLT_EPSILON / 2, more = FLT_EPSILON * 0.75f;
        volatile float least = FLT_MIN, denormal = FLT_MIN / 4, half = 0.5f, zero = 0.0f;
        volatile float tie = one + half_ulp, up = one + more, flushed = least * half, read = denormal * one;
        volatile float infinite = one / zero;
        return tie == 1.0f && up == 1.0f + FLT_EPSILON && flushed != 0.0f && read != 0.0f && infinite > 1.0f;
    }
    """
    int64_t now_ns() nogil
    void spoil_fp() nogil
    void reset_fp() nogil
    unsigned get_fp() nogil
    int fp_is_clean() nogil


def isas():
    """Every tier: [{"name": str, "built": bool, "runs": bool}], in ascending order."""
    return [
        {
            "name": pl_isa_name(<pl_isa>i).decode(),
            "built": bool(pl_isa_built(<pl_isa>i)),
            "runs": bool(pl_isa_runs(<pl_isa>i)),
        }
        for i in range(<int>PL_N_ISA)
    ]


def find_isa(name: str) -> int:
    """The number of a tier by name; -1 if there is none."""
    return pl_isa_find(name.encode())


def best_isa() -> str:
    """The tier that "auto" picks."""
    return pl_isa_name(pl_isa_best()).decode()


def cpu_name() -> str:
    """The processor's brand string; "" if unknown."""
    return pl_cpu_name().decode("ascii", "replace")


def openmp() -> bool:
    """Whether teams are OpenMP's, and follow its environment variables."""
    return bool(pl_region_openmp())


def topology(root=""):
    """The processors that this process may use: {"logical", "physical", "quick", "quota", "processors", "threads",
    "why"}.

    `root`: a folder with its own proc/ and sys/; "": this machine.
    """
    cdef pl_topology t
    cdef bytes path = str(root).encode()
    pl_topology_read(path, &t)
    return {
        "logical": t.logical,
        "physical": t.physical,
        "quick": t.quick,
        "quota": t.quota,
        "processors": t.processors,
        "threads": t.threads,
        "why": t.why.decode("utf-8", "replace"),
    }


def arena_probe(size_t size, bint touch=True):
    """Allocates an arena of `size` bytes, with `touch` reads and writes all of it, and frees it.
    Returns {"aligned": to 2 MB, "zero": bool, "huge": bool}; None if out of memory.
    """
    cdef int huge = -1
    cdef bint zero = True
    cdef size_t i
    cdef unsigned char *p
    with nogil:
        p = <unsigned char *>pl_arena_alloc(size, &huge)
        if p != NULL:
            if touch:
                for i in range(size):
                    if p[i] != 0:
                        zero = False
                memset(p, 0xA5, size)
            pl_arena_free(p, size)
    if p == NULL:
        return None
    return {"aligned": <uintptr_t>p % (2 << 20) == 0, "zero": bool(zero), "huge": bool(huge)}


def has_huge(str folder):
    """Whether the huge-page settings in a folder promise pages of 2 MB."""
    return bool(pl_arena_has_huge(folder.encode()))


def share(int64_t n, int64_t unit, int tid, int size):
    """(from, to) of share `tid` of `size`."""
    cdef int64_t begin, end
    pl_share(n, unit, tid, size, &begin, &end)
    return begin, end


def spoil_fp_mode():
    """Sets this thread to round down and to flush denormals. Returns the mode, to compare."""
    spoil_fp()
    return get_fp()


def reset_fp_mode():
    """Sets this thread to the default mode. Returns it."""
    reset_fp()
    return get_fp()


def fp_mode():
    """This thread's floating-point mode, to compare."""
    return get_fp()


# ---- the team --------------------------------------------------------------------------------------------------------

cdef struct Work:
    int threads             # slots of seen and clean
    int us                  # how long each thread is busy
    int spoil               # leave a spoilt floating-point mode behind
    int size                # threads that started
    int64_t order           # number of jobs run before
    int64_t sum             # result: the sum of the slots, computed by thread 0 after a barrier
    int *clean              # per thread

cdef int64_t n_ran = 0      # accessed only by jobs, which run one at a time


cdef void work(void *arg, const pl_team *team, int tid) noexcept nogil:
    global n_ran
    cdef Work *w = <Work *>arg
    cdef int64_t until = now_ns() + <int64_t>w.us * 1000
    cdef int i
    w.clean[tid] = fp_is_clean()
    while now_ns() < until:
        pass
    pl_team_barrier(team)
    if tid == 0:
        w.size = pl_team_size(team)
        w.order = n_ran
        n_ran += 1
        for i in range(w.size):
            w.sum += w.clean[i]
    if w.spoil:
        spoil_fp()


cdef class Job:
    """A job whose `threads` threads are each busy for `us` microseconds, queued immediately.
    RuntimeError if it cannot be queued.
    """

    cdef Work w
    cdef pl_job *job

    def __cinit__(self, int threads=1, int us=0, bint spoil=False):
        memset(&self.w, 0, sizeof(Work))
        self.w.threads = threads
        self.w.us = us
        self.w.spoil = spoil
        self.w.clean = <int *>calloc(max(threads, 1), sizeof(int))
        if self.w.clean == NULL:
            raise MemoryError
        with nogil:
            self.job = pl_job_submit(work, &self.w, threads)
        if self.job == NULL:
            raise RuntimeError("the job cannot be queued: no memory or no thread")

    def __dealloc__(self):
        if self.job != NULL:
            with nogil:
                while pl_job_wait(self.job, 1000) == 0:
                    pass
            pl_job_free(self.job)
        free(self.w.clean)

    def wait(self, int ms=10000):
        """1: done; 0: not yet after `ms` milliseconds; -1: never, it belongs to the parent of this forked process."""
        cdef int done
        with nogil:
            done = pl_job_wait(self.job, ms)
        return done

    @property
    def size(self):
        """Threads that started. Like the other results, valid once `wait` has returned 1."""
        return self.w.size

    @property
    def order(self):
        """Number of jobs of this process that ran before."""
        return self.w.order

    @property
    def clean_threads(self):
        """Threads that found the default floating-point mode."""
        return self.w.sum


cdef struct Rounds:
    int n
    int size
    int64_t wrong
    int64_t ns
    int64_t *slots          # a line of 128 bytes per thread


cdef void count_rounds(void *arg, const pl_team *team, int tid) noexcept nogil:
    cdef Rounds *r = <Rounds *>arg
    cdef int64_t i, total, wrong = 0, start = now_ns()
    cdef int j, size = pl_team_size(team)
    for i in range(1, r.n + 1):
        r.slots[16 * tid] += 1
        pl_team_barrier(team)
        total = 0
        for j in range(size):
            total += r.slots[16 * j]
        if total != i * size:
            wrong += 1
        pl_team_barrier(team)
    r.slots[16 * tid + 1] = wrong
    pl_team_barrier(team)
    if tid == 0:
        r.size = size
        r.ns = now_ns() - start
        for j in range(size):
            r.wrong += r.slots[16 * j + 1]


cdef void only_barriers(void *arg, const pl_team *team, int tid) noexcept nogil:
    cdef Rounds *r = <Rounds *>arg
    cdef int64_t start
    cdef int _
    pl_team_barrier(team)
    start = now_ns()
    for _ in range(r.n):
        pl_team_barrier(team)
    if tid == 0:
        r.size = pl_team_size(team)
        r.ns = now_ns() - start


cdef run_rounds(pl_job_fn fn, int threads, int n):
    cdef Rounds r
    cdef pl_job *job
    memset(&r, 0, sizeof(Rounds))
    r.n = n
    r.slots = <int64_t *>calloc(max(threads, 1), 128)
    if r.slots == NULL:
        raise MemoryError
    with nogil:
        job = pl_job_submit(fn, &r, threads)
        if job != NULL:
            while pl_job_wait(job, 1000) == 0:
                pass
            pl_job_free(job)
    free(r.slots)
    if job == NULL:
        raise RuntimeError("the job cannot be queued: no memory or no thread")
    return {"size": r.size, "wrong": r.wrong, "ns": r.ns / max(n, 1)}


def check_barriers(int threads, int n):
    """Repeats `n` times: every thread adds one to its own count, barrier, every thread sums all counts, barrier.
    Returns {"size": threads that started, "wrong": sums that missed an increment, "ns": per round}.
    """
    return run_rounds(count_rounds, threads, n)


def time_barriers(int threads, int n):
    """{"size": threads that started, "ns": nanoseconds per barrier}, over `n` consecutive barriers."""
    return run_rounds(only_barriers, threads, n)


cdef void nothing(void *arg, const pl_team *team, int tid) noexcept nogil:
    pass


def time_handover(int threads, int n, int gap_us=0):
    """Median nanoseconds from submitting an empty job until its waiter returns, of `n` jobs, `gap_us` busy between."""
    cdef int64_t start = 0
    cdef int64_t[::1] took
    cdef pl_job *job = NULL
    cdef int i
    from array import array
    times = array("q", bytes(8 * max(n, 1)))
    took = times
    with nogil:
        for i in range(n):
            start = now_ns()
            while now_ns() - start < <int64_t>gap_us * 1000:
                pass
            start = now_ns()
            job = pl_job_submit(nothing, NULL, threads)
            if job == NULL:
                break
            while pl_job_wait(job, 1000) == 0:
                pass
            took[i] = now_ns() - start
            pl_job_free(job)
    if job == NULL:
        raise RuntimeError("the job cannot be queued: no memory or no thread")
    return sorted(times)[len(times) // 2]
