"""What a caller passes to a chat template: validated, copied to plain values, and marked as the caller's text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pellucid.errors import ChatTemplateError, TokenizerError
from pellucid.text.budget import ELEMENT
from pellucid.text.special import Finder
from pellucid.text.vocabulary import quoted

__all__ = ["Marks", "MessageTextError", "Reader", "read_messages", "read_tables"]

MOST_NESTED = 60
_LONGEST_NAME = 64  # characters of a text that a template may look for in messages
_SPEAKERS = frozenset({"system", "user", "assistant"})
_ROLES = _SPEAKERS | {"tool", "developer", "function", "model"}
# A message may have one of these instead of content.
_INSTEAD = ("tool_calls", "reasoning_content", "thinking", "reasoning")
_REASONING = ("reasoning_content", "thinking", "reasoning")


class MessageTextError(TokenizerError, ValueError):
    """Text of a message that no token can represent."""


class Reader:
    """Copies plain values. ``size``: total size of what was copied, as a template's budget counts it."""

    def __init__(self) -> None:
        self.size = 0

    def plain(self, value: Any, place: str, depth: int = 0) -> Any:
        """A copy of dicts, lists, text, numbers, booleans and None, and nothing else. ``place``: for errors."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return self._text(value, place)
        if depth > MOST_NESTED:
            raise ValueError(f"{place}: nested more than {MOST_NESTED} deep")
        if isinstance(value, (Mapping, list, tuple)):
            self.size += ELEMENT * (len(value) + 1)
        if isinstance(value, Mapping):
            table = {}
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{place}: key {quoted(key)} must be text, not {type(key).__name__}")
                table[self._text(key, f"{place}: a key")] = self.plain(item, f"{place}[{quoted(key)}]", depth + 1)
            return table
        if isinstance(value, (list, tuple)):
            return [self.plain(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
        raise TypeError(f"{place} must be text, a number, a list or a dict, not {type(value).__name__}")

    def _text(self, text: str, place: str) -> str:
        text = str(text)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise MessageTextError(f"{place}: lone surrogate U+{code:04X}", position=error.start) from None
        self.size += len(text)
        return text


def read_messages(messages: Any, reader: Reader, name: str = "messages") -> list[dict[str, Any]]:
    """Messages as plain dicts. name: of the argument, for errors. Raises TypeError or ValueError naming the place."""
    if not isinstance(messages, (list, tuple)):
        raise TypeError(f"{name} must be a list of dicts, not {type(messages).__name__}")
    if not messages:
        raise ValueError(f"{name} is empty: expected at least one")
    return [_message(message, f"{name}[{i}]", reader) for i, message in enumerate(messages)]


def _message(message: Any, place: str, reader: Reader) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TypeError(f'{place} must be a dict with "role" and "content", not {type(message).__name__}')
    read = reader.plain(message, place)
    copy: dict[str, Any] = {key: value for key, value in read.items() if value is not None or key == "content"}
    role = copy.get("role")
    if role is None:
        raise ValueError(f'{place}: no "role"')
    if not isinstance(role, str):
        raise TypeError(f'{place}["role"] must be text, not {type(role).__name__}')
    content = copy.get("content")
    if content is None:
        if not any(copy.get(name) for name in _INSTEAD):
            raise ValueError(f'{place}: no "content"')
    elif isinstance(content, list):
        for i, part in enumerate(content):
            _check_part(part, f'{place}["content"][{i}]')
    elif not isinstance(content, str) and not (isinstance(content, dict) and role not in _SPEAKERS):
        raise TypeError(f'{place}["content"] must be text or a list of parts, not {type(content).__name__}')
    reasoning = next((copy[name] for name in _REASONING if copy.get(name) is not None), None)
    if reasoning is not None:  # templates use different names for it
        copy = {"thinking": reasoning, **copy, "reasoning_content": reasoning}
    return copy


def _check_part(part: Any, place: str) -> None:
    if not isinstance(part, dict):
        raise TypeError(f'{place} must be a dict with "type" and "text", not {type(part).__name__}')
    if part.get("type") != "text":
        kind = quoted(part.get("type")) if "type" in part else "missing"
        raise ValueError(f'{place}["type"] is {kind}; only "text" is supported')
    if not isinstance(part.get("text"), str):
        raise TypeError(f'{place}["text"] must be text, not {type(part.get("text")).__name__}')


def read_tables(name: str, values: Any, reader: Reader) -> list[dict[str, Any]] | None:
    """``tools`` or ``documents``: None or a list of dicts."""
    if values is None:
        return None
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list of dicts, not {type(values).__name__}")
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name}[{i}] must be a dict, not {type(value).__name__}")
    return [reader.plain(value, f"{name}[{i}]") for i, value in enumerate(values)]


# Characters that replace others: printable, without case, neither letters nor digits, rare in text, and long in
# Unicode. Nothing that a template does to text (trimming, changing case, writing it as JSON or as a Python literal)
# alters them.
_STAND_INS = [*range(0x2801, 0x2900), *range(0x4DC0, 0x4E00), *range(0x1D800, 0x1DA00)]


class Marks:
    """Distinguishes the text of messages from the text of the template.

    A special token that a template writes becomes its id; the same spelling in a message is text. The template returns
    both in one string, so certain characters of the messages are first replaced, one for one, by characters that occur
    nowhere else; the result is searched for special tokens, and then the characters are restored. A replaced character
    cannot begin a special token, however the template cuts and joins text.

    Every character that begins some special token (``<``, ``[``) is replaced, unless it begins a text that the template
    itself contains as a literal and that cannot become a special token: ``'</think>' in content`` still works. Of
    special tokens that begin with letters or the like, only the whole spelling is replaced. Templates write ``'<|' +
    role + '|>'``, so the first character of a role is replaced if the role is part of a special token, unless it is a
    usual role or one that the template contains.

    ``specials``: spellings of special tokens; ``literals``: texts that the template contains; ``others``: further texts
    that the template may write.
    """

    def __init__(self, specials: Iterable[str], literals: Iterable[str], others: Iterable[str] = ()) -> None:
        self._specials = frozenset(filter(None, specials))
        self._named = frozenset(literals)
        self._taken = {*"".join(self._specials), *"".join(self._named), *"".join(others)}
        starts = {text[0] for text in self._specials}
        self._starts = frozenset(c for c in starts if c.isascii() and not c.isalnum() and not c.isspace())
        self._find_starts = re.compile(f"[{re.escape(''.join(sorted(self._starts)))}]") if self._starts else None
        self._whole = Finder({text: i for i, text in enumerate(self._specials) if text[0] not in self._starts})
        self._harmless = self._find_harmless()

    def _find_harmless(self) -> dict[str, Any]:
        """The tails of the template's literals, from each character that could begin a special token but does not.

        They form a tree: each character has a table of those that may follow, and the last one has an empty table.
        """
        beginnings = {text[:n] for text in self._specials for n in range(1, min(len(text), _LONGEST_NAME) + 1)}
        lengths = {len(text) for text in self._specials if len(text) <= _LONGEST_NAME}
        tree: dict[str, Any] = {}
        for text in self._named:
            for i, character in enumerate(text if len(text) <= _LONGEST_NAME else ""):
                rest = text[i:]
                if character in self._starts and rest not in beginnings:
                    if not any(rest[:n] in self._specials for n in lengths):
                        _plant(tree, rest)
        return tree

    def _is_harmless(self, text: str, at: int) -> bool:
        """Whether one of those texts begins there."""
        node = self._harmless
        for i in range(at, len(text)):
            found = node.get(text[i])
            if not found:
                return found is not None
            node = found
        return False

    def _spots(self, text: str) -> list[int]:
        """Positions of the characters of a text that must be replaced."""
        spots = [at for at, part in self._whole.split(text) if isinstance(part, int)]
        if self._find_starts is not None:
            for match in self._find_starts.finditer(text):
                at = match.start()
                if not self._is_harmless(text, at):
                    spots.append(at)
        return spots

    def choose(self, messages: list[dict[str, Any]], *others: Any) -> dict[str, str]:
        """Which characters of the messages, and of other plain values, are replaced by which; empty if none is."""
        strings: list[str] = []
        _map_strings([messages, *others], lambda text: strings.append(text) or text)  # type: ignore[func-returns-value]
        wanted = {text[at] for text in strings for at in self._spots(text)}
        wanted |= {role[0] for role in map(self._odd_role, messages) if role}
        if not wanted:
            return {}
        taken = self._taken.union(*strings)
        free = (chr(code) for code in _STAND_INS if chr(code) not in taken)
        table = dict(zip(sorted(wanted), free, strict=False))
        if len(table) < len(wanted):
            raise ChatTemplateError("the messages use every character that could mark special tokens in them as text")
        return table

    def _odd_role(self, message: dict[str, Any]) -> str | None:
        role: str = message["role"]
        if role in _ROLES or role in self._named or not any(role in special for special in self._specials):
            return None
        return role or None

    def apply(self, value: Any, table: dict[str, str]) -> Any:
        """A copy of plain values with the characters replaced."""

        def mark(text: str) -> str:
            spots = self._spots(text)
            if not spots:
                return text
            characters = list(text)
            for at in spots:
                characters[at] = table[text[at]]
            return "".join(characters)

        return _map_strings(value, mark)

    def messages(self, messages: list[dict[str, Any]], table: dict[str, str]) -> list[dict[str, Any]]:
        """As :meth:`apply`, for messages and their roles."""
        marked: list[dict[str, Any]] = self.apply(messages, table)
        for message, original in zip(marked, messages, strict=True):
            role = self._odd_role(original)
            if role:
                message["role"] = table[role[0]] + message["role"][1:]
        return marked


def _plant(tree: dict[str, Any], text: str) -> None:
    """Adds a text to a tree of texts, unless the tree holds a prefix of it; removes texts that it is a prefix of."""
    node = tree
    for character in text[:-1]:
        if node.get(character) == {}:
            return
        node = node.setdefault(character, {})
    node[text[-1]] = {}


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return value
