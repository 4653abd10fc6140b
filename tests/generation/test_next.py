"""What may come next in a context: logits, the likeliest tokens, scores of continuations."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Context, Edit, Model, NextToken, Tokenizer, _engine
from pellucid.errors import ClosedError, ContextBusyError, ContextFullError, NumericsError
from tests.engine import models
from tests.engine.models import ids_for
from tests.engine.test_numerics import BAD, bad_token, spoilt
from tests.generation.counting import Counting
from tests.test_docs import programs


@pytest.fixture(params=["llama_gqa", "wide_gemma"])
def model(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Without and with sliding windows (of 40 tokens)."""
    monkeypatch.setattr(_engine, "Engine", Counting)
    mix = "F32" if request.param == "llama_gqa" else "Q8_0"
    with Model.load(models.write(tmp_path, request.param, mix), threads=2, context=300) as loaded:
        Counting.reset()
        yield loaded


def ids(model: Model, n: int, seed: int = 0) -> list[int]:
    return ids_for(model.core.engine, n, seed=seed)


def begun(model: Model, n: int) -> Context:
    context = model.context()
    context.append(ids(model, n))
    return context


@pytest.mark.parametrize("n", [1, 2, 64, 104, 105, 200])  # with a window of 40 rewinding from 104 frees everything
def test_logits_of_the_last_token(model: Model, n: int) -> None:
    context = begun(model, n)
    expected = model.logits(ids(model, n))[-1]
    for _ in range(2):
        found = context.logits()
        assert found.dtype == np.float32 and found.shape == (model.info().vocab,)
        assert (found == expected).all() and context.ids == ids(model, n)
    context.append(ids(model, 3, seed=1))  # it goes on as if nothing had been asked
    assert (context.logits() == model.logits(ids(model, n) + ids(model, 3, seed=1))[-1]).all()


def test_the_likeliest_next_tokens(model: Model) -> None:
    context = begun(model, 20)
    (first,) = model.generate(ids(model, 20), max_tokens=1, temperature=0, logprobs=5, ignore_eos=True).logprobs
    top = context.next(5)
    assert top == first.top and isinstance(top[0], NextToken) and top[0].id == first.id
    assert [(t.id, t.piece, t.logprob) for t in top] == [tuple(t) for t in top]
    assert len(context.next()) == len(context.next(None)) == 10
    everything = context.next(10**9)
    assert sorted(t.id for t in everything) == list(range(model.info().vocab)) and everything[:5] == top
    assert context.ids == ids(model, 20)
    for bad, error in ((0, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="k="):
            context.next(bad)  # type: ignore[arg-type]


def test_next_after_a_generation(model: Model) -> None:
    """The last token that was generated is in the context, but was not computed yet."""
    context = begun(model, 20)
    context.generate(max_tokens=3, temperature=0, ignore_eos=True)
    follows = context.next(1)[0].id
    assert context.length == 23
    done = model.generate(ids(model, 20), max_tokens=4, temperature=0, ignore_eos=True)
    assert done.ids == [*context.ids[20:], follows]


@pytest.mark.parametrize("n", [1, 64, 104, 150])
def test_scores_of_continuations(model: Model, n: int) -> None:
    context, prefix = begun(model, n), ids(model, n)
    several = [ids(model, m, seed=m) for m in (1, 3, 40, 2, 100)] + [prefix[:1]]
    alone = [model.score(prefix + c, top=2) for c in several]
    found = context.score(several, top=2)
    for score, c, whole in zip(found, several, alone, strict=True):
        assert score.ids == c and score.tokens == whole.tokens[-len(c) :]
        assert score.total == sum(t.logprob for t in score.tokens)
    assert context.ids == prefix and context.score(tuple(several), top=2) == found
    assert context.score(iter(several[:1])) == context.score(np.array(several[:1]))
    assert context.score([]) == []


def test_the_prefix_is_computed_once(model: Model) -> None:
    context = begun(model, 103)
    assert Counting.passes == [103]
    context.score([ids(model, m, seed=m) for m in (1, 2, 5)])
    assert Counting.passes == [103, 1 + 2 + 5]  # each token's row is the one before it
    context.score([ids(model, 1, seed=m) for m in range(10)])
    assert Counting.passes[2:] == [10]


def test_many_continuations_take_little_memory(model: Model) -> None:
    """A sequence takes a page at least: not all of a pass's 512 rows are sequences of their own."""
    context = begun(model, 65)
    assert len(context.score([[i % 90] for i in range(300)])) == 300
    assert Counting.passes[-5:] == [64, 64, 64, 64, 44]


def test_errors_leave_the_context_as_it_was(model: Model) -> None:
    context = model.context()
    for ask in (context.logits, context.next, lambda: context.score([[1]])):
        with pytest.raises(ValueError, match="the context is empty"):
            ask()
    context.append(ids(model, 20))
    vocab = model.info().vocab
    for bad, error, words in (
        ([[1], []], ValueError, r"continuations\[1\] is empty"),
        ([[1], [vocab]], ValueError, rf"continuations\[1\]\[0\]={vocab}"),
        ([1, 2], TypeError, r"continuations=\[1, 2\]: expected several"),
        ([[1], 2], TypeError, r"continuations\[1\] must be a list of token ids, not int"),
        ("text", TypeError, "continuations='text': expected several texts or lists of token ids"),
        (5, TypeError, "continuations=5"),
        ([[1], [2] * 281], ContextFullError, r"continuations\[1\] does not fit: 301 tokens needed, 300 avail"),
    ):
        with pytest.raises(error, match=words):
            context.score(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top=-1"):
        context.score([[1]], top=-1)
    assert Counting.passes == [20] and context.ids == ids(model, 20)
    stream = context.stream(max_tokens=3, ignore_eos=True)
    next(stream)
    for ask in (context.logits, context.next, lambda: context.score([[1]])):
        with pytest.raises(ContextBusyError):
            ask()


def test_a_token_that_filled_the_context_has_no_next(model: Model) -> None:
    context = begun(model, 299)
    assert context.generate(max_tokens=5, ignore_eos=True).finish_reason == "context"
    assert context.length == 301
    for ask in (context.logits, context.next, lambda: context.score([[1]])):
        with pytest.raises(ContextFullError, match="30[12] tokens needed, 300 available"):
            ask()
    context.rewind(300)
    assert (context.logits() == model.logits(context.ids)[-1]).all()


def test_numbers_that_fail(tmp_path: Path) -> None:
    with Model.load(spoilt(tmp_path, "llama_gqa", bad_token), threads=1) as model:
        context = model.context()
        context.append([1, 2])
        with pytest.raises(NumericsError):
            context.score([[3], [BAD, 4]])
        assert context.ids == [1, 2] and len(context.score([[3]])) == 1


def test_texts(smol: Model) -> None:
    with smol.context() as context:
        context.append("The capital of France is")
        best, *others = context.score([" Paris", " London", " a kind of cheese"])
        assert best.total > max(score.total for score in others)
        assert [t.piece for t in others[1].tokens] == [" a", " kind", " of", " cheese"]
        assert context.next(1)[0].piece == " Paris"
        with pytest.raises(ValueError, match=r"continuations\[1\] is empty"):
            context.score([" a", ""])


def test_special_tokens_have_their_spelling(smol: Model) -> None:
    with smol.context() as context:
        context.append("x")
        pieces = {t.id: t.piece for t in context.next(10**6)}
    assert pieces[2] == "<|im_end|>"


def test_a_classifier_computes_its_examples_once(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of docs/embedding.md."""
    (code,) = (code for heading, code in programs("embedding.md") if heading == "Classifying")
    parts = [node for node in ast.parse(code).body if not isinstance(node, ast.With)]
    recipe: dict[str, Any] = {}
    exec(compile(ast.Module(parts, []), "embedding.md", "exec"), recipe)
    monkeypatch.setattr(_engine, "Engine", Counting)
    with Model.load(smollm2, threads=2) as model:
        Counting.reset()
        classifier = recipe["Classifier"](model, recipe["EXAMPLES"], ["positive", "negative"])
        prefix = sum(Counting.passes)
        assert prefix == classifier.context.length > 30
        for text in ("What a wonderful day!", "This is awful."):
            Counting.passes.clear()
            assert classifier(text) in ("positive", "negative")
            assert sum(Counting.passes) < prefix / 2 and len(Counting.passes) == 2
        assert classifier.context.length == prefix


# ---- the end of a context ----------------------------------------------------------------------------------------


def test_a_context_is_true_when_it_is_empty(ids_only: Model) -> None:
    context = ids_only.context()
    assert context and len(context) == 0
    context.append([1])
    assert context and len(context) == 1


def used(model: Model) -> int:
    """Bytes of keys and values in use."""
    found: int = model.core.engine.info()["cache_bytes_used"]
    return found


def test_a_closed_context(ids_only: Model) -> None:
    before = used(ids_only)
    with ids_only.context() as context:
        assert context.append([1, 2, 3]) == 3
        assert used(ids_only) > before
        fork = context.fork()
    fork.close()
    assert used(ids_only) == before
    assert (context.ids, context.length, repr(context)) == ([1, 2, 3], 3, "<Context of 3 tokens, closed>")
    for use in (
        lambda: context.append([1]), lambda: context.generate([1]), lambda: context.stream([1]), lambda: context.next(),
        lambda: context.logits(), lambda: context.score([[1]]), lambda: context.rewind(1), lambda: context.fork(),
        lambda: context.__enter__(),
    ):  # fmt: skip
        with pytest.raises(ClosedError, match="the context is closed"):
            use()
    context.close()
    assert fork.ids == [1, 2, 3]


def test_a_context_that_is_closed_in_use(ids_only: Model) -> None:
    before = used(ids_only)
    with ids_only.context() as context:
        stream = context.stream([1, 2, 3], max_tokens=5, ignore_eos=True)
        next(stream)
    assert used(ids_only) > before
    assert len(list(stream)) == 4  # it ends as it would have
    del stream
    assert used(ids_only) == before
    with pytest.raises(ClosedError):
        context.append([1])


def test_append_returns_what_it_added(ids_only: Model, smol: Model) -> None:
    context = ids_only.context()
    assert [context.append([1, 2, 3]), context.append([]), context.append([4])] == [3, 0, 1]
    assert context.append([5] * 20, cancel=lambda: True) == 0 and context.length == 4
    with smol.context() as other:
        assert other.append("The sky is") == other.length == len(smol.tokenize("The sky is"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Model("x"), r"Model\('x'\): use Model.load\('x'\)"),  # type: ignore[arg-type]
        (lambda: Model(Path("x")), r"use Model.load\("),  # type: ignore[arg-type]
        (lambda: Model(), r"Model\(\): use Model.load\(source\)"),
        (lambda: Edit(), r"Edit\(\): use model.edit\(\)"),
        (lambda: Context(), r"Context\(\): use model.context\(\)"),
        (lambda: Tokenizer(), r"Tokenizer\(\): use Tokenizer.load\(path\)"),
        (lambda: Context("x"), r"Context\('x'\): use model.context\(\)"),  # type: ignore[arg-type]
        (lambda: Tokenizer("x"), r"Tokenizer\('x'\): use Tokenizer.load\('x'\)"),  # type: ignore[arg-type]
    ],
)
def test_classes_that_are_not_called(make: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


def test_a_closed_model_is_not_entered(ids_only: Model) -> None:
    model = Model.load(ids_only.info().path, threads=1)
    with model:
        pass
    with pytest.raises(ClosedError), model:
        pass
