"""Reads JavaScript as far as tests need it: literals, where each stands, and the markup of templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Literal", "Shown", "literals"]

WORD = re.compile(r"[\w$]+|\?\?=?|\|\|=?|&&=?|=>|[^\s\w$]")
NUL = "\0"  # stands for an expression in the text of a template
BEFORE_VALUE = set("(,=:[!&|?{};+-*%<>~^") | {"=>", "&&", "||", "??", "return", "case", "typeof", "of", "in", ""}
DECLARED = re.compile(r"(?:export )?(?:const|class|function) (\w+)")
MARKUP = ("html", "svg")
READ = {"title", "aria-label", "placeholder", "alt", "label", "aria-description", "aria-valuetext"}
TAG = re.compile(r"<(/?)([\w-]*)((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>")
ATTRIBUTE = re.compile(r"([@.?]?[\w-]+)(?:=(\"[^\"]*\"|'[^']*'|[^\s>]+))?")


@dataclass
class Shown:
    """What a template shows a reader: its own texts, and the literals that its expressions may put there."""

    texts: list[str] = field(default_factory=list)
    values: list[Literal] = field(default_factory=list)


@dataclass
class Literal:
    """A string or template. before: what stands before it; inside: the innermost bracket around it, "NAME(" of a call
    and ".NAME(" of a method's; calls: the names of all calls around it, up to the template or module; constant: the
    name of the module's constant, function or class that it is a part of."""

    text: str
    line: int
    before: str
    inside: str
    calls: tuple[str, ...]
    constant: str
    tag: str = ""
    shown: Shown = field(default_factory=Shown)


def literals(text: str) -> Iterator[Literal]:
    """All of a module, also those within templates."""
    found, end = _code(text, 0, False, "")
    if end != len(text):
        raise ValueError(f"line {text.count(chr(10), 0, end) + 1}: a bracket that was not opened")
    yield from _all(found)


def _all(found: list[tuple[Literal, list[list]]]) -> Iterator[Literal]:
    for one, inner in found:
        yield one
        for each in inner:
            yield from _all(each)


def _code(text: str, i: int, in_template: bool, constant: str) -> tuple[list, int]:
    """(literals with those of their expressions, where the code ends): at the text's end, or a template's "}"."""
    found: list[tuple[Literal, list[list]]] = []
    stack: list[str] = []
    before = prior = ""
    while i < len(text):
        c = text[i]
        if c.isspace():
            i += 1
            continue
        if text.startswith("//", i):
            i = text.find("\n", i) if "\n" in text[i:] else len(text)
            continue
        if text.startswith("/*", i):
            i = text.index("*/", i) + 2
            continue
        if (
            not in_template
            and not stack
            and (m := re.compile(r"(?:export )?(?:const|class|function) (\w+)").match(text, i))
        ):
            constant = m[1]
        if c in "\"'`" or c == "/" and before in BEFORE_VALUE:
            calls = tuple(one[:-1] for one in stack if one.endswith("(") and len(one) > 1)
            one = Literal("", text.count("\n", 0, i) + 1, before, stack[-1] if stack else "", calls, constant)
            if c == "/":
                i = _expression(text, i)
                before = "/"
                continue
            if c == "`":
                one.tag = before if before in MARKUP else ""
                inner, i = _template(text, i + 1, one, constant)
                found.append((one, inner))
            else:
                m = re.compile(r"(?:[^\\\n]|\\.)*?" + c).match(text, i + 1)
                if m is None:
                    raise ValueError(f"line {one.line}: a string that does not end")
                one.text, i = m[0][:-1], m.end()
                found.append((one, []))
            before = c
            continue
        m = WORD.match(text, i)
        assert m
        token = m[0]
        if token in "([{" and len(token) == 1:
            called = token == "(" and re.fullmatch(r"[\w$]+", before)
            stack.append(f"{'.' if prior == '.' else ''}{before}(" if called else token)
        elif token in ")]}" and len(token) == 1:
            if not stack:
                return found, i
            stack.pop()
        prior, before = before, token
        i = m.end()
    return found, i


def _expression(text: str, i: int) -> int:
    """Behind a regular expression."""
    m = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/\w*").match(text, i)
    if m is None:
        raise ValueError(f"line {text.count(chr(10), 0, i) + 1}: no regular expression")
    return m.end()


def _template(text: str, i: int, one: Literal, constant: str) -> tuple[list[list], int]:
    chunks, inner, start = [], [], i
    while text[i] != "`":
        if text[i] == "\\":
            i += 2
        elif text.startswith("${", i):
            chunks.append(text[start:i])
            found, i = _code(text, i + 2, True, constant)
            inner.append(found)
            i += 1
            start = i
        else:
            i += 1
    chunks.append(text[start:i])
    one.text = NUL.join(chunks)
    if one.tag:
        one.shown = _markup(one.text, inner)
    return inner, i + 1


def _markup(text: str, inner: list[list]) -> Shown:
    """What is read of a template's markup."""
    shown, values = Shown(), iter(inner)
    at = 0

    def read(part: str, seen: bool) -> None:
        if seen:
            shown.texts.append(part.replace(NUL, " "))
        for _ in range(part.count(NUL)):
            each = next(values)
            if seen:
                shown.values += [one for one, _ in each]

    for tag in TAG.finditer(text):
        read(text[at : tag.start()], True)
        rest = tag[3]
        end = 0
        for attribute in ATTRIBUTE.finditer(rest):
            read(rest[end : attribute.start()], False)
            read(attribute[0], False) if attribute[2] is None else read(attribute[2], attribute[1] in READ)
            end = attribute.end()
        read(rest[end:], False)
        at = tag.end()
    read(text[at:], True)
    return shown
