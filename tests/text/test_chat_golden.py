"""Templates of many models: rendered as transformers renders them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid.errors import ChatTemplateError
from pellucid.text.chat import ChatTemplate

from . import conversations
from .conversations import CASES, TOKENS

SOURCES = conversations.templates()
GOLDEN = json.loads(Path(__file__).with_name("golden_chat.json").read_text(encoding="utf-8"))
# What messages say must come out the same whatever special tokens there are, though it is marked on its way.
SPECIALS = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "<｜User｜>",
)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from pellucid.text import sandbox

    monkeypatch.setattr(sandbox, "datetime", conversations.FixedClock)
    yield


def rendered(template: ChatTemplate, case: dict[str, Any]) -> dict[str, str]:
    given = dict(case)
    try:
        text, back = template.render(given.pop("messages"), **given)
    except ChatTemplateError as error:
        head, _, message = error.message.partition(": ")
        return {"refused": message} if head == "the chat template refuses the conversation" else {"error": message}
    return {"text": text.translate(back)}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("specials", [(), SPECIALS], ids=["plain", "marked"])
def test_equals_transformers(name: str, specials: tuple[str, ...]) -> None:
    template = ChatTemplate(SOURCES[name], TOKENS, specials)
    assert GOLDEN[name].keys() == CASES.keys()
    for label, case in CASES.items():
        want, found = GOLDEN[name][label], rendered(template, case)
        if "error" in want:  # the words are Python's own, and differ with its version
            assert "error" in found, (label, found)
        else:
            assert found == want, label


def test_golden_is_complete() -> None:
    assert GOLDEN.keys() == SOURCES.keys()
    listed = (conversations.FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    assert [name for name in SOURCES if f"| {name}.jinja |" not in listed] == []
    kinds = [next(iter(result)) for results in GOLDEN.values() for result in results.values()]
    assert len(SOURCES) >= 50 and kinds.count("text") > 600 and kinds.count("refused") > 20


@pytest.mark.live
@pytest.mark.parametrize("name", SOURCES)
def test_golden_is_what_transformers_says(name: str) -> None:
    for label, case in CASES.items():
        found = conversations.expected(SOURCES[name], case)
        want = GOLDEN[name][label]
        assert found == want or ("error" in want and "error" in found), label
