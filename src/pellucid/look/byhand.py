"""Attention by hand, at one position: each head's query, the tokens that it attends to, and the tokens that its output
promotes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.look import record
from pellucid.look.places import Layer, Places
from pellucid.page.blocks import half
from pellucid.schedule.turns import Turns

__all__ = ["FOUND", "PROMOTED", "ByHand"]

Floats = npt.NDArray[np.float32]
FOUND = 4  # maximum number of tokens attended to whose keys are kept
PROMOTED = 3  # number of tokens whose logits a head's output raises most


class ByHand:
    """Collects, layer by layer, arrays of all heads: queries, scores before softmax, the log of the sum of their
    exponentials (with a sink's), the keys of the FOUND tokens with the highest scores, the heads' outputs, and the
    tokens whose logits they raise most."""

    def __init__(self, turns: Turns, places: Places, position: int, n_heads: int) -> None:
        self._turns, self._engine, self._places, self.position = turns, turns.engine, places, position
        layers = len(places.layers)
        wide = max((x.group.dk for x in places.layers if x.group is not None), default=1)
        self._q = np.zeros((layers, n_heads, wide), np.float16)
        self._scores = np.full((layers, n_heads, position + 1), -np.inf, np.float16)
        self._sums = np.zeros((layers, n_heads), np.float32)
        self._found = np.zeros((layers, n_heads, FOUND), np.uint16)
        self._keys = np.zeros((layers, n_heads, FOUND, wide), np.float16)
        value = max((x.value for x in places.layers if x.group is not None), default=1)
        self._mixed = np.zeros((layers, n_heads, value), np.float16)
        self._promoted = np.zeros((layers, n_heads, PROMOTED), np.uint32)
        self._out: list[tuple[int, Floats]] = []  # (layer, contributions of its heads)

    def mixed(self, number: int, layer: Layer, row: Floats, heads: Sequence[int]) -> None:
        """row: the heads' outputs (1, heads * value) of the position."""
        self._mixed[number, : len(heads), : layer.value] = half(row.reshape(len(heads), layer.value))
        parts = record.head_parts(self._engine, layer, row, heads)[:, 0]
        self._out.append((number, parts))

    def attention(self, number: int, layer: Layer, q: Floats, k: Floats) -> None:
        """q (heads, n, dk), k (kv heads, n, dk) of a layer."""
        g = layer.group
        assert g is not None
        at = self.position
        scores = np.zeros((g.n_q, 1, at + 1), np.float32)
        groups = [head // (g.n_q // g.n_kv) for head in range(g.n_q)]
        self._turns.attention(
            np.ascontiguousarray(q[:, at : at + 1]), np.ascontiguousarray(k[:, : at + 1]), groups, np.array([at]),
            scale=layer.scale, window=g.window, causal=g.causal, cap=layer.cap, scores=scores, weights=None,
        )  # fmt: skip
        self._q[number, : g.n_q, : g.dk] = half(q[:, at])
        low = float(np.finfo(np.float16).min)
        self._scores[number, : g.n_q] = np.where(
            np.isneginf(scores[:, 0]), -np.inf, half(np.maximum(scores[:, 0], low))
        )
        sums = np.logaddexp.reduce(scores[:, 0].astype(np.float64), axis=1)
        if layer.sinks >= 0:
            sums = np.logaddexp(sums, self._engine.plan.vectors[layer.sinks].data[: g.n_q])
        self._sums[number, : g.n_q] = sums
        best = np.argsort(-scores[:, 0], axis=1, kind="stable")[:, :FOUND]
        self._found[number, : g.n_q, : best.shape[1]] = best
        for head in range(g.n_q):
            self._keys[number, head, : best.shape[1], : g.dk] = half(k[groups[head], best[head]])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        for number, parts in self._out:
            for block, logits in record.head_blocks(self._turns, self._places, np.ascontiguousarray(parts)):
                for i in range(PROMOTED):  # without the final norm the order is the same, since it only scales a row
                    best = logits.argmax(axis=1)
                    self._promoted[number, block.start : block.stop, i] = best
                    logits[np.arange(len(logits)), best] = -np.inf
        return {
            "hand-q": self._q,
            "hand-scores": self._scores,
            "hand-sums": self._sums,
            "hand-found": self._found,
            "hand-keys": self._keys,
            "hand-promoted": self._promoted,
            "hand-mixed": self._mixed,
        }
