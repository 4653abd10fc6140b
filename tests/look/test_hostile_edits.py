"""Edits with arguments that are wrong in every way: each is an error that names the argument, and adds nothing."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import numpy as np
import pytest

from pellucid.errors import PellucidError, WrongType, WrongValue
from tests.engine.models import Load, same

IDS = [1, 2, 3, 4]
DEEP: Any = 0
for _ in range(5000):
    DEEP = [DEEP]


class Odd:
    """Whatever it is asked for is an error of another kind."""

    def __index__(self) -> int:
        raise KeyError("index")

    def __float__(self) -> float:
        raise OSError("float")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("array")

    def __iter__(self) -> Any:
        raise LookupError("iter")

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")


class Endless:
    """A sequence without an end."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> int:
        return i

    def __iter__(self) -> Any:
        return itertools.count()


HOSTILE: tuple[Any, ...] = (
    None, True, "", "0", "embeddings", "\ud800", "\0" * 100, "a" * 100_000, b"0", 1.5, -0.5, float("nan"), float("inf"),
    -float("inf"), 1e39, 2**31, -(2**31), 2**63, 2**64, -(2**70), 10**400, -1, -4, 3, 4, 97, 4096, 1 + 2j, [], [[]], {},
    {"a": 1}, {1, 2}, [None], [True], ["1"], [0.5], [float("nan")] * 64, [2**70], [-1], [10**12], [0] * 5000, DEEP,
    [[0, 1], [2]], [[[1.0]]], range(10**12), range(0), itertools.count(), (i for i in (3, 3)), Odd(), [Odd()], Endless,
    object(), print, np.zeros(0), np.zeros((0, 64)), np.zeros((3, 0)), np.full(64, np.nan), np.full(64, np.inf),
    np.full(64, 1e39), np.zeros(64, object), np.zeros(64, "U3"), np.zeros(64, "M8[s]"),
    np.zeros((2, 2, 2)), np.int64(-(2**62)), np.uint64(2**64 - 1), np.array(7), np.array([True] * 64),
    np.float16("inf"),
)  # fmt: skip
# An edit of each kind, with arguments that are right.
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("add", {"layer": 1, "vector": np.ones(64), "positions": [1, 2], "part": None}),
    ("add", {"layer": 1, "vector": np.ones(64), "positions": None, "part": "mlp"}),
    ("patch", {"layer": 0, "positions": [1, 2], "values": np.ones((2, 64)), "part": "attention"}),
    ("scale", {"layer": 2, "factor": 0.5, "positions": 1}),
    ("scale_head", {"layer": 0, "head": 1, "factor": 0.5, "positions": [0]}),
    ("patch_head", {"layer": 0, "head": 1, "positions": [0, 1], "values": np.ones(16), "part": "k"}),
    ("patch_pattern", {"layer": 0, "head": 1, "positions": [2], "weights": [0.5, 0.5]}),
    ("cut", {"layer": 1, "head": [0, 1], "positions": [3], "sources": [0, 1]}),
    ("scale_neurons", {"layer": 1, "neurons": [1, 2], "factor": 2.0, "positions": [1]}),
    ("set_neurons", {"layer": 1, "neurons": [1, 2], "values": [1.0, 2.0], "positions": [1]}),
    ("skip", {"layer": 1, "part": "mlp"}),
]
CALLS = [pytest.param(do, given, name, id=f"{do}{i}-{name}") for i, (do, given) in enumerate(GOOD) for name in given]


@pytest.mark.parametrize(("do", "given", "name"), CALLS)
def test_each_argument(load: Load, do: str, given: dict[str, Any], name: str) -> None:
    model = load("llama_gqa")
    refused, untouched = 0, model.edit()
    before, view = untouched.logits(IDS), untouched.model
    with model.edit() as edit:
        getattr(edit, do)(**given)
        assert not same(edit.logits(IDS), before)
    for value in HOSTILE:
        wrong = {**given, name: value() if value is Endless else value}
        try:
            getattr(untouched, do)(**wrong)
        except (ValueError, TypeError) as error:
            assert isinstance(error, (WrongType, WrongValue)), (value, error)
            assert any(str(error).startswith(one) for one in given), error
            assert str(error).isprintable() and len(str(error)) < 600, error
            refused += 1
            continue
        untouched.close()  # it was allowed: it computes, or says that its numbers went out of range
        untouched = model.edit()
        with model.edit() as edit:
            try:
                assert getattr(edit, do)(**wrong).logits(IDS).shape == before.shape
            except PellucidError as error:
                assert "finite" in str(error), error
        view = untouched.model
    assert untouched.model is view and same(untouched.logits(IDS), before) and refused > len(HOSTILE) // 2
    untouched.close()


def test_several_wrong_arguments(load: Load) -> None:
    model = load("llama_gqa")
    r = random.Random(7)
    with model.edit() as edit:
        before = edit.logits(IDS)
        for _ in range(400):
            do, given = r.choice(GOOD)
            wrong = {name: r.choice(HOSTILE) if r.random() < 0.7 else own for name, own in given.items()}
            other = model.edit()
            try:
                getattr(other, do)(**wrong)
            except (ValueError, TypeError) as error:
                assert isinstance(error, (WrongType, WrongValue)) and any(
                    str(error).startswith(one) for one in given
                ), error
            other.close()
        assert same(edit.logits(IDS), before)


def test_thousands_of_edits(load: Load) -> None:
    """Each counts, and the time for them grows with their number alone."""
    model, v = load("llama_gqa"), np.ones(64)
    with model.edit() as edit, model.edit() as once:
        start = time.process_time()
        for i in range(3000):
            edit.add(i % 3, v / 1000, [1])
        found = edit.logits(IDS)
        assert time.process_time() - start < 60
        for layer in range(3):
            once.add(layer, v, [1])
        expected = once.logits(IDS)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_thousands_of_open_edits(load: Load) -> None:
    model = load("llama_gqa")
    plain = model.logits(IDS)
    edits = [model.edit().scale_head(i % 3, 0, i / 1000) for i in range(1000)]
    some = edits[::250]
    assert len({one.logits(IDS).tobytes() for one in some}) == len(some)
    for one in edits:
        one.close()
    assert same(model.logits(IDS), plain)
