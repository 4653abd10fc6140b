"""Matplotlib figures of a trace (extra `plots`). Colours are safe for colour-blind readers; every axis is labelled.

A figure is shown if it is the last value of a notebook cell; :func:`save` writes it to a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.look.experiments import Patching
from pellucid.look.lens import Attribution
from pellucid.look.sizes import select
from pellucid.look.trace import Trace
from pellucid.weights.writer import whole_file

__all__ = ["MOST", "attention", "attribution", "lens", "patching", "save"]

MOST = {"lens": 12, "attention": 64}  # maximum tokens of a figure: the last ones are shown
BLUE, ORANGE = "#0072B2", "#E69F00"  # from Okabe and Ito's palette


def lens(trace: Trace, positions: Sequence[int] | None = None) -> Any:
    """The likeliest next token after every layer at several positions; the colour is its probability. -> Figure

    positions: default: the last 12 of the trace's positions.
    """
    _trace(trace)
    if positions is None:
        chosen = trace.positions[-MOST["lens"] :]
    else:
        chosen = select("positions", positions, len(trace))
    table = trace.lens_table(1, list(chosen))
    values = table.probabilities[..., 0]
    figure = _figure(1.6 + 0.95 * len(chosen), 1.2 + 0.24 * len(values))
    axes = figure.add_subplot()
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=1)
    for (y, x), id in np.ndenumerate(table.ids[..., 0]):
        colour = "black" if values[y, x] > 0.5 else "white"
        _text(axes.text(x, y, _name(table.pieces[int(id)], 9), ha="center", va="center", color=colour, fontsize=7))
    axes.set_yticks(range(len(values)), ["embedding", *(str(i) for i in range(len(values) - 1))], fontsize=7)
    _tokens(axes, "x", [trace.tokens[p].piece for p in chosen], 8)
    axes.set_xlabel("after the token")
    axes.set_ylabel("after the layer")
    axes.set_title("What the model would say next", fontsize=10)
    figure.colorbar(image, label="probability")
    return figure


def attention(trace: Trace, layer: int = -1, heads: int | Sequence[int] | None = None) -> Any:
    """Attention maps of a layer: a row per query token, a column per key token. -> Figure

    heads: default: all heads of the trace. Of more than 64 tokens, the last 64 are shown.

    Raises ValueError for a layer or head that is not in the trace.
    """
    _trace(trace)
    layer = checks.integer("layer", layer, -len(trace.layers))
    layer = trace.layers[layer] if layer < 0 else layer
    if layer not in trace.layers:
        raise WrongValue("layer", f"={checks.shown(layer)}: the trace has {', '.join(map(str, trace.layers))}")
    wanted = trace.heads if heads is None else select("heads", heads, max(trace.heads) + 1)
    if not set(wanted) <= set(trace.heads):
        raise WrongValue("heads", f"={checks.shown(heads)}: the trace has {', '.join(map(str, trace.heads))}")
    first = max(len(trace) - MOST["attention"], 0)
    rows = [i for i, p in enumerate(trace.positions) if p >= first]
    maps = trace.attention[trace.layers.index(layer)][:, rows, first:]
    names = [token.piece for token in trace.tokens]
    across = min(len(wanted), 3)
    down = -(-len(wanted) // across)
    side = 4.2 if len(wanted) == 1 else 2.4
    figure = _figure(side * across + 1.2, side * down + 0.8)
    for i, head in enumerate(wanted):
        axes = figure.add_subplot(down, across, i + 1)
        image = axes.imshow(maps[trace.heads.index(head)], cmap="cividis", vmin=0, vmax=1, aspect="auto")
        size = 7 if len(wanted) == 1 else 5
        if len(names) - first <= 32:
            _tokens(axes, "x", names[first:], size)
            _tokens(axes, "y", [names[trace.positions[r]] for r in rows], size)
        if len(wanted) > 1:
            axes.set_title(f"head {head}", fontsize=8)
    figure.supxlabel("looked at", fontsize=9)
    figure.supylabel("looks", fontsize=9)
    cut = f", last {len(trace) - first} of {len(trace)} tokens" if first else ""
    title = f"layer {layer}, head {wanted[0]}" if len(wanted) == 1 else f"layer {layer}"
    figure.suptitle(f"Attention: {title}{cut}", fontsize=10)
    figure.colorbar(image, ax=figure.axes, label="weight")
    return figure


def attribution(trace: Trace, position: int = -1, token: int | str | None = None) -> Any:
    """The contributions of each layer's attention and feed-forward network, and of each head, to a token's logit. ->
    Figure

    position, token: as for ``Trace.attribution``.
    """
    _trace(trace)
    return of_attribution(trace.attribution(position, token))


def of_attribution(found: Attribution) -> Any:
    """As :func:`attribution`, for an attribution computed earlier."""
    n, n_heads = found.heads.shape
    figure = _figure(8.4, 1.6 + 0.15 * n)
    bars, grid = figure.subplots(1, 2, width_ratios=(1.2, 1))
    y = np.arange(n)
    bars.barh(y + 0.2, found.attention, 0.4, color=BLUE, label="attention")
    bars.barh(y - 0.2, found.mlp, 0.4, color=ORANGE, hatch="////", edgecolor="white", label="feed-forward")
    bars.axvline(0, color="black", linewidth=0.6)
    bars.set_ylim(-0.7, n - 0.3)
    bars.set_xlabel("logits")
    bars.set_ylabel("layer")
    bars.legend(fontsize=7, frameon=False)
    most = float(np.abs(found.heads).max()) or 1.0
    image = grid.imshow(found.heads, origin="lower", aspect="auto", cmap="PuOr", vmin=-most, vmax=most)
    grid.set_xlabel("head")
    grid.set_ylabel("layer")
    grid.set_xticks(range(n_heads))
    figure.colorbar(image, ax=grid, label="logits")
    title = f"What pushed {found.token.piece!r} after position {found.position}: logit {found.logit:.2f}"
    _text(figure.suptitle(title, fontsize=10))
    return figure


def patching(found: Patching) -> Any:
    """How much of the difference between two prompts each patch restores: a row per layer, a column per token; for
    heads, the largest value in a layer. -> Figure"""
    if not isinstance(found, Patching):
        raise WrongType("found", f" must be a Patching, not {type(found).__name__}")
    values = found.restored
    if values.ndim == 3:
        best = np.abs(values).argmax(axis=1, keepdims=True)
        values = np.take_along_axis(values, best, 1)[:, 0]
    figure = _figure(2.4 + 0.34 * values.shape[1], 1.6 + 0.15 * values.shape[0])
    axes = figure.add_subplot()
    most = max(float(np.nanmax(np.abs(values), initial=0.0)), 1.0)
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="PuOr", vmin=-most, vmax=most)
    _tokens(axes, "x", [token.piece for token in found.tokens], 8)
    rows = range(0, len(found.layers), 1 + len(found.layers) // 20)
    axes.set_yticks(rows, [str(found.layers[i]) for i in rows], fontsize=7)
    axes.set_xlabel("patched at the token")
    axes.set_ylabel("patched in the layer")
    axes.set_title(f"How much a patch of {found.what} restores", fontsize=10)
    figure.colorbar(image, label="share of the difference")
    return figure


def _trace(trace: object) -> None:
    """Refuses anything but a trace: its lens or its attribution, for example."""
    if not isinstance(trace, Trace):
        raise WrongType("trace", f" must be a Trace, not {type(trace).__name__}")


def save(figure: Any, path: Any, *, dpi: int = 100) -> None:
    """Writes a figure; the same figure gives the same bytes. Characters that the font lacks become boxes, without a
    warning. path: a name, whose suffix determines the format (none: .png), or an open binary file, which gets a PNG. A
    named file is never left incomplete. Raises ModelFileError if it cannot be written."""
    if hasattr(path, "write"):
        _write(figure, path, "png", dpi)
        return
    name = checks.file_name(path)
    kind = os.path.splitext(name)[1][1:] or "png"
    with whole_file(name if name.endswith(f".{kind}") else f"{name}.{kind}") as file:
        _write(figure, file, kind, dpi)


def _write(figure: Any, file: Any, kind: str, dpi: int) -> None:
    figure.savefig(file, format=kind, dpi=dpi, metadata={"Software": None} if kind == "png" else None)


def check() -> None:
    """Raises ImportError naming the extra if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'pellucid[plots]'") from None


def _figure(width: float, height: float) -> Any:
    check()
    from pellucid.look.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _name(piece: str, most: int = 14) -> str:
    """A piece shortened to `most` characters on one line; spaces become open boxes."""
    text = repr(piece)[1:-1].replace(" ", "\u2423")
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _tokens(axes: Any, axis: str, pieces: Sequence[str], size: int) -> None:
    """Labels an axis with tokens."""
    names = [_name(piece) for piece in pieces]
    if axis == "x":
        labels = axes.set_xticks(range(len(names)), names, fontsize=size, rotation=90)
    else:
        labels = axes.set_yticks(range(len(names)), names, fontsize=size)
    for tick in labels:
        _text(tick.label1)


def _text(text: Any) -> None:
    """Shows dollar signs as they are: text between them is not a formula."""
    text.set_parse_math(False)
