"""Prompts of every kind: one or several, as text or ids, in whatever holds them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pellucid import Model, arguments

TEXTS = ["Hi", "Once upon a time", "Hi"]
IDS = [[3, 1, 4], [1, 5], [9, 2]]
OPTIONS: dict[str, Any] = {"max_tokens": 3, "seed": 1, "ignore_eos": True}

SEVERAL: dict[str, Callable[[], Any]] = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "iterator": lambda: iter(TEXTS),
    "map": lambda: map(str, TEXTS),
    "deque": lambda: deque(TEXTS),
    "dict's values": lambda: dict(enumerate(TEXTS)).values(),
    "NumPy": lambda: np.array(TEXTS),
    "NumPy, objects": lambda: np.array(TEXTS, object),
    "pandas": lambda: pd.Series(TEXTS, index=[7, 0, 3]),
    "pandas, string": lambda: pd.Series(TEXTS, dtype="string"),
    "pandas, pyarrow": lambda: pd.Series(TEXTS, dtype="string[pyarrow]"),
    "pandas, categories": lambda: pd.Series(TEXTS, dtype="category"),
    "pandas, column": lambda: pd.DataFrame({"text": TEXTS})["text"],
    "pandas, index": lambda: pd.Index(TEXTS),
    "polars": lambda: pl.Series(TEXTS),
    "polars, column": lambda: pl.DataFrame({"text": TEXTS})["text"],
    "polars, categories": lambda: pl.Series(TEXTS, dtype=pl.Categorical),
    "Arrow": lambda: pa.array(TEXTS),
    "Arrow, large": lambda: pa.array(TEXTS, pa.large_string()),
    "Arrow, dictionary": lambda: pa.array(TEXTS).dictionary_encode(),
    "Arrow, chunks": lambda: pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    "Arrow, column": lambda: pa.table({"text": TEXTS})["text"],
}
OF_IDS: dict[str, Callable[[], Any]] = {
    "lists": lambda: IDS,
    "tuple of tuples": lambda: tuple(map(tuple, IDS)),
    "generator of arrays": lambda: (np.array(ids, np.uint16) for ids in IDS),
    "generator of generators": lambda: (iter(ids) for ids in IDS),
    "NumPy, objects": lambda: pd.Series(IDS).to_numpy(),
    "pandas": lambda: pd.Series(IDS),
    "polars": lambda: pl.Series(IDS),
    "Arrow": lambda: pa.array(IDS),
}
ONE: dict[str, Callable[[], Any]] = {
    "tuple": lambda: (3, 1, 4),
    "generator": lambda: (id for id in (3, 1, 4)),
    "NumPy": lambda: np.array([3, 1, 4], np.int8),
    "NumPy's integers": lambda: [np.int64(3), np.uint8(1), np.int16(4)],
    "arrays without dimensions": lambda: [np.array(3), np.array(1), np.array(4)],
    "deque": lambda: deque([3, 1, 4]),
    "pandas": lambda: pd.Series([3, 1, 4], index=[2, 1, 0]),
    "polars": lambda: pl.Series([3, 1, 4]),
    "Arrow": lambda: pa.array([3, 1, 4]),
    "Arrow's list": lambda: pa.array(IDS)[0],
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_texts(smol: Model, kind: str) -> None:
    expected = smol.generate(TEXTS, **OPTIONS)
    assert [done.ids for done in smol.generate(SEVERAL[kind](), **OPTIONS)] == [done.ids for done in expected]
    assert [done.ids for done in smol.map(SEVERAL[kind](), **OPTIONS)] == [done.ids for done in expected]
    assert [score.ids for score in smol.score(SEVERAL[kind]())] == [smol.tokenize(text) for text in TEXTS]
    assert [score.ids for score in smol.score_map(SEVERAL[kind]())] == [smol.tokenize(text) for text in TEXTS]
    assert [done.prompt_ids for done in smol.stream(SEVERAL[kind](), max_tokens=0).result()] == [
        smol.tokenize(text) for text in TEXTS
    ]


@pytest.mark.parametrize("kind", OF_IDS)
def test_several_lists_of_ids(ids_only: Model, kind: str) -> None:
    expected = [done.ids for done in ids_only.generate(IDS, **OPTIONS)]
    assert [done.ids for done in ids_only.generate(OF_IDS[kind](), **OPTIONS)] == expected
    assert [done.ids for done in ids_only.map(OF_IDS[kind](), **OPTIONS)] == expected
    assert [score.ids for score in ids_only.score(OF_IDS[kind]())] == IDS
    assert [len(rows) for rows in ids_only.logits(OF_IDS[kind]())] == [3, 2, 2]


def test_rows_of_an_array(ids_only: Model) -> None:
    rows = np.array([[3, 1, 4], [1, 5, 9]])
    assert [done.prompt_ids for done in ids_only.generate(rows, max_tokens=0)] == rows.tolist()
    assert [done.prompt_ids for done in ids_only.generate(rows[:1], max_tokens=0)] == rows[:1].tolist()
    assert ids_only.generate(rows[:0]) == []


@pytest.mark.parametrize("kind", ONE)
def test_one_list_of_ids(ids_only: Model, kind: str) -> None:
    done = ids_only.generate(ONE[kind](), **OPTIONS)
    assert done.prompt_ids == [3, 1, 4] and done.ids == ids_only.generate([3, 1, 4], **OPTIONS).ids
    assert ids_only.score(ONE[kind]()).ids == [3, 1, 4]
    assert ids_only.logits(ONE[kind]()).shape == (3, ids_only.info().vocab)
    assert ids_only.stream(ONE[kind](), max_tokens=0).result().prompt_ids == [3, 1, 4]
    assert ids_only.context().generate(ONE[kind](), max_tokens=0).prompt_ids == [3, 1, 4]
    assert ids_only.trace(ONE[kind](), "hidden").ids == [3, 1, 4]


def test_one_text(smol: Model) -> None:
    for text in (np.str_("Hi"), pa.array(["Hi"])[0]):
        expected = smol.generate("Hi", **OPTIONS).ids
        assert smol.generate(text, **OPTIONS).ids == smol.context().generate(text, **OPTIONS).ids == expected


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "c"}],
]
OF_CONVERSATIONS: dict[str, Callable[[], Any]] = {
    "lists": lambda: CONVERSATIONS,
    "pandas": lambda: pd.Series(CONVERSATIONS, index=[4, 2]),
    "pandas, arrays of a Parquet file": lambda: pa.array(CONVERSATIONS).to_pandas(),
    "pandas, pyarrow": lambda: pd.Series(CONVERSATIONS, dtype=pd.ArrowDtype(pa.array(CONVERSATIONS).type)),
    "polars": lambda: pl.Series(CONVERSATIONS),
    "Arrow": lambda: pa.array(CONVERSATIONS),
}


@pytest.mark.parametrize("kind", OF_CONVERSATIONS)
def test_several_conversations(smol: Model, kind: str) -> None:
    expected = [done.prompt_ids for done in smol.chat(CONVERSATIONS, max_tokens=0)]
    assert [done.prompt_ids for done in smol.chat(OF_CONVERSATIONS[kind](), max_tokens=0)] == expected
    assert [done.prompt_ids for done in smol.map(OF_CONVERSATIONS[kind](), max_tokens=0)] == expected


EMPTY = [[], (), iter([]), deque(), np.array([], str), np.empty((0, 3), int), pd.Series([], dtype=object), pa.array([])]


@pytest.mark.parametrize("empty", EMPTY, ids=lambda value: type(value).__name__)
def test_no_prompts(smol: Model, empty: Any) -> None:
    assert smol.generate(empty) == []
    assert smol.score(empty) == []
    stream = smol.stream(empty, n=3, seed=[])
    assert list(stream) == [] and stream.result() == []


def test_what_is_no_sequence_of_prompts(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = {"text": TEXTS}
    uses: dict[Callable[[Any], Any], str] = {smol.generate: "prompt", smol.score: "text", smol.logits: "ids"}
    values: list[Any] = [frame, set(TEXTS), frozenset(TEXTS), pd.DataFrame(frame), pl.DataFrame(frame), pa.table(frame)]
    for value in values:
        for use, name in uses.items():
            with pytest.raises(TypeError, match=f"^{name} must be .*token ids.*, not {type(value).__name__}"):
                use(value)
        for many in (smol.map, smol.score_map):
            with pytest.raises(TypeError, match=f"^items must be an iterable of prompts, not {type(value).__name__}"):
                many(value)
    columns: list[Any] = [["a", None], pd.Series(["a", None]), pa.array(["a", None]), ["a", 3]]
    for value in columns:
        with pytest.raises(TypeError, match=r"^prompt\[1\] must be text or a list of token ids, not "):
            smol.generate(value)
        with pytest.raises(TypeError, match=r"^items\[1\]: prompt must be text or a list of token ids, not "):
            list(smol.map(value, max_tokens=1))
    with pytest.raises(TypeError, match=r"^prompt\[1\] must be a token id, not str"):
        smol.generate([1, "a"])  # type: ignore[list-item]
    monkeypatch.setattr(arguments, "MOST_PROMPTS", 100)
    monkeypatch.setattr(arguments, "MOST_IDS", 1000)
    with pytest.raises(ValueError, match="^prompt has more than 100 prompts"):
        smol.generate(repeat("a"))
    with pytest.raises(ValueError, match="^prompt has more than 1000 token ids"):
        smol.generate(repeat(1))
    with pytest.raises(ValueError, match="^messages has more than 100 entries"):
        smol.chat(repeat({"role": "user", "content": "a"}))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.uint64])
def test_an_integer_of_any_kind_is_one(ids_only: Model, kind: Any) -> None:
    """Every option and argument that takes an integer; a test of the arguments has those of loading."""
    two, one = kind(2), kind(1)
    names = (
        "max_tokens", "top_k", "repeat_last", "dry_allowed_length", "dry_range", "mirostat", "seed", "chunk",
        "logprobs",
    )  # fmt: skip
    for name in names:
        options: dict[str, Any] = {"max_tokens": 2, "seed": 3, name: two}
        given = ids_only.generate([1, 2], **options)
        options[name] = 2
        assert given.ids == ids_only.generate([1, 2], **options).ids
        assert type(getattr(given.options, name)) is int
    done = ids_only.generate([one, two], stop_ids=[two], logit_bias={two: one}, seed=[two], n=one, max_tokens=1)
    assert type(done[0].seed) is int and done[0].options.stop_ids == (2,) and done[0].options.logit_bias == {2: 1.0}
    trace = ids_only.trace([1, 2, 3], "hidden", layers=[one], positions=np.array([1, 2], kind), heads=one, chunk=two)
    assert (trace.layers, trace.positions, trace.heads) == ((1,), (1, 2), (1,))
    assert trace.lens(one, two) == trace.lens(1, 2) and trace.top(one, two) == trace.top(1, 2)
    assert trace.attribution(one, two).token == trace.attribution(1, 2).token
    context = ids_only.context()
    context.append(np.array([1, 2, 3], kind), chunk=two)
    context.rewind(two)
    assert context.length == 2 and len(context.next(two)) == 2
    assert len(context.score([[one], [two]], top=two)) == 2
    width = ids_only.info().dim
    with ids_only.edit() as edit:
        edit.add(one, np.zeros(width), two).patch(one, [two], np.zeros(width)).scale_head(one, one, two).skip(
            one, "mlp"
        )
        assert len(edit.generate([1, 2], max_tokens=two).ids) == 2


def test_a_stand_in_for_arrow() -> None:
    """Its scalars are found by their method, not by importing the package."""
    scalar = type("Scalar", (SimpleNamespace,), {"as_py": lambda self: self.value})
    assert arguments.prompts([scalar(value="a"), scalar(value="b")], "prompt") == (True, ["a", "b"])
    assert arguments.prompts(scalar(value="a"), "prompt") == (False, ["a"])
    several, (ids,) = arguments.prompts([scalar(value=1), scalar(value=2)], "prompt")
    assert not several and [*ids] == [1, 2]


def test_ids_have_an_order(smol: Any) -> None:
    with smol.context() as context:
        for ids in ({7, 5}, {5: 1}, frozenset((5, 6))):
            for call in (context.append, context.generate, smol.generate, smol.logits, smol.detokenize, smol.trace):
                with pytest.raises(TypeError):
                    call(ids)
            with pytest.raises(TypeError):
                smol.submit(prompt_ids=ids)
            with pytest.raises(TypeError):
                list(smol.map([{"prompt_ids": ids}]))
            with pytest.raises(TypeError):
                context.score([ids])
        assert context.ids == []


def test_keys_of_a_dict_are_prompts_in_their_order() -> None:
    assert arguments.prompts({"b": 1, "a": 2}.keys(), "prompt") == (True, ["b", "a"])
