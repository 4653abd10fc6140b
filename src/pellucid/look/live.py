"""The data that a page shows for some tokens, read in parts, for a server's app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid.core import Core
from pellucid.errors import WrongValue
from pellucid.look.collect import Progress, collect
from pellucid.look.drawing import Drawing, drawing
from pellucid.look.pages import about, complete, shown_by_hand, usual_title
from pellucid.look.places import find
from pellucid.look.sizes import select
from pellucid.page import weights
from pellucid.page.blocks import VERSION, half, kind_of, raw
from pellucid.sampling import SamplingOptions

__all__ = ["PART_BYTES", "Live", "Part"]

TOKENS = 4096  # that the app can show
BYTES = 1 << 30  # that their data may take
PART_BYTES = 64_000_000  # of one response
ATTENTION = "attention"  # the name of the block of attention weights by rows
PLURALS = {"layer": "layers", "head": "heads", "positions": "positions"}

# The first axes of blocks; other axes, and other blocks, are returned whole.
AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("stats", "ranks", "tail", "dry-breaks", "targets", "base-push"), ("positions",)),
    **dict.fromkeys(("att-push", "mlp-push", "edit-push"), ("positions", "target", "layer")),
    "head-push": ("positions", "target", "layer", "head"),
    **dict.fromkeys(("neurons", "neuron-acts", "neuron-push"), ("positions", "layer")),
    **dict.fromkeys(("lens-ids", "lens-p"), ("after", "positions")),
    "lengths": ("part", "after", "positions"),
    **dict.fromkeys(("thumbs", "head-scores", "hand-q", "hand-scores", "hand-sums", "hand-found"), ("layer", "head")),
    **dict.fromkeys(("hand-keys", "hand-promoted", "hand-mixed"), ("layer", "head")),
    "att-rest": ("layer", "head", "positions"),
}


class Part(NamedTuple):
    """Numbers, little-endian. kind: the types of the consecutive arrays, by their names in page.blocks, separated by
    spaces; shape: of each."""

    kind: str
    shape: tuple[int, ...]
    data: bytes


class Live:
    """The data that a page shows for some tokens, block by block. Weights of heads are complete, and computed when
    requested.

    meta: plain data; nbytes: approximate memory that it holds.
    """

    def __init__(
        self, core: Core, ids: Sequence[int], prompt: int, options: SamplingOptions, progress: Progress
    ) -> None:
        """As `pages.page`, for at most 4,096 tokens. Raises ValueError for more, or if they would take more than 1
        GB."""
        if len(ids) > TOKENS:
            raise WrongValue("prompt", f" has {len(ids):,} tokens: a look inside shows at most {TOKENS:,}")
        core.decoder()
        most = BYTES // _bytes_per_token(core)
        if len(ids) > most:
            raise WrongValue("prompt", f" has {len(ids):,} tokens: a look inside this model shows at most {most:,}")
        self._core, self._prompt = core, prompt
        hand = shown_by_hand(ids, prompt)
        self._found = collect(core, ids, hand, progress)
        self._arrays = arrays = complete(core, ids, self._found.arrays, options, {}, ids)
        rest = np.zeros((core.config.layers, self._found.n_heads, len(ids)), np.uint8)
        arrays["att-rest"] = rest  # nothing is left out
        groups = [None if layer.qkv is None else layer.group for layer in find(core.engine.plan).layers]
        self._heads = {i: group.n_q for i, group in enumerate(groups) if group is not None}  # for layers with attention
        types = {name: kind_of(array) for name, array in arrays.items()}
        self.meta = {
            "pellucid_page": VERSION,
            **about(core, ids, prompt, hand, options),
            "title": usual_title(core, ids),
            "timings": None,
            "kept": {"attention": {"share": 1.0, "most": 0}},
            "blocks": {**types, **{f"att-{layer}": "u8" for layer in self._heads}},
        }
        self.meta["model"]["heads"] = self._found.n_heads
        self.nbytes = sum(array.nbytes for array in arrays.values()) + self._found.nbytes

    def steps(self, position: int, options: SamplingOptions) -> Drawing:
        """The engine's own sampler at a position."""
        ids = self.meta["ids"][: position + 1]
        return drawing(self._core, self._found.last[position], ids, max(len(ids) - self._prompt, 0), options)

    def spell(self, id: int) -> str:
        """A token's text."""
        return self._core.spell(id)

    def part(self, name: str, layer: Any = None, head: Any = None, positions: Any = None, k: Any = None) -> Part:
        """A block, or its numbers for some layers, heads and positions (an integer or several; in ascending order;
        None: all), along the axes that it has.

        "attention": weights of one layer -> f16 (heads, positions, tokens). k: returns only the k largest of each row
        -> u32 (heads, positions, k), their tokens, then f16, the weights; zeros fill rows with fewer.
        Raises ValueError and TypeError naming the argument: for an unknown name, an axis that the block lacks, or a
        part of more than 64 MB.
        """
        if name == ATTENTION:
            return self._attention(layer, head, positions, k)
        if k is not None:
            raise WrongValue("k", f": only {ATTENTION} has the largest weights")
        if name not in self.meta["blocks"]:
            raise WrongValue("name", ": expected one of the blocks that the look has")
        given = {"layer": layer, "head": head, "positions": positions}
        if name not in self._arrays:
            return self._codes(name, given)
        array = self._arrays[name]
        if name in ("cand-ids", "cand-logits") and positions is not None:
            _lacks(name, {"layer": layer, "head": head})
            starts = self._arrays["cand-starts"]
            some = [array[starts[i] : starts[i + 1]] for i in select("positions", positions, len(starts) - 1)]
            array = np.concatenate(some)
        else:
            axes = AXES.get(name, ())
            _lacks(name, {axis: value for axis, value in given.items() if axis not in axes})
            for axis, value in given.items():
                if value is not None:
                    at = axes.index(axis)
                    array = np.take(array, select(axis, value, array.shape[at]), axis=at)
        return Part(kind_of(array), array.shape, raw(array))

    def _codes(self, name: str, given: dict[str, Any]) -> Part:
        """A layer's weights in a page's format."""
        layer, n = int(name.removeprefix("att-")), len(self.meta["ids"])
        _lacks(name, {axis: value for axis, value in given.items() if axis != "head"})
        heads = select("head", given["head"], self._heads[layer])
        size = n * (n + 1) // 2
        _limit("head", len(heads) * size)
        codes = [weights.pack(one, weights.LADDER[0]).weights.tobytes() for one in self._found.heads(layer, heads)]
        return Part("u8", (len(heads), size), b"".join(codes))

    def _attention(self, layer: Any, head: Any, positions: Any, k: Any) -> Part:
        number, n = checks.integer("layer", layer, 0, self.meta["layers"] - 1), len(self.meta["ids"])
        if number not in self._heads:
            raise WrongValue("layer", f"={number}: this layer has no attention")
        heads, rows = select("head", head, self._heads[number]), select("positions", positions, n)
        most = None if k is None else checks.integer("k", k, 1, n)
        _limit("positions", len(heads) * len(rows) * (2 * n if most is None else 6 * most))
        found = self._found.heads(number, heads, rows)
        if most is None:
            return Part("f16", (len(heads), len(rows), n), b"".join(raw(half(one)) for one in found))
        ids, kept = [], []
        for one in found:
            best = np.argsort(-one, axis=1, kind="stable")[:, :most].astype(np.uint32)
            largest: npt.NDArray[np.float16] = half(np.take_along_axis(one, best, axis=1))
            ids.append(raw(np.where(largest > 0, best, 0).astype(np.uint32)))
            kept.append(raw(largest))
        return Part("u32 f16", (len(heads), len(rows), most), b"".join([*ids, *kept]))


def _lacks(name: str, given: dict[str, Any]) -> None:
    """Raises ValueError if an axis is selected that the block does not have."""
    for axis, value in given.items():
        if value is not None:
            raise WrongValue(axis, f": {name} cannot be selected by {PLURALS[axis]}")


def _limit(axis: str, size: int) -> None:
    if size > PART_BYTES:
        raise WrongValue(axis, f": the part would have {size:,} bytes; at most {PART_BYTES:,} at a time")


def _bytes_per_token(core: Core) -> int:
    """Approximate bytes that a token takes: queries and keys in float32, and candidates."""
    groups = [layer.group for layer in find(core.engine.plan).layers if layer.group is not None]
    return 4 * sum((g.n_q + g.n_kv) * g.dk for g in groups) + 8192
