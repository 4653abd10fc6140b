"""How results are shown in a notebook: as fragments of HTML, or as short plain text.

A fragment has only inline styles: no style sheet, script or address, so that it looks the same wherever it is pasted.
Text has the theme's own colour; shades are translucent, light enough that text stays readable on light and dark
backgrounds. Text from a model or a file is untrusted: markup is escaped, and what is not printable (control characters,
marks that change the direction of text) is spelled out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pellucid.errors import one_line, shown

__all__ = [
    "BLUE",
    "LATEST",
    "MOST_BYTES",
    "ORANGE",
    "PURPLE",
    "STRONGEST",
    "Cell",
    "Fragment",
    "Shown",
    "count",
    "in_notebook",
    "token",
]

MOST_BYTES = 200_000  # per fragment, in UTF-8
RESERVE = 4_000  # part of these, for closing blocks and saying what was left out
MOST_LINES = 60  # of plain text
LATEST = 20_000  # characters shown of a text that still grows: it is sent again and again
MOST_PIECE = 200  # characters shown of a token or a cell
BLUE, ORANGE, PURPLE = (0, 114, 178), (230, 159, 0), (140, 90, 200)
FULL_BITS = 12.0  # of surprise: a full shade
STRONGEST = 0.4  # opacity of a full shade: text in a theme's colour keeps a contrast of 4.5

Colour = tuple[int, int, int]

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
# Jupyter would otherwise typeset text between dollar signs as a formula.
_ROOT = '<div class="tex2jax_ignore mathjax_ignore">'
_SCROLL = "max-height:30em;overflow:auto"
_WRAP = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7"
_STRIP = f'<div style="{_SCROLL};{_WRAP}">'
# A reversed column stays scrolled to its end without a script.
_GROWING = f'<div style="{_SCROLL};display:flex;flex-direction:column-reverse"><div style="{_WRAP}">'
_TABLE = f'<div style="{_SCROLL}"><table style="border-collapse:separate;border-spacing:.8em 0">'


class Cell(NamedTuple):
    """A token, or a cell of a table. share: strength of its shade, 0 to 1; title: shown on hover."""

    text: str
    share: float = 0.0
    colour: Colour = BLUE
    title: str = ""


class Fragment:
    """Builds a fragment of HTML from blocks. A block that would exceed MOST_BYTES is cut, with a note."""

    def __init__(self) -> None:
        self._parts = [_ROOT]
        self._room = MOST_BYTES - RESERVE

    def heading(self, text: str) -> None:
        """A line in bold."""
        self._add(f'<div style="font-weight:bold;margin:.4em 0">{_line(text)}</div>')

    def note(self, text: str) -> None:
        """A line of explanation."""
        self._add(f'<div style="opacity:.8;margin:.4em 0">{_line(text)}</div>')

    def text(self, text: str, grows: bool = False) -> None:
        """A text with its line breaks. grows: the text is incomplete: its end is in view, and only the last LATEST
        characters are shown."""
        if grows and len(text) > LATEST:
            self.note(f"{len(text) - LATEST:,} earlier characters are shown when the text is complete.")
            text = text[-LATEST:]
        parts = (_text(text[i : i + MOST_PIECE]) for i in range(0, len(text), MOST_PIECE))
        start, end = (_GROWING, "</div></div>") if grows else (_STRIP, "</div>")
        self._block(start, parts, end, f"parts of {MOST_PIECE} characters")

    def tokens(self, cells: Iterable[Cell]) -> None:
        """Tokens as one text, each shaded; a line break is visible."""
        self._block(_STRIP, (_token(cell) for cell in cells), "</div>", "tokens")

    def table(
        self, head: Sequence[str], rows: Iterable[Sequence[str | Cell]], right: Sequence[int] = (), what: str = "rows"
    ) -> None:
        """A table. right: columns of numbers, aligned to the right; what: what the rows are, in the plural."""
        aligns = ["right" if i in right else "left" for i in range(len(head))]

        def line(tag: str, row: Sequence[str | Cell]) -> str:
            return f"<tr>{''.join(_cell(tag, cell, align) for cell, align in zip(row, aligns, strict=True))}</tr>"

        start = f"{_TABLE}<thead>{line('th', head)}</thead><tbody>"
        self._block(start, (line("td", row) for row in rows), "</tbody></table></div>", what)

    def html(self) -> str:
        return f"{''.join(self._parts)}</div>"

    def _add(self, part: str) -> bool:
        """Adds a part if there is room."""
        self._room -= len(part.encode())
        if self._room >= 0:
            self._parts.append(part)
        return self._room >= 0

    def _block(self, start: str, items: Iterable[str], end: str, what: str) -> None:
        self._parts.append(start)
        left = sum(not self._add(item) for item in items)  # once there is no room, nothing is added
        self._parts.append(end)
        if left:
            self._parts.append(f"<div><i>{left:,} more {what} are not shown.</i></div>")


class Shown:
    """A result that a notebook shows as HTML and a terminal as plain text of at most MOST_LINES lines."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        cls._repr_pretty_ = Shown._repr_pretty_  # type: ignore[method-assign]  # IPython prefers a class's own __repr__

    def _draw(self, fragment: Fragment) -> None:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        fragment = Fragment()
        self._draw(fragment)
        return fragment.html()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        lines = str(self).split("\n")
        if len(lines) > MOST_LINES:
            left = len(lines) - MOST_LINES + 2
            lines[MOST_LINES - 2 : -1] = [f"... {left} lines are not shown here; print() shows all"]
        printer.text("\n".join(lines))


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel. Does not import IPython."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and hasattr(get_shell(), "kernel")


def count(n: int, name: str) -> str:
    """A count with its noun, as in "1 token" and "2 tokens"."""
    return f"{n:,} {name}" if n == 1 else f"{n:,} {name}s"


def token(
    id: int, piece: str, logprob: float, top: Iterable[tuple[int, str, float]] = (), *, surprise: bool = False
) -> Cell:
    """A token shaded by its probability or, in another colour, by its surprise: -log2 of it. logprob: natural; top:
    alternatives [(id, piece, logprob)]."""
    bits = -logprob / math.log(2)
    said = f"{shown(piece)} (id {id}): " + (f"surprise {bits:.1f} bits" if surprise else f"{math.exp(logprob):.3f}")
    others = [f"{shown(other)} {math.exp(p):.3f}" for _, other, p in list(top)[:5]]
    title = "; likeliest: ".join([said, *([", ".join(others)] if others else [])])
    return Cell(
        piece or f"[{id}]",
        bits / FULL_BITS if surprise else math.exp(logprob),
        ORANGE if surprise else BLUE,
        title,
    )


def _line(text: str) -> str:
    return one_line(text, MOST_PIECE).translate(_ESCAPES)


def _text(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text).translate(_ESCAPES)


def _style(cell: Cell) -> str:
    """The style attribute of a shade; "" for one too faint to be seen."""
    opacity = f"{min(max(cell.share, 0.0), 1.0) * STRONGEST:.2f}"
    return "" if opacity in ("0.00", "nan") else f"background:rgba({','.join(map(str, cell.colour))},{opacity[1:]})"


def _token(cell: Cell) -> str:
    style = _style(cell)
    style = f' style="{style}"' if style else ""
    title = f' title="{_line(cell.title)}"' if cell.title else ""
    text = cell.text if len(cell.text) <= MOST_PIECE else cell.text[: MOST_PIECE - 3] + "..."
    text = "\u21b5\n".join(map(_line, text.split("\n")))
    return f"<bdi{style}{title}>{text}</bdi>"  # bdi: its direction does not affect its neighbours


def _cell(tag: str, cell: str | Cell, align: str) -> str:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    style = ";".join(part for part in (f"text-align:{align}", _style(cell)) if part)
    title = f' title="{_line(cell.title)}"' if cell.title else ""
    return f'<{tag} style="{style}"{title}>{_line(cell.text)}</{tag}>'
