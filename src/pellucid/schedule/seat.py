"""Who has the seat: runs the passes of a scheduler, one thread at a time.

The requests' passes are driven by a caller of theirs, for as long as it waits for a result. A call that is not a
generation (turns.py) has the seat for one pass at a time. Where both wait, they have it in turn.
"""

from __future__ import annotations

import threading
from itertools import count

from pellucid import _engine
from pellucid.errors import PellucidError
from pellucid.schedule.admission import Requests
from pellucid.schedule.batch import Batch
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.memory import Call, Freed

__all__ = ["SLICE", "Seat"]

SLICE = 0.02  # seconds between two questions whether to cancel, of a caller that waits for another's pass


class Seat(Requests):
    """Requests, and who runs their passes."""

    preemptions = 0
    _came = count()

    def _clear(self) -> None:
        super()._clear()
        self._driver: Caller | None = None
        self._sleeping: dict[Caller, None] = {}  # callers that wait for another's pass, in order
        self._turns: dict[Caller, int] = {}  # callers that wait for the seat, for one pass of their own: since when

    def _settle(self, batch: Batch) -> None:
        raise NotImplementedError

    def take_seat(self, caller: Caller) -> bool:
        """Makes a permanent driver's caller the driver, where nobody drives; else it has a turn, before which its event
        is set: callers that wait for one result after the other could take the seat from it each time."""
        with self._after, self._lock:
            if self._driver is None:
                self._driver = caller
                self._turns.pop(caller, None)
            elif self._driver is not caller:
                caller.event.clear()
                self._turns.setdefault(caller, next(self._came))
            return self._driver is caller

    def leave_seat(self, caller: Caller, turn: bool = False) -> None:
        """Lets another drive, where the caller does. turn: it had a turn, so that the requests have the next one."""
        if self._batch is not None and self._driver is caller:
            self._settle(self._batch)
        with self._after, self._lock:
            if self._driver is None and (caller in self._sleeping or caller in self._turns):
                self._driver = caller  # it may have been woken to take the seat: after an interrupt, it has it to leave
            self._sleeping.pop(caller, None)
            self._turns.pop(caller, None)
            if self._driver is caller:
                self._stepping = None
            if self._driver is caller or self._driver is None:
                self._hand_on(not turn)

    def _hand_on(self, turn: bool = True) -> None:
        """With the lock: gives the free seat to the next that waits. turn: a call before the requests."""
        given = None
        if self._turns and (turn or not self._sleeping):
            given = min(self._turns, key=self._turns.__getitem__)
            given.event.set()  # first: where an interrupt comes, the seat is still to be left
            self._turns.pop(given, None)
        elif self._sleeping:
            next(iter(self._sleeping)).event.set()
        self._driver = given

    def gives_way(self, caller: Caller) -> bool:
        """Leaves the seat where a call waits for its turn."""
        if not self._turns:
            return False
        self.leave_seat(caller)
        return True

    # ---- passes of calls that are not generations -------------------------------------------------------------

    def take_turn(self, call: Call) -> None:
        """Waits for the seat, for one pass; `leave_seat` gives it back. Raises Cancelled."""
        caller, came = call.caller, next(self._came)
        caller.thread = threading.get_ident()
        while True:
            with self._after, self._lock:
                if self._driver is None and not self._sleeping:
                    self._driver = caller
                elif self._driver is not caller:
                    caller.event.clear()
                    self._turns[caller] = came
            if self._driver is caller:
                break
            self.arrived()
            caller.event.wait(None if caller.cancel is None else SLICE)
            if caller.cancel is not None and not self._stands_back(caller) and caller.stopped():
                raise _engine.Cancelled("the call was cancelled")
        if self._batch is not None:  # an interrupted driver left it
            self._settle(self._batch)
        with self._after, self._lock:
            call.sole = self._holders.only(None, self._running, self._waiting)

    def _stands_back(self, caller: Caller) -> bool:
        """Before a caller that waits asks its function, which may compute, too: would the seat be given to the caller
        meanwhile, what its function computes waited for its own thread. -> whether the caller has it already."""
        with self._after, self._lock:
            self._sleeping.pop(caller, None)
            self._turns.pop(caller, None)
            if self._driver is None:
                self._hand_on()
            return self._driver is caller

    def computes_here(self) -> bool:
        """Whether this thread has the seat."""
        driver = self._driver
        return driver is not None and driver.thread == threading.get_ident()

    def check_here(self) -> None:
        """Raises PellucidError where this thread has the seat, and would wait for itself."""
        if self.computes_here():
            raise PellucidError("a function given as cancel cannot generate with the model that asks it")

    def make_room(self, call: Call) -> Freed:
        """Called where a pass of a call lacked memory, by its thread, which has the seat -> what was done about it."""
        with self._after, self._lock:
            freed = self._holders.free(self._running, self._waiting, call=call)
            if isinstance(freed, Work):
                self._pause(freed)
                self._short_of = True
                freed = Freed.AGAIN
        return freed

    def end_call(self, call: Call) -> None:
        super().end_call(call)
        if self._driver is call.caller:  # interrupted while it left its seat
            self.leave_seat(call.caller, turn=True)
        self.arrived()
