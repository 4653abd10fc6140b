"""What a template may spend: units of work and memory, counted while it runs.

Nothing interrupts a template from outside: no signal, thread or process watches it. Instead, each step is charged for
its work in advance, every value is weighed when it is made, and a value that would be too large is refused before it is
made. So the same template and conversation end the same way on any machine, however busy. A limit on processor time is
only a backstop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sized
from operator import length_hint
from types import GeneratorType
from typing import Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

from pellucid.errors import ChatTemplateError

__all__ = ["MOST_TEXT", "Budget", "Opaque"]

UNITS = 64 << 20  # characters and elements that may be read or made in total, plus some for each one given:
UNITS_PER_CHARACTER = 128
SECONDS = 60  # of processor time, plus some for each character given; the units take less than 5 s
SECONDS_PER_CHARACTER = 1e-4
MOST_TEXT = 4 << 20  # characters of one value with all its contents, plus four for each one given
STEP = 32  # units charged per step
ELEMENT = 32  # units charged per element of a list or a table
MOST_ALIKE = 16  # keys of a table, other than texts, with the same hash
CHECK = 1 << 12  # units between two looks at the clock: about 0.1 ms
MOST_NESTED = 100  # levels of nested lists and tables
MOST_LAZY = 60  # lazy filters on top of each other: Python reads and frees such a chain recursively
MOST_CALLS = 60  # nested calls of macros; Python's own stack takes about 200
MOST_BITS = 4096  # of an integer
MOST_REPEATS = 1 << 28  # pairs of characters that a search from the end may compare; other searches take linear time


class Weight(NamedTuple):
    """``size``: characters, plus ``ELEMENT`` per element; ``levels`` of nesting; ``writable``: all of it is data."""

    size: int
    levels: int
    writable: bool
    value: Any  # a reference, so that the id is not reused for another object


class Opaque:
    """A namespace: it may be used, but neither written nor put into a list."""

    __slots__ = ()


class Budget:
    """What one rendering may still use.

    ``given``: the size of what is rendered, as in ``Weight``; the limits grow with it. ``kept``: characters that JSON
    never escapes.

    Every method raises ``ChatTemplateError`` when a limit is reached.
    """

    __slots__ = (
        "_depths", "_end", "_given", "_seconds", "_since", "_units", "_weights", "depth", "kept", "left", "most",
    )  # fmt: skip

    def __init__(self, given: int, kept: frozenset[str] = frozenset()) -> None:
        self.kept = kept
        self.most = MOST_TEXT + 4 * given
        self.left = self._units = UNITS + UNITS_PER_CHARACTER * given
        self.depth = 0
        self._seconds = SECONDS + SECONDS_PER_CHARACTER * given
        self._end = time.thread_time() + self._seconds
        self._since = 0
        self._given = False
        self._weights: dict[int, Weight] = {}
        self._depths: WeakKeyDictionary[Iterator[Any], int] = WeakKeyDictionary()  # of lazy filters

    @property
    def spent(self) -> bool:
        """Whether nothing is left of it."""
        return self.left < 0 or time.thread_time() > self._end

    def spend(self, units: int = STEP) -> None:
        """Charges for work of `units` units, before it is done."""
        self._since += units
        if self._since >= CHECK:
            self.look()

    def look(self) -> None:
        """Counts a step, and stops the template if its budget is used up."""
        self.left -= self._since + STEP
        self._since = 0
        if self.left < 0:
            self.stop("does too much: it may read and make %d characters, or take %d steps", *self._limits())
        if time.thread_time() > self._end:
            self.stop("runs too long: it has %g s of processor time", self._seconds)

    def _limits(self) -> tuple[int, int]:
        return self._units, self._units // STEP

    def size(self, value: Any) -> int:
        """Units for reading all of a value."""
        if isinstance(value, str):
            return len(value)
        return self.weigh(value).size if isinstance(value, (list, tuple, dict)) else 1

    def comparing(self, name: str, left: Any, right: Any) -> None:
        """Charges for a comparison of two values. ``name``: as Jinja names the operators ("eq", "lt", "in" ...)."""
        if name not in ("in", "notin"):
            if isinstance(left, (str, list, tuple, dict)) and isinstance(right, (str, list, tuple, dict)):
                self.spend(min(self.size(left), self.size(right)))
        elif isinstance(right, str):
            self.spend(len(right) + self.size(left))
        elif isinstance(right, (list, tuple)):
            alike = min(self.size(left) * len(right), self.size(right))
            self.spend(len(right) + alike)
        elif isinstance(right, dict):
            self.hashing(left)
        elif not (isinstance(right, range) and type(left) in (int, bool)):  # a range computes whether it has a number
            self.spend(self.size(left) * max(1, length_hint(right)))
        self.look()

    def hashing(self, key: Any) -> None:
        """Charges for looking up a key. Texts cache their hash; tuples are read each time."""
        if isinstance(key, tuple):
            self.spend(self.size(key))

    def sorting(self, values: Any) -> None:
        """Charges for sorting values."""
        self.spend(self.size(values) * max(1, len(values).bit_length()))

    @staticmethod
    def stop(message: str, *numbers: float) -> NoReturn:
        raise ChatTemplateError("the chat template " + message % numbers)

    def room(self, size: float) -> None:
        """Checks the limit before something of ``size`` characters is made."""
        if size > self.most:
            self.stop("makes a value of more than %d characters", self.most)

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MOST_CALLS:
            self.stop("calls macros inside each other more than %d deep", MOST_CALLS)

    def made(self, value: Any) -> Any:
        """Weighs a new value and returns it: contents count as often as they would be written."""
        kind = type(value)
        if kind is str:
            self.room(len(value))
            self.spend(len(value) + STEP)
        elif kind is int:
            if value.bit_length() > MOST_BITS:
                self.stop("makes an integer of more than %d bits", MOST_BITS)
        elif kind is GeneratorType:
            return self.counted(value)
        elif isinstance(value, (list, tuple, dict)):
            self.weigh(value)
            self.spend(ELEMENT * len(value) + STEP)
        elif isinstance(value, str):  # a string marked as safe
            self.room(len(value))
            self.spend(len(value) + STEP)
        return value

    def counted(self, values: Iterator[Any]) -> Iterator[Any]:
        """Yields the same values, charging a step for each."""
        for value in values:
            self.spend()
            yield value

    def chained(self, made: Iterator[Any], given: tuple[Any, ...]) -> None:
        """Limits how many lazy filters are stacked."""
        depth = 1 + max((self._depths.get(value, 0) for value in given if isinstance(value, GeneratorType)), default=0)
        if depth > MOST_LAZY:
            self.stop("puts lazy filters over each other more than %d deep", MOST_LAZY)
        self._depths[made] = depth

    def know(self, values: dict[str, Any]) -> None:
        """Weighs the given values, all of them once."""
        self._given = True
        self.weigh(values)
        self._given = False

    def weigh(self, value: Any) -> Weight:
        """The weight of a list or table with all its contents; a part that occurs twice counts twice."""
        known = self._weights.get(id(value))
        if known is not None:  # templates cannot change values
            return known
        if isinstance(value, dict):
            self._check_keys(value)
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
        if levels or len(value) > 16 or self._given:  # others are weighed as fast as they are looked up
            self._weights[id(value)] = made
        return made

    def _check_keys(self, table: dict[Any, Any]) -> None:
        """Looking up a key takes time proportional to the number of keys with its hash; texts cannot be made to
        collide."""
        alike: dict[int, int] = {}
        for key in table:
            if type(key) is not str:
                self.hashing(key)
                count = alike[hash(key)] = alike.get(hash(key), 0) + 1
                if count > MOST_ALIKE:
                    self.stop("makes a table with more than %d keys that share a hash", MOST_ALIKE)

    def text(self, value: Any) -> Any:
        """Checks a value before it is written: its text must not depend on this process."""
        if isinstance(value, str):
            self.spend(len(value) + STEP)
        elif isinstance(value, (list, tuple, dict)):
            weight = self.weigh(value)
            if not weight.writable:
                self.stop("writes a list or table that holds something other than data")
            self.spend(weight.size)
        elif not _has_text(value):
            self.stop(f"writes a {type(value).__name__}")
        return value

    def joined(self, parts: list[Any]) -> None:
        """Charges for joining strings."""
        total = sum(len(part) for part in parts if isinstance(part, Sized))
        self.room(total)
        self.spend(total + STEP * len(parts))

    def searched(self, text: str, other: object) -> None:
        """Charges for a search that may compare every character of the text with every character of the other."""
        if not isinstance(other, str) or len(other) < 2:
            return
        self.spend(len(text) * len(other) // 8)
        if len(text) * len(other) > MOST_REPEATS:
            self.stop("searches a text of %d characters for %d characters", len(text), len(other))

    def whole(self, value: object, most: float, what: str) -> None:
        """An argument that is an integer must not be enormous."""
        if isinstance(value, (int, float)) and not -most <= value <= most:
            self.stop(f"asks for {what} of more than %d", most)


def _has_text(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, range)) or hasattr(value, "_undefined_message")
