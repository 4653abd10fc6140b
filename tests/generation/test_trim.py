"""Conversations that outgrow the context: chat(on_full="trim")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import ChatTemplateError, ContextFullError
from pellucid.text.turns import turns

TEMPLATES = Path(__file__).resolve().parents[1] / "text" / "templates"
SYSTEM = {"role": "system", "content": "You are brief."}
WORDS = " ".join(["word"] * 20)
GREEDY: dict[str, Any] = {"temperature": 0, "on_full": "trim"}


def user(i: int) -> dict[str, Any]:
    return {"role": "user", "content": f"Question {i}: {WORDS}?"}


def assistant(i: int) -> dict[str, Any]:
    return {"role": "assistant", "content": f"Answer {i}: {WORDS}."}


def conversation(n: int) -> list[dict[str, Any]]:
    """A system message, n turns, and a question."""
    return [SYSTEM, *(m for i in range(n) for m in (user(i), assistant(i))), user(n)]


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, threads=2, context=256) as loaded:
        yield loaded


def size(model: Model, messages: list[dict[str, Any]], **options: Any) -> int:
    return len(model.chat_prompt(messages, **options).ids)


@pytest.mark.parametrize(
    ("roles", "first", "starts"),
    [
        ("suaua", 1, [1, 3]),
        ("uaua", 0, [0, 2]),
        ("sdu", 2, [2]),
        ("sauau", 1, [1, 2, 4]),  # a greeting
        ("uattaua", 0, [0, 5]),  # a call of two tools
        ("suuau", 1, [1, 2, 4]),  # a question without an answer
        ("suasua", 1, [1, 4]),  # a system message in between
        ("s", 1, []),
        ("a", 0, [0]),
    ],
)
def test_turns(roles: str, first: int, starts: list[int]) -> None:
    names = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
    assert turns([{"role": names[role]} for role in roles]) == (first, starts)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 9])
def test_drops_as_few_turns_as_must_go(model: Model, n: int) -> None:
    messages = conversation(n)
    whole = list(messages)
    for chat in (model.chat, model.context().chat):
        done = chat(messages, max_tokens=20, **GREEDY)
        kept = [SYSTEM, *messages[1 + done.dropped :]]
        assert done.dropped % 2 == 0 and messages == whole
        assert done.prompt_ids == model.chat_prompt(kept).ids and len(done.prompt_ids) + 20 - 1 <= 256
        if done.dropped:
            assert size(model, [SYSTEM, *messages[done.dropped - 1 :]]) + 20 - 1 > 256
        assert done.finish_reason in ("length", "eos")
        assert done.ids == model.chat(kept, temperature=0, max_tokens=20).ids
    assert (done.dropped > 0) == (n > 3)


def test_without_trim(model: Any) -> None:
    for options in ({}, {"on_full": "stop"}, {"on_full": "error"}):
        with pytest.raises(ContextFullError):
            model.chat(conversation(9), max_tokens=5, **options)
        assert model.chat(conversation(1), max_tokens=5, **options).dropped == 0


def test_a_context_keeps_the_system_message(model: Model) -> None:
    context = model.context()
    for n in range(6):
        done = context.chat(conversation(n), max_tokens=8, **GREEDY)
        assert done.ids == model.chat(conversation(n), max_tokens=8, **GREEDY).ids
        assert context.length <= 256
    same = size(model, [SYSTEM], add_generation_prompt=False)
    assert done.dropped > 0 and done.prompt_tokens <= len(done.prompt_ids) - same


def test_a_stream_says_what_was_dropped(model: Model) -> None:
    for chat in (model.chat, model.context().chat):
        stream = chat(conversation(9), stream=True, max_tokens=4, **GREEDY)
        assert stream.dropped == stream.result().dropped > 0
        assert stream.result().to_dict()["dropped"] == stream.dropped


def test_several_conversations(model: Model) -> None:
    alone = [model.chat(conversation(n), max_tokens=4, **GREEDY) for n in (1, 9)]
    together = model.chat([conversation(1), conversation(9)], max_tokens=4, **GREEDY)
    assert [(done.dropped, done.ids) for done in together] == [(done.dropped, done.ids) for done in alone]


def test_room_without_max_tokens(model: Model) -> None:
    """A quarter of the context, 64 tokens here; but the last turn may take of it."""
    done = model.chat(conversation(4), **GREEDY)
    assert done.dropped and len(done.prompt_ids) + 64 - 1 <= 256
    assert size(model, [SYSTEM, *conversation(4)[done.dropped - 1 :]]) + 64 - 1 > 256
    long = [SYSTEM, user(0), assistant(0), {"role": "user", "content": "word " * 200}]
    done = model.chat(long, **GREEDY)
    assert done.dropped == 2 and len(done.prompt_ids) > 192


def test_a_last_turn_that_does_not_fit(model: Model) -> None:
    long = [SYSTEM, user(0), assistant(0), {"role": "user", "content": "word " * 200}]
    needed = size(model, [SYSTEM, long[-1]])
    context = model.context()
    for chat in (model.chat, context.chat):
        with pytest.raises(ContextFullError, match="the last turn") as caught:
            chat(long, max_tokens=50, **GREEDY)
        assert (caught.value.needed, caught.value.available) == (needed + 50 - 1, 256)
        with pytest.raises(ContextFullError, match="the last turn"):
            chat([SYSTEM, {"role": "user", "content": "word " * 400}], **GREEDY)
    assert context.length == 0


def test_messages_of_any_kind(model: Any) -> None:
    done = model.chat(conversation(9), max_tokens=4, **GREEDY)
    for chat in (model.chat, model.context().chat):
        for messages in (tuple(conversation(9)), iter(conversation(9))):
            again = chat(messages, max_tokens=4, **GREEDY)
            assert (again.ids, again.dropped) == (done.ids, done.dropped)
    with pytest.raises(TypeError, match=r"messages\[0\] must be a dict"):
        model.context().chat([conversation(1)], **GREEDY)
    with pytest.raises(ContextFullError, match=r"the last turn of the conversation messages\[1\] does not fit"):
        model.chat([conversation(1), [{"role": "user", "content": "word " * 400}]], **GREEDY)


def test_tool_messages_go_with_their_turn(model: Model) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turn = [
        user(0),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": WORDS},
        assistant(0),
    ]
    messages = [SYSTEM, *turn * 5, user(9)]
    done = model.chat(messages, max_tokens=8, **GREEDY)
    assert done.dropped and done.dropped % 4 == 0


@pytest.mark.parametrize("name", ["llama2", "gemma2", "mistral-nemo"])
def test_templates_that_demand_turns(model: Model, name: str) -> None:
    template = (TEMPLATES / f"{name}.jinja").read_text()
    messages = conversation(9)[0 if name == "llama2" else 1 :]
    with pytest.raises(ChatTemplateError):
        model.chat_prompt(messages[: len(messages) - 2] + messages[-1:], template=template)
    done = model.chat(messages, template=template, max_tokens=8, **GREEDY)
    assert done.dropped and done.dropped % 2 == 0


def test_options(model: Any) -> None:
    with pytest.raises(ValueError, match="on_full='cut': expected 'error', 'stop' or 'trim'"):
        model.chat(conversation(1), on_full="cut")
    for call in (model.generate, model.stream, model.context().generate):
        with pytest.raises(ValueError, match="on_full='trim': expected 'error' or 'stop'"):
            call("text", on_full="trim")
    with pytest.raises(TypeError, match="messages"):
        model.chat(5, on_full="trim")
    said = conversation(1)
    both = list(model.map(["text", said], max_tokens=2, seeds=[1, 1], on_full="trim"))  # of prompts, nothing is trimmed
    assert [one.text for one in both] == [
        model.generate("text", max_tokens=2, seed=1).text,
        model.chat(said, max_tokens=2, seed=1).text,
    ]
    with pytest.raises(ValueError, match="on_full='trim': expected 'error' or 'stop'"):
        list(model.map([{"prompt": "text", "on_full": "trim"}]))
