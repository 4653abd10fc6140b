"""Runs the programs of looking-inside.md and updates their output and figures in the page: python
docs/looking_inside.py. It needs both models and matplotlib; figures are written to docs/look. A test compares page and
programs.

A program's output is the `text` block below it. A comment above a program may mark it: "gemma": it needs the second
model; "measured": its output depends on the machine and is not compared.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).with_name("looking-inside.md")
BLOCK = re.compile(r"^(?:<!-- ([a-z, ]+) -->\n)?```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
HEADING = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True)
class Block:
    """A program of the page, the heading above it, and its output in the page."""

    heading: str
    flags: frozenset[str]
    code: str
    output: str


def blocks(text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        flags = frozenset((match[1] or "").split(", ")) - {""}
        assert flags <= {"gemma", "measured"}, flags
        heading = HEADING.findall(text[: match.start()])[-1]
        found.append(Block(heading, flags, match[2], match[3] or ""))
    return found


def run(chosen: list[Block], folder: Path) -> Iterator[str]:
    """Runs the programs one after the other, as one session in a folder -> the output of each."""
    session: dict[str, object] = {}
    before = os.getcwd()
    os.chdir(folder)
    try:
        for i, block in enumerate(chosen):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.code, f"{PAGE.name}, {block.heading} ({i})", "exec"), session)
            yield "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())
    finally:
        os.chdir(before)


def page(text: str, folder: Path) -> str:
    """The page with the current output of its programs."""
    outputs = run(blocks(text), folder)

    def write(match: re.Match[str]) -> str:
        head = f"<!-- {match[1]} -->\n" if match[1] else ""
        output = next(outputs)
        return f"{head}```python\n{match[2]}```\n" + (f"\n```text\n{output}```\n" if output else "")

    return BLOCK.sub(write, text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), PAGE.parent / "look"), encoding="utf-8")
