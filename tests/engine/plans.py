"""Small models of random tensors whose plan a test writes itself, to try fields of operations that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.plan import Attention, Plan, Rope
from tests.engine import arithmetic
from tests.engine.models import ids_for, rows, same, sequence

DIM, FF, VOCAB = 64, 96, 101
HEADS = Attention(4, 2, 16, 16)
ROPE = Rope(tuple(10000.0 ** (-i / 8) for i in range(8)), halves=True)
Write = Callable[[Plan, int], None]  # the operations of a layer
Shapes = Mapping[str, tuple[int, ...]]

# The largest error over the largest logit, by the format of the matrices.
ERRORS = {"F32": 2e-5, "BF16": 0.05, "Q8_0": 2e-3}


@dataclass(frozen=True)
class Tensor:
    name: str
    type: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any]
    offset: int = 0
    file: str = ""


def attention(**changes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's tensors for HEADS and a gated unit; changes: by name, with "_" at the end for a bias."""
    q, kv = HEADS.n_q * HEADS.dk, HEADS.n_kv * HEADS.dk
    return {
        "attn_norm": (DIM,), "attn_q": (q, DIM), "attn_k": (kv, DIM), "attn_v": (kv, DIM), "attn_output": (DIM, q),
        "ffn_norm": (DIM,), "ffn_gate": (FF, DIM), "ffn_up": (FF, DIM), "ffn_down": (DIM, FF), **changes,
    }  # fmt: skip


def tensors(layers: int, shapes: Shapes, others: Shapes, format: str, seed: int) -> dict[str, Tensor]:
    """Random tensors: matrices of `format`, vectors around 1 (of norms) or 0 (biases, whose names have a dot)."""
    rng = np.random.default_rng(seed)
    names = {f"blk.{i}.{name}": shape for i in range(layers) for name, shape in shapes.items()}
    made = {}
    for name, shape in {"token_embd": (VOCAB, DIM), "output_norm": (DIM,), **others, **names}.items():
        full = name if name.endswith(".bias") else f"{name}.weight"
        matrix = len(shape) > 1 and not name.endswith("norm")  # norms of heads have a row for each
        x = rng.normal(0, shape[-1] ** -0.5 if matrix else 0.3, shape).astype(np.float32)
        if matrix and format != "F32":
            x = gguf.quantize(x, getattr(gguf.GGMLQuantizationType, format))
        elif not matrix and not name.endswith(".bias"):
            x += 1
        raw = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        made[full] = Tensor(full, format if matrix else "F32", shape, raw)
    return made


def plan(
    write: Write, shapes: Shapes, *, format: str = "F32", layers: int = 2, others: Shapes | None = None, seed: int = 7,
    head: Callable[[Plan], None] = Plan.head, unread: Set[str] = frozenset(), **fields: Any,
) -> Plan:  # fmt: skip
    """The plan of a model whose layers `write` writes. others: of other tensors; head: writes the end; unread: tensors;
    fields: of Plan."""
    given = tensors(layers, shapes, others or {}, format, seed)
    p = Plan(given, frozenset(_engine.format_names()), vocab=VOCAB, dim=DIM, eps=1e-5, **fields)
    p.embed()
    for i in range(layers):
        write(p, i)
    head(p)
    assert given.keys() - p.used - {"output_norm.weight"} == unread
    return p


def engine(p: Plan, *, isa: str | None = None, threads: int = 2, kv: str = "f32", least_terms: int = 2) -> Any:
    made = _engine.Engine(p, isa=_engine.find_isa(isa), threads=threads, kv=kv, least_terms=least_terms, max_rows=512)
    made.pack()
    return made


def check(make: Callable[[str], Plan], *, n: int = 150, whole: bool = False, formats: Any = ERRORS) -> None:
    """A plan's logits are those of float64, and the same bits on 1, 2 and 3 threads, in chunks, and in company.

    make: a format -> the plan. whole: a sequence is one pass.
    """
    for format in formats:
        p = make(format)
        one = engine(p, threads=1)
        ids = ids_for(one, n)
        expected = rows(one, sequence(one), ids)
        exact = arithmetic.logits(one, ids)
        assert np.abs(expected - exact).max() <= ERRORS[format] * np.abs(exact).max(), format
        for threads, chunk in ((1, 7), (2, 64), (2, 1), (3, 512), (3, 33)):
            e, count = engine(p, threads=threads), min(n, 70) if chunk == 1 else n
            if whole:
                assert same(rows(e, sequence(e), ids), expected), (format, threads)
                continue
            s = sequence(e)
            parts = [rows(e, s, ids[i : min(i + chunk, count)]) for i in range(0, count, chunk)]
            assert same(np.concatenate(parts), expected[:count]), (format, threads, chunk)
        e = engine(p, threads=2)
        others = [ids_for(e, k, seed=k) for k in (1, 40, 5)]
        jobs = [others[0], others[1], ids, others[2]]
        out = np.empty((sum(map(len, jobs)), VOCAB), np.float32)
        e.forward([(sequence(e), np.array(job, np.int32), 0) for job in jobs], out=out)
        assert same(out[41 : 41 + n], expected), format


def check_kv(p: Plan, isa: str, kv: str, n: int = 600) -> None:
    """The same bits on a tier with a type of keys and values, whether many rows run at once or a few at depth."""
    one, two = engine(p, isa=isa, kv=kv, threads=1), engine(p, isa=isa, kv=kv, threads=2)
    ids = ids_for(one, n)
    expected = rows(one, sequence(one), ids[:500])
    s = sequence(two, ids[:450], chunk=100)
    assert same(rows(two, s, ids[450:500]), expected[450:])
    exact = arithmetic.logits(one, ids[:500])
    bound = {"f32": 2e-5, "f16": 2e-3, "bf16": 0.02, "int8": 0.03}[kv]
    assert np.abs(expected - exact).max() <= bound * np.abs(exact).max()
