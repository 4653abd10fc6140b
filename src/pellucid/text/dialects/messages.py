"""Conversations with tools, for chat templates that support them in part or not at all.

Whether a template writes tools, calls and results is found by trying it with small ones, since templates do not declare
it. What it does not write is added: descriptions of tools to the system message, calls to the content of their message,
results to a user message, and developer messages as system messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from pellucid.errors import ChatTemplateError
from pellucid.text.dialects.dialect import Dialect, Marker, Written
from pellucid.text.dialects.values import types

__all__ = ["Prepared", "Writer", "by_chance"]

_NAME, _PROBE, _TEXT = "pellucid_probe", "pellucid probe", '{"pellucid": "probe"}'
_USER = {"role": "user", "content": "x"}
_SCHEMA = {"type": "object", "properties": {"pellucid": {"type": "string", "description": "probe"}}, "required": []}
_FUNCTION = {"name": _NAME, "description": "probe", "parameters": _SCHEMA}
_SPARSE = {"type": "object", "properties": {"pellucid": {"type": ["object", "null"]}}}
_TYPES = frozenset(("string", "number", "integer", "boolean", "array", "object"))
_MOST_DEPTH = 20
_STAND_INS = range(0xF0000, 0xFFFFE)  # a private-use area


class _Template(Protocol):
    def render(self, messages: Any, *, tools: Any = None) -> tuple[str, dict[int, str]]: ...


class Prepared(NamedTuple):
    """The input for a template. tags: characters in the messages that stand for tags of the model."""

    messages: Any
    tools: Any
    tags: dict[str, str]


class Writer:
    """Prepares conversations for a template. specials: spellings of its special tokens. for_tools: it is the model's
    template for conversations with tools, and is given them even if it does not write them."""

    def __init__(
        self, template: _Template, dialect: Dialect, specials: Sequence[str], *, for_tools: bool = False
    ) -> None:
        self._template = template
        self._for_tools = for_tools
        self._dialect = dialect
        self._specials = frozenset(specials)
        self._forms: dict[bool, tuple[str, str | None]] = {}

    def prepare(self, messages: Any, tools: Any, name: str = "messages") -> Prepared:
        """Messages and tools in the form that the template accepts. Raises TypeError or ValueError naming the place of
        a wrong call."""
        if not isinstance(messages, (list, tuple)) or not all(isinstance(one, Mapping) for one in messages):
            return Prepared(messages, tools, {})  # the template's reader names the place of the error
        read = [_read(one, f"{name}[{i}]") for i, one in enumerate(messages)]
        developed = any(_role(one) == "developer" for one in read) and not self._writes_developer
        if developed:
            read = [{**one, "role": "system"} if _role(one) == "developer" else one for one in read]
        if [_role(one) for one in read[:2]] == ["system"] * 2 and (developed or not self._writes_systems):
            read = _joined(read)
        talks = any(one.get("tool_calls") or _role(one) == "tool" for one in read)
        tags: dict[str, str] = {}
        if talks:
            if self._dialect.single:
                read = _split(read)
            if self._dialect.says_or_thinks:
                read = [_thought(one) for one in read]
            read = self._ids(read)
            read = self._calls(read, tags)
            read = self._results(read)
        if tools:
            read, tools = self._tools(read, tools)
        return Prepared(read, tools or None, tags)

    # ---- what the template does ----------------------------------------------------------------------------------

    def _try(self, messages: list[dict[str, Any]], tools: Any = None) -> str:
        """What the template writes for a conversation; "" if it rejects it."""
        try:
            text, back = self._template.render(messages, tools=tools)
        except (ChatTemplateError, ValueError, TypeError) as error:
            if by_chance(error):
                raise
            return ""
        return text.translate(back)

    @cached_property
    def _writes_tools(self) -> str:
        """The form in which it writes tools: "nested", OpenAI's; "flat", only flat ones; or "" """
        if _NAME in self._try([_USER], [{"type": "function", "function": _FUNCTION}]):
            return "nested"
        if _NAME in self._try([_USER], [_FUNCTION]):
            return "flat"
        return "nested" if self._for_tools else ""

    @cached_property
    def _writes_any(self) -> bool:
        """Whether it writes parameters without a description, of several types, or of objects whose schema does not
        describe their values."""
        return _NAME in self._try([_USER], [_nested({**_FUNCTION, "parameters": _SPARSE})])

    @cached_property
    def _tool(self) -> Any:
        return [{"type": "function", "function": _FUNCTION}] if self._writes_tools == "nested" else None

    def _writes_calls(self, content: bool) -> tuple[str, str | None]:
        if content not in self._forms:
            self._forms[content] = self._find_form(content)
        return self._forms[content]

    def _find_form(self, content: bool) -> tuple[str, str | None]:
        """(the form in which it writes the arguments of calls, with or without content: "text" as it is, an "object" in
        JSON, or ""; what stands for no content)."""
        before = self._try([_USER], self._tool).count(_NAME)
        for form, arguments in (("text", _TEXT), ("object", json.loads(_TEXT))):
            for said in (_PROBE,) if content else ("", None):
                text = self._try([_USER, *_calling(said, arguments, "done")], self._tool)
                whole = _TEXT in text if form == "text" else '"pellucid"' in text or "pellucid" in text.split(_NAME)[-1]
                if text.count(_NAME) > before and whole and (not content or _PROBE in text):
                    return form, said
        return "", ""

    @cached_property
    def _writes_results(self) -> bool:
        form, said = self._writes_calls(False)
        asks = _calling(said, _TEXT if form == "text" else json.loads(_TEXT), _PROBE)
        if not form:
            asks[0] = {"role": "assistant", "content": "y"}
        return _PROBE in self._try([_USER, *asks], self._tool)

    @cached_property
    def _alternates(self) -> bool:
        """Whether it rejects two consecutive user messages."""
        return _PROBE not in self._try([_USER, {"role": "user", "content": _PROBE}])

    @cached_property
    def _writes_developer(self) -> bool:
        """Whether it has its own text for developer messages, also after the system's, which other roles do not get."""
        own, other = ([{"role": role, "content": _PROBE}, _USER] for role in ("developer", _NAME))
        if _PROBE not in self._try([{"role": "system", "content": "x"}, *own]):
            return False
        return self._try(own) not in ("", self._try(other).replace(_NAME, "developer"))

    @cached_property
    def _writes_systems(self) -> bool:
        """Whether it writes two system messages at the start; many write only the first or the last."""
        said = [{"role": "system", "content": one} for one in (_PROBE, _TEXT)]
        text = self._try([*said, _USER], self._tool)
        return _PROBE in text and _TEXT in text

    @cached_property
    def _writes_system(self) -> bool:
        return _PROBE in self._try([{"role": "system", "content": _PROBE}, _USER], self._tool)

    # ---- what is done for it -------------------------------------------------------------------------------------

    def _ids(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ids of calls in the form that models of this family use."""
        known: dict[Any, str] = {}
        for n, message in enumerate(messages):
            for i, call in enumerate(message.get("tool_calls") or ()):
                id = call.get("id")
                new = self._dialect.call_id(f"{n} {i}" if id is None else id, call["function"]["name"], i)
                if new is not None:
                    known[str(id)] = call["id"] = new
            if _role(message) == "tool" and message.get("tool_call_id") is not None:
                id = str(message["tool_call_id"])
                new = known.get(id) or self._dialect.call_id(id, "", 0)
                if new is not None:
                    message["tool_call_id"] = new
        return messages

    def _calls(self, messages: list[dict[str, Any]], tags: dict[str, str]) -> list[dict[str, Any]]:
        marks: dict[str, str] | None = None
        for message in messages:
            calls = message.get("tool_calls")
            if not calls:
                continue
            before = _text(message.get("content"))
            form, none = self._writes_calls(bool(before))
            if before and not form:  # calls matter more than the text before them
                form, none = self._writes_calls(False)
                before = "" if form else before
            if form:
                message["content"] = message["content"] if before else none
                for call in calls:
                    call["function"]["arguments"] = _arguments(call["function"]["arguments"], form)
                continue
            if marks is None:
                marks = self._marks(messages)
            written = [
                Written(one["function"]["name"], _arguments(one["function"]["arguments"], "text")) for one in calls
            ]
            parts = self._dialect.write(written)
            text = "".join(marks.get(one, one) if isinstance(one, Marker) else one for one in parts)
            message["content"] = f"{before}\n{text}" if before else text
            del message["tool_calls"]
        tags.update({mark: tag for tag, mark in (marks or {}).items()})
        return messages

    def _marks(self, messages: list[dict[str, Any]]) -> dict[str, str]:
        """A character for each tag that is a single token."""
        own = [tag for tag in self._dialect.tags if tag in self._specials]
        if not own:
            return {}
        said = json.dumps(messages, ensure_ascii=False, default=str)
        free = (chr(code) for code in _STAND_INS if chr(code) not in said)
        return dict(zip(own, free, strict=False))

    def _results(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._writes_results and not self._dialect.results_as_user:
            for message in messages:
                if _role(message) == "tool" and isinstance(message.get("content"), list):
                    message["content"] = _text(message["content"])
            return messages
        made: list[dict[str, Any]] = []
        own: list[tuple[dict[str, Any], list[str]]] = []  # the messages made here, and the parts of their texts
        joins = False  # whether the next message of the user or a tool is joined to the last message
        for message in messages:
            text = _text(message.get("content"))
            if _role(message) == "tool":
                text = f"<tool_response>\n{text}\n</tool_response>"
            elif not (joins and _role(message) == "user" and self._alternates):
                joins = False
                made.append(message)
                continue
            if joins:
                own[-1][1].append(text)
            else:
                made.append({"role": "user"})
                own.append((made[-1], [text]))
            joins = True
        for message, parts in own:
            message["content"] = "\n".join(parts)
        return made

    def _tools(self, messages: list[dict[str, Any]], tools: Sequence[Any]) -> tuple[list[dict[str, Any]], Any]:
        if not all(isinstance(one, Mapping) for one in tools):
            return messages, tools
        form = self._writes_tools
        if form == "nested":
            return messages, [self._written(one) for one in tools]
        if form:
            return messages, [one.get("function", one) for one in tools]
        text = self._dialect.describe([one.get("function", one) for one in tools])
        system = messages and _role(messages[0]) == "system"
        if self._writes_system:
            before = _text(messages[0].get("content")) if system else ""
            first = {"role": "system", "content": f"{before}\n\n{text}" if before else text}
            return [first, *messages[1 if system else 0 :]], None
        made = list(messages)
        for i, message in enumerate(made):
            if _role(message) == "user":
                made[i] = {**message, "content": f"{text}\n\n{_text(message.get('content'))}"}
                return made, None
        return [{"role": "user", "content": text}, *made], None

    def _written(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        """A tool as it is given if the template writes it like that, as in transformers; else with the keys that it
        reads."""
        given, nested = _given(tool), _nested(tool)
        if given is not None and given != nested:  # it lacks some keys
            if str(given["function"].get("name")) in self._try([_USER], [given]):
                return given
        return nested if self._writes_any or self._try([_USER], [nested]) else _filled(nested)


def by_chance(error: Exception) -> bool:
    """Whether a template failed only because memory or stack was short: a later call may succeed."""
    return isinstance(error.__context__, (MemoryError, RecursionError))


def _calling(content: str | None, arguments: Any, result: str) -> list[dict[str, Any]]:
    """A message with a call, and its result."""
    call = {"id": "probe1234", "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    return [
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "probe1234", "name": _NAME, "content": result},
    ]


def _role(message: Mapping[str, Any]) -> str:
    """The role of a message; "" if it is not a message: the template's reader names its place."""
    role = message.get("role")
    return role if isinstance(role, str) else ""


def _read(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A copy of a message with validated calls; without an empty list."""
    copy = dict(message)
    if "tool_calls" not in copy:
        return copy
    calls = copy.pop("tool_calls")
    if calls is None or (isinstance(calls, (list, tuple)) and not calls):
        return copy
    place = f'{place}["tool_calls"]'
    if not isinstance(calls, (list, tuple)):
        raise TypeError(f"{place} must be a list of dicts, not {type(calls).__name__}")
    copy["tool_calls"] = [_call(one, f"{place}[{i}]") for i, one in enumerate(calls)]
    if copy.get("content") is None:
        copy["content"] = ""
    return copy


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system's messages at the start as a single one, since most templates write no more than one there."""
    first = list(takewhile(lambda one: _role(one) == "system", messages))
    content = "\n\n".join(_text(one.get("content")) for one in first)
    return [{**first[0], "content": content}, *messages[len(first) :]]


def _call(call: Any, place: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise TypeError(f'{place} must be a dict with "function", not {type(call).__name__}')
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        raise TypeError(f'{place}["function"] must be a dict, not {type(function).__name__}')
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{place}: expected the name of a function")
    if arguments is not None and not isinstance(arguments, (str, Mapping)):
        raise TypeError(f"{place}: arguments must be JSON text or a dict, not {type(arguments).__name__}")
    rest = {} if "function" not in call else {k: v for k, v in call.items() if k != "function"}
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = "{}"
    given = {"name": name, "arguments": arguments}
    return {"type": "function", **rest, "function": {**function, **given}}


def _arguments(arguments: Any, form: str) -> Any:
    """Arguments as JSON text, or as an object if they are one."""
    if form == "text":
        return arguments if isinstance(arguments, str) else json.dumps(dict(arguments), ensure_ascii=False, default=str)
    if not isinstance(arguments, str):
        return arguments
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _split(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A message for each call, with its results after it, for templates that accept only one call per message."""
    made: list[dict[str, Any]] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        calls = message.get("tool_calls") or ()
        at += 1
        if len(calls) < 2:
            made.append(message)
            continue
        known: dict[str, list[dict[str, Any]]] = {repr(call.get("id")): [] for call in calls}
        others: list[dict[str, Any]] = []  # results of no call here
        while at < len(messages) and _role(messages[at]) == "tool":
            known.get(repr(messages[at].get("tool_call_id")), others).append(messages[at])
            at += 1
        for i, call in enumerate(calls):
            rest = message if not i else {"role": message.get("role"), "content": ""}
            made.append({**rest, "tool_calls": [call]})
            made += known.pop(repr(call.get("id")), ())
        made += others
    return made


def _thought(message: dict[str, Any]) -> dict[str, Any]:
    """A message with calls whose content becomes part of its reasoning, if it has both."""
    name = next((one for one in ("reasoning_content", "thinking", "reasoning") if message.get(one)), None)
    if not message.get("tool_calls") or not message.get("content") or name is None:
        return message
    rest = {k: v for k, v in message.items() if k not in ("reasoning_content", "thinking", "reasoning")}
    return {**rest, "content": "", name: f"{message[name]}\n\n{_text(message['content'])}"}


def _given(tool: Mapping[str, Any]) -> dict[str, Any] | None:
    """A tool in OpenAI's form, with only the keys that it has, in the order that models were trained on."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        return None
    rest = {k: v for k, v in function.items() if k not in ("type", "strict") or "function" in tool}
    return {"type": "function", "function": rest}


def _nested(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool in OpenAI's form, with the keys that templates read."""
    found = _given(tool)
    if found is None:
        return dict(tool)
    rest = found["function"]
    given = rest.get("parameters")
    if "description" not in rest:
        rest = {"name": rest.get("name"), "description": "", **rest}
    table = {**given} if isinstance(given, Mapping) else {}
    table.setdefault("type", "object")
    table.setdefault("properties", {})
    return {"type": "function", "function": {**rest, "parameters": table}}


def _filled(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool of `_nested` for a template that writes each parameter itself, like a Python function's: with everything
    that it reads, and only types that it knows."""
    function = tool.get("function")
    if not isinstance(function, Mapping) or not isinstance(function["parameters"]["properties"], Mapping):
        return tool
    table = function["parameters"]
    properties = {k: {"description": "", **_typed(v, table)} for k, v in table["properties"].items()}
    return {**tool, "function": {**function, "parameters": {"required": [], **table, "properties": properties}}}


def _typed(schema: Any, root: Any, depth: int = 0) -> dict[str, Any]:
    """A schema with its declared type: one, a list of several, or None, which such templates write as any."""
    given = schema if isinstance(schema, Mapping) and depth < _MOST_DEPTH else {}
    known = types(given, root) - {"null"}
    if known == {"object"}:
        return {
            **given,
            "type": "object",
            "additionalProperties": _typed(given.get("additionalProperties"), root, depth + 1),
        }
    if not known or not known <= _TYPES - {"object"}:
        return {**given, "type": None}
    return {**given, "type": sorted(known) if len(known) > 1 else min(known)}


def _text(content: Any) -> str:
    """A message's content as text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)) and all(isinstance(one, Mapping) and "text" in one for one in content):
        return "\n".join(str(one["text"]) for one in content)
    return json.dumps(content, ensure_ascii=False, default=str)
