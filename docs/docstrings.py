"""Our docstrings as the site shows them: a list of arguments where one stands, tables, and names in code type."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            names = {p.name for p in obj.parameters} if isinstance(obj, griffe.Function) else set(obj.attributes)
            obj.docstring.value = tidy(obj.docstring.value, names)
            if obj.name == "SamplingOptions":
                obj.docstring.value += "\n\n" + defaults(obj)


def defaults(obj: griffe.Object) -> str:
    """A table of the fields of a dataclass and their defaults."""
    rows = ["| option | default |", "|---|---|"]
    for field in obj.attributes.values():
        value = str(field.value)
        if not field.name.startswith("_") and "init=False" not in value:
            value = (
                "`{}`"
                if "default_factory=dict" in value
                else "the order above"
                if value == "SAMPLERS"
                else f"`{value}`"
            )
            rows.append(f"| `{field.name}` | {value} |")
    return "\n".join(rows)


def tidy(text: str, arguments: set[str]) -> str:
    text = re.sub(r":\w+:`~?(?:pellucid[\w.]*\.)?([^`]+)`", r"`\1`", text)
    text = re.sub(r"^(=+(?: +=+)+)\n(.*?)^\1$", lambda found: table(found[1], found[2]), text, flags=re.M | re.S)
    lines: list[str] = []
    for line in text.splitlines():
        names, colon, rest = line.partition(": ")
        if colon and all(name in arguments for name in names.split(", ")):
            if lines and lines[-1] and not lines[-1].startswith(("- ", "    ")):
                lines.append("")
            line = f"- `{'`, `'.join(names.split(', '))}`: {rest}"
        lines.append(line)
    return "\n".join(lines)


def table(rule: str, body: str) -> str:
    """A simple table of reStructuredText, without a heading, as one of Markdown. rule: its line of ``=``."""
    starts = [column.start() for column in re.finditer("=+", rule)]
    rows: list[list[str]] = []
    for line in body.splitlines():
        cells = [line[at:end].strip() for at, end in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:  # the row goes on
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    head = ["|" + "   |" * len(starts), "|" + "---|" * len(starts)]
    return "\n".join([*head, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)])
