"""Arguments of every kind for every public method: each is accepted or raises an error that names the argument."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, Tokenizer, look
from pellucid.errors import MOST, PellucidError
from pellucid.look import tables
from pellucid.sampling import CHECKS


class Raises:
    """Fails whenever it is used as a number, an index or text."""

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("no\nvalue\x1b[2J")

    __index__ = __int__ = __float__ = __repr__ = __str__ = __bool__ = __len__ = _fail


class Lies:
    """Its conversions return something of another type."""

    def __index__(self) -> Any:
        return "3"

    __int__ = __float__ = __index__


class LyingInt(int):
    def __index__(self) -> int:
        return 10**400

    __int__ = __index__

    def __repr__(self) -> str:
        return "one\ntwo\x1b]52;c;aGk=\x07" * 100


class LyingFloat(float):
    def __float__(self) -> Any:
        return "x"


class Text(str):
    def __len__(self) -> int:
        return 10**9


VALUES: list[Any] = [
    None, True, False, np.True_, 0, -1, 1, 7, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1,
    10**400, -(10**400), 10**6000, 0.0, -0.0, 0.5, 1.5, -1e-300, 1e-45, 3e38, 3.5e38, 1e308, math.nan, math.inf,
    -math.inf, 1j, Decimal("0.5"), Decimal(3), Decimal("NaN"), Decimal("1e999999"), Fraction(1, 2), Fraction(10**400),
    np.int8(3), np.uint8(255), np.int16(-3), np.int64(3), np.int64(-(2**63)), np.uint64(2**64 - 1), np.float16(0.5),
    np.float16("nan"), np.float32("inf"), np.float32(0.5), np.float64(0.5), np.float64("nan"), np.longdouble(0.5),
    np.longdouble("1e4000"), np.complex64(1), np.datetime64("2024-01-01"), np.str_("x"), np.bytes_(b"x"),
    np.array(3), np.array(0.5), np.array([3]), np.array([3.5]), np.array([[1, 2]]), np.array([], np.int64),
    np.array([2**63], np.uint64), np.array(["x"]), np.array([None]),
    "", "3", "x" * 100_000, "a\nb\x1b]0;t\x07\u202e", "\ud800", b"3", bytearray(b"3"), Text("x"),
    (), [], {}, set(), [3], [-1], [10**400], [True], [1.0], [None], ["x"], [[1]], {"a": 1}, {1: 10**400}, {10**400: 1},
    {1: math.nan}, {1: "x"}, {1.0: 1}, {True: 1}, {1: -math.inf}, {None: None}, range(3), object(), object, len,
    Ellipsis, Raises(), Lies(), LyingInt(3), LyingFloat(0.5), [Raises()], [Lies()], {1: Raises()}, {1: Lies()},
    {1: LyingFloat(0.5)}, {LyingInt(1): LyingInt(1)},
]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.weights import hostile

    found = tmp_path_factory.mktemp("arguments") / "small.gguf"
    found.write_bytes(hostile.model().bytes())
    return found


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return Model.load(path, threads=1)


def taken_or_named(call: Callable[[Any], Any], *names: str) -> None:
    """Calls the method with every value; an error must name the argument in one printable line."""
    wrong = []
    for value in VALUES:
        what = type(value).__name__
        try:
            call(value)
        except PellucidError as error:
            text = str(error)
        except (ValueError, TypeError) as error:
            text = str(error)
            if not any(name in text for name in names):
                wrong.append(f"{what}: does not name it: {traceback.format_exc()[-300:]}")
        except BaseException as error:
            wrong.append(f"{what}: {error!r:.200} {traceback.format_exc()[-600:]}")
            continue
        else:
            continue
        if not text.isprintable() or len(text) > MOST:
            wrong.append(f"{what}: no line of at most {MOST} printable characters: {text!r:.300}")
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("name", list(CHECKS))
def test_option(model: Model, name: str) -> None:
    def call(value: Any) -> None:
        if name != "cancel" or not callable(value):
            model.generate([1, 2], **{"max_tokens": 2, "seed": 1, name: value})

    taken_or_named(call, name)


def nothing(name: Any) -> dict[str, Any]:
    return {name: 1} if isinstance(name, str) else {}


USER = [{"role": "user", "content": "x"}]
CALLS: dict[str, tuple[Callable[[Model, Any], Any], tuple[str, ...]]] = {
    "generate: prompt": (lambda m, v: m.generate(v, max_tokens=1), ("prompt",)),
    "generate: unknown option": (lambda m, v: m.generate([1], **nothing(v)), ("option",)),
    "stream: prompt": (lambda m, v: list(m.stream(v, max_tokens=1)), ("prompt",)),
    "tokenize: text": (lambda m, v: m.tokenize(v), ("text",)),
    "detokenize: ids": (lambda m, v: m.detokenize(v), ("ids",)),
    "logits: ids": (lambda m, v: m.logits(v), ("ids",)),
    "logits: chunk": (lambda m, v: m.logits([1, 2], chunk=v), ("chunk",)),
    "score: text": (lambda m, v: m.score(v), ("text",)),
    "score: top": (lambda m, v: m.score([1, 2, 3], top=v), ("top",)),
    "score: window": (lambda m, v: m.score([1, 2, 3], window=v), ("window",)),
    "embed: texts": (lambda m, v: m.embed(v, pooling="mean"), ("texts",)),
    "embed: pooling": (lambda m, v: m.embed([1, 2], pooling=v), ("pooling",)),
    "embed: dimensions": (lambda m, v: m.embed([1, 2], pooling="last", dimensions=v), ("dimensions",)),
    "rerank: query": (lambda m, v: m.rerank(v, ["a"]), ("query",)),
    "rerank: documents": (lambda m, v: m.rerank("a", v), ("documents",)),
    "trace: prompt": (lambda m, v: m.trace(v), ("prompt",)),
    "trace: want": (lambda m, v: m.trace([1, 2], v), ("want",)),
    "trace: layers": (lambda m, v: m.trace([1, 2], layers=v), ("layers",)),
    "trace: heads": (lambda m, v: m.trace([1, 2], heads=v), ("heads",)),
    "trace: positions": (lambda m, v: m.trace([1, 2], positions=v), ("positions",)),
    "trace: limit": (lambda m, v: m.trace([1, 2], limit=v), ("limit",)),
    "trace: chunk": (lambda m, v: m.trace([1, 2], chunk=v), ("chunk",)),
    "lens: position": (lambda m, v: m.trace([1, 2]).lens(v), ("position",)),
    "lens: k": (lambda m, v: m.trace([1, 2]).lens(0, v), ("k=", "k must")),
    "attribution: position": (lambda m, v: m.trace([1, 2]).attribution(v), ("position",)),
    "attribution: token": (lambda m, v: m.trace([1, 2]).attribution(0, v), ("token",)),
    "attribution: against": (lambda m, v: m.trace([1, 2]).attribution(0, 1, v), ("against",)),
    "attributions: positions": (lambda m, v: m.trace([1, 2]).attributions(v), ("positions",)),
    "attributions: targets": (lambda m, v: m.trace([1, 2]).attributions(0, v), ("targets",)),
    "attributions: neurons": (lambda m, v: m.trace([1, 2]).attributions(0, 1, neurons=v), ("neurons",)),
    "sources: token": (lambda m, v: m.trace([1, 2]).sources(0, v), ("token",)),
    "lens_table: k": (lambda m, v: m.trace([1, 2]).lens_table(v), ("k=", "k must")),
    "lens_table: positions": (lambda m, v: m.trace([1, 2]).lens_table(1, v), ("positions",)),
    "trace: each": (lambda m, v: v if callable(v) else m.trace([1, 2], each=v), ("each",)),
    "trace: cancel": (lambda m, v: v if callable(v) else m.trace([1, 2], cancel=v), ("cancel",)),
    "trace: progress": (lambda m, v: v if callable(v) else m.trace([1, 2], progress=v), ("progress",)),
    "patching: metric": (lambda m, v: v if callable(v) else look.patching(m, [1], [2], v), ("metric",)),
    "patching: clean": (lambda m, v: look.patching(m, v, [2], 1), ("clean", "corrupt")),
    "patching: what": (lambda m, v: look.patching(m, [1], [2], 1, v), ("what",)),
    "patching: layers": (lambda m, v: look.patching(m, [1], [2], 1, layers=v), ("layers",)),
    "occlusion: replace": (lambda m, v: look.occlusion(m, [1, 2], 1, replace=v), ("replace",)),
    "path: sender": (lambda m, v: look.path(m, [1, 2], v, (1, 0)), ("sender", "receiver")),
    "to_pandas: quantity": (lambda m, v: m.trace([1, 2]).to_pandas(v), ("quantity",)),
    "chat: documents": (lambda m, v: m.chat_prompt(USER, documents=v, template="x"), ("documents",)),
    "chat: variables": (lambda m, v: m.chat_prompt(USER, variables=v, template="x"), ("variables",)),
    "weight: name": (lambda m, v: m.weight(v), ("name",)),
    "context: append": (lambda m, v: m.context().append(v), ("ids",)),
    "context: chunk": (lambda m, v: m.context().append([1], chunk=v), ("chunk",)),
    "context: cancel": (lambda m, v: v if callable(v) else m.context().append([1], cancel=v), ("cancel",)),
    "context: rewind": (lambda m, v: m.context().rewind(v), ("n",)),
    "context: prompt": (lambda m, v: m.context().generate(v, max_tokens=1), ("prompt",)),
    "chat: messages": (lambda m, v: m.chat(v, template="x", max_tokens=1), ("messages",)),
    "chat: role": (lambda m, v: m.chat([{"role": v, "content": "x"}], template="x", max_tokens=1), ("messages",)),
    "chat: content": (lambda m, v: m.chat([{"role": "user", "content": v}], template="x", max_tokens=1), ("messages",)),
    "chat: tools": (
        lambda m, v: m.chat([{"role": "user", "content": ""}], tools=v, template="x", max_tokens=1),
        ("tools",),
    ),
    "chat: template": (
        lambda m, v: m.chat([{"role": "user", "content": "hello"}], template=v, max_tokens=1),
        ("template",),
    ),
    "tokenizer: encode": (lambda m, v: m.tokenizer and m.tokenizer.encode(v), ("text",)),
    "tokenizer: decode": (lambda m, v: m.tokenizer and m.tokenizer.decode(v), ("ids", "id")),
    "tokenizer: piece": (lambda m, v: m.tokenizer and m.tokenizer.piece(v), ("id",)),
    "edit: layer": (lambda m, v: m.edit().add(v, np.zeros(32)), ("layer",)),
    "edit: vector": (lambda m, v: m.edit().add(0, v), ("vector",)),
    "edit: positions": (lambda m, v: m.edit().add(0, np.zeros(32), v), ("positions",)),
    "edit: values": (lambda m, v: m.edit().patch(0, [1], v), ("values",)),
    "edit: head": (lambda m, v: m.edit().scale_head(0, v, 0.5), ("head",)),
    "edit: factor": (lambda m, v: m.edit().scale_head(0, 0, v), ("factor",)),
    "edit: prompt": (lambda m, v: m.edit(v), ("prompt",)),
    "edit: scale": (lambda m, v: m.edit().scale(0, v), ("factor",)),
    "edit: neurons": (lambda m, v: m.edit().scale_neurons(0, v, 1), ("neurons",)),
    "edit: neurons' values": (lambda m, v: m.edit().set_neurons(0, 1, v), ("values",)),
    "edit: weights": (lambda m, v: m.edit().patch_pattern(0, 0, 1, v), ("weights",)),
    "edit: sources": (lambda m, v: m.edit().cut(0, 0, None, v), ("sources",)),
    "edit: heads": (lambda m, v: m.edit().cut(0, v, None, 0), ("head",)),
    "edit: part of a head": (lambda m, v: m.edit().patch_head(0, 0, 1, np.zeros(8), v), ("part", "values")),
    "edit: part": (lambda m, v: m.edit().skip(0, v), ("part",)),
    "tokenizer: load": (lambda m, v: Tokenizer.load(v) and None, ("path",)),
    "tokenize: add_special": (lambda m, v: m.tokenize("a", add_special=v), ("add_special",)),
    "tokenize: parse_special": (lambda m, v: m.tokenize("a", parse_special=v), ("parse_special",)),
    "tokenizer: spans": (lambda m, v: m.tokenizer and m.tokenizer.spans("a", False, v), ("parse_special",)),
    "tokenizer: special": (lambda m, v: m.tokenizer and m.tokenizer.decode([1], special=v), ("special",)),
    "tokenizer: special of a piece": (lambda m, v: m.tokenizer and m.tokenizer.piece(1, special=v), ("special",)),
    "chat: stream": (lambda m, v: m.chat(USER, template="x", max_tokens=0, stream=v), ("stream",)),
    "context: stream of a chat": (
        lambda m, v: m.context().chat(USER, template="x", max_tokens=0, stream=v),
        ("stream",),
    ),
    "chat: add_generation_prompt": (
        lambda m, v: m.chat_prompt(USER, template="x", add_generation_prompt=v),
        ("add_generation_prompt",),
    ),
    "context: next": (lambda m, v: _filled(m).next(v), ("k=", "k must")),
    "context: score": (lambda m, v: _filled(m).score(v), ("continuations",)),
    "context: top": (lambda m, v: _filled(m).score([[1]], top=v), ("top",)),
    "top: position": (lambda m, v: m.trace([1, 2]).top(v), ("position",)),
    "logits_at: position": (lambda m, v: m.trace([1, 2]).logits_at(v), ("position",)),
    "html: megabytes": (lambda m, v: m.trace([1, 2]).html(megabytes=v), ("megabytes",)),
    "looks: layer": (lambda m, v: tables.looks(m.trace([1, 2]), v, 0), ("layer",)),
    "looks: head": (lambda m, v: tables.looks(m.trace([1, 2]), 0, v), ("head",)),
    "looks: position": (lambda m, v: tables.looks(m.trace([1, 2]), 0, 0, v), ("position",)),
    "looks: k": (lambda m, v: tables.looks(m.trace([1, 2]), 0, 0, k=v), ("k=", "k must")),
    "heads: position": (lambda m, v: tables.heads(m.trace([1, 2]), v), ("position",)),
    "heads: n": (lambda m, v: tables.heads(m.trace([1, 2]), n=v), ("n=", "n must")),
    "map: items": (lambda m, v: list(m.map(v, max_tokens=1)), ("items", "prompt")),
    "map: at_once": (lambda m, v: list(m.map([[1]], at_once=v, max_tokens=1)), ("at_once",)),
    "map: seeds": (lambda m, v: list(m.map([[1]], seeds=v, max_tokens=1)), ("seeds",)),
    "submit: priority": (lambda m, v: m.submit([1], priority=v, max_tokens=0), ("priority",)),
    "submit: timeout": (lambda m, v: m.submit([1], timeout=v, max_tokens=0), ("timeout",)),
    "submit: n": (lambda m, v: m.submit([1], n=v, max_tokens=0), ("n=", "n must")),
    "edit: expert": (lambda m, v: m.edit().scale_expert(v, 0, 1), ("layer",)),
}


@pytest.mark.parametrize("name", CALLS)
def test_argument(model: Model, name: str) -> None:
    call, names = CALLS[name]
    taken_or_named(lambda value: call(model, value), *names)


@pytest.mark.parametrize(
    "name", ["threads", "context", "isa", "kv", "precision", "cache_bytes", "checkpoints", "quantize", "progress"]
)
def test_load(path: Path, name: str) -> None:
    def call(value: Any) -> None:
        if not callable(value) or name != "progress":
            Model.load(path, **{"threads": 1, name: value}).close()

    taken_or_named(call, name)


def test_source() -> None:
    taken_or_named(lambda value: Model.load(value), "source")


@pytest.mark.parametrize("name", ["threads", "context", "rewind", "limit", "window", "top", "chunk"])
def test_an_integer_of_any_kind_is_one(path: Path, model: Model, name: str) -> None:
    for kind in (np.int8, np.uint16, np.int64, np.uint64):
        one: Any = kind(2)
        calls: dict[str, Callable[[], Any]] = {
            "threads": lambda: Model.load(path, threads=one).close(),  # noqa: B023
            "context": lambda: Model.load(path, threads=1, context=one).close(),  # noqa: B023
            "rewind": lambda: _filled(model).rewind(one),  # noqa: B023
            "limit": lambda: model.trace([1], limit=one),  # noqa: B023
            "window": lambda: model.score([1, 2, 3], window=one),  # noqa: B023
            "top": lambda: model.score([1, 2, 3], top=one),  # noqa: B023
            "chunk": lambda: model.logits([1, 2, 3], chunk=one),  # noqa: B023
        }
        try:
            calls[name]()
        except ValueError as error:
            assert name == "limit" and "limit=2: the trace would take" in str(error)


def _filled(model: Model) -> Any:
    context = model.context()
    context.append([1, 2, 3])
    return context
