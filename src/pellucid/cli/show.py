"""Prints the results of `inspect` on a terminal of any width. Colours only repeat what the text says."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from pellucid.cli import output
from pellucid.errors import one_line
from pellucid.weights.store import size

__all__ = ["inspected"]

MOST = 40  # tokens shown one by one
NARROW = 60  # columns of a terminal that leave no room for bars beside four columns
NARROWEST = 40  # columns; on a narrower terminal, the terminal wraps lines
SURPRISED = 10.0  # bits: the least surprise that may have the darkest colour and the longest bar
COLOURS = (None, "#fee6ce", "#fdc692", "#fd9f5a", "#f1711e", "#c44a02")  # one hue, from light to dark


def inspected(found: dict[str, Any], seen: str, show: int) -> None:
    """Prints the parts in `found`. seen: the line that says what was inspected."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    console.width = max(console.width, NARROWEST)
    with console.capture() as captured:
        console.print(f"{one_line(found['model'])}: {seen}")
        if "tokens" in found:
            _tokens(console, found["tokens"], found["position"])
        if "next" in found:
            _next(console, found)
        if "sampling" in found:
            _sampling(console, found["sampling"])
        if "lens" in found:
            _lens(console, found["lens"], show)
        if "memory" in found:
            _memory(console, found["memory"])
        if "heads" in found:
            _heads(console, found)
    output.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()), styled=True)


def _tokens(console: Console, tokens: list[dict[str, Any]], at: int) -> None:
    first = max(min(at - MOST // 2, len(tokens) - MOST), 0)
    shown = tokens[first : first + MOST]
    most = max([SURPRISED, *(token["bits"] for token in shown if token["bits"] is not None)])
    _heading(console, "How much each token was expected", f"surprise in bits: -log2 p; full bar: {most:.1f}")
    if len(shown) < len(tokens):
        console.print(f"(tokens {first} to {first + len(shown) - 1} of {len(tokens)}; --json has all)")
    if console.color_system and not console.no_color:
        text = Text()
        for token in shown:
            text.append(_plain(token["piece"]), _shade(token["bits"], most))
        console.print(text)
    bars = console.width >= NARROW
    room = console.width if bars else max(console.width - 29, 6)  # the other columns take 29
    table = _table("position", "token", "surprise", "rank", *[""] * bars)
    for token in shown:
        bits = token["bits"]
        if bits is None:
            cells = ["", "", "the first token"]
        else:
            cells = [f"{bits:.1f}", f"{token['rank']:,}", _bar(console, bits / most, 20)]
        piece = Text(_cut(repr(token["piece"]), room), _shade(bits, most))
        table.add_row(f"{token['position']}", piece, *cells[: 2 + bars])
    console.print(table)


def _next(console: Console, found: dict[str, Any]) -> None:
    _heading(console, "Next token", "the model's own probabilities")
    table = _table("probability", "token", "")
    for guess in found["next"]:
        mark = "  follows here" if guess["id"] == found["follows"] else ""
        bar = _bar(console, guess["probability"], 24)
        table.add_row(f"{guess['probability']:.3f}", repr(guess["piece"]), bar + mark)
    console.print(table)


def _sampling(console: Console, sampling: dict[str, Any]) -> None:
    _heading(console, "Sampling", "what each filter leaves; the token is drawn from the last row")
    steps = sampling["steps"]
    final = steps[-1]
    first = {token["id"]: token["probability"] for token in steps[0]["tokens"]}
    table = _table("step", "tokens left", "most probable")
    for step in steps:
        best = "  ".join(f"{t['piece']!r} {t['probability']:.3f}" for t in step["tokens"][:3])
        table.add_row(step["name"], f"{step['kept']:,}", best)
    console.print(table)
    table = _table("drawn", "token", "")
    for token in final["tokens"]:
        before = first.get(token["id"])
        was = "" if before is None else f"  was {before:.3f}"
        table.add_row(
            f"{token['probability']:.3f}", repr(token["piece"]), _bar(console, token["probability"], 24) + was
        )
    console.print(table)


def _lens(console: Console, lens: list[list[dict[str, Any]]], show: int) -> None:
    _heading(console, "Next token after each layer", "the logit lens")
    columns = max(1, min(show, (console.width - 9) // 20))
    table = _table("after", *["token"] * columns)
    for i, guesses in enumerate(lens):
        cells = [f"{g['probability']:.2f} {_cut(repr(g['piece']), 13)}" for g in guesses[:columns]]
        table.add_row("embedding" if i == 0 else f"layer {i - 1}", *cells)
    console.print(table)


def _memory(console: Console, memory: dict[str, Any]) -> None:
    _heading(console, "Memory", "in bytes; keys and values grow with the text")
    table = _table("bytes", "what")
    limit = memory["limit"]
    for nbytes, what in (
        (memory["weights"], "weights, as they are packed"),
        (memory["pass"], "a forward pass"),
        (memory["per_token"], f"keys and values of a token ({memory['kv']})"),
        (memory["text"], "of this text"),
        (memory["context"], "of a context that is full"),
        *(() if limit is None else ((limit, "the most that all keys and values may take"),)),
    ):
        table.add_row(size(nbytes), what)
    console.print(table)


def _heads(console: Console, found: dict[str, Any]) -> None:
    target = found["target"]
    _heading(console, f"Heads that changed the logit of {target['piece']!r} most", f"logit: {target['logit']:.2f}")
    table = _table("layer", "head", "change", "attends to")
    for head in found["heads"]:
        table.add_row(f"{head['layer']}", f"{head['head']}", f"{head['logits']:+.2f}", _looks(head["looks"]))
    console.print(table)
    one = found["head"]
    if one is not None:
        title = f"Layer {one['layer']}, head {one['head']} attends to"
        _heading(console, title, f"weights after softmax; change of the logit: {one['logits']:+.2f}")
        table = _table("weight", "position", "token", "")
        for look in one["looks"][:MOST]:
            row = f"{look['weight']:.3f}", f"{look['position']}", repr(look["piece"])
            table.add_row(*row, _bar(console, look["weight"], 24))
        console.print(table)
        if len(one["looks"]) > MOST:
            console.print(f"(the first {MOST} of {len(one['looks'])}; --json has all)")


# ---- parts --------------------------------------------------------------------------------------------------------


def _heading(console: Console, title: str, what: str) -> None:
    console.print()
    console.print(Text(title, "bold").append(f" ({what})", Style(bold=False)))


def _table(*names: str) -> Table:
    """A table with numbers right-aligned and columns as narrow as their contents."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    folded = {"most probable", "attends to", "what"}
    left = {"", "token", "step", "after", *folded}
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in folded)
    return table


def _bar(console: Console, share: float, width: int) -> str:
    width = min(width, max(console.width - 40, 4))
    return ("#" if console.options.ascii_only else "\u2588") * round(min(share, 1.0) * width)


def _shade(bits: float | None, most: float) -> Style:
    """most: bits of the darkest colour."""
    colour = None if bits is None else COLOURS[min(int(bits / most * len(COLOURS)), len(COLOURS) - 1)]
    return Style() if colour is None else Style(color="black", bgcolor=colour)


def _plain(piece: str) -> str:
    """The text with its line breaks; other characters that are not printable are escaped."""
    return "".join(c if c.isprintable() else "\n" if c == "\n" else repr(c)[1:-1] for c in piece)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2] + ".."


def _looks(looks: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"{look['piece']!r} {look['weight']:.2f}" for look in looks)
