"""Conversations that every chat template is tried with, and how results are compared with transformers'."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
NOW = datetime(2025, 3, 9, 14, 5, 6)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'The weather at a place, "now" & <soon>: 20° or so.',
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "A town's name"},
                    "days": {"type": "integer", "enum": [1, 3]},
                },
                "required": ["place"],
            },
        },
    }
]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "Zürich <ZH>", "days": 3}},
}
RESULT = {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": '{"sun": true}'}
ODD = '  <b>1 & 2</b> "it\'s" [x] \\n {{ y }} {% z %} ünï 😀 <|im_end|> </s> [/INST]\n\n  '


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


# name -> what is given to the template
CASES: dict[str, dict[str, Any]] = {
    "one": {"messages": [user("Hello")], "add_generation_prompt": True},
    "one, no prompt": {"messages": [user("Hello")], "add_generation_prompt": False},
    "system": {"messages": [SYSTEM, user("Hello")], "add_generation_prompt": True},
    "turns": {
        "messages": [SYSTEM, user("Hello"), assistant(" Hi. "), user("How are you?")],
        "add_generation_prompt": True,
    },
    "answered": {"messages": [user("Hello"), assistant("Hi.")], "add_generation_prompt": False},
    "odd text": {"messages": [user(ODD), assistant(ODD), user(ODD)], "add_generation_prompt": True},
    "two users": {"messages": [user("Hello"), user("Hello?")], "add_generation_prompt": True},
    "assistant first": {"messages": [assistant("Hi."), user("Hello")], "add_generation_prompt": True},
    "empty": {"messages": [user("")], "add_generation_prompt": True},
    "tools": {"messages": [SYSTEM, user("Rain?")], "tools": TOOLS, "add_generation_prompt": True},
    "call": {
        "messages": [user("Rain?"), assistant("", tool_calls=[CALL]), RESULT],
        "tools": TOOLS,
        "add_generation_prompt": True,
    },
    "call without content": {
        "messages": [user("Rain?"), assistant(None, tool_calls=[CALL]), RESULT, assistant("No.")],
        "tools": TOOLS,
        "add_generation_prompt": False,
    },
    "reasoning": {
        "messages": [
            user("1 + 1?"),
            assistant("<think>\nOne and one.\n</think>\n\nTwo."),
            user("Sure?"),
            assistant("Yes.", reasoning_content="I am."),
            user("Well."),
        ],
        "add_generation_prompt": True,
    },
    "parts": {"messages": [user(_parts("Hello,", "you"))], "add_generation_prompt": True},
    "documents": {
        "messages": [user("What is said?")],
        "documents": [{"title": "A", "text": "b < c", "doc_id": 1, "content": "b < c"}],
        "add_generation_prompt": True,
    },
}


def templates() -> dict[str, str]:
    """Name -> source."""
    return {path.stem: path.read_bytes().decode("utf-8") for path in sorted(FOLDER.glob("*.jinja"))}


def joined(case: dict[str, Any]) -> dict[str, Any]:
    """The same messages with their parts joined to one text, for templates that do not support parts."""
    messages = [
        {**m, "content": "\n".join(p["text"] for p in m["content"])} if isinstance(m["content"], list) else m
        for m in case["messages"]
    ]
    return {**case, "messages": messages}


class FixedClock(datetime):
    """`datetime` with a fixed now."""

    @classmethod
    def now(cls, tz: Any = None) -> FixedClock:
        return cls(*NOW.timetuple()[:6])


def transformers_render(source: str, case: dict[str, Any]) -> dict[str, str]:
    """{"text": ...}, {"refused": raise_exception's message} or {"error": any other}, by transformers."""
    import copy

    from jinja2.exceptions import TemplateError
    from transformers.utils import chat_template_utils

    chat_template_utils.datetime = FixedClock
    given = copy.deepcopy(case)
    messages = given.pop("messages")
    try:
        texts, _ = chat_template_utils.render_jinja_template([messages], chat_template=source, **given, **TOKENS)
    except Exception as error:
        if type(error) is TemplateError:
            return {"refused": str(error)}
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    return {"text": texts[0]}


def writes(source: str, content: Any) -> bool:
    """Whether the template writes a user's "Hello", as text or as parts."""
    return "Hello" in transformers_render(source, {"messages": [user(content)]}).get("text", "")


def in_parts(case: dict[str, Any]) -> dict[str, Any]:
    """The same messages with their texts as parts, for templates that support nothing else."""
    messages = [
        {**m, "content": _parts(m["content"])} if isinstance(m["content"], str) else m for m in case["messages"]
    ]
    return {**case, "messages": messages}


def expected(source: str, case: dict[str, Any]) -> dict[str, str]:
    """The expected result. A template that does not support parts is given the joined text; one that supports parts
    alone is given these."""
    if not writes(source, "Hello") and writes(source, _parts("Hello")):
        return transformers_render(source, in_parts(case))
    found = transformers_render(source, case)
    if any(isinstance(m["content"], list) for m in case["messages"]):
        text = found.get("text", "")
        if "Hello," not in text or "'type'" in text or '"type"' in text:
            return transformers_render(source, joined(case))
    return found
