"""Fields that have another name in an interface, and several prompts in one request."""

from __future__ import annotations

from typing import Any

import pytest

from pellucid import Model
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Limits, Settings
from tests.server.client import call

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("path", "field", "value", "instead"),
    [
        (CHAT, "max_output_tokens", 5, "max_tokens"),
        (CHAT, "max_new_tokens", 5, "max_tokens"),
        (CHAT, "num_predict", 5, "max_tokens"),
        (CHAT, "stop_sequences", ["a"], "stop"),
        (CHAT, "system", "Be brief.", "a message with the role 'system'"),
        (CHAT, "format", "json", "response_format"),
        (CHAT, "options", {"temperature": 0}, "each of them as a field"),
        (CHAT, "enable_thinking", False, "chat_template_kwargs"),
        (CHAT, "thinking", {"type": "disabled"}, "chat_template_kwargs or thinking_budget"),
        (CHAT, "reasoning", {"effort": "low"}, "reasoning_effort"),
        (CHAT, "repetition_penalty_range", 64, "repeat_last"),
        (CHAT, "smoothing_factor", 0.5, ""),
        (COMPLETIONS, "max_new_tokens", 5, "max_tokens"),
        (COMPLETIONS, "messages", MESSAGES, "prompt, or a chat"),
        ("/v1/responses", "num_predict", 5, "max_output_tokens"),
        ("/v1/responses", "response_format", {"type": "json_object"}, "text.format"),
        ("/v1/messages", "stop", "a", "stop_sequences"),
        ("/v1/messages", "reasoning", {"effort": "low"}, "output_config.effort"),
        ("/v1/apply-template", "chat_template", "x", ""),
        ("/v1/apply-template", "enable_thinking", False, "chat_template_kwargs"),
    ],
)
def test_other_names_of_fields(app: Gate, path: str, field: str, value: Any, instead: str) -> None:
    own = {COMPLETIONS: "prompt", "/v1/responses": "input"}.get(path, "messages")
    body = {own: MESSAGES if own == "messages" else "Hi", "max_tokens": 1}
    if path in ("/v1/responses", "/v1/apply-template"):
        del body["max_tokens"]
    answer = call(app, "POST", path, {**body, field: value})
    message = f"{field} is not supported" + (f": expected {instead} in its place" if instead else "")
    assert answer.status == 400 and answer.json["error"]["message"] == message, answer.body


def test_room_for_several_prompts(model: Model) -> None:
    """A request whose prompts are more than may wait is computed where nothing else is."""
    service = Service(Settings(names=("m",), limits=Limits(waiting=2, prompts=100)), model)
    app = make_app(service)
    for n in (65, 100):
        answer = call(app, "POST", COMPLETIONS, {"prompt": ["Hi"] * n, "max_tokens": 1})
        assert answer.status == 200 and len(answer.json["choices"]) == n, answer.body
    answer = call(app, "POST", COMPLETIONS, {"prompt": ["Hi"] * 101, "max_tokens": 1})
    assert (answer.status, answer.error["param"]) == (400, "prompt")
    answer = call(app, "POST", COMPLETIONS, {"prompt": ["Hi"] * 60, "n": 2, "max_tokens": 1})
    assert (answer.status, answer.error["param"]) == (400, "n")
    service.close()
    model.drive()  # without limits
