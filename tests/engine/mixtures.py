"""Plans with experts, written by hand over random weights in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np

from pellucid import _engine
from pellucid.experts import add, experts, mixture, route
from pellucid.plan import Attention, Experts, Plan, Rope
from pellucid.weights.base import Tensor
from tests.engine.models import random_blocks

DIM, VOCAB = 64, 61
HEADS = Attention(4, 2, 16, 16)
ROPE = Rope(tuple(10000.0 ** (-i / 8) for i in range(8)), True)


def tensor(name: str, value: Any, kind: str = "F32") -> Tensor:
    if kind in ("Q4_K", "Q6_K"):
        *_, k = value.shape
        data = random_blocks(gguf.GGMLQuantizationType[kind], value.size // k, k, np.random.default_rng(len(name)))
    elif kind == "F32":
        data = value.astype(np.float32)
    else:
        data = gguf.quantize(value.reshape(-1, value.shape[-1]).astype(np.float32), gguf.GGMLQuantizationType[kind])
    return Tensor(name, kind, value.shape, np.ascontiguousarray(data).reshape(-1).view(np.uint8), 0, "")


def plan(
    e: Experts,
    *,
    dim: int = DIM,
    layers: int = 2,
    kind: str = "F32",
    down: str = "",
    router: str = "F32",
    biases: bool = False,
    factors: bool = False,
    fused: bool = False,
    scales: bool = False,
    apart: bool = False,
    act: str = "silu",
    scale: float = 1.0,
    seed: int = 1,
    spread: float = 3.0,
) -> Plan:
    """kind: the format of experts; down: of their last matrices, if another. spread: of the router's scores: skew.
    scales: all matrices of layers have factors of their own. apart: experts write a buffer of their own, which is added
    afterwards."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int, gain: float = 1.0) -> Any:
        return rng.uniform(-1, 1, shape) * gain * (3 / shape[-1]) ** 0.5

    tensors: dict[str, Tensor] = {}

    def put(name: str, value: Any, kind: str = "F32") -> None:
        tensors[name] = tensor(name, value, kind)

    put("token_embd.weight", matrix(VOCAB, dim, gain=3.0))
    put("output_norm.weight", np.ones(dim))
    for i in range(layers):
        b = f"blk.{i}."
        for name in ("attn_norm", "ffn_norm"):
            put(f"{b}{name}.weight", rng.uniform(0.6, 1.4, dim))
        for name, rows in (("attn_q", 64), ("attn_k", 32), ("attn_v", 32)):
            put(f"{b}{name}.weight", matrix(rows, dim, gain=2.0))
        put(f"{b}attn_output.weight", matrix(dim, 64))
        put(f"{b}ffn_gate_inp.weight", matrix(e.n, dim, gain=spread), router)
        if e.biased:
            put(f"{b}exp_probs_b.bias", rng.uniform(-0.3, 0.3, e.n))
        if biases:
            put(f"{b}ffn_gate_inp.bias", rng.uniform(-1, 1, e.n))
            put(f"{b}ffn_down_exps.bias", rng.uniform(-1, 1, (e.n, dim)))
        parts = {"ffn_gate_up_exps": 2 * e.ff} if fused else {"ffn_gate_exps": e.ff, "ffn_up_exps": e.ff}
        if e.plain:
            del parts["ffn_gate_exps"]
        for name, rows in parts.items():
            put(f"{b}{name}.weight", matrix(e.n, rows, dim), kind)
            if biases:
                put(f"{b}{name}.bias", rng.uniform(-1, 1, (e.n, rows)))
        put(f"{b}ffn_down_exps.weight", matrix(e.n, dim, e.ff), down or kind)
        if e.shared:
            put(f"{b}ffn_gate_shexp.weight", matrix(e.shared, dim), kind)
            put(f"{b}ffn_up_shexp.weight", matrix(e.shared, dim), kind)
            put(f"{b}ffn_down_shexp.weight", matrix(dim, e.shared), down or kind)
        if e.gated:
            put(f"{b}ffn_gate_inp_shexp.weight", matrix(dim))
    for name in [name for name in tensors if scales and re.fullmatch(r"blk.*(?<!_inp)\.weight", name)]:
        if tensors[name].shape[1:]:
            n = e.n if "_exps" in name else 1
            put(name.replace(".weight", ".scale"), rng.uniform(0.6, 1.2, n))
    p = Plan(tensors, frozenset(_engine.format_names()), vocab=VOCAB, dim=dim, eps=1e-5)
    p.embed()
    for i in range(layers):
        qkv = p.qkv(i, p.norm(i, "attn_norm"), HEADS)
        p.rope_append(i, qkv, ROPE)
        p.add(i, "attn_output", p.attend(i, qkv))
        h = p.norm(i, "ffn_norm")
        if apart:
            routes = route(p, i, h, e)
            p.mix(i, "sum", add(p, i, experts(p, i, h, routes, e, act), routes, e, scale=scale, out="apart"))
        else:
            mixture(p, i, h, e, act, scale)
    p.head()
    if factors:
        for op in p.ops:
            if op.kind.routes:
                p.vectors.append(p.vectors[0]._replace(data=rng.uniform(0.5, 2, e.n).astype(np.float32)))
                op.vec2 = len(p.vectors) - 1
    return p


def engine(
    p: Any, isa: str | None = None, threads: int = 2, max_rows: int = 512, terms: int = 1, kv: str = "f32"
) -> Any:
    made = _engine.Engine(
        p, isa=_engine.find_isa(isa), threads=threads, kv=kv, least_terms=terms, max_rows=max_rows, cache_bytes=0
    )
    made.pack()
    return made


Edit = Callable[[Any], None]
