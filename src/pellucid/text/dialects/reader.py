"""Reading an answer as it arrives: text that is cut anywhere becomes content, reasoning and calls.

A dialect reads as a coroutine: it looks ahead in the text, and if the text is too short, it yields until more has
arrived or the text has ended. It decides only what it can be sure of, so that the result is the same wherever the text
is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeVar

__all__ = ["CallPart", "Reader", "Said", "Wait", "whole_characters"]

T = TypeVar("T")
Wait = Generator[None, None, T]  # waits for more of the text; returns T

_SPACE = re.compile(r"\s*")
_IN_STRING = re.compile(r'(?:[^"\\]+|\\.)*', re.DOTALL)
_IN_QUOTES = {'"': _IN_STRING, "'": re.compile(r"(?:[^'\\]+|\\.)*", re.DOTALL)}
_NOT_STRING = re.compile(r'[^"{}\[\]<`]*')
_CLOSES = {"{": "}", "[": "]"}


class CallPart(NamedTuple):
    """A part of a call. name: only in the first part of a call."""

    index: int  # type: ignore[assignment]  # in place of tuple.index
    name: str | None
    arguments: str


@dataclass(slots=True)
class Said:
    """What was read since the last `take`."""

    content: str = ""
    reasoning: str = ""
    calls: list[CallPart] = field(default_factory=list)


class Reader:
    """The text of an answer that is still unread, and the results so far.

    Offsets count from the first unread character. White space beside a call, a tag or reasoning is layout and is
    dropped; all other text becomes content, reasoning, or a call's arguments.
    """

    def __init__(self, most: int | None = None, either: bool = False) -> None:
        """most: maximum number of calls; None: any. either: the answer has calls or content, not both."""
        self.either = either
        self.said = False  # there was content
        self.ended = False
        self.thinking = False  # the next text is reasoning
        self.thought = False  # there was reasoning
        self.calls = 0
        self._most = most
        self._text = ""
        self._at = 0
        self._content: list[str] = []  # what was read since `take`, in parts; likewise the next two
        self._reasoning: list[str] = []
        self._calls: list[tuple[int, str | None, list[str]]] = []
        self._space = ""  # white space that is content if content follows
        self._fresh = False  # nothing but layout since a call, a tag or reasoning

    def feed(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def take(self) -> Said:
        calls = [CallPart(index, name, "".join(parts)) for index, name, parts in self._calls]
        said = Said("".join(self._content), "".join(self._reasoning), calls)
        self._content, self._reasoning, self._calls = [], [], []
        return said

    @property
    def full(self) -> bool:
        """Whether the maximum number of calls was read."""
        return self._most is not None and self.calls >= self._most

    # ---- looking ahead --------------------------------------------------------------------------------------------

    def more(self) -> Wait[bool]:
        """Waits for more text -> whether more arrived."""
        n = len(self._text) - self._at
        while len(self._text) - self._at == n:
            if self.ended:
                return False
            yield
        return True

    def char(self, at: int) -> Wait[str]:
        """The character at an offset; "" at the end."""
        while len(self._text) - self._at <= at:
            if not (yield from self.more()):
                return ""
        return self._text[self._at + at]

    def space(self, at: int) -> Wait[int]:
        """The offset of the first character from `at` on that is not white space."""
        return (yield from self.past(_SPACE, at))

    def past(self, characters: re.Pattern[str], at: int) -> Wait[int]:
        """The offset of the first character from `at` on that `characters`, a class with a star, does not match."""
        while True:
            match = characters.match(self._text, self._at + at)
            assert match is not None
            at = match.end() - self._at
            if self._at + at < len(self._text) or not (yield from self.more()):
                return at

    def looking_at(self, options: Sequence[str], at: int = 0) -> Wait[str | None]:
        """Which of these texts is at an offset. None of them may contain another."""
        while True:
            rest = self._text[self._at + at : self._at + at + max(map(len, options))]
            found = next((one for one in options if rest.startswith(one)), None)
            if found is not None or not any(one.startswith(rest) for one in options):
                return found
            if not (yield from self.more()):
                return None

    def before(self, stops: Sequence[str], at: int, most: int) -> Wait[tuple[str, str] | None]:
        """(the text from an offset up to the first of these stops, the stop); None if there are more than `most`
        characters before it, or the text ends."""
        find, longest = _finder(tuple(stops)), max(map(len, stops))
        while True:
            start = self._at + at
            match = find.search(self._text, start, start + most + longest)
            if match is not None:
                return self._text[start : match.start()], match.group()
            if len(self._text) - start >= most + longest or not (yield from self.more()):
                return None

    def peek(self, start: int, end: int) -> str:
        """The text between two offsets, which has arrived."""
        return self._text[self._at + start : self._at + end]

    def string_end(self, at: int) -> Wait[int]:
        """The offset after the string, of JSON or Python, whose quote is at an offset; -1 if the text ends in it."""
        quote = self._text[self._at + at]
        at += 1
        while True:
            match = _IN_QUOTES[quote].match(self._text, self._at + at)
            assert match is not None
            at = match.end() - self._at
            if self._text.startswith(quote, self._at + at):
                return at + 1
            if not (yield from self.more()):
                return -1

    # ---- reading --------------------------------------------------------------------------------------------------

    def drop(self, n: int) -> None:
        """Reads n characters that are layout."""
        self._at += n

    def layout(self, n: int) -> None:
        """As `drop`, for a tag: white space beside it is dropped, too."""
        self.drop(n)
        self._space, self._fresh = "", True

    def say(self, n: int) -> None:
        """Reads n characters as reasoning if `thinking`, else as content."""
        text = self.peek(0, n)
        self._at += n
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        self.said = self.said or bool(kept and not self.thinking)
        (self._reasoning if self.thinking else self._content).append(kept)

    def paragraph(self) -> None:
        """Makes the next text another paragraph of the same kind."""
        self._space, self._fresh = "\n\n", True

    def think(self, n: int) -> None:
        """Reads a tag of n characters, after which reasoning begins."""
        self.layout(n)
        self.thinking = self.thought = True

    def stop_thinking(self, n: int) -> None:
        """Reads a tag of n characters, with which reasoning ends."""
        self.layout(n)
        self.thinking = False

    def until(self, stops: Sequence[str]) -> Wait[str | None]:
        """Reads content, or reasoning, up to but not including the first of these stops -> the stop; None at the
        end."""
        find = _finder(tuple(stops))
        while True:
            match = find.search(self._text, self._at)
            if match is not None:
                self.say(match.start() - self._at)
                return match.group()
            self.say(len(self._text) - self._at - (0 if self.ended else _beginning(self._text, self._at, stops)))
            if not (yield from self.more()):
                self.say(len(self._text) - self._at)
                if not self._fresh and not self.thinking:
                    self._content.append(self._space)
                self._space = ""
                return None

    # ---- calls ----------------------------------------------------------------------------------------------------

    def call(self, name: str, n: int) -> None:
        """Reads n characters, with which a call of this name begins."""
        self.layout(n)
        self.thinking = False
        self._calls.append((self.calls, name, []))
        self.calls += 1

    def argue(self, text: str) -> None:
        """Adds to the arguments of the last call."""
        if text:
            if not self._calls:
                self._calls.append((self.calls - 1, None, []))
            self._calls[-1][2].append(text)

    def arguments(self, stops: Sequence[str] = ()) -> Wait[None]:
        """Reads arguments as written: a JSON object or list up to its end, other text up to one of the stops, without
        surrounding white space."""
        self.drop((yield from self.space(0)))
        if (yield from self.char(0)) in ("{", "["):
            yield from self._balanced()
            return
        held, empty, find = "", True, _finder(tuple(stops))
        while True:
            match = find.search(self._text, self._at)
            keep = 0 if self.ended or match is not None else _beginning(self._text, self._at, stops)
            n = (len(self._text) - keep if match is None else match.start()) - self._at
            part = held + self.peek(0, n)
            self.drop(n)
            kept = part.rstrip()
            held = part[len(kept) :]
            self.argue(kept)
            empty = empty and not kept
            if match is not None or not (yield from self.more()):
                if empty:
                    self.argue("{}")
                return

    def value(self, stops: Sequence[str], write: Callable[[str], None], newline: bool) -> Wait[str | None]:
        """Reads text up to but not including the first of these stops, and writes it as it arrives -> the stop; None at
        the end. newline: whether a newline on either side is layout."""
        find = _finder(tuple(stops))
        if newline and (yield from self.char(0)) == "\n":
            self.drop(1)
        while True:
            match = find.search(self._text, self._at)
            end = len(self._text) if match is None else match.start()
            if match is None and not self.ended:
                end -= _beginning(self._text, self._at, stops)
            kept = end - (newline and end > self._at and self._text[end - 1] == "\n")
            if match is not None or not self.ended:
                write(self._text[self._at : kept])
                self._at = kept
            if match is not None:
                self._at = end
                return match.group()
            if not (yield from self.more()):
                write(self._text[self._at :])
                self._at = len(self._text)
                return None

    def _balanced(self) -> Wait[None]:
        """Reads an object or a list; a broken one, up to a tag or a wrong bracket."""
        closing: list[str] = []
        quoted = False
        while True:
            start = i = self._at
            text = self._text
            done = False
            while i < len(text):
                if quoted:
                    match = _IN_STRING.match(text, i)
                    assert match is not None
                    i = match.end()
                    if not text.startswith('"', i):  # it ends, perhaps after a backslash
                        break
                    quoted = False
                    i += 1
                    continue
                match = _NOT_STRING.match(text, i)
                assert match is not None
                i = match.end()
                if i == len(text):
                    break
                c = text[i]
                if c == '"':
                    quoted = True
                elif c in _CLOSES:
                    closing.append(_CLOSES[c])
                elif c != closing[-1]:
                    done = True
                    break
                else:
                    closing.pop()
                    done = not closing
                i += 1
                if done:
                    break
            self.argue(text[start:i])
            self._at = i
            if done:
                return
            if not (yield from self.more()):
                self.argue(self.peek(0, len(self._text)))
                self._at = len(self._text)
                return


@lru_cache(maxsize=256)
def _finder(stops: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the first of these texts, none of which contains another; with no texts, finds nothing."""
    return re.compile("|".join(map(re.escape, stops)) if stops else r"(?!)")


def _beginning(text: str, at: int, stops: Sequence[str]) -> int:
    """Length of the longest suffix of a text, from `at` on, with which a stop begins."""
    longest = min(max(map(len, stops), default=1) - 1, len(text) - at)
    for size in range(longest, 0, -1):
        end = text[-size:]
        if any(stop.startswith(end) for stop in stops):
            return size
    return 0


def whole_characters(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which escapes can produce."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
