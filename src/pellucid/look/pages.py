"""``Trace.html``: a single HTML file that shows how a model processed a text."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pellucid import checks
from pellucid.core import Core
from pellucid.errors import WrongValue
from pellucid.info import cache_shares, plan_table
from pellucid.look import fewer
from pellucid.look.collect import SCORES, Collected, Progress, collect
from pellucid.look.places import find
from pellucid.look.sizes import select
from pellucid.page import weights
from pellucid.page.blocks import encode
from pellucid.page.html import page as make
from pellucid.sampling import SamplingOptions
from pellucid.text.breakers import Breakers
from pellucid.weights.writer import whole_file

__all__ = [
    "MEGABYTES", "NOTEBOOK", "NOTEBOOK_TOKENS", "TOKENS", "Page", "about", "check", "complete", "page", "shown_by_hand",
    "usual_title",
]  # fmt: skip

MEGABYTES = 15.0
TOKENS = 2048  # that one file can show
NOTEBOOK = 2_000_000  # bytes of a page that a notebook shows
NOTEBOOK_TOKENS = 128  # of a trace whose page may fit in that
OPTIONS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold",
    "dynatemp_range", "dynatemp_exponent", "repeat_penalty", "repeat_last", "presence_penalty", "frequency_penalty",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_range", "mirostat", "mirostat_tau", "mirostat_eta",
    "samplers",
)  # fmt: skip


# Blocks of the page to compare with.
COMPARED = (
    "stats", "targets", "ranks", "cand-starts", "cand-ids", "cand-logits", "tail", "lens-ids", "lens-p", "lengths",
    "base-push", "att-push", "mlp-push", "edit-push",
)  # fmt: skip


class Page:
    """A page as text. A notebook shows it in a frame if it has at most 2 MB."""

    def __init__(self, text: str, title: str) -> None:
        self.text, self.title = text, title

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file; a file of that name is replaced when the new one is complete. Raises ModelFileError."""
        with whole_file(checks.file_name(path)) as file:
            file.write(self.text.encode())

    def __repr__(self) -> str:
        return f"<Page of {len(self.text):,} bytes: page.save('trace.html')>"

    def _repr_html_(self) -> str:
        if len(self.text) > NOTEBOOK:
            said = f"The page has {len(self.text) / 1e6:.1f} MB, more than a notebook should hold: page.save(path)."
            return f"<p>{said}</p>"
        source = html.escape(self.text)
        style, title = "width:100%;height:48em;border:1px solid #8886", html.escape(self.title)
        return f'<iframe sandbox="allow-scripts" style="{style}" title="{title}" srcdoc="{source}"></iframe>'


def check(tokens: int, megabytes: float) -> None:
    """Raises ValueError for more tokens than a file can show, and for an invalid size."""
    checks.number("megabytes", megabytes, 0.5, 2000)
    if tokens > TOKENS:
        more = "the app, `pellucid serve --ui`, shows more"
        raise WrongValue("prompt", f" has {tokens:,} tokens: a page shows at most {TOKENS:,}; {more}")


def page(
    core: Core,
    ids: Sequence[int],
    *,
    title: str | None = None,
    megabytes: float = MEGABYTES,
    prompt: int | None = None,
    position: int | None = None,
    layers: Any = None,
    positions: Any = None,
    against: tuple[Core, Sequence[int]] | None = None,
    options: SamplingOptions | None = None,
    timings: dict[str, Any] | None = None,
    progress: Progress = None,
) -> Page:
    """The page of these tokens. prompt: number of given ones; the others were generated, with `options`. position: the
    one shown first, and for which attention is shown by hand; default: the one before the first new token, or the last.
    layers, positions: those for which the page has weights of heads, by default all; for other layers it has only the
    small maps. against: a model and the same number of tokens to compare with. timings: {"prompt": nanoseconds of each
    operation, "token": ...}. Raises ValueError, as `check` does, or if not even the rest fits the size."""
    check(len(ids), megabytes)
    core.decoder()
    hand = (
        shown_by_hand(ids, prompt)
        if position is None
        else checks.integer("position", position, -len(ids), len(ids) - 1)
    )
    hand %= len(ids)
    some = select("layers", layers, core.config.layers), select("positions", positions, len(ids))
    found = collect(core, ids, hand, progress)
    options = options or SamplingOptions()
    other = None if against is None else _other(*against, len(ids), hand)
    every = [*ids, *(against[1] if against else ())]
    meta = about(core, ids, prompt, hand, options)
    meta["model"]["heads"] = found.n_heads
    meta |= {"title": title or usual_title(core, ids), "timings": timings}
    if against is not None:
        meta["against"] = {"ids": list(against[1]), "edited": against[0] is not core}
    attending = [i for i, layer in enumerate(find(core.engine.plan).layers) if layer.qkv is not None]
    wanted = [i for i in attending if i in some[0]]
    rest = np.zeros((core.config.layers, found.n_heads, len(ids)), np.uint8)
    for rung in fewer.LADDER:
        there = {} if other is None else fewer.fewer(other, rung)
        beside = {f"b-{name}": there[name] for name in COMPARED if there}
        arrays = complete(core, ids, fewer.fewer(found, rung), options, beside, every)
        meta["kept"] = fewer.said(rung)
        room = int(megabytes * 1e6) - len(make(meta, arrays, {})) - len(encode(rest)[1]) - 1000 * len(wanted)
        if room >= 0:
            break
    else:
        least = math.ceil((int(megabytes * 1e6) - room) / 1e5) / 10
        raise WrongValue("megabytes", f"={megabytes:g}: a page of {len(ids):,} tokens needs at least {least:.1f}")
    shown = np.zeros((len(ids), 1), np.bool_)
    shown[list(some[1])] = True
    of_weights, packed = weights.choose(wanted, lambda layer: (one * shown for one in found.heads(layer)), room)
    for layer, (_, left) in packed.items():
        rest[layer, : len(left)] = np.where(shown[:, 0], left, 255)
    meta["kept"]["attention"] = None if of_weights is None else of_weights._asdict()
    for name, given, chosen in (("layers", layers, some[0]), ("positions", positions, some[1])):
        if given is not None:
            meta["kept"][name] = chosen
    text = make(meta, {**arrays, "att-rest": rest}, {f"att-{layer}": block for layer, (block, _) in packed.items()})
    return Page(text, meta["title"])


def _other(core: Core, ids: Sequence[int], n: int, hand: int) -> Collected:
    if len(ids) != n:
        raise WrongValue("against", f" has {len(ids)} tokens: expected {n}, as many as the other")
    core.decoder()
    return collect(core, ids, hand)


def complete(
    core: Core,
    ids: Sequence[int],
    found: dict[str, Any],
    options: SamplingOptions,
    other: dict[str, Any],
    more: Sequence[int],
) -> dict[str, Any]:
    """The collected arrays, with those of texts. more: all ids shown."""
    arrays = {**found, **other}
    arrays["dry-breaks"] = np.frombuffer(Breakers(core.piece, options.dry_breakers).marks(ids), np.uint8)
    used = _used(more, arrays)
    spelled = json.dumps([_piece(core, id) for id in used], separators=(",", ":"))
    arrays |= {"piece-ids": np.array(used, np.uint32), "pieces": np.frombuffer(spelled.encode(), np.uint8)}
    return arrays


def about(core: Core, ids: Sequence[int], prompt: int | None, hand: int, options: SamplingOptions) -> dict[str, Any]:
    """A page's metadata on the model, the tokens and the sampler, as plain data."""
    engine, c, facts = core.open(), core.config, core.facts
    layers = find(engine.plan).layers
    windows = [layer.group.window if layer.group is not None and layer.qkv is not None else -1 for layer in layers]
    kv = [layer.group.n_kv if layer.group is not None else 0 for layer in layers]
    operations = plan_table(engine.plan, engine.matrix_bytes)
    return {
        "model": {
            "name": facts.name or os.path.basename(facts.path),
            "architecture": c.architecture,
            "quantisation": facts.quantisation,
            "parameters": facts.parameters,
            "dim": c.dim,
            "ff": c.ff,
            "vocab": c.vocab,
            "context": core.context_length,
            "kv": facts.kv,
            "precision": facts.precision,
        },
        "n": len(ids),
        "layers": c.layers,
        "windows": windows,  # of each layer's attention; 0: all tokens; -1: the layer has none
        "kv_heads": kv,
        "ids": list(ids),
        "prompt": len(ids) if prompt is None else prompt,
        "hand": hand,
        "scales": [layer.scale for layer in layers],
        "head_dims": [layer.group.dk if layer.group is not None else 0 for layer in layers],
        "value_dims": [layer.value for layer in layers],
        "options": {name: getattr(options, name) for name in OPTIONS},
        "seed": None if options.seed is None else str(options.seed),
        "suppressed": [id for id in facts.suppressed if id not in options.logit_bias],
        "scores": SCORES,
        "plan": [[o.layer, o.kind, o.name, [m[1:] for m in o.matrices], o.bytes, o.detail] for o in operations],
        "cache": [asdict(share) for share in cache_shares(engine.plan, facts.kv)],
    }


def shown_by_hand(ids: Sequence[int], prompt: int | None) -> int:
    """The position whose attention is shown by hand: the one before the first new token, or the last."""
    return len(ids) - 1 if prompt is None or prompt >= len(ids) else max(prompt - 1, 0)


def usual_title(core: Core, ids: Sequence[int]) -> str:
    """The beginning of the text."""
    text = b"".join(core.piece(id) for id in ids).decode("utf-8", "replace")
    text = " ".join(text.split())
    return (text[:57] + "..." if len(text) > 60 else text) or "A text through a model"


def _used(ids: Sequence[int], arrays: dict[str, Any]) -> list[int]:
    held = ("cand-ids", "lens-ids", "targets", "hand-promoted", "near-ids")
    names = [name for name in arrays if name.removeprefix("b-") in held]
    some = [np.asarray(ids, np.int64), *(arrays[name].reshape(-1) for name in names)]
    found: list[int] = np.unique(np.concatenate(some)).tolist()
    return found


def _piece(core: Core, id: int) -> str | list[str]:
    """A token's text; if it is not whole characters, followed by its bytes in hex."""
    data = core.piece(id, special=True)
    text = data.decode("utf-8", "replace")
    return [text, data.hex()] if "\ufffd" in text else text
