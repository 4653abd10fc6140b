"""Runs threads one at a time and chooses who goes on at each point, so that every interleaving can be tried."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any


class Deadlock(Exception):
    """No thread can go on."""


class World:
    """Threads of which one runs. choose: gives one of n, at each point where n > 1 threads could go on; the first is
    the thread that runs, if it can. releases: those are also where a lock was released."""

    def __init__(self, choose: Callable[[int], int], releases: bool = False) -> None:
        self._choose = choose
        self.releases = releases
        self._turns: dict[int, threading.Semaphore] = {}
        self._blocked: dict[int, Callable[[], bool]] = {}  # threads that wait, and what tells whether they may go on
        self._names: dict[int, int] = {}  # of Python's threads
        self.errors: list[BaseException] = []
        self._over = threading.Event()
        self.deadlock = False

    def run(self, works: list[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=self._thread, args=(i, work)) for i, work in enumerate(works)]
        for i, _ in enumerate(works):
            self._turns[i] = threading.Semaphore(0)
        for thread in threads:
            thread.start()
        self._go_on(None)
        self._over.wait()
        for thread in threads:
            thread.join(5)
        if self.deadlock:
            raise Deadlock
        for error in self.errors:
            raise error

    def _thread(self, i: int, work: Callable[[], None]) -> None:
        self._names[threading.get_ident()] = i
        self._turns[i].acquire()
        try:
            if not self.deadlock:
                work()
        except BaseException as error:
            self.errors.append(error)
        del self._turns[i]
        self._go_on(None)

    def _go_on(self, me: int | None) -> None:
        """Lets one thread go on."""
        able = [i for i in sorted(self._turns) if i not in self._blocked or self._blocked[i]()]
        if not able:
            self.deadlock = bool(self._turns)
            self._blocked.clear()
            if self._turns:  # let them end
                self._turns[min(self._turns)].release()
            else:
                self._over.set()
            return
        if me in able:
            able.remove(me)
            able.insert(0, me)
        chosen = able[self._choose(len(able)) if len(able) > 1 else 0]
        self._blocked.pop(chosen, None)
        if chosen != me:
            self._turns[chosen].release()
            if me is not None:
                self._turns[me].acquire()

    def point(self, able: Callable[[], bool] | None = None) -> None:
        """A place where another thread may go on; this one does once it is `able`."""
        if self.deadlock:
            raise Deadlock
        me = self._names[threading.get_ident()]
        if able is not None:
            self._blocked[me] = able
        self._go_on(me)
        if self.deadlock:
            raise Deadlock

    def lock(self) -> Any:
        return _Lock(self)

    def event(self) -> Any:
        return _Event(self)

    def signal(self) -> Any:
        return _Signal(self)


class _Lock:
    def __init__(self, world: World) -> None:
        self._world, self._held = world, False

    def acquire(self, blocking: bool = True) -> bool:
        self._world.point((lambda: not self._held) if blocking else None)
        if self._held:
            return False
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        if self._world.releases:
            self._world.point()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class _Event:
    def __init__(self, world: World) -> None:
        self._world, self._set = world, False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        self._world.point((lambda: self._set) if timeout is None else None)
        return self._set


class _Signal(_Event):
    """One that `wait` clears."""

    def wait(self, timeout: float | None = None) -> bool:
        was = super().wait(timeout)
        self._set = False
        return was


def every(most_switches: int | None = None) -> Iterator[Callable[[int], int]]:
    """Choosers for each interleaving in turn, with up to `most_switches` from a thread that could go on."""
    path: list[list[int]] = []  # [choice, number of choices]
    while True:
        at, switches = 0, 0

        def choose(n: int) -> int:
            nonlocal at, switches
            if at == len(path):
                path.append([0, 1 if most_switches is not None and switches >= most_switches else n])
            chosen = path[at][0]
            at += 1
            switches += chosen > 0
            return chosen

        yield choose
        del path[at:]
        while path and path[-1][0] + 1 >= path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1][0] += 1


def some(times: int) -> Iterator[Callable[[int], int]]:
    """Choosers of random interleavings."""
    for seed in range(times):
        yield random.Random(seed).randrange


def stubborn(times: int) -> Iterator[Callable[[int], int]]:
    """Choosers of random interleavings in which the thread that runs mostly goes on."""
    for seed in range(times):
        yield partial(_stubborn, random.Random(seed))


def _stubborn(r: random.Random, n: int) -> int:
    return r.randrange(n) if r.random() < 0.05 else 0
