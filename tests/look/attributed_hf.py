"""Attributions of small models in transformers, with hooks, in float64 (extra `reference`): python -m
tests.look.attributed_hf writes tests/look/attributed.npz.

A norm is a linear map once its scale is held fixed. The map is read from the norm's input and output, so that it is
known without the norm's formula.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.look import attributed, inside
from tests.look.inside_hf import quantities
from tests.look.reference import Reference, keep, weight

Map = Callable[[Any], Any]


def linear(norm: Any, x: Any, y: Any) -> Map:
    """From parts (..., rows, d) of a norm's input to parts of its output y (rows, d), with the scale of x (rows, d)."""
    bias = getattr(norm, "bias", None)
    if "LayerNorm" in type(norm).__name__:  # all others are RMSNorms by name
        centred = x - x.mean(-1, keepdim=True)
        gain = (y - (0 if bias is None else bias)) / centred
        return lambda part: (part - part.mean(-1, keepdim=True)) * gain
    return lambda part: part * (y / x)


class Attributed:
    """A run of a model, and what its parts add."""

    def __init__(self, ref: Reference, ids: list[int]) -> None:
        self.ref, self.ids = ref, ids
        inner, seen = ref.inner, dict[str, Any]()
        names = ("norm", "final_layernorm", "embedding_norm", "ln_f", "final_layer_norm", "norm_f")
        final = next(getattr(inner, name) for name in names if hasattr(inner, name))
        outputs = [(final, keep(seen, "final")), (ref.head, keep(seen, "head"))]
        inputs = [(final, keep(seen, "stream")), (ref.head, keep(seen, "read"))]
        for i in range(len(ref.layers)):
            for part, module in (("attention", ref.attention(i)), ("mlp", ref.mlp(i))):
                if module is None:
                    continue
                outputs.append((module, keep(seen, f"{part}/{i}")))
                if "norm" in type(module).__name__.lower():
                    inputs.append((module, keep(seen, f"{part}_in/{i}")))
        with ref.changed(outputs, inputs):
            logits = ref.logits(ids)
        self.found, self.seen = quantities(ref, ids), seen
        capped = getattr(ref.config, "final_logit_softcapping", None)
        scale = 1.0 if capped else float(logits[-1, 0] / seen["head"][-1, 0])
        rows = list(attributed.POSITIONS)
        read = float(seen["read"][-1, 0] / seen["final"][-1, 0])  # factors before the head, and behind it
        w = ref.head.weight.double() * (scale * read)
        b = ref.head.bias
        b = torch.zeros(len(w)) if b is None else b.double() * scale
        through = linear(final, seen["stream"][rows], seen["final"][rows])
        pairs = [target if isinstance(target, tuple) else (target, None) for target in attributed.TARGETS]
        self.wanted = torch.stack([w[a] - (0 if c is None else w[c]) for a, c in pairs])  # (T, d)
        self.through, self.rows = through, rows
        after = getattr(final, "bias", None)
        self.bias = torch.stack([b[a] - (0 if c is None else b[c]) for a, c in pairs])
        self.bias = self.bias + (0 if after is None else self.wanted @ after.double())

    def push(self, part: Any) -> Any:
        """Parts (..., P, d) of the stream -> (P, T, ...)."""
        pushed = torch.einsum("...pd,td->pt...", self.through(part.double()), self.wanted)
        return pushed

    def behind(self, part: str, i: int) -> Map:
        """The norm behind a part of a layer, where it has one."""
        module = self.ref.attention(i) if part == "attention" else self.ref.mlp(i)
        if f"{part}_in/{i}" not in self.seen:
            return lambda x: x * self.ref.factor(i, part)
        return linear(module, self.seen[f"{part}_in/{i}"][self.rows], self.seen[f"{part}/{i}"][self.rows])

    def heads(self, i: int) -> Any:
        """What each head adds to the stream -> (heads, P, d)."""
        w = weight(self.ref.projection(i)).double()
        each = self.found[f"mixed/{i}"][:, self.rows]  # (heads, P, value)
        parts = torch.einsum("hpv,dhv->hpd", each, w.view(len(w), len(each), -1))
        return self.behind("attention", i)(parts)

    def sources(self, i: int) -> Any:
        """What each head adds through each token's value -> (heads, n, P, d)."""
        weights = self.found[f"attention/{i}"][:, self.rows].double()
        v = self.ref.values(i, self.found[f"v/{i}"].double())
        v = v.repeat_interleave(len(weights) // len(v), 0)
        each = torch.einsum("hpj,hjv->hjpv", weights, v)
        gates = self.found[f"mixed/{i}"][:, self.rows] / each.sum(1)  # of the heads' outputs, where there are any
        w = weight(self.ref.projection(i)).double()
        parts = torch.einsum("hjpv,dhv->hjpd", each * gates[:, None], w.view(len(w), len(v), -1))
        return self.behind("attention", i)(parts)

    def neurons(self, i: int) -> Any:
        """What each neuron adds -> (neurons, P, d)."""
        w = weight(self.ref.down(i)).double()
        w = w * getattr(self.ref.network(i), "down_multiplier", 1.0)
        parts = torch.einsum("pf,df->fpd", self.found[f"neurons/{i}"][self.rows].double(), w)
        return self.behind("mlp", i)(parts)

    def path(self, sender: int, receiver: int) -> dict[str, Any]:
        """What a later head's query, key and value lose without a head of an earlier layer."""
        w, each = weight(self.ref.projection(sender)).double(), self.found[f"mixed/{sender}"][attributed.SENDER]
        part = each @ w.view(len(w), self.ref.heads, -1)[:, attributed.SENDER].T * self.ref.factor(sender, "attention")
        if f"attention_in/{sender}" in self.seen:
            norm = self.ref.attention(sender)
            part = linear(norm, self.seen[f"attention_in/{sender}"], self.seen[f"attention/{sender}"])(part)
        less: dict[str, Any] = {}

        def attend(i: int, q: Any, k: Any, v: Any, eager: Any) -> Any:
            if i == receiver:
                less.update(zip("qkv", self.ref.used(i, q, k, v), strict=True))
            return eager(q, k, v)

        with self.ref.changed((), [(self.ref.layers[receiver], lambda x: x - part)], attend):
            self.ref.logits(self.ids)
        head = attributed.RECEIVER % self.ref.heads
        kv = head // (self.ref.heads // len(self.found[f"k/{receiver}"]))
        whole = {name: self.found[f"{name}/{receiver}"] for name in "qkv"}
        return {f"path/{name}": (whole[name] - less[name])[head if name == "q" else kv] for name in "qkv"}


def observe(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        ref = Reference(name, Path(folder))
    ids = inside.ids_of(name, ref.config.vocab_size)
    with torch.inference_mode():
        of = Attributed(ref, ids)
        rows = of.rows
        found = {"embedding": of.push(of.found["embeddings"][rows]), "bias": of.bias}
        for i in range(len(ref.layers)):
            none = torch.zeros_like(of.found[f"hidden/{i}"])  # where a layer lacks a part
            attention, mlp = (of.found.get(f"{part}_out/{i}", none) for part in ("attention", "mlp"))
            found[f"attention/{i}"], found[f"mlp/{i}"] = of.push(attention[rows]), of.push(mlp[rows])
            added = attention + mlp
            rest = of.found[f"hidden/{i + 1}"] - of.found[f"hidden/{i}"] - added
            if rest.abs().max() > 1e-6 * added.abs().max():  # what follows both parts
                found[f"edits/{i}"] = of.push(rest[rows])
            if i in ref.attending:
                found[f"heads/{i}"] = of.push(of.heads(i))
                found[f"sources/{i}"] = of.push(of.sources(i))
            if ref.down(i) is not None:
                found[f"neurons/{i}"] = of.push(of.neurons(i))
        parts = [value for key, value in found.items() if key.split("/")[0] in ("attention", "mlp", "edits")]
        total = found["embedding"] + sum(parts) + found["bias"]
        cap = getattr(ref.config, "final_logit_softcapping", None)
        logits = ref.logits(ids)[rows]
        row = cap * torch.tanh(total[:, 0] / cap) if cap else total[:, 0]
        assert (row - logits[:, 5]).abs().max() < 1e-5 * logits.abs().max(), name
        if len(ref.attending) > 1:
            found |= of.path(ref.attending[0], ref.attending[-1])
        left = [ref.logits([*ids[:p], *ids[p + 1 :]])[-1] for p in range(len(ids))]
        found["occlusion"] = torch.stack([one[5] - one[7] for one in left])
    return {key: np.asarray(value.float().numpy()) for key, value in found.items()}


def main() -> None:
    """Writes the file; only those models that are named, beside what it has of others, where some are."""
    arrays: dict[str, Any] = {}
    wanted = sys.argv[1:] or list(attributed.NAMES)
    with np.load(attributed.PATH, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files if key.partition("/")[0] not in wanted}
    for name in wanted:
        arrays |= {f"{name}/{key}": value for key, value in observe(name).items()}
        print(name, flush=True)
    np.savez_compressed(attributed.PATH, **arrays)
    print(f"{attributed.PATH.name}: {attributed.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
