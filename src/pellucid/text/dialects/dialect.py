"""The common part of the families of models: how an answer is read, and how calls are written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, AnyStr, ClassVar, NamedTuple

from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["THINK", "Dialect", "Marker", "Shape", "Thinking", "Written", "instructions", "spaced"]


class Thinking(NamedTuple):
    """The tags of reasoning. closing: the text written to end reasoning. anywhere: whether it may also begin within an
    answer. always: whether an answer begins with it, and each part of it is a separate message."""

    opens: str
    closes: str
    closing: str
    anywhere: bool = False
    always: bool = False


THINK = Thinking("<think>", "</think>", "\n</think>\n\n")


class Written(NamedTuple):
    """A call as it was passed in: arguments are JSON."""

    name: str
    arguments: str


class Marker(str):
    """A tag in a shape, which may be a single token."""


class Shape(NamedTuple):
    """How a call of one tool is spelled. before, after: texts and markers around the arguments. values: texts around
    each argument, if arguments are not a JSON object (see `grammar`)."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    values: Callable[[str], tuple[str, str]] | None = None
    between: str = ""


class Dialect:
    """A family's format of calls and reasoning.

    marks: what the source of such a template contains, each of them one of several alternatives. opens: texts with
    which calls begin, none of which contains another; ends_thinking: those that end reasoning, too. triggers: texts
    after which a grammar can constrain the rest of a call; white space in them stands for any amount of it;
    trigger_first: only if the answer begins with one. layout: tags around content. tags: all those that may be control
    tokens and are spelled out in the text to be read. first, last, joint: text before, after and between several calls.
    declines: the tool name with which the model states that it calls none; such a dialect has `first`.
    """

    name: ClassVar[str] = ""
    marks: ClassVar[tuple[tuple[str, ...], ...]] = ()
    opens: ClassVar[tuple[str, ...]] = ()
    triggers: ClassVar[tuple[str, ...]] = ()
    trigger_first: ClassVar[bool] = False
    ends_thinking: ClassVar[tuple[str, ...]] = ()
    declines: ClassVar[str] = ""
    layout: ClassVar[tuple[str, ...]] = ()
    tags: ClassVar[tuple[str, ...]] = ()
    first: ClassVar[tuple[str, ...]] = ()
    last: ClassVar[tuple[str, ...]] = ()
    joint: ClassVar[tuple[str, ...]] = ("\n",)
    id_length: ClassVar[int] = 24  # length of a call's id, in letters and digits, after `id_prefix`
    id_prefix: ClassVar[str] = "call_"
    single: ClassVar[bool] = False  # a message has one call
    results_as_user: ClassVar[bool] = False
    says_or_thinks: ClassVar[bool] = False  # a message with calls has either content or reasoning
    thinks: ClassVar[Thinking | None] = None  # the tags of its reasoning
    value_ends: ClassVar[tuple[str, ...]] = ()  # tags that end a value that is not in JSON

    def fits(self, source: str) -> bool:
        """Whether a template's source belongs to this family."""
        return all(any(one in source for one in several) for several in self.marks)

    def may_call(self, before: bytes, said: bool) -> bool:
        """Whether a trigger begins a call after `before`, the end of the text. said: there was more before that."""
        return not self.trigger_first or not (said or before.strip(b" \n;,"))

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read(self, r: Reader, tools: Mapping[str, Any] | None, thinking: Thinking | None) -> Wait[None]:
        """Reads an answer. tools: their schemas by name; None: no calls are read. `r.thinking`: whether the answer
        begins within reasoning."""
        opens = self.opens if tools is not None else ()
        if thinking is not None:
            yield from self.think_first(r, thinking)
        while True:
            if r.thinking:
                assert thinking is not None
                ends = self.ends_thinking if tools is not None else ()
                stop = yield from r.until((thinking.closes, *ends))
                if stop == thinking.closes:
                    r.stop_thinking(len(stop))
                    continue
                if stop is not None:
                    r.stop_thinking(0)
            # A text with a structure begins without tags: within it, they are part of the text.
            layout = [one for one in self.layout if not r.either and (one in self.tags or r.thought)]
            stops = (*opens, *layout, *((thinking.opens,) if thinking and thinking.anywhere else ()))
            stop = yield from r.until(stops)
            if stop is None:
                return
            if stop in layout:
                r.layout(len(stop))
            elif r.either and r.said:
                r.say(len(stop))
            elif stop not in opens:
                r.think(len(stop))
            elif not (yield from self.read_call(r, stop, tools or {})):
                r.say(len(stop))
            elif r.full:
                return

    @staticmethod
    def think_first(r: Reader, thinking: Thinking) -> Wait[None]:
        """Reads the tag that begins reasoning, if the answer begins with it."""
        at = yield from r.space(0)
        opened = yield from r.looking_at((thinking.opens,), at)
        if opened is not None:
            r.think(at + len(opened))
        elif r.thinking:
            r.think(0)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        """Reads one or several calls that begin with `opened` -> whether there was one; if not, nothing is read."""
        raise NotImplementedError
        yield

    # ---- writing ----------------------------------------------------------------------------------------------------

    def shape(self, name: str) -> Shape:
        """How a call of a tool is spelled."""
        raise NotImplementedError

    def write(self, calls: Sequence[Written]) -> list[str]:
        """Calls in the model's format, as parts in which tags are markers, for templates that do not write them."""
        parts: list[str] = list(self.first)
        for i, call in enumerate(calls):
            shape = self.shape(call.name)
            parts += (*(self.joint if i else ()), *shape.before, *self.write_arguments(call, shape), *shape.after)
        return [*parts, *self.last]

    def write_arguments(self, call: Written, shape: Shape) -> list[str]:
        return [call.arguments]

    def call_id(self, id: object, name: str, index: int) -> str | None:
        """The id by which the model knows a call, the index-th of its message, or its result; None: the id that it
        has."""
        return None

    def describe(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """Text for the system message that lists the tools and describes how to call them, for templates that do
        not."""
        example = self.write([Written("NAME", '{"ARGUMENT": "VALUE"}')])
        return instructions(tools, "".join(example))


def spaced(trigger: AnyStr) -> re.Pattern[AnyStr]:
    """Finds a trigger; white space in it matches any amount of white space, including none."""
    space = r"\s*" if isinstance(trigger, str) else rb"\s*"
    return re.compile(space.join(map(re.escape, trigger.split())))


def instructions(tools: Iterable[Mapping[str, Any]], example: str) -> str:
    """A description of tools. example: a call."""
    lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in tools)
    return (
        "You may call functions to answer the user. These are available, each with a JSON schema of its parameters:\n"
        f"<tools>\n{lines}\n</tools>\n\n"
        f"To call a function, write its name and arguments exactly in this form, once for each call:\n{example}"
    )
