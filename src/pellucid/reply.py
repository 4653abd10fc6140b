"""What an answer in a conversation may contain besides text: tool calls and reasoning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.functions import declare
from pellucid.results import Piece, ToolCallDelta
from pellucid.text.dialects import Dialect, Parser, Said, Thinking, find, thinking
from pellucid.text.dialects.ids import spell
from pellucid.text.dialects.json_calls import NAME

__all__ = ["Asked", "Reply", "Spoken", "Tool", "for_template", "read_asked"]

MOST_BUDGET = 2**31 - 1
_OF_NOTHING = frozenset(("type", "properties", "required", "title", "description", "$schema"))
_ANSWER = ("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "thinking_budget")


class Tool(NamedTuple):
    """A tool: the schema of its parameters, and whether all of that schema must be enforced."""

    name: str
    schema: Mapping[str, Any]
    strict: bool


@dataclass(frozen=True)
class Asked:
    """What the options of a conversation require of its answer. tools: those that the model may call, each in the form
    that `template` expects; None: none. choice: "auto", "required", or the name of the tool to call. budget: maximum
    tokens of reasoning; None: any number."""

    tools: tuple[Tool, ...] | None = None
    template: list[dict[str, Any]] | None = None
    choice: str = "auto"
    named: bool = False
    parallel: bool = True
    budget: int | None = None
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The tools that may be called: all, or the one that must be."""
        tools = self.tools or ()
        return tuple(one for one in tools if one.name == self.choice) if self.named else tools


def read_asked(options: Mapping[str, Any]) -> Asked:
    """Checks the options `tools`, `tool_choice`, `parallel_tool_calls`, `reasoning_effort` and `thinking_budget`.
    Raises WrongType or WrongValue naming the option."""
    choice = options.get("tool_choice")
    parallel, effort = options.get("parallel_tool_calls"), options.get("reasoning_effort")
    budget = options.get("thinking_budget")
    declared, tools = _tools(options.get("tools"))
    variables: dict[str, Any] = (
        {} if effort is None else {"reasoning_effort": checks.string("reasoning_effort", effort)}
    )
    if budget is not None:
        budget = variables["thinking_budget"] = checks.integer("thinking_budget", budget, 0, MOST_BUDGET)
    parallel = True if parallel is None else checks.flag("parallel_tool_calls", parallel)
    name, named = _choice(choice, tools)
    if name == "none" or not tools:
        return Asked(budget=budget, variables=variables)
    return Asked(tools, declared, name, named, parallel and not named, budget, variables)


def for_template(options: Mapping[str, Any]) -> tuple[Asked, dict[str, Any]]:
    """(what the options of a conversation require of its answer, the options of ``Chat.conversation``). Raises as
    `read_asked` does."""
    asked = read_asked(options)
    own = {name: value for name, value in options.items() if name not in _ANSWER}
    if asked.template is not None:
        own["tools"] = asked.template
    variables = own.get("variables")
    if asked.variables and (variables is None or isinstance(variables, Mapping)):
        own["variables"] = {**asked.variables, **(variables or {})}
    return asked, own


def _tools(given: Any) -> tuple[list[dict[str, Any]], tuple[Tool, ...]]:
    if given is None:
        return [], ()
    if not isinstance(given, (list, tuple)):
        raise WrongType("tools", f" must be a list of dicts, not {type(given).__name__}")
    declared: list[dict[str, Any]] = []
    tools: dict[str, Tool] = {}
    for i, one in enumerate(given):
        at = f"[{i}]"
        if callable(one) and not isinstance(one, Mapping):
            one = declare(one, f"tools{at}")
        if not isinstance(one, Mapping):
            raise WrongType("tools", f"{at} must be a dict or a function with types, not {type(one).__name__}")
        kind, function = one.get("type", "function"), one.get("function", one)
        if kind != "function" or not isinstance(function, Mapping):
            raise WrongValue("tools", f'{at}: expected {{"type": "function", "function": {{"name": ...}}}}')
        name, schema = function.get("name"), function.get("parameters")
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise WrongValue("tools", f"{at}: expected a name of at most 128 letters, digits and _ - . : /")
        if schema is not None and not isinstance(schema, Mapping):
            raise WrongType("tools", f"{at}: parameters must be a JSON schema, not {type(schema).__name__}")
        kinds = (schema or {}).get("type", "object")
        if "object" not in (kinds if isinstance(kinds, (list, tuple)) else (kinds,)):
            raise WrongValue("tools", f"{at}: its schema must be that of an object, not of type {checks.shown(kinds)}")
        if name in tools:
            raise WrongValue("tools", f"{at}: there is another tool with the name {name}")
        declared.append(dict(one))
        tools[name] = Tool(name, _parameters(schema), function.get("strict") is True)
    return declared, tuple(tools.values())


def _parameters(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The schema of a call's arguments; for a schema that is left out or lists no properties, no arguments."""
    if schema and (schema.get("properties") != {} or schema.get("required") or not schema.keys() <= _OF_NOTHING):
        return schema
    return {**(schema or {}), "type": "object", "properties": {}, "additionalProperties": False}


def _choice(given: Any, tools: Sequence[Tool]) -> tuple[str, bool]:
    """(the choice, whether it is a tool's name)."""
    if given is None:
        return "auto", False
    if isinstance(given, str):
        choice = checks.choice("tool_choice", given, ("auto", "none", "required"))
        if choice == "required" and not tools:
            raise WrongValue("tool_choice", "='required': expected tools beside it")
        return choice, False
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        expected = '\'auto\', \'none\', \'required\' or {"type": "function", "function": {"name": ...}}'
        raise checks.wrong_value("tool_choice", given, expected)
    if not any(name == one.name for one in tools):
        raise WrongValue("tool_choice", f": {checks.shown(name)} is not one of the tools")
    return name, True


class Reply:
    """How the answer to one prompt is read.

    piece: the bytes of a token. specials: tokens by their spellings. source: the template's; text: the prompt's.
    """

    def __init__(
        self, piece: Callable[[int], bytes], specials: Mapping[str, int], source: str, text: str, asked: Asked
    ) -> None:
        self.asked = asked
        self.dialect: Dialect = find(source)
        self.thinking: Thinking | None = thinking(self.dialect, source)
        end = text[-256:].rstrip()
        self.begun = self.thinking is not None and end.endswith(self.thinking.opens)
        self.thought = self.thinking is not None and end.endswith(self.thinking.closes)  # the model is not to reason
        tags = (*self.dialect.tags, *((self.thinking.opens, self.thinking.closes) if self.thinking is not None else ()))
        self.specials = {tag: specials[tag] for tag in tags if tag in specials}
        self._spelled = {id: tag.encode() for tag, id in self.specials.items()}
        self._piece = piece

    @classmethod
    def of(
        cls, piece: Callable[[int], bytes], specials: Mapping[str, int], source: str, text: str, asked: Asked
    ) -> Reply | None:
        """None if the answer can only be text."""
        found = cls(piece, specials, source, text, asked)
        return None if asked.tools is None and found.thinking is None else found

    def piece(self, id: int) -> bytes:
        """The bytes of a token; for a tag, its spelling."""
        return self._spelled.get(id) or self._piece(id)

    def guided(self, structured: bool) -> bool:
        """Whether anything constrains what may be drawn: tools, an end of reasoning, a structure after reasoning."""
        return self.asked.tools is not None or (
            self.thinking is not None and (structured or self.asked.budget is not None)
        )

    def parser(self, either: bool = False) -> Parser:
        """either: the answer is either tool calls or a structured text."""
        asked = self.asked
        tools = None if asked.tools is None else {one.name: one.schema for one in asked.tools}
        most = None if tools is None or asked.parallel else 1
        return Parser(self.dialect, tools, thinking=self.thinking, begun=self.begun, most=most, either=either)


class Spoken:
    """Separates the parts of one answer. ids: of the prompt; seed: of the answer; the ids of tool calls are derived
    from these, so that the same request gives the same result. either: see ``Reply.parser``."""

    def __init__(self, reply: Reply, ids: Iterable[int], seed: object, either: bool = False) -> None:
        self._parser = reply.parser(either)
        self._dialect = reply.dialect
        digest = hashlib.blake2b(json.dumps([seed, *ids]).encode(), digest_size=16)
        self._digest = digest.digest()
        self._reasoned = 0

    @property
    def done(self) -> bool:
        """Whether the answer has the maximum number of calls, so that it ends."""
        return self._parser.done

    def piece(self, piece: Piece) -> Piece:
        """A piece of plain text, split into its parts."""
        before = self._parser.thinking
        said = self._parser.push(piece.text)
        if before or self._parser.thinking:
            self._reasoned += len(piece.ids)
        calls = self._deltas(said)
        content, reasoning = said.content, said.reasoning
        reasoned = 0
        if piece.finish_reason is not None:
            rest = self._parser.finish()
            content, reasoning = content + rest.content, reasoning + rest.reasoning
            calls += self._deltas(rest)
            reasoned = self._reasoned
        return piece._replace(text=content, reasoning=reasoning, tool_calls=tuple(calls), reasoning_tokens=reasoned)

    def _deltas(self, said: Said) -> list[ToolCallDelta]:
        return [
            ToolCallDelta(one.index, None if one.name is None else self._id(one.index), one.name, one.arguments)
            for one in said.calls
        ]

    def _id(self, index: int) -> str:
        dialect = self._dialect
        digest = hashlib.blake2b(self._digest + index.to_bytes(8, "little"), digest_size=32).digest()
        return dialect.id_prefix + spell(digest, dialect.id_length)
