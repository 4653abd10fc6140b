"""Every error that Pellucid raises on purpose.

All are :class:`PellucidError`, so that one ``except`` clause catches them, except that a wrong argument raises a
``ValueError`` or ``TypeError`` that names it. ``str(error)`` is one printable line; the values in it are attributes.
This module imports nothing else of Pellucid, so that every layer may use it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

__all__ = [
    "ArgumentError",
    "BatchError",
    "CancelledError",
    "ChatTemplateError",
    "ClosedError",
    "ContextBusyError",
    "ContextFullError",
    "FetchError",
    "GrammarError",
    "IsaError",
    "ModelFileError",
    "NumericsError",
    "OutOfMemoryError",
    "PellucidError",
    "QueueFullError",
    "TokenizerError",
    "UnsupportedModelError",
    "WrongType",
    "WrongValue",
]


MOST = 500  # characters of an error's text


def one_line(text: str, limit: int = 400) -> str:
    """Text from a file, a server or a user as one line that is safe to print: what is not printable is escaped, and
    the middle of what is longer than `limit` is left out."""
    if len(text) > limit:  # escapes only lengthen it
        text = _shortened(text, limit)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return _shortened(text, limit)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    end = max(limit - 3, 0) // 3
    return text[: limit - 3 - end] + "..." + text[len(text) - end :]


def os_reason(error: OSError) -> str:
    """The operating system's error message, in lower case: "permission denied"."""
    return (error.strerror or str(error)).lower()


def shown(value: object, limit: int = 60) -> str:
    """A value of any kind as an error may quote it: its `repr`, printable and cut to `limit` characters."""
    if isinstance(value, (str, bytes)):
        value = value[: limit + 1]
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python spells
        text = "(a huge number)"
    except Exception:
        text = f"({type(value).__name__})"
    return one_line(text, limit)


def _rebuild(cls: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return cls(*args, **kwargs)


class PellucidError(Exception):
    """Base of all errors that Pellucid raises on purpose.

    ``str(error)`` is one printable line of at most 500 characters, whatever a hostile file put into it; attributes
    keep the raw values.

    A subclass lists in ``_fields`` the attributes that its constructor takes as keywords; they survive pickling
    (an error raised in a worker process arrives whole). ``_parts`` gives the pieces of its text.
    """

    _fields: tuple[str, ...] = ()

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def _parts(self) -> list[object]:
        return [self.message]

    def __str__(self) -> str:
        """The parts together; if they are too long, the longest are shortened."""
        parts = [one_line(part if isinstance(part, str) else shown(part), MOST) for part in self._parts()]
        most = MOST
        while sum(min(len(part), most) for part in parts) > MOST:
            most -= 1
        return "".join(_shortened(part, most) for part in parts)

    def __repr__(self) -> str:
        return one_line(f"{type(self).__name__}({str(self)!r})", MOST)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), (self.message,), {name: getattr(self, name) for name in self._fields})


class ArgumentError(Exception):
    """A wrong argument: either a :class:`WrongValue` or a :class:`WrongType`.

    ``argument``: its name. ``found``: the rest of the text, which follows the name directly, as in "=-1: expected at
    least 0"; a caller that knows the argument by another name, as the command line does, puts that name before it.
    """

    def __init__(self, argument: str, found: str = "") -> None:
        super().__init__(argument, found)
        self.argument = argument
        self.found = found

    def __str__(self) -> str:
        return one_line(self.argument + self.found, MOST)

    def __repr__(self) -> str:
        return one_line(f"{type(self).__name__}({str(self)!r})", MOST)


class WrongValue(ArgumentError, ValueError):
    """An argument out of its range."""


class WrongType(ArgumentError, TypeError):
    """An argument of the wrong type."""


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
        self.file = None if file is None else os.fsdecode(file)
        self.field = field
        self.offset = offset
        self.expected = expected

    def _parts(self) -> list[object]:
        parts: list[object] = [self.file] if self.file is not None else []
        if self.field is not None:
            parts += [": ", self.field] if parts else [self.field]
        if self.offset is not None:
            parts += [" (byte ", self.offset, ")"] if parts else ["byte ", self.offset]
        parts += [": ", self.message] if parts else [self.message]
        return parts if self.expected is None else [*parts, "; expected ", self.expected]


class UnsupportedModelError(PellucidError):
    """A valid model that Pellucid cannot run (yet), because of its architecture, a format or an option.

    ``feature``: what is not supported, e.g. ``architecture "mamba"``, or None. ``supported``: what is, or None.
    """

    _fields = ("feature", "supported")

    def __init__(self, message: str = "", *, feature: str | None = None, supported: str | None = None) -> None:
        super().__init__(message)
        self.feature = feature
        self.supported = supported

    def _parts(self) -> list[object]:
        parts: list[object] = [self.message] if self.message else [self.feature, " is not supported"]
        return parts if self.supported is None else [*parts, "; supported: ", self.supported]


class TokenizerError(PellucidError):
    """Text cannot be converted to ids, or ids to text. ``position``: index of the character (or id) at fault, or
    None."""

    _fields = ("position",)

    def __init__(self, message: str = "", *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position

    def _parts(self) -> list[object]:
        return [self.message] if self.position is None else [self.message, " (at position ", self.position, ")"]


class ChatTemplateError(PellucidError):
    """A chat template is missing, broken, or does what the sandbox forbids. ``line``: line of the template, or None."""

    _fields = ("line",)

    def __init__(self, message: str = "", *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line

    def _parts(self) -> list[object]:
        return [self.message] if self.line is None else [self.message, " (line ", self.line, " of the template)"]


class ContextFullError(PellucidError):
    """More tokens than the context holds. ``needed`` and ``available``: both in tokens."""

    _fields = ("needed", "available")

    def __init__(self, message: str = "", *, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available

    def _parts(self) -> list[object]:
        numbers = [self.needed, f" token{'' if self.needed == 1 else 's'} needed, ", self.available, " available"]
        return [self.message or "the context is full", ": ", *numbers]


class BatchError(PellucidError):
    """Some prompts of a list failed, each with its own error; the others are complete.

    ``errors``: {index of a prompt: its error}. ``completions``: one for each prompt, None for those that failed.
    """

    _fields = ("errors", "completions")

    def __init__(self, message: str = "", *, errors: dict[int, Exception], completions: list[Any]) -> None:
        super().__init__(message)
        self.errors = errors
        self.completions = completions


class ContextBusyError(PellucidError):
    """A context is in use by another thread, or by an unfinished stream."""

    def __init__(self, message: str = "the context is in use: one user at a time") -> None:
        super().__init__(message)


class QueueFullError(PellucidError):
    """More requests wait for a model than its limits allow. ``retry_after``: estimated seconds until there may be
    room."""

    _fields = ("retry_after",)

    def __init__(self, message: str = "too many requests wait for the model", *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CancelledError(PellucidError):
    """A trace or an experiment ended early because its `cancel` asked for it."""

    def __init__(self, message: str = "the call was cancelled") -> None:
        super().__init__(message)


class ClosedError(PellucidError):
    """Use of a model, context or file after ``close()``."""

    def __init__(self, message: str = "the model is closed") -> None:
        super().__init__(message)


class FetchError(PellucidError):
    """A model could not be downloaded, found or removed. ``name``: the model's name, or None."""

    _fields = ("name",)

    def __init__(self, message: str = "", *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class GrammarError(PellucidError, ValueError):
    """A schema, expression or grammar is wrong, cannot be enforced, or is too complex. ``place``: where, e.g.
    ``schema`` or ``schema.properties.name``, or None."""

    _fields = ("place",)

    def __init__(self, message: str = "", *, place: str | None = None) -> None:
        super().__init__(message)
        self.place = place

    def _parts(self) -> list[object]:
        return [self.message] if self.place is None else [self.place, ": ", self.message]


class IsaError(PellucidError):
    """A requested instruction set is unknown, was not built, or is missing from this CPU. ``isa``: its name, or
    None."""

    _fields = ("isa",)

    def __init__(self, message: str = "", *, isa: str | None = None) -> None:
        super().__init__(message)
        self.isa = isa


class NumericsError(PellucidError):
    """NaN or infinite numbers where finite ones are required; no token is ever drawn from them."""


class OutOfMemoryError(PellucidError, MemoryError):
    """Memory for weights, cache or buffers could not be allocated. ``needed``: bytes requested, or None."""

    _fields: tuple[str, ...] = ("needed",)

    def __init__(self, message: str = "out of memory", *, needed: int | None = None) -> None:
        super().__init__(message)
        self.needed = needed

    def _parts(self) -> list[object]:
        return [self.message] if self.needed is None else [self.message, " (", self.needed, " bytes needed)"]


# What the dynamic loader says if there is no memory for a module's code.
_NO_ROOM = (
    "failed to map",
    "cannot map",
    "cannot allocate",
    "out of memory",
    "cannot create shared object descriptor",
    "too many open files",
)


def untraced(error: Exception) -> Exception:
    """An error to be stored, or passed to another thread: a PellucidError loses its tracebacks. Their frames would keep
    alive whatever they refer to, such as requests that nothing else refers to."""
    one: BaseException | None = error if isinstance(error, PellucidError) else None
    seen: set[int] = set()  # causes may form a cycle
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        one.__traceback__ = None
        one.__context__ = None  # perhaps an error that the caller handles, whose traceback is its own
        one = one.__cause__
    return error


def again(error: Exception) -> Exception:
    """A copy, to be raised, of a stored PellucidError: raising the stored one would give it a traceback, which would
    keep alive whatever stores it. Other errors are returned as they are: their tracebacks show a user's function."""
    if not isinstance(error, PellucidError):
        return error
    made = copy(error)
    if error.__cause__ is not None:
        made.__cause__ = error.__cause__
    return made


@contextmanager
def out_of_memory(what: str) -> Iterator[None]:
    """Turns what Python raises inside for lack of memory into OutOfMemoryError: MemoryError, a module that cannot be
    loaded, a thread that cannot be started, a file that cannot be opened because too many are open. what: the purpose,
    as in "to load the model". Also a decorator."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"no memory {what}") from error
    except ImportError as error:
        if not any(words in str(error).lower() for words in _NO_ROOM):
            raise
        name = os.path.basename(error.path or "") or error.name or "a module"
        lacking = "file descriptor is left" if "open files" in str(error).lower() else "memory"
        raise OutOfMemoryError(f"no {lacking} {what}: {name} cannot be loaded") from error
    except OSError as error:
        if error.errno not in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            raise
        raise OutOfMemoryError(f"no memory or file descriptor is left {what}") from error
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise OutOfMemoryError(f"no thread can be started {what}") from error
