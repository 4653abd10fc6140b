"""Anthropic's interface: messages, and how many tokens they have. Its requests are translated to OpenAI's, its answers
made from the same parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from starlette.types import Receive, Scope, Send

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.openai.fields import ALIASES, OPTIONS, Call, Fields, chat_call, unknown
from pellucid.openai.parts import Part
from pellucid.openai.refusal import INSTEAD, OF_CHATS, OF_OTHERS, REFUSED, check_known
from pellucid.openai.shapes import arguments_of
from pellucid.openai.structured import NAMES_OF_FIELDS
from pellucid.results import FinishReason
from pellucid.server.failures import Failure, anthropic_body, failing, naming, refused
from pellucid.server.generate import Generate, read, whole
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from pellucid.server.shapes import Shape, compact, dumps

__all__ = ["CountTokens", "MessageShape", "message_call", "messages"]

# A block of the system prompt that Claude Code changes with every request, so that the prefix cache could not be used.
BILLING = "x-anthropic-billing-header:"
# Fields that have the same name and meaning in OpenAI's requests, or are Pellucid's.
SAME = frozenset(
    {*OPTIONS, *ALIASES, *NAMES_OF_FIELDS}
    | {"seed", "cache_salt", "priority", "logit_bias", "chat_template_kwargs", "documents", "prediction"}
)
ELSEWHERE = {
    "enable_thinking": "thinking",
    "format": "output_config.format",
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "reasoning": "output_config.effort",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "thinking_budget": "thinking.budget_tokens",
    "thinking_token_budget": "thinking.budget_tokens",
}
EFFORTS = ("low", "medium", "high", "xhigh", "max")
MOST_TOKENS = 2**31 - 1


def messages(service: Service) -> Generate:
    return Generate(service, answered_call, MessageShape)


# ---- requests -----------------------------------------------------------------------------------------------------


def message_call(body: dict[str, Any], settings: Settings) -> Call:
    """/v1/messages. Raises Failure, ValueError or TypeError naming the field."""
    fields = Fields(body, settings.limits)
    if "max_tokens" not in fields.rest:
        raise WrongType("max_tokens", ": expected a number of tokens")
    made: dict[str, Any] = {
        "max_tokens": fields.integer("max_tokens", 1, MOST_TOKENS, 1),
        "stream": fields.flag("stream"),
    }
    stop = fields.take("stop_sequences", [])
    if not isinstance(stop, list):
        raise WrongType("stop_sequences", ": expected a list of texts")
    made["stop"] = stop
    conversation, places = _conversation(fields)
    made |= conversation
    for name in sorted(SAME & fields.rest.keys()):
        made[name] = fields.take(name)
    fields.refuse({**OF_CHATS, **REFUSED, **OF_OTHERS}, INSTEAD | ELSEWHERE)
    form = "output_config.format" if body.get("output_format") is None else "output_format"
    names = {
        "stop": "stop_sequences",
        "reasoning_effort": "output_config.effort",
        "response_format": form,
        "response_format.json_schema": form,
    }
    with naming(names):
        call = chat_call(made, settings)
    call.names |= names
    call.name_places(places, schema=".input_schema")
    known = {"output_config": ("effort", "format"), "thinking": ("type", "budget_tokens")}
    within = [one for name, keys in known.items() for one in unknown(name, body.get(name) or {}, *keys)]
    call.ignored = sorted({*call.ignored, *fields.rest, *within})
    check_known(call.ignored, settings, ("metadata", "service_tier", "cache_control"))
    return call


def answered_call(body: dict[str, Any], settings: Settings) -> Call:
    """As `message_call`, for a conversation that an answer follows. Raises WrongValue if its last message is the
    assistant's, to be continued: chat templates end it."""
    call, given = message_call(body, settings), body["messages"]
    if given[-1]["role"] == "assistant":
        found = "a message that is begun cannot be continued; expected 'user' at the end"
        raise WrongValue("messages", f"[{len(given) - 1}].role='assistant': {found}")
    return call


def _conversation(fields: Fields) -> tuple[dict[str, Any], list[str]]:
    """(OpenAI's fields from which a prompt is made, the places of its messages)."""
    given = fields.take("messages")
    if not isinstance(given, list):
        raise WrongType("messages", ": expected a list of messages")
    if not given:
        raise WrongValue("messages", " is empty: expected at least one")
    if len(given) > fields.limits.messages:
        raise WrongValue("messages", f" has {len(given)} entries: expected at most {fields.limits.messages}")
    model = fields.take("model")
    made: dict[str, Any] = {"model": None if model is None else checks.string("model", model)}
    made["messages"] = _system(fields.take("system", ""))
    places = ["system"] * len(made["messages"])
    for i, one in enumerate(given):
        several = _message(one, i)
        made["messages"] += several
        places += [f"messages[{i}]"] * len(several)
    for name in ("container", "mcp_servers"):
        if fields.take(name, []) != []:
            raise refused(name, " is not supported", "unsupported_field")
    _thinking(fields, made)
    _output(fields, made)
    _tools(fields, made)
    return made, places


def _system(system: Any) -> list[dict[str, Any]]:
    if isinstance(system, str):
        texts = [system]
    elif isinstance(system, list):
        texts = [_text(block, f"[{i}]", "system") for i, block in enumerate(system)]
    else:
        raise WrongType("system", ": expected a text or a list of text blocks")
    texts = [text for text in texts if text and not text.startswith(BILLING)]
    return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []


def _text(block: Any, place: str, name: str = "messages") -> str:
    """The text of a block that must be text."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind != "text":
        shown = checks.shown(kind) if kind is not None else type(block).__name__
        raise WrongValue(name, f"{place}: expected a text block, not {shown}")
    return checks.string(name, block.get("text"), "a text", at=f"{place}.text")


def _message(message: Any, i: int) -> list[dict[str, Any]]:
    """OpenAI's messages for one of Anthropic's; tool results become messages of their own."""
    place = f"[{i}]"
    if not isinstance(message, dict):
        raise WrongType("messages", f"{place}: expected an object, not {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise WrongValue("messages", f"{place}.role={checks.shown(role)}: expected 'user', 'assistant' or 'system'")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise WrongType("messages", f"{place}.content: expected a text or a list of blocks")
    made = _assistant(content, place) if role == "assistant" else _others(role, content, place)
    return made or [{"role": role, "content": ""}]


def _others(role: str, content: list[Any], place: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for k, block in enumerate(content):
        at = f"{place}.content[{k}]"
        if isinstance(block, dict) and block.get("type") == "tool_result" and role == "user":
            made.append(_result(block, at))
        else:
            parts.append({"type": "text", "text": _text(block, at)})
    if parts:
        made.append({"role": role, "content": parts[0]["text"] if len(parts) == 1 else parts})
    return made


def _result(block: dict[str, Any], at: str) -> dict[str, Any]:
    identity = checks.string("messages", block.get("tool_use_id"), "the id of a tool use", at=f"{at}.tool_use_id")
    content = block.get("content")
    content = "" if content is None else content
    if isinstance(content, list):
        content = "\n".join(_text(part, f"{at}.content[{k}]") for k, part in enumerate(content))
    text = checks.string("messages", content, "a text or a list of text blocks", at=f"{at}.content")
    failed = checks.flag(f"messages{at}.is_error", block.get("is_error") or False)
    return {"role": "tool", "tool_call_id": identity, "content": f"Error: {text}" if failed else text}


def _assistant(content: list[Any], place: str) -> list[dict[str, Any]]:
    parts, thoughts, calls = [], [], []
    for k, block in enumerate(content):
        at = f"{place}.content[{k}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "thinking":
            thoughts.append(checks.string("messages", block.get("thinking"), "a text", at=f"{at}.thinking"))
        elif kind == "redacted_thinking":
            continue
        elif kind == "tool_use":
            given = block.get("input")
            if not isinstance(given, dict):
                raise WrongType("messages", f"{at}.input: expected an object")
            name = checks.string("messages", block.get("name"), "a tool's name", at=f"{at}.name")
            function = {"name": name, "arguments": compact(given)}
            identity = checks.string("messages", block.get("id"), "an id", at=f"{at}.id")
            calls.append({"id": identity, "type": "function", "function": function})
        else:
            parts.append({"type": "text", "text": _text(block, at)})
    if not (parts or thoughts or calls):
        return []
    made: dict[str, Any] = {"role": "assistant", "content": "" if not parts else parts}
    if len(parts) == 1:
        made["content"] = parts[0]["text"]
    if thoughts:
        made["reasoning_content"] = "\n".join(thoughts)
    if calls:
        made["tool_calls"] = calls
    return [made]


def _thinking(fields: Fields, made: dict[str, Any]) -> None:
    thinking = fields.take("thinking", {})
    if not isinstance(thinking, dict):
        raise WrongType("thinking", ": expected an object")
    if thinking:
        kind = thinking.get("type")
        if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
            raise WrongValue("thinking", f".type={checks.shown(kind)}: expected 'enabled', 'disabled' or 'adaptive'")
        if kind == "enabled" and thinking.get("budget_tokens") is not None:
            made["thinking_budget"] = checks.integer(
                "thinking.budget_tokens", thinking["budget_tokens"], 1, MOST_TOKENS
            )
        given = fields.rest.setdefault("chat_template_kwargs", {})
        if isinstance(given, dict):  # else it is refused below
            fields.rest["chat_template_kwargs"] = {"enable_thinking": kind != "disabled", **given}


def _output(fields: Fields, made: dict[str, Any]) -> None:
    config, older = fields.take("output_config", {}), fields.take("output_format")  # the latter in its beta
    if not isinstance(config, dict):
        raise WrongType("output_config", ": expected an object")
    effort = config.get("effort")
    if effort is not None:
        made["reasoning_effort"] = checks.choice("output_config.effort", effort, EFFORTS)
    field, form = ("output_config.format", config.get("format")) if older is None else ("output_format", older)
    if older is not None and config.get("format") is not None:
        raise refused(field, ": given beside output_config.format; expected one of them")
    if form is not None:
        if not isinstance(form, dict) or form.get("type") != "json_schema":
            raise WrongValue(field, ': expected an object of the type "json_schema"')
        schema = {"name": "format", "schema": form.get("schema"), "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}


def _tools(fields: Fields, made: dict[str, Any]) -> None:
    tools, choice = fields.take("tools", []), fields.take("tool_choice")
    if not isinstance(tools, list):
        raise WrongType("tools", ": expected a list of tools")
    if tools:
        made["tools"] = [_tool(tool, i) for i, tool in enumerate(tools)]
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    names: dict[Any, Any] = {"auto": "auto", "any": "required", "none": "none"}
    if kind == "tool":
        name = checks.string("tool_choice", choice.get("name"), "a tool's name", at=".name")
        made["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in names:
        made["tool_choice"] = names[kind]
    else:
        raise WrongValue("tool_choice", ".type: expected 'auto', 'any', 'tool' or 'none'")
    if checks.flag("tool_choice.disable_parallel_tool_use", choice.get("disable_parallel_tool_use") or False):
        made["parallel_tool_calls"] = False


def _tool(tool: Any, i: int) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise WrongType("tools", f"[{i}]: expected an object, not {type(tool).__name__}")
    if tool.get("type") not in (None, "custom"):
        raise refused(f"tools[{i}].type", f"={checks.shown(tool['type'])}: only tools of your own are supported")
    if not isinstance(tool.get("input_schema"), dict):
        raise WrongType("tools", f"[{i}].input_schema: expected an object")
    function: dict[str, Any] = {"name": tool.get("name")}  # in the order of a chat's, for the same prompt
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = tool["input_schema"]
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


class CountTokens:
    """/v1/messages/count_tokens: counts the tokens of the prompt."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, record = self._service, scope["state"]["record"]
        service.ready()
        call = message_call({"max_tokens": 1, **await read(service, scope, receive)}, service.settings)
        with failing(record.id, call.names):
            _, hosted = service.select(call.model, record)
            async with service.models.use(hosted) as model:
                work = partial(model.chat_prompt, call.messages, template=service.settings.template, **call.template)
                prompt = await service.text(work)
        await whole(send, dumps({"input_tokens": len(prompt.ids)}), call.ignored)


# ---- answers ------------------------------------------------------------------------------------------------------

STOP_REASONS: dict[FinishReason, str] = {
    "eos": "end_turn",
    "stop": "end_turn",
    "length": "max_tokens",
    "context": "model_context_window_exceeded",
    "cancelled": "max_tokens",
}


def _event(kind: str, **values: Any) -> bytes:
    return f"event: {kind}\n".encode() + b"data: " + dumps({"type": kind, **values}) + b"\n\n"


class MessageShape(Shape):
    """Anthropic's message, whole or as events."""

    silence = _event("ping")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._blocks = 0  # blocks that have begun
        self._open = ""  # the type of the open block
        self._last = Part()
        self._called = False

    def answer(self, parts: Sequence[Part], used: dict[str, Any]) -> dict[str, Any]:
        (part,) = parts
        content: list[dict[str, Any]] = []
        calls = iter(part.tool_calls())
        for run in part.runs():
            if run.reasoning:
                content.append({"type": "thinking", "thinking": run.reasoning, "signature": ""})
            if run.text:
                content.append({"type": "text", "text": run.text})
            for one in islice(calls, len(run.rest_and_calls()[1])):
                content.append({"type": "tool_use", "id": one.id, "name": one.name, "input": arguments_of(one)})
        return {**self._message(), "content": content, **_stop(part, bool(part.calls)), "usage": _usage(used)}

    def begin(self, choices: int, echoed: Sequence[Part], prompt_tokens: int) -> bytes:
        usage = _usage({"prompt_tokens": prompt_tokens, "completion_tokens": 0})
        return _event("message_start", message={**self._message(), "usage": usage})

    def more(self, index: int, part: Part) -> bytes:
        return b"".join(self._run(run) for run in part.runs())

    def _run(self, part: Part) -> bytes:
        events = []
        going, calls = part.rest_and_calls()
        if going:  # before what follows the call
            events.append(self._delta(type="input_json_delta", partial_json=going))
        if part.reasoning:
            events.append(self._begin_block("thinking", thinking="", signature=""))
            events.append(self._delta(type="thinking_delta", thinking=part.reasoning))
        if part.text:
            events.append(self._begin_block("text", text=""))
            events.append(self._delta(type="text_delta", text=part.text))
        for one in calls:
            self._called = True
            events.append(self._end_block())
            events.append(self._begin_block("tool_use", id=one.id, name=one.name, input={}))
            if one.arguments:
                events.append(self._delta(type="input_json_delta", partial_json=one.arguments))
        if part.finish is not None:
            self._last = part
        return b"".join(events)

    def end(self, used: dict[str, Any]) -> bytes:
        delta = _event("message_delta", delta=_stop(self._last, self._called), usage=_usage(used))
        return self._end_block() + delta + _event("message_stop")

    def failed(self, told: Failure) -> bytes:
        return b"event: error\ndata: " + dumps(anthropic_body(told, self.record.id)) + b"\n\n"

    def _message(self) -> dict[str, Any]:
        return {
            "id": f"msg_{self.record.id}",
            "type": "message",
            "role": "assistant",
            "model": self.record.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _begin_block(self, kind: str, **content: Any) -> bytes:
        """Begins a block; nothing if one of this kind is open."""
        if self._open == kind:
            return b""
        ended = self._end_block()
        self._open = kind
        self._blocks += 1
        block = {"type": kind, **content}
        return ended + _event("content_block_start", index=self._blocks - 1, content_block=block)

    def _end_block(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", index=self._blocks - 1)

    def _delta(self, **delta: Any) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)


def _stop(part: Part, called: bool) -> dict[str, Any]:
    found = part.stop_string
    reason = STOP_REASONS[part.finish or "cancelled"] if found is None else "stop_sequence"
    if called and reason == "end_turn":
        reason = "tool_use"
    return {"stop_reason": reason, "stop_sequence": found}


def _usage(used: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's counts: the tokens of the input are those that were not cached."""
    cached = used.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return {
        "input_tokens": used["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": used["completion_tokens"],
    }
