"""The least work of a pass: bytes to read and operations to compute, counted from the plan.

Bytes: each matrix of the pass once, as the model file stores it; one row of the embedding per token; the keys and
values that the rows attend to, once per sequence and layer; the state of each sequence and recurrent layer, read and
written once. Operations: two per product, seven per number of a recurrence's state. Activations, norms and writes to
the cache are not counted: they stay in the processor's caches or are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pellucid import _engine
from pellucid.bench.limits import Limits
from pellucid.plan import CacheGroup, Kind, Matrix, Op, Plan

__all__ = ["Cost", "Part", "Pass", "Product", "Work", "count", "decode_passes", "prefill_passes", "products"]

_FLOATS = {"F32": "f32", "F16": "f32", "BF16": "bf16"}
_KV_OPERATIONS = {"f32": "f32", "f16": "f32", "bf16": "bf16", "int8": "f32"}


class Part(NamedTuple):
    """The rows of one sequence in a pass: slots start .. start + n - 1, of which `wants` request logits."""

    start: int
    n: int
    wants: int


Pass = Sequence[Part]


class Product(NamedTuple):
    """n rows of activations, quantised to `terms` int8 terms if the format is quantised, times a matrix (rows, k) in a
    format."""

    format: str
    rows: int
    k: int
    n: int
    terms: int

    @property
    def operations(self) -> int:
        return 2 * self.n * self.rows * self.k * self.terms


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes to read, and operations by the type that they are computed in: "int8" (codes of up to six bits),
    "int8_wide" (others), "bf16", "f32"."""

    bytes: int = 0
    operations: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Work) -> Work:
        kinds = {**self.operations, **other.operations}
        return Work(
            self.bytes + other.bytes,
            {kind: self.operations.get(kind, 0) + other.operations.get(kind, 0) for kind in kinds},
        )

    def seconds(self, limits: Limits, huge: bool) -> tuple[float, float]:
        """(least seconds of reading, least seconds of computing). They overlap, so the limit is the larger of the
        two."""
        compute = sum(n / (limits.peak(kind) * 1e9) for kind, n in self.operations.items())
        return self.bytes / (limits.read(huge) * 1e9), compute


@dataclass(frozen=True, slots=True)
class Cost:
    """How a model was loaded. kv: type of the cache; kv_bytes: bytes per cached number; least_terms: minimum int8 terms
    of activations."""

    kv: str
    kv_bytes: float
    least_terms: int


def prefill_passes(n: int, rows: int, start: int = 0) -> list[Pass]:
    """n tokens of one sequence, `rows` per pass; the last row requests logits."""
    ends = [min(at + rows, n) for at in range(0, n, rows)]
    return [[Part(start + at, end - at, int(end == n))] for at, end in zip(range(0, n, rows), ends)]


def decode_passes(depth: int, n: int, sequences: int = 1) -> list[Pass]:
    """n tokens of each of several sequences in the same passes; the first token is at slot `depth`."""
    return [[Part(depth + i, 1, 1)] * sequences for i in range(n)]


def count(plan: Plan, passes: Iterable[Pass], cost: Cost, op: int | None = None) -> Work:
    """The least work of passes; with `op`, of that operation only."""
    ops = plan.ops if op is None else [plan.ops[op]]
    total, operations = 0, {"int8": 0, "int8_wide": 0, "bf16": 0, "f32": 0}
    for parts in passes:
        rows = sum(p.n for p in parts)
        for o in ops:
            if o.kind.attends:
                group = plan.caches[o.cache]
                total += round(_keys(group, parts) * group.n_kv * (group.dk + group.dv) * cost.kv_bytes)
                scores = _scores(group, parts) * group.n_q * (group.dk + group.dv)
                operations[_KV_OPERATIONS[cost.kv]] += 2 * scores
                continue
            if o.kind.recurs:
                layer = plan.states[o.state].layer
                total += 2 * 4 * len(parts) * (layer.scan_floats if o.kind == Kind.SCAN else layer.conv_floats)
                each = 7 * layer.n_v * layer.dk * layer.dv if o.kind == Kind.SCAN else 2 * layer.taps * layer.channels
                operations["f32"] += rows * each
            if o.kind.lookup:
                for s in plan.segments[o.seg : o.seg + o.n_seg]:
                    m = plan.matrices[s.matrix]
                    total += rows * (m.data.size // m.rows)
            for m, product in products(plan, o, parts, cost):
                total += m.data.size if not o.kind.routed else round(m.data.size * _met(m.stack, o.top_k, rows))
                operations[_computed_in(m.type)] += product.operations
    return Work(total, {kind: n for kind, n in operations.items() if n})


def products(plan: Plan, op: Op, parts: Pass, cost: Cost) -> list[tuple[Matrix, Product]]:
    """The matrix products of an operation in a pass. In a stack of experts' matrices, each row is multiplied by
    `top_k`."""
    n = sum(p.wants if op.kind.wanted else p.n for p in parts)
    if op.kind.lookup or not n:
        return []
    found = []
    for s in plan.segments[op.seg : op.seg + op.n_seg]:
        m = plan.matrices[s.matrix]
        quantised = m.type not in _FLOATS
        terms = max(op.kind.least_terms, cost.least_terms, s.terms) if quantised else 1
        found.append((m, Product(m.type, m.rows, m.k, n * op.top_k if op.kind.routed else n, terms)))
    return found


def _met(experts: int, top_k: int, rows: int) -> float:
    """The expected share of experts that rows use, if all are equally likely."""
    return 1.0 - (1.0 - top_k / experts) ** rows


def _computed_in(format: str) -> str:
    return _FLOATS.get(format) or ("int8_wide" if _engine.format_wide(format) else "int8")


def _first(group: CacheGroup, slot: int) -> int:
    return max(0, slot - group.window + 1) if group.window else 0


def _keys(group: CacheGroup, parts: Pass) -> int:
    """Number of slots that the rows of each part attend to, counted once per part."""
    return sum(p.start + p.n - _first(group, p.start) for p in parts)


def _scores(group: CacheGroup, parts: Pass) -> int:
    """Number of pairs of a row and a slot that it attends to."""
    total = 0
    for p in parts:
        end = p.start + p.n
        if not group.window or end <= group.window:
            total += (p.start + 1 + end) * p.n // 2
        else:
            total += sum(min(slot + 1, group.window) for slot in range(p.start, end))
    return total
