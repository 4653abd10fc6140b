"""A plan: the flat list of operations that one forward pass runs.

A file in arch/ builds it once per model with the methods of :class:`Plan` and the functions of experts.py and
recurrent.py; `_engine` passes it to C, which validates it. Buffers are (rows, dim) float32; operations refer to them by
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid._engine import ACTIVATIONS, FLAGS, NORMS, Kind
from pellucid.entries import (
    EVERYWHERE,
    QKV,
    Attention,
    CacheGroup,
    Experts,
    Latent,
    Matrix,
    Op,
    Part,
    Recurrent,
    Rope,
    Segment,
    TensorLike,
    Vector,
)
from pellucid.parts import floats
from pellucid.tables import Tables, layered

__all__ = [
    "ACTIVATIONS", "EVERYWHERE", "QKV", "Attention", "CacheGroup", "Experts", "Kind", "Latent", "Matrix", "Op", "Part",
    "Plan", "Recurrent", "Rope", "Segment", "TensorLike", "Vector", "floats",
]  # fmt: skip


@dataclass(slots=True)
class Plan(Tables):
    """Builds a plan over the tensors of a model file; names are GGUF's, without ".weight".

    Raises ModelFileError for a missing tensor or a wrong shape, UnsupportedModelError for a format that the engine does
    not support.
    """

    _: KW_ONLY
    vocab: int
    dim: int
    eps: float
    norms: str = "rms"  # or "layer"; the norms of heads are always "rms"
    n_layers: int = 0  # of the plan that this one is derived from

    def changed(self, ops: list[Op], vectors: list[Vector]) -> Plan:
        """A copy with other operations and vectors; matrices keep their numbers."""
        return replace(self, ops=ops, vectors=vectors, n_layers=self.layers, _known=dict(self._known))

    @property
    def layers(self) -> int:
        """The number of layers, including those that a changed plan leaves out."""
        return self.n_layers or max(op.layer + 1 for op in self.ops)

    def embed(self, scale: float = 1.0) -> int:
        """Starts the residual stream: rows of token_embd, times scale."""
        tied = "output.weight" not in self.tensors
        mat = self.matrix("token_embd", self.vocab, self.dim, plain=not tied, scaled=False)
        seg = self.row_of_segments([mat])
        x = self.stream()
        return self.operation(Kind.EMBED, -1, "token_embd", out=x, seg=seg, n_seg=1, scale=scale).out

    def lookup(self, name: str, width: int, scale: float) -> int:
        """A row of another table for each token, times scale, in a buffer of its own. The table stays in the file's
        format, since each token reads only one row."""
        seg = self.row_of_segments([self.matrix(name, self.vocab, width, plain=True, scaled=False)])
        out = self.buffer(name, width)
        return self.operation(Kind.EMBED, -1, name, out=out, seg=seg, n_seg=1, scale=scale).out

    def stream(self) -> int:
        """The residual stream itself, for models without a norm before a linear operation."""
        return self.buffer("x", self.dim)

    def settle(self, layer: int, name: str) -> int:
        """Replaces the residual stream by its norm: after an embedding or, in encoders, after each half of a layer
        (Vaswani et al. 2017)."""
        x = self.stream()
        return self.operation(Kind.NORM, layer, name, inp=x, out=x, **self._norm(layered(layer, name))).out

    def positions(self, name: str, rows: npt.NDArray[np.float32]) -> None:
        """Adds row p of a table (n, dim) to the residual stream at each position p."""
        x, vec = self.stream(), self.constant(name, rows.reshape(-1))
        self.operation(Kind.SCALE_ADD, -1, name, inp=x, out=x, vec=vec, width=self.dim, pos_to=len(rows), each=1)

    def shift(self, name: str, row: npt.NDArray[np.float32]) -> None:
        """Adds the vector (dim) to the residual stream at every position."""
        x = self.stream()
        self.operation(
            Kind.SCALE_ADD, -1, name, inp=x, out=x, vec=self.constant(name, row), width=self.dim, pos_to=EVERYWHERE
        )

    def table(self, name: str, rows: int, columns: int) -> npt.NDArray[np.float32]:
        """The float32 values of a tensor that becomes a constant."""
        return floats(self.tensor(f"{name}.weight", (rows, columns)))

    def norm(self, layer: int, name: str, out: str = "h") -> int:
        """The norm of the residual stream, in another buffer. out: the buffer's name, for a second norm of the same
        rows whose result is still needed after the first one's."""
        x, h = self.stream(), self.buffer(out, self.dim)
        return self.operation(Kind.NORM, layer, name, inp=x, out=h, **self._norm(layered(layer, name))).out

    def norm_columns(
        self,
        layer: int,
        name: str,
        buffer: int,
        column: int,
        width: int,
        *,
        each: int = 0,
        own: bool = False,
        norm: str = "rms",
        weight: bool = True,
        eps: float | None = None,
    ) -> None:
        """Norms columns [column, column + width) of a buffer, in place.

        each: the columns of a group, which has a mean of its own (Wu & He 2018); 0: all. own: each group has its own
        weights; otherwise all share them. norm: "rms", "layer" or "l2" (x / sqrt(sum(x^2) + eps)). weight: whether
        there is a tensor `name` of weights; else `name` is a label.
        """
        n, full = each if each and not own else width, layered(layer, name)
        self.operation(
            Kind.NORM,
            layer,
            name,
            inp=buffer,
            out=buffer,
            column=column,
            width=width,
            each=each,
            flags=FLAGS["per_head"] if own else 0,
            norm=NORMS[norm],
            vec=self.vector(full, n) if weight else -1,
            vec2=self.bias(full, n) if norm == "layer" else -1,
            eps=self.eps if eps is None else eps,
        )

    def linear(self, layer: int, name: str, h: int, rows: int, out: str, *, scale: float = 1.0) -> int:
        """scale times the product of a matrix and h, with a bias if the file has one, in the buffer `out`."""
        full = layered(layer, name)
        h = self.arranged(layer, h, [full])
        mat = self.matrix(full, rows, self.buffers[h].dim)
        seg = self.row_of_segments([mat], biases=[self.bias(full, rows)], scale=scale)
        return self.operation(Kind.LINEAR, layer, name, inp=h, out=self.buffer(out, rows), seg=seg, n_seg=1).out

    def qkv(self, layer: int, h: int, a: Attention, *, values: str = "attn_v") -> QKV:
        """Queries, keys and values, with biases if the file has them; from attn_qkv if they are one matrix. values: the
        tensor of the values.

        The activations of keys and values have two int8 terms: these matrices are small, and every later row reads
        their results. Mean KL divergence from float32 (SmolLM2, 4,096 positions, 32 most probable tokens): 0.00146 with
        one term everywhere, 0.00104 with two for keys and values. With two terms for values only: 0.00114; keys:
        0.00140; queries: 0.00136; attn_output: 0.00142.
        """
        parts = (("attn_q", a.n_q * a.dk), ("attn_k", a.n_kv * a.dk), (values, a.n_kv * a.dv))
        out = self.buffer(f"qkv{sum(rows for _, rows in parts)}", sum(rows for _, rows in parts))
        columns = [0, parts[0][1], parts[0][1] + parts[1][1]]
        fused = layered(layer, "attn_qkv")
        whole = [Part(fused, column, self.buffers[out].dim) for column in columns]
        within = whole if f"{fused}.weight" in self.tensors else [None] * 3
        h = self.arranged(
            layer, h, [fused if part else layered(layer, name) for (name, _), part in zip(parts, within, strict=True)]
        )
        mats, biases = [], []
        for (name, rows), part in zip(parts, within, strict=True):
            mats.append(self.matrix(layered(layer, name), rows, self.buffers[h].dim, part=part))
            biases.append(self.bias(layered(layer, name), rows, part=part if f"{fused}.bias" in self.tensors else None))
        seg = self.row_of_segments(mats, columns, biases, terms=[1, 2, 2])
        self.operation(Kind.LINEAR, layer, "attn_qkv", inp=h, out=out, seg=seg, n_seg=3)
        return QKV(out, a)

    def queries(self, layer: int, h: int, a: Attention, *, of: int) -> QKV:
        """Queries alone, for a layer that attends to the keys and values of the earlier layer `of`, whose attention has
        the same sizes (Gemma 4). They are rotated by `rotate`; nothing is appended."""
        n = a.n_q * a.dk
        self._known["cache_layer", layer] = self._known["cache_layer", of]
        return QKV(self.linear(layer, "attn_q", h, n, f"q{n}"), a)

    def head_norm(self, layer: int, qkv: QKV, *, norm: str = "rms", weights: str = "shared") -> None:
        """Norms queries and keys in place, with the weights attn_q_norm and attn_k_norm.

        norm: "rms", or "layer" (without bias). weights: "shared": heads have the same weights; "own": each head has its
        own; "all": all query heads together are normed as one row, and so are all key heads (OLMo 2).
        """
        a = qkv.attention
        names = [layered(layer, f"attn_{part}_norm") for part in "qk"]
        if weights == "own":
            q, k = (self.rows_as_vector(name, n, a.dk) for name, n in zip(names, (a.n_q, a.n_kv), strict=True))
        else:
            sizes = (a.dk, a.dk) if weights == "shared" else (a.n_q * a.dk, a.n_kv * a.dk)
            q, k = (self.vector(name, n) for name, n in zip(names, sizes, strict=True))
        cache = self._cache(a)
        self.operation(
            Kind.HEAD_NORM,
            layer,
            "attn_qk_norm",
            inp=qkv.buffer,
            out=qkv.buffer,
            vec=q,
            vec2=k,
            cache=cache,
            norm=NORMS[norm],
            flags={"shared": 0, "own": FLAGS["per_head"], "all": FLAGS["all_heads"]}[weights],
            eps=self.eps,
        )

    def rotate(self, layer: int, qkv: QKV, rope: Rope) -> None:
        """Rotates queries and keys in place without appending, if another operation comes before `rope_append`."""
        self.operation(
            Kind.ROPE_APPEND,
            layer,
            "rope",
            inp=qkv.buffer,
            out=qkv.buffer,
            cache=self._cache(qkv.attention),
            rope=self._rope(rope),
            flags=FLAGS["rotate_only"],
        )

    def rope_append(
        self,
        layer: int,
        qkv: QKV,
        rope: Rope | None,
        *,
        factors: Sequence[float] = (),
        every: int = 0,
    ) -> None:
        """Rotates queries and keys in place (rope None: not at all) and appends keys and values to the cache.

        factors: queries at positions [i * every, (i + 1) * every) are also multiplied by factors[i], later ones by the
        last factor (Ministral 3).
        """
        cache = self._cache(qkv.attention)
        place = self.caches[cache].n_layers
        self.caches[cache].n_layers += 1
        self._known["cache_layer", layer] = place
        self.operation(
            Kind.ROPE_APPEND,
            layer,
            "rope",
            inp=qkv.buffer,
            out=qkv.buffer,
            cache=cache,
            cache_layer=place,
            rope=-1 if rope is None else self._rope(rope),
            vec=self.constant(f"query factors every {every}", factors) if factors else -1,
            width=every,
            each=len(factors),
        )

    def attend(self, layer: int, qkv: QKV, *, cap: float = 0.0, sinks: str | None = None) -> int:
        """Attention of the queries over the cache: grouped heads, within the window.

        cap: soft cap of the scores, cap * tanh(score / cap); 0: none. sinks: the tensor with a score per query head
        that takes part in the softmax but has no value (gpt-oss).
        """
        a = qkv.attention
        out = self.buffer(f"a{a.n_q * a.dv}", a.n_q * a.dv)
        return self.operation(
            Kind.ATTEND,
            layer,
            "attend",
            inp=qkv.buffer,
            out=out,
            cache=self._cache(a),
            cache_layer=self._known["cache_layer", layer],
            scale=a.scale or a.dk**-0.5,
            cap=cap,
            vec=-1 if sinks is None else self.vector(layered(layer, sinks), a.n_q),
        ).out

    def add(self, layer: int, name: str, h: int, *, post_norm: str | None = None, scale: float = 1.0) -> None:
        """Projects h, applies the norm `post_norm` if given, and adds scale times the result to the residual stream."""
        x, tmp = self.stream(), self.buffer("o", self.dim)
        h = self.arranged(layer, h, [layered(layer, name)])
        mat = self.matrix(layered(layer, name), self.dim, self.buffers[h].dim)
        seg = self.row_of_segments([mat], biases=[self.bias(layered(layer, name), self.dim)])
        norm = {} if post_norm is None else self._norm(layered(layer, post_norm))
        self.operation(Kind.LINEAR_ADD, layer, name, inp=h, out=x, tmp=tmp, seg=seg, n_seg=1, scale=scale, **norm)

    def mix(self, layer: int, name: str, h: int, *, out: int | None = None, scale: float = 1.0) -> None:
        """A buffer, by default the residual stream, = (itself + h) * scale."""
        self._change(layer, name, h, self.stream() if out is None else out, scale=scale)

    def scale(self, layer: int, name: str, factor: float) -> None:
        """Multiplies the residual stream by a factor."""
        self._change(layer, name, self.stream(), self.stream(), scale=factor)

    def _change(self, layer: int, name: str, inp: int, out: int, **fields: Any) -> None:
        everywhere: dict[str, Any] = {"pos_to": EVERYWHERE, "width": self.buffers[out].dim, **fields}
        self.operation(Kind.SCALE_ADD, layer, name, inp=inp, out=out, **everywhere)

    def glu(
        self,
        layer: int,
        h: int,
        ff: int,
        act: str,
        kind: str = "",
        *,
        limit: float = 0.0,
        parameters: Sequence[float] = (),
    ) -> int:
        """act(ffn_gate h) * (ffn_up h), with biases if the file has them (Shazeer 2020); the two matrices are the
        halves of ffn_up if it has twice `ff` rows, or of ffn_gate_up.

        act: a name in ACTIVATIONS. limit: the gate is at most `limit`, the other factor between -limit and limit; 0:
        none. parameters: of "xielu", its four (csrc/kernels/kernels.h). kind: suffix of the names.
        """
        names = [layered(layer, f"{name}{kind}") for name in ("ffn_gate", "ffn_up")]
        both = f"ffn_gate_up{kind}"
        whole = (layered(layer, both), names[1]) if not self._rows(names[0]) else ()
        fused = next((name for name in whole if self._rows(name) == 2 * ff), None)
        parts = [Part(fused, i * ff, 2 * ff) for i in range(2)] if fused else [None, None]
        return self._unit(layer, both, h, ff, act, list(zip(names, parts, strict=True)), limit, parameters)

    def mlp(
        self,
        layer: int,
        h: int,
        ff: int,
        act: str,
        *,
        name: str = "ffn_up",
        parameters: Sequence[float] = (),
        out: str = "f",
    ) -> int:
        """act(name h), with a bias if the file has one. act and parameters: as for `glu`. out: prefix of the buffer's
        name."""
        return self._unit(layer, name, h, ff, act, [(layered(layer, name), None)], 0.0, parameters, out)

    def _unit(
        self,
        layer: int,
        name: str,
        h: int,
        ff: int,
        act: str,
        parts: Sequence[tuple[str, Part | None]],
        limit: float,
        parameters: Sequence[float],
        out_name: str = "f",
    ) -> int:
        h = self.arranged(layer, h, [part.name if part else name for name, part in parts])
        mats = [self.matrix(name, ff, self.buffers[h].dim, part=part) for name, part in parts]
        biases = [self.bias(name, ff, part=part) for name, part in parts]
        out = self.buffer(f"{out_name}{ff}", ff)
        tmp = self.buffer(f"u{ff}", ff) if len(mats) > 1 else -1
        vec = self.constant(f"{layered(layer, name)}.{act}", parameters) if parameters else -1
        seg, number = self.row_of_segments(mats, biases=biases), ACTIVATIONS[act]
        return self.operation(
            Kind.GLU, layer, name, inp=h, out=out, tmp=tmp, seg=seg, n_seg=len(mats), vec=vec, act=number, limit=limit
        ).out

    def head(
        self, cap: float = 0.0, *, logits: bool = True, scale: float = 1.0, norm: str | None = "output_norm"
    ) -> None:
        """The final norm, and the logits of the rows that request them; tied to the embedding if there is no `output`.
        cap: soft cap of the logits; 0: none. logits: an encoder has none. scale: multiplies the logits, before the cap.
        norm: None if rows are already normed."""
        if not logits:
            x = self.stream()
            self.operation(Kind.HEAD, -1, "head", inp=x, **self._norm(norm))
            return
        name = "output" if "output.weight" in self.tensors else "token_embd"
        mat = self.matrix(name, self.vocab, self.dim)
        bias = self.bias("output", self.vocab)
        seg = self.row_of_segments([mat], biases=[bias], scale=scale)
        x = self.stream()
        self.operation(Kind.HEAD, -1, "head", inp=x, seg=seg, n_seg=1, cap=cap, **self._norm(norm))

    def _norm(self, name: str | None) -> dict[str, Any]:
        """The fields of a norm of the residual stream. A LayerNorm has a bias if the file has one."""
        if name is None:
            return {"norm": NORMS["none"]}
        bias = self.bias(name, self.dim) if self.norms == "layer" else -1
        return {"vec": self.vector(name, self.dim), "vec2": bias, "norm": NORMS[self.norms], "eps": self.eps}
