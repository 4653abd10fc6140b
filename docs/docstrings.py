"""Our docstrings as the site shows them: a list of arguments where one stands, and names in code type."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            names = {p.name for p in obj.parameters} if isinstance(obj, griffe.Function) else set()
            obj.docstring.value = tidy(obj.docstring.value, names)


def tidy(text: str, arguments: set[str]) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    lines: list[str] = []
    for line in text.splitlines():
        name = line.partition(":")[0]
        if name in arguments and line.startswith(f"{name}: "):
            if lines and lines[-1] and not lines[-1].startswith(("- ", "    ")):
                lines.append("")
            line = f"- `{name}`{line[len(name) :]}"
        lines.append(line)
    return "\n".join(lines)
