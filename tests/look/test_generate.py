"""Traces of completions."""

from __future__ import annotations

from typing import Any

import pytest

from pellucid import Completion, Model
from tests.engine import models
from tests.engine.models import Load, ids_for, same


@pytest.mark.parametrize(("name", "mix"), [("gemma3", "F32"), ("wide", "K")])
def test_a_row_for_each_token(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 20)
    done = model.generate(ids, seed=3, max_tokens=15, temperature=1.0)
    assert done.prompt_ids == ids
    trace = model.trace(done, ("hidden", "attention", "logits"))
    assert trace.ids == ids + done.ids
    assert trace.attention.shape[-2:] == (35, 35)
    assert same(trace.logits, model.logits(ids + done.ids))
    assert same(trace.hidden, model.trace(ids + done.ids, "hidden").hidden)
    # What was drawn at temperature 0 is what the traced logits say.
    greedy = model.generate(ids, temperature=0, max_tokens=9)
    before = model.trace(greedy, "logits", positions=-2)
    assert before.positions == (27,) and before.logits[0].argmax() == greedy.ids[-1]


def test_several_prompts(load: Load) -> None:
    model = load("gemma3")
    prompts = [ids_for(model.core.engine, n, seed=n) for n in (3, 30)]
    for done, ids in zip(model.generate(prompts, max_tokens=4), prompts, strict=True):
        assert done.prompt_ids == ids and model.trace(done, "hidden").ids == ids + done.ids
    with model.edit() as e:
        e.skip(0, "mlp")
        edited = e.trace(e.generate(prompts[0], max_tokens=4, temperature=0), "mlp_out")
        assert not edited.mlp_out[0].any() and edited.mlp_out[1].any()


def test_in_a_context(load: Load) -> None:
    """The tokens that the context already held are part of the completion's prompt_ids."""
    model = load("llama_gqa")
    context, greedy = model.context(), {"temperature": 0, "max_tokens": 3, "ignore_eos": True}
    context.append([5, 6, 7])
    first: Completion = context.generate([8], **greedy)
    assert (first.prompt_ids, first.prompt_tokens) == ([5, 6, 7, 8], 1)
    second = context.generate([9], **greedy)
    assert second.prompt_ids == [5, 6, 7, 8, *first.ids, 9]
    assert model.trace(second, "hidden").ids == context.ids


def test_a_context_that_fills(tmp_path: Any) -> None:
    with Model.load(models.write(tmp_path, "llama_gqa"), context=30, threads=1) as model:
        done = model.generate([1] * 25, ignore_eos=True, temperature=0)
        assert done.finish_reason == "context"
        assert model.trace(done, "hidden").ids == ([1] * 25 + done.ids)[:30]


def test_generate_has_no_trace_of_its_own(load: Load) -> None:
    with pytest.raises(TypeError, match="trace"):
        load("llama_gqa").generate([1, 2], trace="hidden")
