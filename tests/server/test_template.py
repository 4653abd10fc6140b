"""`--template`: conversations in another form than the model's own, at every endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import ChatTemplateError
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import call
from tests.server.conftest import NAME

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
MESSAGES: list[Any] = [{"role": "user", "content": "Name three colours."}]
GREEDY: dict[str, Any] = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def other(model: Model) -> Iterator[Gate]:
    service = Service(Settings(names=(NAME,), template=TEMPLATE, look=True), model)
    yield make_app(service)
    service.close()


ANSWERS: dict[str, tuple[dict[str, Any], Callable[[Any], str]]] = {
    "/v1/chat/completions": ({"messages": MESSAGES, **GREEDY}, lambda a: a["choices"][0]["message"]["content"]),
    "/v1/responses": (
        {"input": MESSAGES[0]["content"], "max_output_tokens": 8, "temperature": 0},
        lambda a: a["output"][0]["content"][0]["text"],
    ),
    "/v1/messages": ({"messages": MESSAGES, **GREEDY}, lambda a: a["content"][0]["text"]),
    "/api/chat": (
        {"messages": MESSAGES, "stream": False, "options": {"num_predict": 8, "temperature": 0}},
        lambda a: a["message"]["content"],
    ),
    "/api/generate": (
        {"prompt": MESSAGES[0]["content"], "stream": False, "options": {"num_predict": 8, "temperature": 0}},
        lambda a: a["response"],
    ),
}


@pytest.mark.parametrize("path", ANSWERS)
def test_answers(other: Gate, app: Gate, model: Model, path: str) -> None:
    body, text = ANSWERS[path]
    assert text(call(other, "POST", path, body).json) == model.chat(MESSAGES, template=TEMPLATE, **GREEDY).text
    assert text(call(app, "POST", path, body).json) == model.chat(MESSAGES, **GREEDY).text


def test_what_tells_of_it(other: Gate, app: Gate, model: Model) -> None:
    mine = model.chat_prompt(MESSAGES, template=TEMPLATE)
    found = call(other, "POST", "/v1/apply-template", {"messages": MESSAGES}).json
    assert (found["prompt"], found["tokens"]) == ("<user>Name three colours.<assistant>", mine.ids)
    assert call(other, "POST", "/v1/messages/count_tokens", {"messages": MESSAGES}).json["input_tokens"] == len(
        mine.ids
    )
    assert call(other, "POST", "/v1/look", {"messages": MESSAGES}).json["meta"]["n"] == len(mine.ids)
    shown = call(other, "POST", "/api/show", {}).json
    assert (shown["template"], shown["capabilities"]) == (TEMPLATE, ["completion", "tools"])
    names = [call(one, "GET", f"/v1/models/{NAME}").json["system_fingerprint"] for one in (other, app)]
    assert len(set(names)) == 2


def test_a_broken_one(model: Model) -> None:
    service = Service(Settings(template="{% if"))
    with pytest.raises(ChatTemplateError):
        service.loaded(model)
    service.close()


def test_a_template_gets_messages_as_those_of_chats(model: Model) -> None:
    """Without what a client set to null."""
    service = Service(Settings(names=(NAME,), template="{{ messages[0] | list | join(',') }}"), model)
    asked = [{**MESSAGES[0], "name": None, "tool_calls": None}]
    found = call(make_app(service), "POST", "/v1/apply-template", {"messages": asked}).json
    assert found["prompt"] == "role,content"
    service.close()
