"""Grammars in GBNF, llama.cpp's format, as Lark for llguidance.

llguidance's lexer takes the longest text of a lexeme, whatever follows. So a rule is a lexeme only if no text of it
becomes longer by what may follow it, nor part of another lexeme; the others are spelled as single characters, which
makes masks slower.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

__all__ = ["is_gbnf", "to_lark"]

LAST = 0x10FFFF  # character
MOST = 3000  # parts of a grammar that is analysed, and ...
ROUNDS = 30  # ... rounds of each step: some 0.3 s in all
_RULE = re.compile(r"^[^\S\n]*[\w-]+\s*::=", re.M)
_TOKEN = re.compile(
    r"(?P<skip>[ \t]+|#[^\r\n]*)|(?P<line>[\r\n]+)|(?P<rule>[\w-]+)[ \t]*::=|(?P<ref>[\w-]+)"
    r'|(?P<text>"(?:[^"\\]|\\.)*+"?)'
    r"|(?P<set>\[(?:[^\]\\]|\\.)*+\]?|\.)|(?P<times>\{\s*(\d{1,9})\s*(,\s*(\d{1,9})?\s*)?\}|[*+?])|(?P<mark>[|()])",
    re.S | re.A,
)
_CHARACTER = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|[^\\]", re.S)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_TIMES = {"*": "{0,}", "+": "{1,}", "?": "{0,1}"}


@dataclass(eq=False, slots=True)
class _Node:
    """Part of a grammar. kind: "set" (a character), "seq", "alt", "rep", "ref" (a rule). text: what it is in Lark; how
    often; the rule's name."""

    kind: str
    items: list[_Node] = field(default_factory=list)
    text: str = ""
    ranges: list[tuple[int, int]] = field(default_factory=list)  # of characters

    def all(self) -> Iterator[_Node]:
        left = [self]
        while left:
            yield (node := left.pop())
            left += node.items


class _Facts(NamedTuple):
    """Of the texts of a part: whether one is empty; and the characters, as bits, that one may begin with, that may
    follow one within a longer one, and that do not come first."""

    empty: bool = True
    first: int = 0
    longer: int = 0
    inner: int = 0


def is_gbnf(text: str) -> bool:
    """Whether a grammar has a rule in this format."""
    return _RULE.search(text) is not None


def to_lark(text: str) -> str:
    """The same grammar in Lark. Raises ValueError."""
    return _Grammar(_rules(text)).lark()


def _rules(text: str) -> dict[str, _Node]:
    """The rules by their names; of several with a name, the last."""
    rules: dict[str, _Node] = {}
    within: list[_Node] = []  # alternatives: of the rule, and of the groups around this place
    at, free = 0, True  # free: a line may end here, even if no group is open
    while at < len(text):
        found = _TOKEN.match(text, at)
        kind, token = (found.lastgroup, found[0]) if found else ("", "")
        items = within[-1].items[-1].items if within else []
        if kind == "line" and not free and len(within) < 2:
            within, free = [], True
        elif kind not in ("skip", "line"):
            free = token == "|" or kind == "rule"
            if kind == "rule" and not within and found:
                within = [_Node("alt", [_Node("seq")])]
                rules[found[kind]] = within[0]
            elif not within or not kind or kind == "rule" or (kind == "times" and not items):
                expected = "a text, a set, a rule's name or a group" if within else 'a rule, as in `root ::= "a"`'
                raise ValueError(f"{text[at : at + 20]!r}: expected {expected}")
            elif token == "|":
                within[-1].items.append(_Node("seq"))
            elif token == "(":
                items.append(_Node("alt", [_Node("seq")]))
                within.append(items[-1])
            elif token == ")":
                within.pop()
                if not within:
                    raise ValueError("a group ends that does not begin")
            elif kind == "times" and found:
                items[-1] = _Node("rep", [items[-1]], _times(token))
            elif kind == "text":
                items.append(_Node("seq", [_Node("set", [], _spelled(x), [(x, x)]) for x in _characters(token, 1)]))
            else:
                items.append(_Node("ref", text=token) if kind == "ref" else _set(token))
        at += len(token)
    if len(within) > 1:
        raise ValueError("a group has no end")
    return rules


def _times(token: str) -> str:
    least, _, most = "".join(_TIMES.get(token, token).split())[1:-1].partition(",")
    if most and int(most) < int(least):
        raise ValueError(f"{token}: expected at least as many as {least}")
    return f"{{{least},{most}}}" if "," in token or token in _TIMES else f"{{{least},{least}}}"


def _set(token: str) -> _Node:
    if token == ".":
        return _Node("set", [], "(?s:.)", [(0, LAST)])
    negated = token.startswith("[^")
    codes, ranges = _characters(token, 1 + negated), []
    while codes:
        low = high = codes.pop(0)
        if codes[1:] and codes[0] == ord("-"):
            high = codes[1]
            del codes[:2]
        if high < low:
            raise ValueError(f"{token[:20]!r}: a range ends before it begins")
        ranges.append((low, high))
    if not ranges:
        raise ValueError(f"{token}: expected at least one character")
    spelled = "".join(f"{_spelled(low)}-{_spelled(high)}" for low, high in ranges)
    return _Node("set", [], f"[{'^' * negated}{spelled}]", ranges)


def _characters(part: str, begin: int) -> list[int]:
    """The characters of a text or a set, which begin there."""
    if len(part) <= begin or part[-1] not in '"]':
        raise ValueError(f"{part[:20]!r} has no end")
    return [_code(one) for one in _CHARACTER.findall(part[begin:-1])]


def _code(written: str) -> int:
    character = written
    if written[0] == "\\":
        character = _ESCAPES.get(written[1], "")
        if len(written) > 2 and (code := int(written[2:], 16)) <= LAST:
            character = chr(code)
    if not character or "\ud800" <= character <= "\udfff":
        raise ValueError(f"the escape {written} is not a character")
    return ord(character)


def _spelled(code: int) -> str:
    return chr(code) if code < 128 and chr(code).isalnum() else f"\\x{{{code:x}}}"


class _Grammar:
    def __init__(self, rules: dict[str, _Node]) -> None:
        self._rules = rules
        self._numbers = {name: str(n) for n, name in enumerate(rules)}
        refers = {name: {node.text for node in body.all() if node.kind == "ref"} for name, body in rules.items()}
        for name in {"root"}.union(*refers.values()):
            if name not in rules:
                raise ValueError(f"the rule {name!r} is not defined")
        order = TopologicalSorter(refers)
        with suppress(CycleError):
            order.prepare()
        self._regular: dict[str, str] = {}  # rules that lead to no recursion, in Lark's syntax
        self._lexemes: set[str] = set()
        while ready := order.get_ready():
            self._regular.update((name, self._written(rules[name], True)) for name in ready)
            order.done(*ready)
        self._lexemes.update(self._regular)
        if "root" not in self._lexemes:
            self._split()

    def lark(self) -> str:
        lines = [f"start: {self._written(_Node('ref', text='root'), False)}"]
        for name, body in self._rules.items():
            if name in self._regular:
                lines.append(f"L{self._numbers[name]}: {self._regular[name]}")
            if name not in self._lexemes:
                lines.append(f"r{self._numbers[name]}: {self._written(body, False)}")
        return "\n".join([*lines, ""])

    def _written(self, node: _Node, lexeme: bool) -> str:
        """Part of a lexeme or of a rule in Lark's syntax."""
        if node.kind == "set":
            return f"/{node.text}/"
        if node.kind == "ref":
            if self._regular.get(node.text) == '""':
                return '""'
            return "rL"[lexeme or node.text in self._lexemes] + self._numbers[node.text]
        every = [self._written(one, lexeme) for one in node.items]
        # llguidance 1.9 panics at some sets beside an empty text.
        parts = list(dict.fromkeys(every)) if node.kind == "alt" else [one for one in every if one != '""']
        if node.text == "{0,0}" or parts in ([], ['""']):
            return '""'
        return f"({(' | ' if node.kind == 'alt' else ' ').join(parts)}){node.text}"

    def _split(self) -> None:
        """Leaves the lexemes that no other text can lengthen; if that takes long to find, none."""
        nodes = [node for body in self._rules.values() for node in body.all()]
        ends = {0, LAST + 1, *(end for node in nodes for low, high in node.ranges for end in (low, high + 1))}
        self._bounds = sorted(ends)
        for _ in range(ROUNDS if len(nodes) < MOST else 0):
            if not self._follow():
                break
            unsafe = set()
            for one, after in self._after.items():
                fact = self._facts[one] if isinstance(one, str) else self._fact(one)
                if not isinstance(one, str) or one in self._lexemes:
                    for name in self._lexemes:
                        other = self._facts[name]
                        if (other.longer if one == name else other.inner if other.first & fact.first else 0) & after:
                            unsafe.add(name)
            if not unsafe:
                return
            self._lexemes -= unsafe
        self._lexemes.clear()

    def _follow(self) -> bool:
        """Finds what follows each rule and character -> whether it came to an end."""
        self._facts = dict.fromkeys(self._rules, _Facts(False))
        self._after: dict[str | _Node, int] = {}
        for step in (self._find, self._spread_all):
            for _ in range(ROUNDS):
                before = dict(self._facts), dict(self._after)
                step()
                if before == (self._facts, self._after):
                    break
            else:
                return False
        return True

    def _find(self) -> None:
        for name, body in reversed(self._rules.items()):
            self._facts[name] = self._fact(body)

    def _spread_all(self) -> None:
        for name, body in self._rules.items():
            if name not in self._lexemes:
                self._spread(body, self._after.get(name, 0))

    def _fact(self, node: _Node) -> _Facts:
        if node.kind == "ref":
            return self._facts[node.text]
        if node.kind == "set":
            bits = 0
            for low, high in node.ranges:
                bits |= (1 << bisect_left(self._bounds, high + 1)) - (1 << bisect_left(self._bounds, low))
            return _Facts(False, bits ^ ((1 << len(self._bounds)) - 1 if node.text.startswith("[^") else 0))
        if node.text == "{0,0}" or not node.items:
            return _Facts()
        made = self._fact(node.items[0])
        if node.kind == "rep":
            empty, first, longer, inner = made
            least, _, most = node.text[1:-1].partition(",")
            if most != "1":
                inner |= first
                if longer & first:  # where one ends is not clear
                    longer = inner
                elif least != most or empty:
                    longer |= first
            return _Facts(empty or least == "0", first, longer, inner)
        for one in map(self._fact, node.items[1:]):
            empty, first, longer, inner = made
            inner |= one.inner
            if node.kind == "alt":
                longer = inner if first & one.first else longer | one.longer
                made = _Facts(empty or one.empty, first | one.first, longer, inner)
                continue
            inner |= one.first if first else 0
            unclear = (longer | (first if empty else 0)) & one.first
            longer = inner if unclear else one.longer | (longer | one.first if one.empty else 0)
            made = _Facts(empty and one.empty, first | (one.first if empty else 0), longer, inner)
        return made

    def _spread(self, node: _Node, after: int) -> None:
        """Adds what follows a part to what follows its characters and rules."""
        if node.kind in ("ref", "set"):
            key = node.text if node.kind == "ref" else node
            self._after[key] = self._after.get(key, 0) | after
            return
        if node.kind == "rep":
            after |= self._fact(node).first
        for one in reversed(node.items):
            self._spread(one, after)
            if node.kind == "seq":
                fact = self._fact(one)
                after = fact.first | (after if fact.empty else 0)
