"""Checks of the arguments of a model's methods."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from pellucid import checks
from pellucid.errors import ArgumentError, TokenizerError, WrongType, WrongValue

__all__ = ["check_ids", "conversations", "items", "messages", "named", "plain", "prompts", "streams", "wrong_part"]

MOST_PROMPTS = 2**20
MOST_IDS = 2**24  # more than any context holds, so that an endless iterator is refused
_KINDS_OF_TEXT = "OUST"  # NumPy's: objects, strings, bytes, variable-length strings
_NOTHING = object()


def check_ids(ids: Any, name: str, vocab: int, *, empty: bool = False) -> list[int]:
    """The ids as a list of integers in 0 .. vocab - 1. name: of the argument, or a part of it, as in "ids[3]". Raises
    WrongType, WrongValue."""
    argument, bracket, rest = name.partition("[")
    part = bracket + rest
    iterable = hasattr(type(ids), "__iter__") and not has_no_order(ids) and getattr(ids, "ndim", 1) != 0
    if isinstance(ids, (bytes, bytearray)) or not iterable:
        raise WrongType(argument, f"{part} must be a list of token ids, not {type(ids).__name__}")
    out = []
    for i, id in enumerate(map(plain, ids)):
        if i == MOST_IDS:
            raise WrongValue(argument, f"{part} has more than {MOST_IDS} token ids")
        try:
            out.append(checks.integer(argument, id, 0, vocab - 1, at=f"{part}[{i}]"))
        except WrongType:
            found = f"{part}[{i}] must be a token id, not {type(id).__name__}"
            raise WrongType(argument, found) from None
        except WrongValue:
            limits = f"token ids go from 0 to {vocab - 1} (vocabulary size {vocab})"
            raise WrongValue(argument, f"{part}[{i}]={checks.shown(id)}: {limits}") from None
    if not out and not empty:
        raise WrongValue(argument, f"{part} is empty: expected at least one token")
    return out


def check_padding(ids: Sequence[int], name: str, padding: int | None) -> None:
    """Raises WrongValue if the ids contain the token `padding`, which has no position; None: there is no such
    token."""
    if padding is not None and padding in ids:
        found = f": token {ids.index(padding)} is the padding token ({padding}), which has no position in a text"
        raise wrong_part(WrongValue, name, found)


def wrong_part(kind: type[ArgumentError], name: str, found: str) -> ArgumentError:
    """An error about an argument or a part of it, as in "prompt[3]"."""
    argument, bracket, rest = name.partition("[")
    return kind(argument, bracket + rest + found)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Puts this name before the message of a TokenizerError that is raised inside."""
    try:
        yield
    except TokenizerError as error:
        if type(error) is not TokenizerError:  # the model has no tokenizer
            raise
        raise TokenizerError(f"{name}: {error.message}", position=error.position) from None


def prompts(value: Any, name: str) -> tuple[bool, list[Any]]:
    """(whether there are several, the prompts) of what a caller gives: a text or a sequence of ids, or a sequence,
    column or iterator of them. They are not checked yet. Raises WrongType for a table, mapping or set, WrongValue for
    more than MOST_PROMPTS."""
    value = plain(value)
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(type(value), "__iter__"):
        return False, [value]
    if has_no_order(value):
        raise WrongType(name, f" must be text, token ids or a sequence of them, not {type(value).__name__}")
    ndim, kind = getattr(value, "ndim", None), getattr(getattr(value, "dtype", None), "kind", "O")
    if ndim == 0 or (ndim == 1 and kind not in _KINDS_OF_TEXT):
        return False, [value]
    iterator = iter(value)
    first = next(iterator, _NOTHING)
    if first is _NOTHING:
        return True, []
    items: Iterator[Any] = map(plain, chain([first], iterator))
    if _is_id(plain(first)):
        whole = (isinstance(value, Sequence) or ndim) and plain(first) is first
        return False, [value if whole else items]
    found = list(islice(items, MOST_PROMPTS + 1))
    if len(found) > MOST_PROMPTS:
        raise WrongValue(name, f" has more than {MOST_PROMPTS} prompts")
    return True, found


def conversations(value: Any) -> tuple[bool, list[Any]]:
    """(whether there are several, the conversations) of what a caller gives as messages: dicts, or a sequence, column
    or iterator of such sequences. They are not checked yet."""
    value = plain(value)
    if not _holds_items(value):
        return False, [value]
    found = [plain(item) for item in islice(value, MOST_PROMPTS + 1)]
    if len(found) > MOST_PROMPTS:
        raise WrongValue("messages", f" has more than {MOST_PROMPTS} entries")
    if not found or not _holds_items(found[0]):
        return False, [found]
    return True, [list(islice(one, MOST_PROMPTS)) if _holds_items(one) else one for one in found]


def _holds_items(value: Any) -> bool:
    """Whether it is an iterable other than text, a mapping or a table."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not hasattr(type(value), "__iter__"):
        return False
    return getattr(value, "ndim", 1) != 0 and not hasattr(value, "columns")


def items(value: Any, name: str) -> Iterator[Any]:
    """The items that a caller gives, any number of them, also as a column. Raises WrongType for a single one, and for
    a container that has no order."""
    alone = isinstance(value, (str, bytes, bytearray)) or getattr(value, "ndim", 1) == 0
    if alone or has_no_order(value) or not hasattr(type(value), "__iter__"):
        raise WrongType(name, f" must be an iterable of prompts, not {type(value).__name__}")
    return map(plain, value)


def streams(stream: Any) -> bool:
    """Whether a chat is to return a stream; None means no. Raises WrongType."""
    return stream is not None and checks.flag("stream", stream)


def messages(value: Any) -> list[Any] | None:
    """The messages as a list if the value is a sequence or column of them; else None."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(type(value), "__len__") or not _holds_items(value):
        return None
    return list(value) if isinstance(plain(next(iter(value), None)), Mapping) else None


def has_no_order(value: Any) -> bool:
    """Whether it is a mapping, a set or a table."""
    unordered = isinstance(value, Set) and not isinstance(value, KeysView)
    return unordered or isinstance(value, Mapping) or hasattr(value, "columns")


def plain(value: Any) -> Any:
    """Arrow's scalars as Python objects."""
    convert = getattr(type(value), "as_py", None)
    return value if convert is None else convert(value)


def _is_id(value: Any) -> bool:
    """Whether it is meant as a token id, not as a prompt. NumPy arrays of one element also have __index__."""
    if isinstance(value, (str, bytes)):
        return False
    ndim = getattr(value, "ndim", None)
    return ndim == 0 if ndim is not None else hasattr(value, "__index__") and not hasattr(value, "__len__")
