"""Words wrap whole on a terminal, however the text comes in pieces; a pipe gets every byte."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pellucid import Model
from pellucid.cli.flow import Flow

from .conftest import Run
from .terminal import on_terminal

STORY = ("generate", "Once upon a time", "--temp", "0", "-n", "60")


def wrap(text: str, columns: int, seed: int | None = None) -> str:
    """The text as it is written, in one piece or in random ones."""
    out: list[str] = []
    flow = Flow(out.append, lambda: columns)
    draw = random.Random(seed)
    while text:
        size = len(text) if seed is None else draw.randint(1, 5)
        flow.write(text[:size])
        text = text[size:]
    flow.end()
    return "".join(out)


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("one two three", 9, "one two\nthree"),
        ("one two three", 7, "one two\nthree"),  # a line may be full
        ("one two  three", 8, "one two\nthree"),
        ("one\n two", 5, "one\n two"),
        ("one two \n\nthree ", 7, "one two\n\nthree "),
        (" one", 9, " one"),
        ("a verylongword b", 6, "a\nverylongword\nb"),  # the terminal breaks it
        ("a\tb\tc", 20, "a       b       c"),
        ("a\tbc", 9, "a\nbc"),
        ("well-known word", 6, "well-known\nword"),
        ("a\u00a0b c", 3, "a\u00a0b\nc"),  # a no-break space
        ("\u4f60\u597d\u4f60\u597d", 5, "\u4f60\u597d\n\u4f60\u597d"),  # wide characters break anywhere,
        ("\u4f60\u597d\u3002", 4, "\u4f60\n\u597d\u3002"),  # but not before a full stop
        ("ab e\u0301e\u0301e\u0301", 6, "ab e\u0301e\u0301e\u0301"),  # marks take no room
        ("a \U0001f468\u200d\U0001f469", 3, "a\n\U0001f468\u200d\U0001f469"),
        ("x \x1b[31m", 8, "x\n\\x1b[31m"),  # as wide as it is shown
        ("", 5, ""),
    ],
)
def test_wrapping(text: str, columns: int, expected: str) -> None:
    assert wrap(text, columns) == expected
    assert {wrap(text, columns, seed) for seed in range(20)} == {expected}


def test_no_text_is_lost() -> None:
    draw = random.Random(1)
    for _ in range(300):
        text = "".join(draw.choice("ab c\n\t \u4f60\u3002,-\u0301") for _ in range(draw.randint(0, 80)))
        columns = draw.randint(1, 12)
        found = wrap(text, columns, 1)
        assert "".join(found.split()) == "".join(text.split())
        short = [word for word in text.split() if len(word) < columns and word.isascii()]
        assert [word for word in short if word not in found] == []


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("colour", [False, True])
def test_generate_on_terminals(columns: int, colour: bool, smollm2: Path) -> None:
    with Model.load(smollm2) as model:
        expected = model.generate("Once upon a time", temperature=0, max_tokens=60).text
    code, seen = on_terminal(*STORY, columns=columns, colour=colour)
    assert code == 0
    assert max(map(len, seen.splitlines())) <= columns
    text, _, timings = seen.partition("[load")
    assert text.split() == expected.split()
    assert timings.rstrip().endswith("length]")
    assert "\x1b" not in seen


def test_a_pipe_is_not_wrapped(run: Run, smollm2: Path) -> None:
    with Model.load(smollm2) as model:
        expected = model.generate("Once upon a time", temperature=0, max_tokens=60).text
    assert run(*STORY, COLUMNS="40").stdout.decode() == expected
