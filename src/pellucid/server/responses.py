"""OpenAI's responses. Requests are translated to those of chat completions, answers made from the same parts."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.openai.fields import ALIASES, OPTIONS, Call, Fields, chat_call, unknown
from pellucid.openai.parts import Part
from pellucid.openai.refusal import INSTEAD, OF_CHATS, OF_OTHERS, REFUSED, WITHOUT_EFFECT, check_known
from pellucid.openai.shapes import is_whole, token_objects
from pellucid.openai.structured import NAMES_OF_FIELDS
from pellucid.results import FinishReason
from pellucid.server.failures import Failure, naming, refused
from pellucid.server.generate import Generate
from pellucid.server.items import add, messages_of, whole
from pellucid.server.models import Hosted
from pellucid.server.service import Running, Service
from pellucid.server.settings import Settings
from pellucid.server.shapes import Shape, document, dumps

__all__ = ["Kept", "Responses", "ResponseShape", "response_call"]

# Fields that would change the answer and are not supported -> values that change nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "truncation": ("disabled",),
}
# Fields that have the same name and meaning in chat completions, or are Pellucid's.
SAME = frozenset(
    {
        *OPTIONS,
        *ALIASES,
        *NAMES_OF_FIELDS,
        "seed",
        "stop",
        "cache_salt",
        "priority",
        "logit_bias",
        "chat_template_kwargs",
        "documents",
        "parallel_tool_calls",
        "prediction",
        "thinking_budget",
        "thinking_token_budget",
    }
)
ELSEWHERE = {
    "enable_thinking": "reasoning.effort or chat_template_kwargs",
    "format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "max_new_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "n_predict": "max_output_tokens",
    "num_predict": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "system": "instructions",
}
LOGPROBS = "message.output_text.logprobs"
MOST_TEXT = 512  # characters of a piece of metadata; 16 of them


class Kept:
    """The conversations of the last answers, which a request may continue. most: how many; 0: none."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._all: OrderedDict[tuple[str, str], tuple[list[Any], dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: str, response: dict[str, Any], messages: list[Any]) -> None:
        """Keeps a conversation. key: the name of the API key of its request, which alone can find it."""
        if not self.most:
            return
        with self._lock:
            self._all[key, response["id"]] = (messages, response)
            while len(self._all) > self.most:
                self._all.popitem(last=False)

    def get(self, key: str, identity: str) -> tuple[list[Any], dict[str, Any]] | None:
        with self._lock:
            found = self._all.get((key, identity))
            if found is not None:
                self._all.move_to_end((key, identity))
            return found

    def remove(self, key: str, identity: str) -> bool:
        with self._lock:
            return self._all.pop((key, identity), None) is not None


# ---- requests -----------------------------------------------------------------------------------------------------


def response_call(body: dict[str, Any], settings: Settings) -> Call:
    """/v1/responses. Raises Failure, ValueError or TypeError naming the field."""
    fields = Fields(body, settings.limits)
    model, metadata = fields.take("model"), _metadata(fields.take("metadata", {}))
    made: dict[str, Any] = {
        "model": None if model is None else checks.string("model", model),
        "stream": fields.flag("stream"),
        "max_completion_tokens": fields.take("max_output_tokens"),
    }
    fields.refuse(UNSUPPORTED)
    previous = fields.take("previous_response_id")
    if previous is not None:
        checks.string("previous_response_id", previous)
        if not settings.responses:
            text = ": answers are not kept: send the whole conversation, or start the server with --responses"
            raise refused("previous_response_id", text, "unsupported_field")
    store = fields.flag("store", True)
    instructions = fields.take("instructions")
    said = [] if instructions is None else [{"role": "system", "content": _instructions(instructions)}]
    asked, places = messages_of(fields.take("input", []), settings.limits.messages)
    made["messages"] = said + asked
    if len(made["messages"]) == len(said) and previous is None:
        raise WrongValue("input", " is empty: expected at least one message")
    reasoning = _object(fields, "reasoning")
    made["reasoning_effort"] = reasoning.get("effort")
    shaped = _object(fields, "text")
    made["response_format"] = _format(shaped.get("format"))
    tools = fields.take("tools", [])
    if not isinstance(tools, list):
        raise WrongType("tools", ": expected a list of tools")
    made["tools"] = [_tool(tool, i) for i, tool in enumerate(tools)] or None
    choice = fields.take("tool_choice")
    made["tool_choice"] = _choice(choice)
    _logprobs(fields, made)
    for name in sorted(SAME & fields.rest.keys()):
        made[name] = fields.take(name)
    fields.refuse({**OF_CHATS, **REFUSED, **OF_OTHERS}, INSTEAD | ELSEWHERE)
    names = {
        "max_completion_tokens": "max_output_tokens",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "response_format.json_schema": "text.format",
    }
    with naming(names):
        call = chat_call(made, settings)
    call.names |= {**names, "max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}
    call.names["context_length_exceeded"] = "input"
    call.name_places([*["instructions"] * len(said), *places], schema=".parameters")
    for name in ("stream_options", "user", "safety_identifier", "service_tier", "prompt_cache_key"):
        fields.take(name)  # they say nothing about the answer
    within = [*unknown("reasoning", reasoning, "effort"), *unknown("text", shaped, "format")]
    call.ignored = sorted({*call.ignored, *fields.rest, *within})
    check_known(call.ignored, settings, WITHOUT_EFFECT)
    call.extra = {
        "previous": previous,
        "own": len(said),
        "places": places,
        "store": store,
        "fields": {
            "instructions": instructions,
            "max_output_tokens": made["max_completion_tokens"],
            "metadata": metadata,
            "parallel_tool_calls": made.get("parallel_tool_calls", True),
            "previous_response_id": previous,
            "reasoning": {"effort": reasoning.get("effort"), "summary": None},
            "store": store and settings.responses > 0,
            "temperature": made.get("temperature"),
            "text": {"format": shaped.get("format") or {"type": "text"}},
            "tool_choice": choice or "auto",
            "tools": tools,
            "top_p": made.get("top_p"),
            "top_logprobs": call.logprobs or 0,
            "truncation": "disabled",
        },
    }
    return call


def _object(fields: Fields, name: str) -> dict[str, Any]:
    value = fields.take(name, {})
    if not isinstance(value, dict):
        raise WrongType(name, ": expected an object")
    return value


def _metadata(value: Any) -> dict[str, str]:
    """Checks the metadata, which is only returned in the answer."""
    if not isinstance(value, dict) or len(value) > 16:
        raise WrongType("metadata", ": expected an object of at most 16 texts")
    for name, text in value.items():
        if len(checks.string("metadata", text, "a text", at=f"[{checks.shown(name)}]")) > MOST_TEXT:
            raise WrongValue("metadata", f"[{checks.shown(name)}] has more than {MOST_TEXT} characters")
    return value


def _instructions(value: Any) -> str:
    return checks.string("instructions", value, "a text")


def _format(form: Any) -> Any:
    """The field `response_format` of chat completions, in which a schema has a key of its own."""
    if form is None:
        return None
    if not isinstance(form, dict):
        raise WrongType("text", ".format: expected an object")
    if form.get("type") != "json_schema":
        return form
    inner = {name: form[name] for name in ("name", "schema", "strict", "description") if name in form}
    return {"type": "json_schema", "json_schema": inner}


def _tool(tool: Any, i: int) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise WrongType("tools", f"[{i}]: expected an object, not {type(tool).__name__}")
    if tool.get("type") != "function":
        shown = checks.shown(tool.get("type"))
        raise refused(f"tools[{i}].type", f"={shown}: only functions are supported", "unsupported_field")
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {n: tool[n] for n in names if tool.get(n) is not None}}


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _logprobs(fields: Fields, made: dict[str, Any]) -> None:
    include = fields.take("include", [])
    if not isinstance(include, list) or not all(isinstance(one, str) for one in include):
        raise WrongType("include", ": expected a list of texts")
    top = fields.integer("top_logprobs", 0, fields.limits.top_logprobs, 0)
    if LOGPROBS in include or top:
        made |= {"logprobs": True, "top_logprobs": top}


# ---- answers ------------------------------------------------------------------------------------------------------


class ResponseShape(Shape):
    """A response, whole or as events: items, of which one is open at a time."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._created = int(time.time())
        self._number = 0  # of the next event
        self._items: list[dict[str, Any]] = []  # the last one may be open
        self._open = ""  # the type of the open one; "": it has ended
        self._scores: list[dict[str, Any]] = []  # log probabilities of its text
        self._held: list[dict[str, Any]] = []  # those of tokens whose text is still held back
        self._finish: FinishReason = "cancelled"

    def answer(self, parts: Sequence[Part], used: dict[str, Any]) -> dict[str, Any]:
        """What the events say at their end."""
        (part,) = parts
        self.more(0, part)
        return self._ended(used)[1]

    def begin(self, choices: int, echoed: Sequence[Part], prompt_tokens: int) -> bytes:
        response = self._response("in_progress", [])
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def more(self, index: int, part: Part) -> bytes:
        return b"".join(self._run(run) for run in part.runs())

    def _run(self, part: Part) -> bytes:
        events = []
        going, calls = part.rest_and_calls()
        if going:  # before what follows the call
            events.append(self._argue(going))
        if part.reasoning:
            events.append(self._begin("reasoning"))
            self._held = []  # they spelled the tag
            self._content()["text"] += part.reasoning
            events.append(self._of_part("response.reasoning_text.delta", delta=part.reasoning))
        if part.text:
            events.append(self._begin("message"))
            scores = self._held + self._logprobs(part)
            self._content()["text"] += part.text
            self._scores += scores
            self._held = []
            events.append(self._of_part("response.output_text.delta", delta=part.text, logprobs=scores))
        elif self._open in ("", "message") and not part.reasoning and not part.calls:
            self._held += self._logprobs(part)
        for one in calls:
            events.append(self._begin_call(one.id or "", one.name or ""))
            if one.arguments:
                events.append(self._argue(one.arguments))
        if part.finish is not None:
            self._finish = part.finish
        return b"".join(events)

    def end(self, used: dict[str, Any]) -> bytes:
        events, response = self._ended(used)
        return events + self._event(f"response.{response['status']}", response=response)

    def _ended(self, used: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """(the events that end the open item, the whole response)."""
        cut = self._finish == "stop" and self._open == "function_call" and not is_whole(self._items[-1]["arguments"])
        whole = self._finish in ("eos", "stop") and not cut
        begun = self._begin("message") if not self._items else b""
        ended = self._end("completed" if whole else "incomplete")
        response = self._response("completed" if whole else "incomplete", self._items)
        response["completed_at"] = int(time.time()) if whole else None
        if not whole:
            response["incomplete_details"] = {"reason": "stop" if cut else "max_output_tokens"}
        response["usage"] = _usage(used)
        keep = self.call.extra.get("keep")
        if keep is not None:  # before its client may ask for it
            keep(response, self.said())
        return begun + ended, response

    def failed(self, told: Failure) -> bytes:
        code = "rate_limit_exceeded" if told.status == 429 else "server_error"
        response = {**self._response("failed", []), "error": {"code": code, "message": told.message}}
        error = self._event("error", code=told.code, message=told.message, param=told.param)
        return error + self._event("response.failed", response=response)

    def said(self) -> list[dict[str, Any]]:
        """The answer as messages, to be continued."""
        made: list[dict[str, Any]] = []
        for i, item in enumerate(self._items):
            add(made, item, f"[{i}]")
        return whole(made)

    # ---- events -----------------------------------------------------------------------------------------------

    def _event(self, kind: str, **values: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        data = {"type": kind, "sequence_number": number, **values}
        return f"event: {kind}\n".encode() + b"data: " + dumps(data) + b"\n\n"

    def _of_item(self, kind: str, **values: Any) -> bytes:
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return self._event(kind, **place, **values)

    def _of_part(self, kind: str, **values: Any) -> bytes:
        return self._of_item(kind, content_index=0, **values)

    def _begin(self, kind: str) -> bytes:
        """Begins an item that holds a text; nothing if one of this kind is open."""
        if self._open == kind:
            return b""
        ended = self._end("completed")
        item: dict[str, Any] = {"id": self._new_id(kind), "type": kind, "status": "in_progress", "content": []}
        part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        if kind == "message":
            item["role"] = "assistant"
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        else:
            item["summary"] = []
        self._items.append(item)
        self._open = kind
        self._scores = []
        added = self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)
        begun = self._of_part("response.content_part.added", part=part)
        item["content"].append(part)
        return ended + added + begun

    def _new_id(self, kind: str) -> str:
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        return f"{prefix}_{self.record.id}_{len(self._items)}"

    def _begin_call(self, identity: str, name: str) -> bytes:
        self._held = []  # they spelled the tag
        ended = self._end("completed")
        item = {"id": self._new_id("function_call"), "type": "function_call", "status": "in_progress"}
        item |= {"call_id": identity, "name": name, "arguments": ""}
        self._items.append(item)
        self._open = "function_call"
        return ended + self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _argue(self, text: str) -> bytes:
        """Adds to the arguments of the open call."""
        self._items[-1]["arguments"] += text
        return self._of_item("response.function_call_arguments.delta", delta=text)

    def _end(self, status: str) -> bytes:
        """Ends the open item."""
        if not self._open:
            return b""
        item, kind, self._open = self._items[-1], self._open, ""
        item["status"] = status
        if kind == "function_call":
            given = {"name": item["name"], "arguments": item["arguments"]}
            done = self._of_item("response.function_call_arguments.done", **given)
        else:
            part = self._content()
            if kind == "message":
                self._scores, self._held = self._scores + self._held, []
                part["logprobs"] = self._scores
                done = self._of_part("response.output_text.done", text=part["text"], logprobs=self._scores)
            else:
                done = self._of_part("response.reasoning_text.done", text=part["text"])
            done += self._of_part("response.content_part.done", part=part)
        return done + self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _content(self) -> dict[str, Any]:
        """The text of the open item."""
        part: dict[str, Any] = self._items[-1]["content"][0]
        return part

    # ---- objects ----------------------------------------------------------------------------------------------

    def _response(self, status: str, output: list[Any]) -> dict[str, Any]:
        return {
            "id": f"resp_{self.record.id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self.record.model,
            "output": output,
            "usage": None,
            **self.call.extra["fields"],
        }

    def _logprobs(self, part: Part) -> list[dict[str, Any]]:
        return [] if self.top is None else token_objects(self.core, part, self.top)


def _usage(used: dict[str, Any]) -> dict[str, Any]:
    cached = used["prompt_tokens_details"]["cached_tokens"]
    reasoning = used.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": used["total_tokens"],
    }


class Responses(Generate):
    """/v1/responses, and the answers that are kept."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, response_call, ResponseShape)
        self.kept = Kept(service.settings.responses)

    async def _respond(
        self, hosted: Hosted, scope: Scope, receive: Receive, send: Send, call: Call, running: Running
    ) -> None:
        key, extra = scope["state"]["key"].name, call.extra
        if extra["previous"] is not None:
            found = self.kept.get(key, extra["previous"])
            if found is None:
                text = f"no answer {checks.shown(extra['previous'])} is kept"
                raise Failure(404, text, code="previous_response_not_found", param="previous_response_id")
            own = extra["own"]
            call.messages[own:own] = found[0]
            before = ["previous_response_id"] * len(found[0])
            call.name_places([*["instructions"] * own, *before, *extra["places"]])
        if extra["store"] and self.kept.most:
            asked = call.messages[extra["own"] :]
            extra["keep"] = lambda response, said: self.kept.put(key, response, [*asked, *said])
        await super()._respond(hosted, scope, receive, send, call, running)

    async def one(self, request: Request) -> Response:
        """GET or DELETE of a kept answer."""
        key, identity = request.scope["state"]["key"].name, request.path_params["id"]
        found = self.kept.get(key, identity)
        if found is None:
            raise Failure(404, f"no answer {checks.shown(identity)} is kept", code="not_found")
        if request.method == "DELETE":
            self.kept.remove(key, identity)
            return document({"id": identity, "object": "response", "deleted": True})
        if request.query_params.get("stream") == "true":
            raise refused("stream", "=true: an answer that is kept is not streamed again", "unsupported_field")
        response = found[1]
        return Response(await self._service.write(lambda: dumps(response, apart=True)), media_type="application/json")
