"""Information about a model: its sizes, how it runs and why, and its plan as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pellucid._engine import ACTIVATIONS, NORMS, Kind
from pellucid.errors import one_line
from pellucid.markup import Fragment, Shown
from pellucid.plan import EVERYWHERE, Op, Plan

__all__ = ["ModelInfo", "Operation", "PlanTable"]

_NUMBERS = (0, 1, 7)  # columns of a plan's table


@dataclass(frozen=True, slots=True)
class ModelInfo(Shown):
    """Sizes of a model, and how it runs on this machine. `context`: maximum number of tokens of a sequence;
    `context_trained`: of the texts that the model was trained on. `*_bytes` are bytes, `*_why` the reason for a
    setting."""

    path: str
    format: str
    architecture: str
    name: str
    quantisation: str
    parameters: int
    layers: int
    dim: int
    ff: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    context_trained: int
    file_bytes: int
    packed_bytes: int
    work_bytes: int
    cache_bytes: int
    cache_bytes_per_token: int
    cache_limit: int | None  # bytes that the cache may take
    huge_pages: bool
    threads: int
    threads_why: str
    isa: str
    isa_why: str
    tuning: dict[str, int]  # what changes speed and no bit (csrc/kernels/tuning.h)
    tuning_why: str
    isas: dict[str, str]  # every tier: "runs", "not built", "not on this CPU"
    cpu: str
    kv: str
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __repr__(self) -> str:
        sizes = one_line(f"{self.architecture}, {self.quantisation}, {self.parameters:,} parameters", 80)
        return f"<ModelInfo of {one_line(self.path, 60)}: {sizes}>"

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:{width}}  {value}" for key, value in rows)

    def _rows(self) -> list[tuple[str, str]]:
        d = self.to_dict()
        for name in ("isas", "tuning"):
            d[name] = ", ".join(f"{key}: {value}" for key, value in d[name].items())
        rows = []
        for key, value in d.items():
            if key.endswith("bytes") and value >= 1 << 20:
                value = f"{value:,} ({value / 1e6:.1f} MB)"
            elif isinstance(value, int) and not isinstance(value, bool):
                value = f"{value:,}"
            rows.append((key, one_line(str(value))))
        return rows

    def _draw(self, fragment: Fragment) -> None:
        fragment.table(("", ""), self._rows())


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the plan. `inputs` and `output`: (buffer, columns); `matrices`: (name, format, rows, k);
    `bytes`: of the weights that every pass reads (of the embedding: one row)."""

    index: int
    kind: str
    layer: int | None
    name: str
    inputs: tuple[tuple[str, int], ...]
    output: tuple[str, int]
    matrices: tuple[tuple[str, str, int, int], ...]
    bytes: int
    detail: str

    def __repr__(self) -> str:
        where = "" if self.layer is None else f" of layer {self.layer}"
        return f"<Operation {self.index}: {self.kind} {self.name}{where}, {self.bytes:,} bytes>"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class PlanTable(list[Operation], Shown):
    """The operations in order. `print` shows them as a table."""

    def __repr__(self) -> str:
        return f"<PlanTable: {self._total()}>"

    def _total(self) -> str:
        return f"{len(self)} operations, {sum(o.bytes for o in self):,} bytes of weights read by every pass"

    def _draw(self, fragment: Fragment) -> None:
        head, *rows = self._rows()
        fragment.note(f"{self._total()}.")
        fragment.table(head, rows, right=_NUMBERS, what="operations")

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("op", "layer", "kind", "name", "in", "out", "weights", "bytes", "")]
        for o in self:
            rows.append(
                (
                    str(o.index),
                    "" if o.layer is None else str(o.layer),
                    o.kind,
                    o.name,
                    " ".join(f"{name}[{dim}]" for name, dim in o.inputs),
                    f"{o.output[0]}[{o.output[1]}]",
                    " ".join(f"{kind} {rows}x{k}" for _, kind, rows, k in o.matrices),
                    f"{o.bytes:,}" if o.bytes else "",
                    o.detail,
                )
            )
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        aligned = [
            [c.rjust(w) if i in _NUMBERS else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            for row in rows
        ]
        lines = ["  ".join(row) for row in aligned]
        lines.append(self._total())
        return "\n".join(line.rstrip() for line in lines)


def plan_table(plan: Plan, matrix_bytes: Callable[[int], int]) -> PlanTable:
    """A plan as a table. matrix_bytes: number of a matrix -> its bytes in the engine."""
    table = PlanTable()
    for i, op in enumerate(plan.ops):
        numbers = [s.matrix for s in plan.segments[op.seg : op.seg + op.n_seg]]
        mats = [plan.matrices[m] for m in numbers]
        size = sum(matrix_bytes(m) for m in numbers)
        if op.kind.lookup:
            size //= mats[0].rows
        inputs = (("token", 1),) if op.inp < 0 else (tuple(plan.buffers[op.inp]),)
        output = ("logits", plan.vocab) if op.kind.wanted else tuple(plan.buffers[op.out])
        table.append(
            Operation(
                i,
                op.kind.name.lower(),
                None if op.layer < 0 else op.layer,
                op.name,
                inputs,  # type: ignore[arg-type]
                output,  # type: ignore[arg-type]
                tuple((m.name, m.type, m.rows, m.k) for m in mats),
                size,
                _detail(plan, op),
            )
        )
    return table


def _detail(plan: Plan, op: Op) -> str:
    if op.kind.attends or op.kind.stores:
        c = plan.caches[op.cache]
        heads = f"{c.n_q} heads, {c.n_kv} kv, {c.dk} wide"
        return heads + (f", window {c.window}" if c.window else "")
    if op.kind.adds and op.vec >= 0:
        return "post-norm" if op.norm == NORMS["rms"] else "post-norm, LayerNorm"
    if op.norm != NORMS["rms"]:
        return "LayerNorm"
    if op.kind == Kind.GLU:
        return next(name for name, number in ACTIVATIONS.items() if number == op.act).removesuffix("_tanh")
    if op.kind == Kind.SCALE_ADD:
        to = "" if op.pos_to == EVERYWHERE else f" to {op.pos_to - 1}"
        where = "" if not (op.pos_from or to) else f" at positions {op.pos_from}{to}"
        what = "replaced" if op.vec >= 0 and op.scale == 0 else f"times {op.scale:.6g}{' plus' if op.vec >= 0 else ''}"
        return f"columns {op.column} to {op.column + op.width - 1} {what}{where}"
    if op.kind.lookup and op.scale != 1:
        return f"times {op.scale:.6g}"
    return ""
