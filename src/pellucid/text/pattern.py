"""How long a regular expression from a file may take, found without running it.

The ``tokenizers`` package searches with Oniguruma, which backtracks and cannot be interrupted. :class:`Pattern` reads
an expression in Oniguruma's syntax, refuses those whose time grows exponentially, and bounds the time of the others by
the lengths of the runs that their repetitions can match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from pellucid.errors import TokenizerError

__all__ = ["Pattern"]

_LONGEST = 20_000  # of an expression; the longest published one has 2,000
_DEEPEST = 30  # levels of nested groups
_MOST_REPEATS = 1000  # of a counted repetition, times those around it; the largest published one is 512
_MOST_WAYS = 20_000  # ways to match at one place, apart from the lengths of unbounded repetitions
_UNBOUNDED = 1 << 30

_QUANTIFIER = re.compile(r"([*+?])([+?]?)|\{(\d{1,6})?(,)?(\d{1,6})?\}(\??)")
_GROUP = re.compile(r"\?(?:(:|>|=|!|<=|<!)|<[A-Za-z_]\w*>|[im]*(?:-[im]+)?(:|\)))")
_ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]{1,8}\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[dDwWsShHNOtrnfvae]|[^\w\s]|[ _])"
)
_ANCHOR = re.compile(r"[$^]|\\[bBAzZG]")


class _Part(NamedTuple):
    """A part of an expression: how many characters it matches, and what trying it costs."""

    least: int = 0
    most: int = 0
    can_fail: bool = False
    ways: int = 1  # of matching at one place, apart from the lengths of unbounded repetitions
    degree: int = 0  # unbounded repetitions that backtrack over every length if what follows fails
    last: int = 0  # the same, if nothing that can fail follows
    loops: tuple[str, ...] = ()  # expressions that are repeated without bound
    starts: frozenset[str] | None = None  # the first character, if it is one of a few literal ones


class Pattern:
    """The cost of an expression. Raises ``TokenizerError`` for one that is too large, cannot be read, or repeats a part
    whose length varies.

    ``least``: characters of the shortest match. ``degree``: 0 if the time grows with the text's length, 1 if it grows
    with the square of a run's length, and so on. ``loops``: expressions that are repeated without bound.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _LONGEST:
            raise TokenizerError(f"an expression of {len(source)} characters; expected at most {_LONGEST}")
        self._source, self._at, self._depth = source, 0, 0
        self._counts = 0  # that all counted repetitions together match at most
        whole = self._alternatives()
        if self._at < len(source):
            raise self._error("an unmatched )")
        self.least, self.ways, self.degree, self.loops = whole.least, whole.ways, whole.last, whole.loops

    def cost(self, characters: int, runs: Iterable[int]) -> int:
        """An upper bound of the steps for searching a text, by the lengths of the runs that ``loops`` match."""
        tried = sum(int(run ** (self.degree + 1)) for run in runs) if self.degree else 0
        return (self.ways + self._counts) * (characters + tried)

    def _error(self, what: str) -> TokenizerError:
        return TokenizerError(f"the regular expression has {what} at character {self._at}, which is not supported")

    # ---- reading

    def _alternatives(self) -> _Part:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(f"groups nested more than {_DEEPEST} deep")
        parts = [self._sequence()]
        while self._source[self._at : self._at + 1] == "|":
            self._at += 1
            parts.append(self._sequence())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else self._bounded(_either(parts))

    def _sequence(self) -> _Part:
        parts = []
        while self._at < len(self._source) and self._source[self._at] not in "|)":
            start = self._at
            part = self._atom()
            parts.append(self._repeated(part, self._source[start : self._at]))
        return self._bounded(_joined(parts))

    def _bounded(self, part: _Part) -> _Part:
        if part.ways > _MOST_WAYS:
            raise self._error("too many ways to match")
        return part

    def _atom(self) -> _Part:
        source, at = self._source, self._at
        character = source[at]
        if match := _ANCHOR.match(source, at):
            self._at = match.end()
            return _Part(can_fail=True)
        if character == "(":
            return self._group()
        if character == "[":
            self._class()
            return _Part(1, 1, True)
        if character == "\\":
            match = _ESCAPE.match(source, at)
            if match is None:
                raise self._error(f"the escape {source[at : at + 2]}")
            self._at = match.end()
            return _Part(1, 1, True)
        if character in "*+?":
            raise self._error("a repetition of nothing or of a repetition")
        self._at += 1
        literal = character != "." and character.isascii() and not character.isalpha()
        return _Part(1, 1, True, starts=frozenset(character) if literal or character.isupper() else None)

    def _class(self) -> None:
        depth, source = 0, self._source
        while True:
            if self._at >= len(source):
                raise self._error("a class without an end")
            if match := _ESCAPE.match(source, self._at):
                self._at = match.end()
                continue
            character = source[self._at]
            if character == "\\":
                raise self._error(f"the escape {source[self._at : self._at + 2]}")
            self._at += 1
            if character == "[":
                depth += 1
                if source.startswith(("]", "^]"), self._at):
                    raise self._error("a class that begins with ]")
            elif character == "]":
                depth -= 1
                if depth == 0:
                    return

    def _group(self) -> _Part:
        self._at += 1
        kind = ""
        if self._source.startswith("*", self._at):
            raise self._error("a callout")
        if self._source.startswith("?", self._at):
            match = _GROUP.match(self._source, self._at)
            if match is None:
                raise self._error("a group of an unknown kind")
            self._at = match.end()
            kind = match[1] or ""
            if match[2] == ")":  # flags for what follows
                return _Part()
        inner = self._alternatives()
        if not self._source.startswith(")", self._at):
            raise self._error("a group without an end")
        self._at += 1
        if kind in ("=", "!", "<=", "<!"):
            return inner._replace(least=0, most=0, can_fail=True, last=inner.degree, starts=None)
        return inner

    def _repeated(self, part: _Part, atom: str) -> _Part:
        match = _QUANTIFIER.match(self._source, self._at)
        if match is None or (match[1] is None and match[3] is None and match[5] is None):
            return part
        self._at = match.end()
        if _QUANTIFIER.match(self._source, self._at):
            raise self._error("a repetition of a repetition")
        if match[1]:
            least, most = int(match[1] == "+"), 1 if match[1] == "?" else _UNBOUNDED
        else:
            least = int(match[3] or 0)
            most = int(match[5]) if match[5] else _UNBOUNDED if match[4] else least
            if match[6] and not match[4]:  # {n}? may match nothing, too
                least = 0
        if most < least:
            raise self._error("a repetition whose bounds are in the wrong order")
        if most > 1 and (part.least != part.most or part.most == 0):
            raise self._error("a repetition of a part whose length varies")
        if most < _UNBOUNDED:
            return self._bounded(self._counted(part, least, most))
        if part.ways > 1 and part.starts is None:
            raise self._error("a repetition of alternatives that may begin alike")
        if least > _MOST_REPEATS:
            raise self._error(f"a repetition of more than {_MOST_REPEATS} characters")
        self._counts += part.least * least
        return _Part(part.least * least, _UNBOUNDED, least > 0, degree=1, loops=(atom,))

    def _counted(self, part: _Part, least: int, most: int) -> _Part:
        if part.most * most > _MOST_REPEATS and most > 1:
            raise self._error(f"a repetition of more than {_MOST_REPEATS} characters")
        self._counts += part.most * most
        ways = min(part.ways ** min(most, 20), _MOST_WAYS + 1) * (most - least + 1)
        return part._replace(
            least=part.least * least,
            most=part.most * most,
            can_fail=part.can_fail and least > 0,
            ways=ways,
            starts=None,
        )


def _either(parts: list[_Part]) -> _Part:
    starts: frozenset[str] | None = frozenset()
    for part in parts:
        distinct = starts is not None and part.starts is not None and not starts & part.starts
        starts = starts | part.starts if distinct else None  # type: ignore[operator]
    return _Part(
        min(part.least for part in parts),
        max(part.most for part in parts),
        all(part.can_fail for part in parts),
        sum(part.ways for part in parts) if starts is None else max(part.ways for part in parts),
        max(part.degree for part in parts),
        max(part.last for part in parts),
        _loops(parts),
        starts,
    )


def _joined(parts: list[_Part]) -> _Part:
    ways, last, can_fail = 1, 0, False
    for part in reversed(parts):
        ways = min(ways * part.ways, _MOST_WAYS + 1)
        last += part.degree if can_fail else part.last
        can_fail = can_fail or part.can_fail
    return _Part(
        sum(part.least for part in parts),
        min(sum(part.most for part in parts), _UNBOUNDED),
        can_fail,
        ways,
        sum(part.degree for part in parts),
        last,
        _loops(parts),
        parts[0].starts if parts else None,
    )


def _loops(parts: list[_Part]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(loop for part in parts for loop in part.loops))
