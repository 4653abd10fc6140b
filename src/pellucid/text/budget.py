"""What a template may spend: work, memory and processor time, all counted while it runs.

Nothing interrupts a template from outside: no signal, thread or process watches it. Instead every value that it makes
is weighed when it is made, what would be too large is refused before it is made, and so each single step is short;
between steps the budget is checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from types import GeneratorType
from typing import Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

from ..errors import ChatTemplateError

__all__ = ["MOST_TEXT", "Budget", "Opaque"]

SECONDS = 0.6  # of the thread's own processor time: waiting for a busy machine does not count
UNITS = 64 << 20  # characters and elements that may be made in all, plus MADE_PER_CHARACTER for each one given
MADE_PER_CHARACTER = 32
MOST_TEXT = 4 << 20  # characters of one value with all it holds, plus four for each one given
STEP = 16  # units of a step that makes nothing
ELEMENT = 32  # units of an element of a list or a table
CHECK = 1 << 12  # units between two looks at the clock: about 0.1 ms
MOST_NESTED = 100  # levels of lists and tables
MOST_LAZY = 60  # lazy filters over each other: Python reads, and frees, such a chain recursively
MOST_CALLS = 60  # macros inside each other; Python's own stack takes about 200
MOST_BITS = 4096  # of an integer
MOST_REPEATS = 1 << 28  # pairs of characters that a search from the end may compare; others take linear time


class Weight(NamedTuple):
    """``size``: characters, and some for each element; ``levels``: of nesting; ``writable``: all of it is data."""

    size: int
    levels: int
    writable: bool
    value: Any  # kept, so that nothing else gets its identity


class Opaque:
    """A namespace: may be used, but neither written nor put in a list."""

    __slots__ = ()


class Budget:
    """What is left of one rendering.

    ``given``: the size of what is rendered, as ``Weight`` has it: it widens the limits. ``kept``: characters that JSON
    never escapes.

    Every method raises ``ChatTemplateError`` when its limit is reached.
    """

    __slots__ = ("_clock", "_depths", "_end", "_given", "_since", "_weights", "depth", "kept", "left", "most")

    def __init__(self, given: int, kept: frozenset[str] = frozenset()) -> None:
        self.kept = kept
        self.most = MOST_TEXT + 4 * given
        self.left = UNITS + MADE_PER_CHARACTER * given
        self.depth = 0
        self._clock = time.thread_time
        self._end = self._clock() + SECONDS
        self._since = 0
        self._given = False
        self._weights: dict[int, Weight] = {}
        self._depths: WeakKeyDictionary[Iterator[Any], int] = WeakKeyDictionary()  # of lazy filters

    def spend(self, units: int = STEP) -> None:
        self._since += units
        if self._since >= CHECK:
            self.look()

    def look(self) -> None:
        """After a step that may have taken its time."""
        self.left -= self._since + STEP
        self._since = 0
        if self.left < 0:
            self.stop("does too much: it may make %d characters or take %d steps", UNITS, UNITS // STEP)
        if self._clock() > self._end:
            self.stop("runs too long: it has %g s of processor time", SECONDS)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """The clock stands still: work that is not the template's."""
        start = self._clock()
        yield
        self._end += self._clock() - start

    @staticmethod
    def stop(message: str, *numbers: float) -> NoReturn:
        raise ChatTemplateError("the chat template " + message % numbers)

    def room(self, size: float) -> None:
        """Before something of ``size`` characters is made."""
        if size > self.most:
            self.stop("makes a value of more than %d characters", self.most)

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MOST_CALLS:
            self.stop("calls macros inside each other more than %d deep", MOST_CALLS)

    def made(self, value: Any) -> Any:
        """A new value, weighed: what it holds is counted as often as it would be written."""
        kind = type(value)
        if kind is str:
            self.room(len(value))
            self.spend(len(value) + STEP)
        elif kind is int:
            if value.bit_length() > MOST_BITS:
                self.stop("makes an integer of more than %d bits", MOST_BITS)
        elif kind is GeneratorType:
            return self._counted(value)
        elif isinstance(value, (list, tuple, dict)):
            self.weigh(value)
            self.spend(ELEMENT * len(value) + STEP)
        elif isinstance(value, str):  # a string marked as safe
            self.room(len(value))
            self.spend(len(value) + STEP)
        return value

    def _counted(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.spend()
            yield value

    def chained(self, made: Iterator[Any], given: tuple[Any, ...]) -> None:
        """A lazy filter, made of what it was given."""
        depth = 1 + max((self._depths.get(value, 0) for value in given if isinstance(value, GeneratorType)), default=0)
        if depth > MOST_LAZY:
            self.stop("puts lazy filters over each other more than %d deep", MOST_LAZY)
        self._depths[made] = depth

    def know(self, values: dict[str, Any]) -> None:
        """Weighs what is given, all of it once."""
        self._given = True
        self.weigh(values)
        self._given = False

    def weigh(self, value: Any) -> Weight:
        """Of a list or table with all that it holds, a part that is there twice counted twice."""
        known = self._weights.get(id(value))
        if known is not None:  # nothing that a template can reach changes
            return known
        size, levels, writable = ELEMENT * (len(value) + 1), 0, True
        for item in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
            if isinstance(item, str):
                size += len(item)
            elif isinstance(item, (list, tuple, dict)):
                inside = self.weigh(item)
                size += inside.size
                levels = max(levels, inside.levels)
                writable = writable and inside.writable
            elif isinstance(item, Opaque):
                self.stop("puts a namespace into a list or table")
            else:
                writable = writable and _has_text(item)
        self.room(size)
        if levels >= MOST_NESTED:
            self.stop("nests lists or tables more than %d deep", MOST_NESTED)
        made = Weight(size, levels + 1, writable, value)
        if levels or len(value) > 16 or self._given:  # others are weighed as quickly as they are found
            self._weights[id(value)] = made
        return made

    def text(self, value: Any) -> Any:
        """A value that is going to be written: it must have a text that tells nothing of this process."""
        if isinstance(value, str):
            self.spend(len(value) + STEP)
        elif isinstance(value, (list, tuple, dict)):
            weight = self.weigh(value)
            if not weight.writable:
                self.stop("writes a list or table with something in it that is no data")
            self.spend(weight.size)
        elif not _has_text(value):
            self.stop(f"writes a {type(value).__name__}")
        return value

    def joined(self, parts: list[Any]) -> None:
        """Before strings are joined."""
        total = sum(len(part) for part in parts if isinstance(part, Sized))
        self.room(total)
        self.spend(total + STEP * len(parts))

    @staticmethod
    def searched(text: str, other: object) -> None:
        """Before a search that may compare every character of one with every one of the other."""
        if isinstance(other, str) and len(other) > 1 and len(text) * len(other) > MOST_REPEATS:
            Budget.stop("searches a text of %d characters for %d characters", len(text), len(other))

    def whole(self, value: object, most: float, what: str) -> None:
        """An argument that is an integer must not be enormous."""
        if isinstance(value, (int, float)) and not -most <= value <= most:
            self.stop(f"asks for {what} of more than %d", most)


def _has_text(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, range)) or hasattr(value, "_undefined_message")
