"""Answers in every family's form, broken and cut: whatever a model writes is read, the same however it is cut, in time
that grows with its length, and nothing of plain text is lost. An input is a JSON table of "dialect", "text" and "seed",
of the cuts."""

from __future__ import annotations

import json
import random
from typing import Any

from pellucid.text.dialects import ALL, Parser
from tests.fuzz.mutation import text
from tests.text.dialects.reading import dialect, read, tags
from tests.text.dialects.recorded import ANSWERS, TOOLS

__all__ = ["known", "mutate", "run"]

ODD = (
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    "'",
    ",",
    ":",
    ";",
    "\n",
    " ",
    "<",
    ">",
    "`",
    "```",
    "(",
    ")",
    "\0",
    "\ud7ff",
    "é",
)


def mutate(rng: random.Random) -> bytes:
    answer = rng.choice(list(ANSWERS.values()))
    name = answer.dialect if rng.random() < 0.8 else rng.choice(ALL).name
    one = dialect(name)
    pieces = [*one.opens, *one.tags, *one.layout, tags(one).opens, tags(one).closes, *ODD, *TOOLS]
    written = answer.text
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(written) + 1)
        end = min(at + rng.choice((0, 1, 2, 5, 20)), len(written))
        new = rng.choice(
            (rng.choice(pieces), written[at:end] * 2, text(rng), "", rng.choice(pieces) * rng.randint(2, 40))
        )
        written = written[:at] + new + written[end:]
    if rng.random() < 0.02:
        written = (rng.choice(pieces) + rng.choice(pieces)) * rng.choice((100, 3000))
    table = {"dialect": name, "text": written[:200_000], "seed": rng.randrange(1 << 30), "begun": rng.random() < 0.2}
    return json.dumps(table).encode()


def run(data: bytes) -> None:
    try:
        table: Any = json.loads(data)
        one, written, seed = dialect(table["dialect"]), str(table["text"]), int(table["seed"])
    except (ValueError, KeyError, TypeError, StopIteration):  # a part of an input
        return
    begun = bool(table.get("begun"))

    def parser() -> Parser:
        return Parser(one, TOOLS, thinking=tags(one), begun=begun)

    whole = read(parser(), written, [])
    rng = random.Random(seed)
    several = sorted(rng.choices(range(len(written) + 1), k=8))
    for cuts in ([], several, range(1, len(written) if len(written) < 5000 else 0)):
        if read(parser(), written, cuts) != whole:
            raise AssertionError(f"read otherwise where it is cut at {list(cuts)[:9]}")
    content, reasoning, calls = whole
    known = "".join((content, reasoning, *(part for call in calls for part in call)))
    marks = (*one.opens, *one.tags, *one.layout, tags(one).opens, tags(one).closes)
    if not begun and not any(mark in written for mark in marks) and content != written:
        raise AssertionError("plain text became something else")
    if len(known) > 8 * len(written) + 1000:
        raise AssertionError("more came out than went in")


def known() -> dict[str, bytes]:
    inputs = {
        "tags": ("hermes", "<tool_call>" * 15_000),
        "objects": ("llama", '{"name": ' * 15_000),
        "brackets": ("hermes", '<tool_call>{"x": ' + "[" * 100_000),
        "strings": ("hermes", '<tool_call>{"x": "' + "a\\\\" * 50_000),
        "open strings": ("hermes", '<tool_call>{",":["' * 8_000),
        "arguments": ("hermes", '<tool_call>{"name": "f", "arguments": ' + "{" * 100_000),
        "headers": ("harmony", "<|start|>assistant<|channel|>" * 5_000),
        "calls": ("deepseek", "<｜tool▁call▁begin｜>" * 8_000),
        "parameters": ("qwen coder", "<tool_call><function=f>" + "<parameter=a>b" * 10_000),
        "python": ("lfm2", "<|tool_call_start|>[f(" + "(" * 100_000),
        "several python": ("lfm2", "<|tool_call_start|>[f(" * 5_000),
        "white space": ("glm", "\n" * 100_000),
    }
    return {
        name: json.dumps({"dialect": one, "text": written, "seed": 1}).encode()
        for name, (one, written) in inputs.items()
    }
