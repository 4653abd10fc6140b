"""Qwen3 Coder, Qwen 3.5, Seed-OSS, and GLM 4.5 and later: arguments between tags, not in JSON.

    <tool_call>                                       <tool_call>get_weather
    <function=get_weather>                            <arg_key>city</arg_key>
    <parameter=city>                                  <arg_value>Paris</arg_value>
    Paris                                             </tool_call>
    </parameter>
    </function>
    </tool_call>

They are converted to JSON by the types in the tool's schema; texts are passed on as they arrive. If the schema does not
specify a type, valid JSON is kept as it is, and anything else is text.
Sources: the templates of Qwen/Qwen3.5-4B, ByteDance-Seed/Seed-OSS-36B-Instruct and zai-org/GLM-4.6; vLLM's tests of its
qwen3_coder and glm47 parsers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pellucid.text.dialects.dialect import Dialect, Marker, Shape, Thinking, Written
from pellucid.text.dialects.json_calls import NAME
from pellucid.text.dialects.reader import Reader, Wait
from pellucid.text.dialects.values import declared, key, quoted, value

__all__ = ["Glm", "QwenCoder", "Seed"]

_MOST_NAME = 128


class _Tagged(Dialect):
    newline = False  # values are on separate lines

    def _argument(self, r: Reader, name: str, schema: Any, first: bool) -> Wait[str | None]:
        """Reads a value -> what it stopped at."""
        types = declared(schema, name)
        r.argue(key(name, first))
        if types == {"string"}:
            r.argue('"')
            stop = yield from r.value(self.value_ends, lambda text: r.argue(quoted(text)), self.newline)
            r.argue("" if stop is None else '"')
            return stop
        parts: list[str] = []
        stop = yield from r.value(self.value_ends, parts.append, self.newline)
        r.argue(value("".join(parts), types))
        return stop

    def write_arguments(self, call: Written, shape: Shape) -> list[str]:
        try:
            found = json.loads(call.arguments)
        except (ValueError, RecursionError):
            found = None
        assert shape.values is not None
        text = ""
        for name, one in (found if isinstance(found, dict) else {}).items():
            before, after = shape.values(name)
            text += before + (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)) + after
        return [text]


def _name(written: str, schema: Any) -> str:
    """The name of an argument, without quotes that are not part of it."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    name = written.strip()
    return name if isinstance(properties, Mapping) and name in properties else name.strip("\"'")


class QwenCoder(_Tagged):
    name = "qwen coder"
    marks: ClassVar[tuple[tuple[str, ...], ...]] = (("<tool_call>",), ("<function=",), ("<parameter=",))
    opens = ("<tool_call>", "<function=")
    triggers = ("<tool_call>", "<function=")  # models sometimes leave out the tag around a call
    tags: ClassVar[tuple[str, ...]] = (Marker("<tool_call>"), Marker("</tool_call>"))
    newline = True
    value_ends = ("</parameter>", "</function>")
    outer = ("<tool_call>", "</tool_call>")

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        outer = opened != "<function="
        at = (yield from r.space(len(opened))) if outer else 0
        if (yield from r.looking_at(("<function=",), at)) is None:
            return False
        at += len("<function=")
        head = yield from r.before((">",), at, _MOST_NAME)
        if head is None or NAME.fullmatch(name := head[0].strip().strip("\"'")) is None:
            return False
        r.call(name, at + len(head[0]) + 1)
        first = True
        while True:
            at = yield from r.space(0)
            stop = yield from r.looking_at(("<parameter=", "</function>", self.outer[1]), at)
            if stop == "<parameter=":
                head = yield from r.before((">",), at + len(stop), _MOST_NAME)
                if head is not None:
                    r.drop(at + len(stop) + len(head[0]) + 1)
                    stop = yield from self._argument(r, _name(head[0], tools.get(name)), tools.get(name), first)
                    first = False
                    if stop == "</parameter>":
                        r.drop(len(stop))
                    if stop is not None:
                        continue
                    return True
            r.argue("{}" if first else "}")
            if stop == "</function>":
                at = yield from r.space(at + len(stop))
                stop = yield from r.looking_at((self.outer[1],), at)
                r.layout(at + len(stop or ""))
            else:
                r.layout(at + len(stop or "") if stop == self.outer[1] else at)
            return True

    def shape(self, name: str) -> Shape:
        before = (Marker(self.outer[0]), f"\n<function={name}>\n")
        return Shape(before, ("</function>\n", Marker(self.outer[1])), self._value)

    def _value(self, name: str) -> tuple[str, str]:
        return f"<parameter={name}>\n", "\n</parameter>\n"


class Seed(QwenCoder):
    name = "seed-oss"
    marks = (("<seed:tool_call>",),)
    opens = ("<seed:tool_call>", "<function=")
    triggers = ("<seed:tool_call>", "<function=")
    tags = tuple(map(Marker, ("<seed:tool_call>", "</seed:tool_call>", "<seed:think>", "</seed:think>")))
    newline = False
    outer = ("<seed:tool_call>", "</seed:tool_call>")
    thinks = Thinking("<seed:think>", "</seed:think>", "</seed:think>")

    def _value(self, name: str) -> tuple[str, str]:
        return f"<parameter={name}>", "</parameter>\n"


class Glm(_Tagged):
    name = "glm"
    marks = (("<arg_key>",),)
    opens = triggers = ("<tool_call>",)
    tags = tuple(map(Marker, ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")))
    value_ends = ("</arg_value>", "</tool_call>")

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        at = len(opened)
        head = yield from r.before(("<arg_key>", "</tool_call>"), at, _MOST_NAME)
        if head is None or NAME.fullmatch(name := head[0].strip()) is None:
            return False
        r.call(name, at + len(head[0]))
        first = True
        while True:
            at = yield from r.space(0)
            stop = yield from r.looking_at(("<arg_key>", "</tool_call>"), at)
            if stop == "<arg_key>":
                found = yield from r.before(("</arg_key>",), at + len(stop), _MOST_NAME)
                if found is not None:
                    argument = found[0].strip()
                    after = at + len(stop) + len(found[0]) + len("</arg_key>")
                    after = yield from r.space(after)
                    if (yield from r.looking_at(("<arg_value>",), after)) is not None:
                        r.drop(after + len("<arg_value>"))
                        stop = yield from self._argument(r, argument, tools.get(name), first)
                        first = False
                        if stop == "</arg_value>":
                            r.drop(len(stop))
                        if stop is not None:
                            continue
                        return True
                stop = None
            r.argue("{}" if first else "}")
            r.layout(at + len(stop or ""))
            return True

    def shape(self, name: str) -> Shape:
        return Shape((Marker("<tool_call>"), f"{name}\n"), (Marker("</tool_call>"),), self._value)

    def _value(self, name: str) -> tuple[str, str]:
        return f"<arg_key>{name}</arg_key>\n<arg_value>", "</arg_value>\n"
