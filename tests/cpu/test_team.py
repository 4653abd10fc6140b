"""csrc/cpu/team.c: the engine thread and its team."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from pellucid._kernels import machine
from tests.cpu.test_machine import python
from tests.peak import forget_peak, peak

# ---- the team --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("unit", [1, 16, 64])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100, 4097])
def test_shares_cover_everything_once(n: int, unit: int, size: int) -> None:
    shares = [machine.share(n, unit, tid, size) for tid in range(size)]
    assert [a for a, _ in shares] + [n] == [0] + [b for _, b in shares]
    assert all(a <= b and (a % unit == 0 or a == n) for a, b in shares)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8])
def test_barriers_order_everything(threads: int) -> None:
    got = machine.check_barriers(threads, 3000 if threads <= 2 else 60)
    assert (got["size"], got["wrong"]) == (threads, 0)


def test_jobs_run_in_order_of_arrival() -> None:
    jobs = [machine.Job(1 + i % 3, us=50) for i in range(40)]
    assert all(job.wait() == 1 for job in jobs)
    orders = [job.order for job in jobs]
    assert orders == list(range(orders[0], orders[0] + 40))
    assert [job.size for job in jobs] == [1 + i % 3 for i in range(40)]


def test_many_callers_are_served_in_order_of_arrival() -> None:
    callers, each = 8, 30
    arrival = itertools.count()
    door = threading.Lock()
    served: list[tuple[int, int, int]] = []

    def call() -> None:
        for _ in range(each):
            with door:  # so that the order of arrival is known
                number, job = next(arrival), machine.Job(2, us=100)
            done = job.wait()
            served.append((number, job.order, done))

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    served.sort()
    first = served[0][1]
    assert served == [(i, first + i, 1) for i in range(callers * each)]


def test_waiting_gives_up_in_time_and_goes_on() -> None:
    job = machine.Job(1, us=300_000)
    assert job.wait(0) == 0
    start = time.perf_counter()
    assert job.wait(5) == 0
    assert 0.004 < time.perf_counter() - start < 0.25
    assert job.wait(-3) == 0
    assert job.wait(10_000) == 1
    assert job.wait(0) == job.wait(5) == 1


def test_several_may_wait_for_one_job() -> None:
    job = machine.Job(2, us=200_000)
    got: list[int] = []
    waits = (1, 10_000, 10_000, 2, 10_000)
    threads = [threading.Thread(target=lambda ms=ms: got.append(job.wait(ms))) for ms in waits]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(got) == [0, 0, 1, 1, 1]


def test_python_runs_while_a_job_does() -> None:
    job = machine.Job(1, us=200_000)
    waiter = threading.Thread(target=job.wait)
    waiter.start()
    assert job.wait(0) == 0  # reached long before the job's end, for the waiter holds no lock
    waiter.join()
    assert job.wait(0) == 1


def test_signals_reach_python_while_it_waits() -> None:
    code = (
        "import os, signal, threading, time\n"
        "before = os.listdir('/proc/self/task')\n"  # numpy may have threads of its own
        "machine.Job(2).wait()\n"
        "def handler(*_): print('main' if threading.current_thread() is threading.main_thread() else 'other')\n"
        "signal.signal(signal.SIGUSR1, handler)\n"
        "masks = [line.split()[1] for task in os.listdir('/proc/self/task') if task not in before\n"
        "         for line in open(f'/proc/self/task/{task}/status') if line.startswith('SigBlk')]\n"
        "bit = 1 << (signal.SIGUSR1 - 1)\n"
        "print(sorted(bool(int(m, 16) & bit) for m in masks))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "time.sleep(0.01)"
    )
    assert python(code).splitlines() == ["[True, True]", "main"]


@pytest.mark.parametrize(
    ("env", "size"),
    [
        ({"OMP_NUM_THREADS": "1"}, 3),
        ({"OMP_DYNAMIC": "true"}, 3),
        ({"OMP_WAIT_POLICY": "passive"}, 3),
        ({"OMP_PROC_BIND": "true"}, 3),
        ({"OMP_THREAD_LIMIT": "1"}, 1),
        ({"OMP_THREAD_LIMIT": "2"}, 2),
        ({"OMP_MAX_ACTIVE_LEVELS": "0"}, 1),
    ],
)
def test_openmp_s_environment(env: dict[str, str], size: int) -> None:
    size = size if machine.openmp() else 3  # a team of POSIX threads has as many as it was made with
    code = (
        "job = machine.Job(3); assert job.wait() == 1\n"
        "got = machine.check_barriers(3, 20)\n"
        "print(job.size, job.clean_threads, got['size'], got['wrong'])"
    )
    assert python(code, **env) == f"{size} {size} {size} 0"


def test_a_team_larger_than_the_system_allows() -> None:
    """With address space for only a few stacks there are fewer threads; OpenMP by itself would end the process."""
    code = (
        "import resource\n"
        "machine.Job(1).wait()\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + (400 << 20),) * 2)\n"
        "job = machine.Job(500); assert job.wait() == 1\n"
        "print(1 <= job.size < 500, job.clean_threads == job.size)\n"
        "job = machine.Job(2); assert job.wait() == 1\n"
        "print(job.size)"
    )
    assert python(code).split() == ["True", "True", "2"]


def test_no_thread_can_be_started() -> None:
    code = (
        "import resource\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "limit = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + (4 << 20), limit[1]))\n"
        "try: machine.Job(1)\n"
        "except RuntimeError as e: print('no thread' in str(e))\n"
        "resource.setrlimit(resource.RLIMIT_AS, limit)\n"
        "print(machine.Job(1).wait())"
    )
    assert python(code).split() == ["True", "1"]


# ---- floating-point mode ---------------------------------------------------------------------------------------------


def test_the_caller_s_mode_does_not_leak_in_or_out() -> None:
    code = (
        "spoilt = machine.spoil_fp_mode()\n"  # before the engine thread exists, which inherits it
        "job = machine.Job(2); job.wait()\n"
        "after = machine.fp_mode()\n"
        "default = machine.reset_fp_mode()\n"
        "print(job.clean_threads, job.size, after == spoilt, spoilt != default)"
    )
    assert python(code) == "2 2 True True"


def test_a_job_s_mode_does_not_leak_into_the_next() -> None:
    before = machine.fp_mode()
    for _ in range(3):
        spoiler, job = machine.Job(2, spoil=True), machine.Job(2)
        assert spoiler.wait() == job.wait() == 1
        assert (spoiler.clean_threads, job.clean_threads) == (2, 2)
    assert machine.fp_mode() == before


# ---- fork ------------------------------------------------------------------------------------------------------------


def in_child(check: Callable[[], bool]) -> None:
    """Forks; `check` must become true in the child within ten seconds."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            os._exit(0 if check() else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def child_works() -> bool:
    job = machine.Job(2)
    return job.wait() == 1 and job.size == 2 and machine.check_barriers(3, 10)["wrong"] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_works_while_its_parent_runs_jobs() -> None:
    stop = threading.Event()
    failures: list[int] = []

    def keep_busy() -> None:
        while not stop.is_set():
            jobs = [machine.Job(2, us=200) for _ in range(3)]
            failures.extend(job.size for job in jobs if job.wait() != 1 or job.size != 2)

    busy = [threading.Thread(target=keep_busy) for _ in range(2)]
    for t in busy:
        t.start()
    try:
        for _ in range(15):
            in_child(child_works)
    finally:
        stop.set()
        for t in busy:
            t.join()
    assert not failures
    assert machine.Job(2).wait() == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_a_child() -> None:
    def grandchild() -> bool:
        in_child(child_works)
        return child_works()

    assert child_works()
    in_child(grandchild)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_jobs_under_way_stay_with_the_parent() -> None:
    done = machine.Job(2)
    assert done.wait() == 1
    running, waiting = machine.Job(2, us=200_000), machine.Job(1)
    in_child(lambda: (done.wait(), running.wait(), waiting.wait(), child_works()) == (1, -1, -1, True))
    assert (running.wait(), waiting.wait()) == (1, 1)


def pool_task(_: int) -> int:
    job = machine.Job(2, us=100)
    return job.size if job.wait() == 1 else -1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str) -> None:
    assert machine.Job(2).wait() == 1
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(pool_task, range(6)).get(30) == [2] * 6


@pytest.mark.parametrize("us", [0, 300_000])
def test_the_process_may_end_with_the_engine_idle_or_at_work(us: int) -> None:
    """The process ends at once: at exit the interpreter frees no job that a global still refers to."""
    code = (
        f"import os, sys, threading\njob = machine.Job(2, us={us}); job.wait(1)\n"
        "t = threading.Thread(target=job.wait, daemon=True); t.start()\nprint('end'); sys.exit(0)"
    )
    assert python(code) == "end"


def test_memory_does_not_grow_with_jobs() -> None:
    for _ in range(200):
        machine.Job(2).wait()
    forget_peak()
    before = peak()
    for _ in range(2000):
        machine.Job(1).wait()
    assert peak() - before < 4096
