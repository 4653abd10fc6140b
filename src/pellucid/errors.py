"""Every error that Pellucid raises on purpose.

All are :class:`PellucidError`, so that one ``except`` clause catches them. A wrong argument is a plain
``ValueError`` or ``TypeError`` instead. ``str(error)`` is one line fit for a user; the parts it was made of
are attributes. Nothing here imports anything, so that every layer may use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = [
    "ChatTemplateError",
    "ClosedError",
    "ContextBusyError",
    "ContextFullError",
    "FetchError",
    "IsaError",
    "ModelFileError",
    "NumericsError",
    "OutOfMemoryError",
    "PellucidError",
    "TokenizerError",
    "UnsupportedModelError",
]


def one_line(text: str, limit: int = 400) -> str:
    """A file's text as a terminal may show it: what is not printable is escaped, what is longer is cut."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _rebuild(cls: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return cls(*args, **kwargs)


class PellucidError(Exception):
    """Base of all errors of ours.

    A subclass lists in ``_fields`` the attributes that its constructor takes as keywords; they survive pickling
    (an error raised in a worker process arrives whole).
    """

    _fields: tuple[str, ...] = ()

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), (self.message,), {name: getattr(self, name) for name in self._fields})


class ModelFileError(PellucidError):
    """A model file is missing, damaged, or says something impossible.

    ``file``: path as text, or None. ``field``: the header field, tensor or key, e.g. ``tokenizer.ggml.tokens[17]``,
    or None. ``offset``: byte offset in the file, or None. ``expected``: what would have been right, or None.
    """

    _fields = ("file", "field", "offset", "expected")

    def __init__(
        self,
        message: str = "",
        *,
        file: str | os.PathLike[str] | None = None,
        field: str | None = None,
        offset: int | None = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(message)
        self.file = None if file is None else os.fspath(file)
        self.field = field
        self.offset = offset
        self.expected = expected

    def __str__(self) -> str:
        where = [] if self.file is None else [self.file]
        if self.field is not None:
            where.append(one_line(self.field, 200))
        place = ": ".join(where)
        if self.offset is not None:
            place += f" (byte {self.offset})" if place else f"byte {self.offset}"
        text = f"{place}: {one_line(self.message)}" if place else one_line(self.message)
        return text if self.expected is None else f"{text}; expected {one_line(self.expected)}"


class UnsupportedModelError(PellucidError):
    """A sound model of a kind that Pellucid cannot run (yet): its architecture, a format, an option of it.

    ``feature``: what is not supported, e.g. ``architecture "mamba"``, or None. ``supported``: what is, or None.
    """

    _fields = ("feature", "supported")

    def __init__(self, message: str = "", *, feature: str | None = None, supported: str | None = None) -> None:
        super().__init__(message)
        self.feature = feature
        self.supported = supported

    def __str__(self) -> str:
        text = one_line(self.message or f"{self.feature} is not supported")
        return text if self.supported is None else f"{text}; supported: {self.supported}"


class TokenizerError(PellucidError):
    """Text cannot become ids, or ids text. ``position``: index of the character (or id) at fault, or None."""

    _fields = ("position",)

    def __init__(self, message: str = "", *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position

    def __str__(self) -> str:
        return self.message if self.position is None else f"{self.message} (at position {self.position})"


class ChatTemplateError(PellucidError):
    """A chat template is missing, broken, or does what the sandbox forbids. ``line``: line of the template, or None."""

    _fields = ("line",)

    def __init__(self, message: str = "", *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line

    def __str__(self) -> str:
        return self.message if self.line is None else f"{self.message} (line {self.line} of the template)"


class ContextFullError(PellucidError):
    """More tokens than the context holds. ``needed`` and ``available``: both in tokens."""

    _fields = ("needed", "available")

    def __init__(self, message: str = "", *, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available

    def __str__(self) -> str:
        numbers = f"{self.needed} tokens needed, {self.available} available"
        return f"{self.message}: {numbers}" if self.message else f"the context is full: {numbers}"


class ContextBusyError(PellucidError):
    """A context is in use by another thread, or by an unfinished stream."""

    def __init__(self, message: str = "the context is in use: one user at a time") -> None:
        super().__init__(message)


class ClosedError(PellucidError):
    """Use of a model, context or file after ``close()``."""

    def __init__(self, message: str = "the model is closed") -> None:
        super().__init__(message)


class FetchError(PellucidError):
    """A catalogue model could not be brought. ``name``: the catalogue's name, or None."""

    _fields = ("name",)

    def __init__(self, message: str = "", *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class IsaError(PellucidError):
    """A forced instruction set is unknown, was not built, or this CPU lacks it. ``isa``: what was asked, or None."""

    _fields = ("isa",)

    def __init__(self, message: str = "", *, isa: str | None = None) -> None:
        super().__init__(message)
        self.isa = isa


class NumericsError(PellucidError):
    """NaN or infinite numbers where finite ones must be; no token is ever made from them."""


class OutOfMemoryError(PellucidError, MemoryError):
    """Memory for weights, cache or buffers could not be had. ``needed``: bytes asked for, or None."""

    _fields = ("needed",)

    def __init__(self, message: str = "out of memory", *, needed: int | None = None) -> None:
        super().__init__(message)
        self.needed = needed

    def __str__(self) -> str:
        return self.message if self.needed is None else f"{self.message} ({self.needed} bytes needed)"
