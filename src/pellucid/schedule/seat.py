"""Which thread has the seat, and so runs the passes of a scheduler; one has it at a time.

The requests' passes are driven by one of their callers, for as long as it waits for a result. A call that is not a
generation (turns.py) has the seat for one pass at a time. If both wait, they have it in turn.
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

SLICE = 0.02  # seconds after which a caller that waits for another's pass checks again whether it is cancelled


class Seat(Requests):
    """Requests, and the seat from which their passes are run."""

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
        """Makes a permanent driver's caller the driver if nobody drives; else queues it for a turn, at which its event
        is set: otherwise callers that wait for one result after the other could take the seat from it each time."""
        with self._after, self._lock:
            if self._driver is None:
                self._driver = caller
                self._turns.pop(caller, None)
            elif self._driver is not caller:
                caller.event.clear()
                self._turns.setdefault(caller, next(self._came))
            return self._driver is caller

    def leave_seat(self, caller: Caller, turn: bool = False) -> None:
        """Hands the seat on if the caller has it. turn: it had a turn, so that the requests have the next one."""
        if self._batch is not None and self._driver is caller:
            self._settle(self._batch)
        with self._after, self._lock:
            if self._driver is None and (caller in self._sleeping or caller in self._turns):
                self._driver = caller  # it may have been woken to take the seat; after an interrupt, it must hand it on
            self._sleeping.pop(caller, None)
            self._turns.pop(caller, None)
            if self._driver is caller:
                self._stepping = None
            if self._driver is caller or self._driver is None:
                self._hand_on(not turn)

    def _hand_on(self, turn: bool = True) -> None:
        """With the lock: gives the free seat to the next caller that waits. turn: a call before the requests."""
        given = None
        if self._turns and (turn or not self._sleeping):
            given = min(self._turns, key=self._turns.__getitem__)
            given.event.set()  # first: if an interrupt follows, the seat can still be handed on
            self._turns.pop(given, None)
        elif self._sleeping:
            next(iter(self._sleeping)).event.set()
        self._driver = given

    def gives_way(self, caller: Caller) -> bool:
        """Leaves the seat if a call waits for its turn -> whether it did."""
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
        """Takes a waiting caller off the queues before it calls its `cancel`, which may itself compute: if the caller
        were given the seat meanwhile, that function would wait for its own thread. -> whether the caller has the seat
        already."""
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
        """Raises PellucidError if this thread has the seat, and would wait for itself."""
        if self.computes_here():
            raise PellucidError("a function given as cancel cannot generate with the model that calls it")

    def make_room(self, call: Call) -> Freed:
        """Called when a pass of a call lacked memory, by its thread, which has the seat -> what was done about it."""
        with self._after, self._lock:
            freed = self._holders.free(self._running, self._waiting, call=call)
            if isinstance(freed, Work):
                self._pause(freed)
                self._short_of = True
                freed = Freed.AGAIN
        return freed

    def end_call(self, call: Call) -> None:
        super().end_call(call)
        if self._driver is call.caller:  # it was interrupted while it left its seat
            self.leave_seat(call.caller, turn=True)
        self.arrived()
