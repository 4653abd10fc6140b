"""After a stop string: text, ids, log probabilities and the tokens of a context end at the same place."""

from __future__ import annotations

from typing import Any

import pytest

from pellucid import Model, generation

PROMPT = "The capital of France is"
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 20, "ignore_eos": True}


@pytest.fixture(scope="module")
def text(smol: Model) -> str:
    return smol.generate(PROMPT, **OPTIONS).text


def stops(text: str) -> list[str]:
    """Strings that end the text at every place, most of them within a token."""
    return [text[i : i + n] for i in range(0, len(text) - 6, 3) for n in (1, 2, 6)]


def test_text_ids_and_log_probabilities_agree(smol: Model, text: str) -> None:
    reached = set()
    for stop in stops(text):
        done = smol.generate(PROMPT, stop=stop, logprobs=2, **OPTIONS)
        assert done.finish_reason == "stop" and done.text == text[: text.index(stop)]
        assert smol.detokenize(done.ids) == done.text
        scored = smol.score([*done.prompt_ids, *done.ids], top=2).tokens[len(done.prompt_ids) - 1 :]
        assert done.logprobs == scored
        assert done.ids == smol.generate(PROMPT, stop=stop, **OPTIONS).ids
        pieces = list(smol.stream(PROMPT, stop=stop, logprobs=2, **OPTIONS))
        assert [id for piece in pieces for id in piece.ids] == done.ids
        assert [one for piece in pieces for one in piece.logprobs] == done.logprobs
        reached.add(len(done.ids))
    assert len(reached) > 8


def test_a_context_goes_on_where_the_text_ended(smol: Model, text: str) -> None:
    for stop in stops(text)[::4]:
        for options in ({}, {"logprobs": 1}, {"cache": False}):
            context = smol.context()
            done = context.generate(PROMPT, stop=stop, **OPTIONS, **options)
            assert context.ids == [*done.prompt_ids, *done.ids]
            assert smol.detokenize(context.ids) == PROMPT + done.text
            more = context.generate(" And", **OPTIONS, logprobs=1)
            again = smol.generate(more.prompt_ids, **OPTIONS, logprobs=1)
            assert (more.ids, more.logprobs) == (again.ids, again.logprobs)


def test_tokens_wait_with_their_text(smol: Model, text: str) -> None:
    """Ids come with their text: what could begin a stop string is in no piece."""
    stop = text[4:12] + "\u2603"  # begins in the text and never comes
    shown = ""
    ids: list[int] = []
    waited = False
    for piece in smol.stream(PROMPT, stop=stop, **OPTIONS):
        shown, ids = shown + piece.text, ids + piece.ids
        assert shown.startswith(smol.detokenize(ids))
        waited |= piece.finish_reason is None and not piece.ids
    assert waited and smol.detokenize(ids) == shown == text


def test_a_stop_string_that_begins_with_part_of_a_character(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of the model are replaced by those of a text whose snowman has several."""
    ids = smol.tokenize("a\u2603b", add_special=False)
    assert len(ids) > 3
    take = generation.Job.take
    monkeypatch.setattr(generation.Job, "take", lambda job, token, *more: take(job, ids[job.new], *more))
    for stop, kept in (("\u2603", "a"), ("b", "a\u2603"), ("\u2603b", "a")):
        context = smol.context()
        done = context.generate("x", stop=stop, max_tokens=len(ids), ignore_eos=True, logprobs=1)
        assert (done.text, done.finish_reason, smol.detokenize(done.ids)) == (kept, "stop", kept)
        assert context.ids == [*done.prompt_ids, *done.ids] and len(done.logprobs) == len(done.ids)


def test_the_limit_counts_the_tokens_that_were_drawn(smol: Model, text: str) -> None:
    stop = text[10:14]
    whole = smol.generate(PROMPT, stop=stop, **OPTIONS)
    for n in range(1, 6):
        done = smol.generate(PROMPT, stop=stop, **{**OPTIONS, "max_tokens": n})
        assert done.finish_reason == ("stop" if done.text == whole.text else "length")
        assert done.timings.decode_tokens <= n - 1
        assert smol.detokenize(done.ids) == done.text
