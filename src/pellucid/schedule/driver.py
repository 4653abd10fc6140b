"""A permanent driver: a thread that runs the passes of a scheduler while others wait, mostly in event loops.

While a pass runs, it turns the results of the pass before into text and hands them over: to each event loop in one
call, with all its requests.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

from pellucid.errors import ClosedError, out_of_memory
from pellucid.schedule.caller import Caller
from pellucid.snapshot import snapshot

__all__ = ["Driver"]


class Driver:
    """Keeps the seat of a Scheduler, which it does not keep alive."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = weakref.ref(scheduler, lambda _: self.wake.set())
        self._caller = Caller(None, 1 << 30, scheduler.new_event)
        self._news: list[Caller] = []
        self._closing = False
        self._thread: threading.Thread | None = None
        self.wake = scheduler.new_signal()

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run, name="pellucid driver", daemon=True)
        with out_of_memory("to compute"):
            self._thread.start()
        _all.add(self)

    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._closing

    def close(self) -> None:
        """Ends it after the current pass at the latest. Requests that it serves end with ClosedError."""
        self._closing = True  # before it is woken
        self.wake.set()
        self._caller.event.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def run(self) -> None:
        self._caller.thread = threading.get_ident()
        try:
            self._drive()
        finally:  # however it ends, nobody may be left waiting for it
            self._closing = True
            scheduler = self._scheduler()
            if scheduler is not None:
                scheduler.leave_seat(self._caller)
                scheduler.fail(ClosedError(), owned=True)
                self._news += scheduler.take_news()
                self._deliver()

    def _drive(self) -> None:
        seated = False
        while not self._closing:
            scheduler = self._scheduler()
            if scheduler is None:
                return
            seated = seated or scheduler.take_seat(self._caller)
            if not seated:
                del scheduler
                if not self._closing:  # `close` sets the event, perhaps before `take_seat` cleared it
                    self._caller.event.wait()
                continue
            self.wake.clear()
            if self._closing:  # `close` may have set `wake` before it was cleared
                break
            worked = False
            try:
                worked = scheduler.one_pass(self._caller, self._deliver if self._news else None)
            except Exception as error:
                scheduler.fail(error)
            self._deliver()
            self._news += scheduler.take_news()
            if scheduler.gives_way(self._caller):
                seated = False
                self._deliver()
                continue
            if worked or self._news:
                continue
            deadline = scheduler.next_deadline()
            del scheduler
            self.wake.wait(None if deadline is None else max(deadline - time.monotonic(), 0))

    def _deliver(self) -> None:
        """Makes pieces of the results of the last passes, and tells the event loops."""
        news, self._news = self._news, []
        loops: dict[Any, list[Any]] = {}
        for caller in news:
            request = caller.owner() if caller.owner is not None else None
            try:
                loop = None if request is None else request.deliver()
            except Exception as error:  # such as a lack of memory: its requests end with it
                caller.failure, loop = error, None
                self._news.append(caller)
            if loop is not None:
                loops.setdefault(loop, []).append(request)
        for loop, requests in loops.items():
            try:
                loop.call_soon_threadsafe(_tell, requests)
            except RuntimeError:  # the loop is closed: nobody will read them
                for request in requests:
                    request.cancel()


def _tell(requests: list[Any]) -> None:
    for request in requests:
        request.tell()


_all: weakref.WeakSet[Driver] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for driver in snapshot(_all):
        with suppress(Exception):
            driver.close()
