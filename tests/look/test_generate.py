"""Generation with a trace."""

from __future__ import annotations

from typing import Any

import pytest

from pellucid import Model
from tests.engine import models
from tests.engine.models import Load, ids_for, same


@pytest.mark.parametrize(("name", "mix"), [("gemma3", "F32"), ("wide", "K")])
def test_the_same_tokens_with_a_row_for_each(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model._engine, 20)
    options: dict[str, Any] = {"seed": 3, "max_tokens": 15, "temperature": 1.0}
    plain = model.generate(ids, **options)
    done = model.generate(ids, trace=("hidden", "attention", "logits"), **options)
    assert done.ids == plain.ids and plain.trace is None and done.trace is not None
    assert done.trace.ids == ids + done.ids
    assert done.trace.attention.shape[-2:] == (35, 35)
    assert same(done.trace.logits, model.logits(ids + done.ids))
    assert same(done.trace.hidden, model.trace(ids + done.ids, "hidden").hidden)
    assert done.to_dict().keys() == plain.to_dict().keys()
    # What was drawn at temperature 0 is what the traced logits say.
    greedy = model.generate(ids, temperature=0, max_tokens=9, trace={"want": "logits", "positions": -2})
    assert greedy.trace is not None and greedy.trace.positions == (27,)
    assert greedy.trace.logits[0].argmax() == greedy.ids[-1]


def test_several_prompts(load: Load) -> None:
    model = load("gemma3")
    prompts = [ids_for(model._engine, n, seed=n) for n in (3, 30)]
    for done, ids in zip(model.generate(prompts, trace="hidden", max_tokens=4), prompts, strict=True):
        assert done.trace is not None and done.trace.ids == ids + done.ids
    with model.edit() as e:
        e.skip(0, "mlp")
        edited = e.generate(prompts[0], trace="mlp_out", max_tokens=4, temperature=0)
        assert not edited.trace.mlp_out[0].any() and edited.trace.mlp_out[1].any()


def test_a_context_that_fills(tmp_path: Any) -> None:
    with Model.load(models.write(tmp_path, "llama_gqa"), context=30, threads=1) as model:
        done = model.generate([1] * 25, trace="hidden", ignore_eos=True, temperature=0)
        assert done.finish_reason == "context" and done.trace is not None
        assert done.trace.ids == ([1] * 25 + done.ids)[:30]


@pytest.mark.parametrize(
    ("trace", "error", "match"),
    [
        ("everything", ValueError, "want='everything'"),
        ({"want": "q", "rows": 3}, ValueError, "unknown option 'rows'"),
        ({"positions": [5]}, ValueError, "positions=5"),
        ({"limit": 1000}, ValueError, "limit=1000"),
        ({"limit": 160_000, "want": "attention"}, ValueError, "limit"),  # enough for the prompt alone
        (3, TypeError, "want"),
    ],
)
def test_wrong_requests_before_anything_runs(load: Load, trace: Any, error: type[Exception], match: str) -> None:
    def never() -> bool:
        raise AssertionError("it ran")

    with pytest.raises(error, match=match):
        load("llama_gqa").generate([1, 2, 3, 4, 5], trace=trace, cancel=never)
