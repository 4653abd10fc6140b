"""Grammars in GBNF, llama.cpp's format, prepared for llguidance's converter to Lark.

The converter copies texts and sets of characters as they are. But Lark and regular expressions have different escapes,
and give `&&`, `--`, `~~` and `^` a meaning in sets. In Lark, `start` is the rule that is `root` here.
"""

from __future__ import annotations

import re
from itertools import count

__all__ = ["is_gbnf", "spelled"]

_ROOT = re.compile(r"^[^\S\n]*root\s*::=", re.M)
_COMMENT, _TEXT, _SET = r"#[^\r\n]*", r'"(?:[^"\\]|\\.)*+', r"\[(?:[^\]\\]|\\.)*+"
# A text or a set without an end matches all the rest, so that no character is scanned twice.
_PART = re.compile(rf'{_COMMENT}|{_TEXT}"?|{_SET}\]?|[\w-]+', re.S)
_ENDED = re.compile(rf'{_TEXT}"|{_SET}\]', re.S)
_CHARACTER = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|[^\\]", re.S)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]"}


def is_gbnf(text: str) -> bool:
    """Whether a grammar has a rule `root` in this format."""
    return _ROOT.search(text) is not None


def spelled(text: str) -> str:
    """The grammar rewritten so that each character of a text or a set means the same in Lark, and no rule is `start`.
    Raises ValueError for escapes that GBNF does not have, and for texts and sets without an end."""
    names = set(_PART.findall(text))
    free = next(name for i in count() if (name := f"start-{i}") not in names)
    return _PART.sub(lambda match: free if match.group() == "start" else _part(match.group()), text)


def _part(part: str) -> str:
    """A comment, a text, a set, or a name."""
    if part[0] not in '"[':
        return part
    if not _ENDED.fullmatch(part):
        raise ValueError(f"{part[:20]!r} has no end")
    negated = "^" if part.startswith("[^") else ""
    inner = _CHARACTER.findall(part[1 + len(negated) : -1])
    out = [part[0], negated]
    at = 0
    while at < len(inner):
        out.append(_spelled(inner[at]))
        at += 1
        if part[0] == "[" and inner[at : at + 1] == ["-"] and at + 1 < len(inner):
            out += ["-", _spelled(inner[at + 1])]
            at += 2
    return "".join([*out, part[-1]])


def _spelled(written: str) -> str:
    """A character of a text or a set: an escape, the character itself, or `\\xHH`."""
    character: str | None = written
    if written[0] == "\\":
        code = int(written[2:], 16) if len(written) > 2 else None
        character = _ESCAPES.get(written[1]) if code is None else chr(code) if code < 0x110000 else None
    if character is None or "\ud800" <= character <= "\udfff":
        raise ValueError(f"the escape {written} is not a character")
    return character if character > "\x7f" or character.isalnum() else f"\\x{ord(character):02x}"
