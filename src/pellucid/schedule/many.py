"""Calls over any number of items, several of which are in flight at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from copy import copy
from itertools import count, islice
from typing import Any, TypeVar

from pellucid import _engine, arguments, checks
from pellucid.core import Core
from pellucid.errors import (
    ArgumentError,
    ClosedError,
    GrammarError,
    PellucidError,
    UnsupportedModelError,
    WrongType,
    WrongValue,
    again,
    untraced,
)
from pellucid.generation import Job, canceller, parse_chat_options
from pellucid.options import TEMPLATE_DEFAULTS
from pellucid.results import Gathered
from pellucid.sampling import MOST_SEED, SamplingOptions
from pellucid.schedule.run import AT_ONCE, Item, of, pieces
from pellucid.schedule.start import begin
from pellucid.schedule.turns import score
from pellucid.streams import Reader
from pellucid.text.base import NoTokenizerError
from pellucid.text.chat import BrokenTemplateError, NoTemplateError
from pellucid.text.grammar import NoGrammarsError

__all__ = ["check_options", "complete", "in_parts", "of_item", "seed_of"]

NONE: Any = object()  # no seed of its own
MOST_AT_ONCE = 2**16
_WAYS = ("prompt", "prompt_ids", "messages")
_OF_ALL: tuple[type[Exception], ...] = (ClosedError, MemoryError, UnsupportedModelError)
_OF_ALL += (NoGrammarsError, NoTokenizerError, NoTemplateError, BrokenTemplateError)
S = TypeVar("S")
T = TypeVar("T")


class _Call:
    """The arguments that calls over items have in common."""

    def __init__(self, items: Any, at_once: Any, order: Any, on_error: Any) -> None:
        self.items = arguments.items(items, "items")
        self.at_once = checks.integer("at_once", AT_ONCE if at_once is None else at_once, 1, MOST_AT_ONCE)
        self.in_order = checks.choice("order", "input" if order is None else order, ("input", "done")) == "input"
        wanted = checks.choice("on_error", "raise" if on_error is None else on_error, ("raise", "return"))
        self.raises = wanted == "raise"
        self.done: dict[int, Any] = {}  # results by number, until they are yielded
        self.given = 0

    def give(self) -> Generator[Any, None, None]:
        """Yields the results that may be yielded. Raises the error of an item that failed."""
        while self.done:
            number = self.given if self.in_order else next(iter(self.done))
            if number not in self.done:
                return
            result = self.done.pop(number)
            self.given += 1
            if self.raises and isinstance(result, Exception):
                raise _placed(result, number)
            yield result if self.in_order else (number, result)


def _placed(error: Exception, number: int) -> Exception:
    """An item's error, with the item's number in its message."""
    placed: Any
    if isinstance(error, ArgumentError) or type(error) in (ValueError, TypeError):
        if getattr(error, "argument", "") == "items":
            return error
        kind = WrongType if isinstance(error, TypeError) else WrongValue
        placed = kind("items", f"[{number}]: {error}")
    elif isinstance(error, PellucidError) and of_item(error):
        placed = copy(error)
        if isinstance(error, GrammarError) and error.place is not None:
            placed.place = f"items[{number}].{error.place}"
        else:
            placed.message = f"items[{number}]: {error.message}"
    else:
        return again(error)
    placed.__cause__ = error.__cause__
    return placed  # type: ignore[no-any-return]


def of_item(error: Exception) -> bool:
    """Whether an item's error is about this item, and not about the model, the machine, what is installed or a bug."""
    return isinstance(error, (ValueError, TypeError, PellucidError)) and not isinstance(error, _OF_ALL)


def check_options(core: Core, options: Mapping[str, Any]) -> None:
    """Raises errors of the options of `complete`, or of the model, that do not depend on the items."""
    core.decoder()
    _job(core, 0, {"prompt_ids": [0], "max_tokens": 0, "on_full": "stop"}, NONE, options)
    if (template := options.get("template")) is not None:
        core.need_tokenizer().chat(template)


def seed_of(seed: int, id: str | int) -> int:
    """A row's own seed, derived from the seed of all rows and the row's id."""
    text = f"{seed}:{id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def complete(
    core: Core, items: Any, at_once: Any, order: Any, seeds: Any, on_error: Any, options: Mapping[str, Any]
) -> Generator[Any, None, None]:
    """``Model.map``."""
    call = _Call(items, at_once, order, on_error)
    common = parse_chat_options(options).options
    core.decoder()
    return _complete(core, call, _seeds(seeds), common, options)


def _seeds(given: Any) -> Iterator[Any] | None:
    """The seeds of the items, in order. given: an iterable of seeds, or one seed from which each item's is derived."""
    if given is None:
        return None
    try:
        own: Iterator[Any] = iter(given)
        return own
    except Exception:
        seed = checks.integer("seeds", given, 0, MOST_SEED)
        return (seed_of(seed, number) for number in count())


def _complete(
    core: Core, call: _Call, seeds: Iterator[Any] | None, common: SamplingOptions, options: Mapping[str, Any]
) -> Generator[Any, None, None]:
    gathered: dict[int, Gathered] = {}
    asked, stopped = canceller(common.cancel), False

    def cancelled() -> bool:
        """Whether the caller has cancelled, even if its function says otherwise later."""
        nonlocal stopped
        stopped = stopped or (asked is not None and asked())
        return stopped

    def made() -> Iterator[Item]:
        for number, item in enumerate(call.items):
            if cancelled():
                return
            seed: Any = NONE
            if seeds is not None:
                seed = next(seeds, NONE)
                if seed is NONE:
                    raise WrongValue("seeds", f" has {number} value{'s' * (number != 1)}: expected one for each item")
            try:
                job, gathered[number] = _job(core, number, item, seed, options)
                yield Item(number, job)
            except Exception as error:
                yield Item(number, None, None, untraced(error))  # type: ignore[arg-type]

    running = pieces(
        core,
        made(),
        common if asked is None else common.replace(cancel=cancelled),
        Reader(whole=True),
        score,
        at_once=lambda: call.at_once - len(call.done),
    )
    try:
        for item, piece in running:
            number = item.number
            if isinstance(piece, Exception):
                gathered.pop(number, None)
                call.done[number] = piece
            else:
                gathered[number].add(piece)
                done = gathered[number].completion()
                if done is None:
                    continue
                del gathered[number]
                call.done[number] = done
            yield from call.give()
    finally:
        running.close()


def _job(core: Core, number: int, item: Any, seed: Any, common: Mapping[str, Any]) -> tuple[Job, Gathered]:
    """The generation of an item."""
    own: dict[str, Any] = {}
    if isinstance(item, Mapping):
        own = dict(item)
        ways = [name for name in _WAYS if name in own]
        if len(ways) != 1:
            raise WrongValue("items", f"[{number}]: expected one of the keys {', '.join(_WAYS)}")
        name, value = ways[0], own.pop(ways[0])
        if isinstance(own.get("options"), SamplingOptions):  # they override the call's keywords, too
            options = own.pop("options")
            own = {**{name: getattr(options, name) for name in options.given}, **own}
        if "cancel" in own:
            raise WrongValue("items", f"[{number}]: cancel belongs to the whole call")
    else:
        messages = arguments.messages(item)
        name, value = ("prompt", item) if messages is None else ("messages", messages)
    given = {**common, **own}
    if name != "messages":  # templates are for messages alone
        given = {key: value for key, value in given.items() if key not in TEMPLATE_DEFAULTS or key in own}
        if common.get("on_full") == "trim" and "on_full" not in own:
            del given["on_full"]
    if seed is not NONE:
        given["seed"] = checks.integer("seeds", seed, 0, MOST_SEED, at=f"[{number}]")
    begun, options = begin(core, name, value, given)
    of(core).room.check(name, len(begun.ids), options.max_tokens)
    options = options.settled(options.seeds(1)[0])
    return begun.job(core, options), Gathered(begun.ids, options, begun.dropped, begun.echoed(options))


def in_parts(
    items: Iterable[Any],
    at_once: Any,
    order: Any,
    on_error: Any,
    read: Callable[[Any], S],
    several: Callable[[list[S]], list[T]],
) -> Generator[Any, None, None]:
    """``Model.score_map``: calls `several` with `at_once` items at a time; if that fails, with each of them alone; if
    it is cancelled, ends. read: converts an item for `several`, once only, since an item may be an iterator."""
    call = _Call(items, at_once, order, on_error)

    def run() -> Generator[Any, None, None]:
        first = 0
        while part := list(islice(call.items, call.at_once)):
            results: list[Any] = [_tried(read, item) for item in part]
            good = [i for i, one in enumerate(results) if not isinstance(one, Exception)]
            texts = [results[i] for i in good]
            found: Any = _tried(several, texts) if texts else []
            if isinstance(found, Exception):
                found = [_tried(lambda text: several([text])[0], text) for text in texts]
            for i, one in zip(good, found, strict=True):
                results[i] = one
            call.done.update(enumerate(results, first))
            first += len(part)
            yield from call.give()

    return run()


def _tried(function: Callable[[S], T], given: S) -> T | Exception:
    try:
        return function(given)
    except _engine.Cancelled:
        raise
    except Exception as error:
        return untraced(error)
