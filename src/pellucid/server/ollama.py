"""Ollama's interface: generation and embeddings. Its requests are translated to OpenAI's, its answers made from the
same parts.

Models are given to `pellucid serve`; requests to pull, create or delete one are refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from pellucid import checks, embedding
from pellucid.core import Core
from pellucid.errors import WrongType, WrongValue
from pellucid.openai.embeddings import rest
from pellucid.openai.fields import EVERYTHING, Call, Fields, chat_call, completion_call
from pellucid.openai.parts import Part
from pellucid.openai.refusal import check_known
from pellucid.openai.shapes import FINISH, arguments_of, token_objects
from pellucid.results import ToolCallDelta
from pellucid.server.embeddings import Task
from pellucid.server.failures import Failure, naming, refused
from pellucid.server.generate import Generate, whole
from pellucid.server.models import Hosted
from pellucid.server.service import Running, Service
from pellucid.server.settings import Settings
from pellucid.server.shapes import Shape, compact, dumps

__all__ = ["OllamaGenerate", "chat", "embed", "embeddings", "generate", "refusal"]

# Options that have the same name here.
SAME = (
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)
WHOLE = ("num_predict", "repeat_last_n", "seed", "top_k", "mirostat")
# The client's names of fields, by OpenAI's or Pellucid's.
NAMES = {name: f"options.{name}" for name in SAME}
NAMES |= {"max_tokens": "options.num_predict", "repeat_last": "options.repeat_last_n"}
NAMES |= {"response_format": "format", "response_format.json_schema.schema": "format"}
NAMES |= {"reasoning_effort": "think", "chat_template_kwargs": "think"}
# Options that would change the answer and are not supported -> the value that changes nothing.
REFUSED_OPTIONS = {"tfs_z": 1, "penalize_newline": True}
# Options for loading a model, and for how long a text may be: without effect here.
OF_LOADING = frozenset(
    {"truncate", "shift"}
    | {f"options.{name}" for name in ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep")}
    | {f"options.{name}" for name in ("use_mmap", "use_mlock", "low_vram", "f16_kv", "vocab_only", "numa")}
)


# ---- requests -----------------------------------------------------------------------------------------------------


def chat(body: dict[str, Any], settings: Settings) -> Call:
    """/api/chat. Raises Failure, ValueError or TypeError naming the field."""
    fields, made = _common(body, settings)
    messages = fields.take("messages", [])
    if not isinstance(messages, list):
        raise WrongType("messages", ": expected a list of messages")
    made["messages"] = [_message(message, i) for i, message in enumerate(messages)]
    _logprobs(fields, made)
    with naming(NAMES):
        call = chat_call(made, settings)
    return _finished(call, fields, settings)


def generate(body: dict[str, Any], settings: Settings) -> Call:
    """/api/generate: a prompt, which becomes a message unless it is `raw`, or the model has no chat template."""
    fields, made = _common(body, settings)
    prompt = checks.string("prompt", fields.take("prompt", ""))
    system = checks.string("system", fields.take("system", ""))
    for name, nothing in (("suffix", ""), ("template", ""), ("context", []), ("images", [])):
        if fields.take(name, nothing) != nothing:
            raise refused(name, " is not supported", "unsupported_field")
    raw = fields.flag("raw")
    if raw and system:
        raise WrongValue("system", ": expected raw to be false beside it")
    _logprobs(fields, made)
    if raw and prompt:
        top = made.pop("top_logprobs", 0) if made.pop("logprobs", False) else None
        made |= {"prompt": prompt, "logprobs": top}
        for name in ("chat_template_kwargs", "reasoning_effort"):
            made.pop(name, None)
        with naming(NAMES):
            call = completion_call(made, settings)
    else:
        made["messages"] = [{"role": "system", "content": system}] if system else []
        made["messages"] += [{"role": "user", "content": prompt}] if prompt or system else []
        with naming(NAMES):
            call = chat_call(made, settings)
        call.plain = f"{system}\n\n{prompt}" if system else prompt
        call.name_places(["system", "prompt"] if system else ["prompt"])
    return _finished(call, fields, settings)


def _common(body: dict[str, Any], settings: Settings) -> tuple[Fields, dict[str, Any]]:
    """(the fields that are left, OpenAI's fields)."""
    fields = Fields(body, settings.limits)
    made: dict[str, Any] = {"model": take_model(fields), "stream": fields.flag("stream", True)}
    given = fields.take("options", {})
    if not isinstance(given, dict):
        raise WrongType("options", ": expected an object")
    for name, value in given.items():
        if value is None:
            continue
        if name in WHOLE and isinstance(value, float) and value.is_integer():  # as clients in Go may write them
            value = int(value)
        if name in REFUSED_OPTIONS:
            if value != REFUSED_OPTIONS[name]:
                raise refused(f"options.{name}", " is not supported", "unsupported_field")
        elif name == "num_predict":
            made["max_tokens"] = None if type(value) is int and value <= 0 else value
        elif name == "top_k":
            made[name] = 0 if type(value) is int and value < 0 else value
        elif name == "repeat_last_n":
            made["repeat_last"] = EVERYTHING if type(value) is int and value == -1 else value
        elif name in SAME:
            made[name] = None if name == "seed" and value == -1 else value
        else:
            fields.rest[f"options.{name}"] = value  # for loading a model: without effect here
    think = fields.take("think")
    if isinstance(think, str):
        made["reasoning_effort"] = think
    elif think is not None:
        made["chat_template_kwargs"] = {"enable_thinking": checks.flag("think", think)}
    form = fields.take("format", "")
    if form == "json":
        made["response_format"] = {"type": "json_object"}
    elif isinstance(form, dict):
        made["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}
    elif form != "":
        raise WrongType("format", ': expected "json" or a JSON schema')
    made |= {
        "tools": fields.take("tools"),
        "priority": fields.take("priority"),
        "cache_salt": fields.take("cache_salt"),
    }
    return fields, made


def take_model(fields: Fields) -> str | None:
    name = fields.take("name")
    model = fields.take("model", name)
    return None if model is None else checks.string("model", model)


def _logprobs(fields: Fields, made: dict[str, Any]) -> None:
    if fields.flag("logprobs"):
        made |= {"logprobs": True, "top_logprobs": fields.integer("top_logprobs", 0, fields.limits.top_logprobs, 0)}
    elif fields.take("top_logprobs", 0) != 0:
        raise WrongValue("top_logprobs", ": expected logprobs to be true beside it")


def _message(message: Any, i: int) -> Any:
    """OpenAI's message for Ollama's."""
    if not isinstance(message, dict):
        raise WrongType("messages", f"[{i}]: expected an object, not {type(message).__name__}")
    made = {k: v for k, v in message.items() if v is not None}
    if made.pop("images", []) != []:
        raise refused(f"messages[{i}].images", " are not supported", "unsupported_field")
    made.setdefault("content", "")
    thinking = made.pop("thinking", "")
    if thinking != "":
        made["reasoning_content"] = thinking
    name = made.pop("tool_name", None)
    if name is not None:
        made["name"] = name
    calls = made.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list):
            raise WrongType("messages", f"[{i}].tool_calls: expected a list")
        made["tool_calls"] = [_tool_call(call, f"[{i}].tool_calls[{k}]", k) for k, call in enumerate(calls)]
        if not made["tool_calls"]:
            del made["tool_calls"]
    return made


def _tool_call(call: Any, place: str, number: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise WrongType("messages", f'{place}: expected an object with "function"')
    arguments = function.get("arguments") or {}
    if not isinstance(arguments, (dict, str)):
        raise WrongType("messages", f"{place}.function.arguments: expected an object")
    text = arguments if isinstance(arguments, str) else compact(arguments)
    identity = call.get("id") or f"call_{number}"
    return {"id": identity, "type": "function", "function": {"name": function.get("name"), "arguments": text}}


def _finished(call: Call, fields: Fields, settings: Settings) -> Call:
    call.names |= NAMES
    keep = fields.take("keep_alive")  # how long models stay is the operator's choice, except that 0 unloads one
    call.extra["unload"] = type(keep) in (int, float, str) and keep in (0, "0", "0s")
    fields.refuse({"tool_choice": ("auto",)})
    call.ignored = sorted({*call.ignored, *fields.rest})
    check_known(call.ignored, settings, OF_LOADING)
    return call


# ---- answers ------------------------------------------------------------------------------------------------------


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class OllamaShape(Shape):
    """Answers as objects on one line each."""

    media, silence = b"application/x-ndjson", b""  # an empty line would not be JSON

    def __init__(self, core: Core, *arguments: Any) -> None:
        super().__init__(core, *arguments)
        self._finish = "stop"
        self._calls = Part()  # calls are kept here until they are whole

    def content(self, part: Part) -> dict[str, Any]:
        raise NotImplementedError

    def answer(self, parts: Sequence[Part], used: dict[str, Any]) -> dict[str, Any]:
        (part,) = parts
        self._finish = FINISH[part.finish or "cancelled"]
        return {**self._object(part, True), **self._ended(used)}

    def more(self, index: int, part: Part) -> bytes:
        if part.finish is not None:
            self._finish = FINISH[part.finish]
        shown = replace(part, calls=self._whole(part))
        if not (shown.text or shown.reasoning or shown.calls or shown.logprobs):
            return b""
        return dumps(self._object(shown, False)) + b"\n"

    def _whole(self, part: Part) -> list[ToolCallDelta]:
        """The calls that have ended, with the beginning of another or with the answer. Ollama's clients accept only
        whole calls."""
        self._calls.calls += part.calls
        every = self._calls.calls
        last = max((one.index for one in every), default=0)
        ended = every if part.finish is not None else [one for one in every if one.index < last]
        self._calls.calls = [] if part.finish is not None else [one for one in every if one.index == last]
        return ended

    def end(self, used: dict[str, Any]) -> bytes:
        return dumps({**self._object(Part(), True), **self._ended(used)}) + b"\n"

    def failed(self, told: Failure) -> bytes:
        return dumps({"error": told.message}) + b"\n"

    def _object(self, part: Part, done: bool) -> dict[str, Any]:
        made = {"model": self.record.model, "created_at": now(), **self.content(part), "done": done}
        if self.top is not None and part.ids:
            made["logprobs"] = token_objects(self.core, part, self.top)
        return made

    def _ended(self, used: dict[str, Any]) -> dict[str, Any]:
        record, end = self.record, time.monotonic()
        first = record.first or end
        return {
            "done_reason": self._finish,
            "total_duration": nanoseconds(end - record.begun),
            "load_duration": nanoseconds(record.loading),
            "prompt_eval_count": used["prompt_tokens"],
            "prompt_eval_duration": nanoseconds(first - record.begun - record.loading - record.queued),
            "eval_count": used["completion_tokens"],
            "eval_duration": nanoseconds(end - first),
        }


class OllamaChat(OllamaShape):
    def content(self, part: Part) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": part.text}
        if part.reasoning:
            message["thinking"] = part.reasoning
        calls = part.tool_calls()
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "function": {"name": call.name, "arguments": arguments_of(call)}} for call in calls
            ]
        return {"message": message}


class OllamaText(OllamaShape):
    def content(self, part: Part) -> dict[str, Any]:
        found = {"response": part.text}
        if part.reasoning:
            found["thinking"] = part.reasoning
        return found


def nanoseconds(seconds: float) -> int:
    return max(int(seconds * 1e9), 0)


class OllamaGenerate(Generate):
    """/api/chat and /api/generate; without messages or a prompt, they load the model, or unload one that is not in
    use."""

    def __init__(self, service: Service, chats: bool) -> None:
        super().__init__(service, chat if chats else generate, OllamaChat if chats else OllamaText)
        self._chats = chats

    async def _respond(
        self, hosted: Hosted, scope: Scope, receive: Receive, send: Send, call: Call, running: Running
    ) -> None:
        if call.messages != []:
            await super()._respond(hosted, scope, receive, send, call, running)
            return
        unload = bool(call.extra["unload"])
        if unload:
            await self._service.models.unload(hosted)
        else:
            async with self._service.models.use(hosted):
                pass
        content = {"message": {"role": "assistant", "content": ""}} if self._chats else {"response": ""}
        made = {"model": running.record.model, "created_at": now(), **content, "done": True}
        made["done_reason"] = "unload" if unload else "load"
        await whole(send, dumps(made) + b"\n", call.ignored)


# ---- embeddings ---------------------------------------------------------------------------------------------------


def embed(body: dict[str, Any], settings: Settings) -> Task:
    """/api/embed. Texts are never cut, whatever `truncate` says."""
    fields = Fields(body, settings.limits)
    model, texts = take_model(fields), fields.take("input")
    given = [texts] if isinstance(texts, str) else texts
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise WrongType("input", ": expected a text or a list of texts")
    if not 1 <= len(given) <= settings.limits.inputs:
        raise WrongValue("input", f" has {len(given)} texts: expected 1 to {settings.limits.inputs}")
    return _task(fields, settings, model, given, partial(_embedded, time.monotonic()), "input")


def embeddings(body: dict[str, Any], settings: Settings) -> Task:
    """/api/embeddings, the older one."""
    fields = Fields(body, settings.limits)
    model, prompt = take_model(fields), checks.string("prompt", fields.take("prompt"), "a text")
    return _task(
        fields, settings, model, [prompt], lambda rows, model, tokens: {"embedding": rows[0].tolist()}, "prompt"
    )


def _task(fields: Fields, settings: Settings, model: str | None, texts: list[str], answer: Any, given: str) -> Task:
    options = [fields.take(name) for name in ("pooling", "normalize", "dimensions", "instruction")]
    for name in ("keep_alive", "options", "truncate"):
        fields.take(name)
    ignored = rest(fields, settings)
    return Task(model, embedding.embed, (texts, *options), answer, given, ignored)


def _embedded(begun: float, rows: Any, model: str, tokens: int) -> dict[str, Any]:
    seconds = nanoseconds(time.monotonic() - begun)
    made = {"model": model, "embeddings": rows.tolist(), "total_duration": seconds, "load_duration": 0}
    return {**made, "prompt_eval_count": tokens}


async def refusal(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuses requests that would change the models."""
    what = scope["path"].removeprefix("/api/").partition("/")[0]
    text = f"{what} is refused: models are given to `pellucid serve` with -m, and pulled with `pellucid pull`"
    raise Failure(403, text, code="read_only")
