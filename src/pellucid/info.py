"""Information about a model: its sizes, how it runs and why, and its plan as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pellucid._engine import ACTIVATIONS, FLAGS, NORMS, Kind
from pellucid.errors import one_line
from pellucid.markup import Fragment, Shown
from pellucid.plan import EVERYWHERE, Op, Plan

__all__ = ["CacheShare", "ModelInfo", "Operation", "PlanTable", "cache_shares", "plan_table"]

_NUMBERS = (0, 1, 7)  # columns of a plan's table


@dataclass(frozen=True, slots=True)
class CacheShare:
    """What the KV cache keeps for a group of layers of a sequence. `bytes_per_token`: for all layers of the group
    together. `window`: only this many of the last tokens are kept; 0: all."""

    layers: int
    window: int
    bytes_per_token: int

    def __str__(self) -> str:
        window = f" of window {self.window}" if self.window else ""
        return f"{self.layers} layer{'s' if self.layers > 1 else ''}{window}: {self.bytes_per_token:,}"


def cache_shares(plan: Plan, kv: str) -> tuple[CacheShare, ...]:
    """The share of each group of layers with the same window and heads."""
    return tuple(CacheShare(g.n_layers, g.window, g.token_bytes(kv)) for g in plan.caches)


@dataclass(frozen=True, slots=True)
class ModelInfo(Shown):
    """Sizes of a model, and how it runs on this machine. `context`: maximum number of tokens of a sequence;
    `context_trained`: the length that the model was trained for. `*_bytes` are bytes; `*_why` gives the reason for a
    setting. `cache_shares`: the parts of `cache_bytes_per_token` that each kind of layer takes. `token_bytes`: bytes
    that a pass over one token reads of the weights (of experts, only those chosen) and reads and writes of the
    recurrent layers' states. `state_bytes`: size of these states for one sequence; `checkpoint_bytes`: size of the
    earlier states that each sequence keeps. `formats`: bytes of packed weights in each format. `quantisation_why`:
    which matrices of a quantised folder are in F32, their bytes, and why. `suppressed`: tokens that the model's files
    forbid."""

    path: str
    format: str
    architecture: str
    name: str
    quantisation: str
    quantisation_why: str
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
    formats: dict[str, int]
    token_bytes: int
    work_bytes: int
    cache_bytes: int
    cache_bytes_per_token: int
    cache_shares: tuple[CacheShare, ...]
    state_bytes: int
    checkpoint_bytes: int
    cache_limit: int | None  # bytes that the cache may take
    cache_limit_why: str
    shared: bool  # whether other processes of this user read the same copy of the weights
    shared_why: str
    huge_pages: bool
    threads: int
    threads_why: str
    isa: str
    isa_why: str
    tuning: dict[str, int]  # what affects speed but no bit of a result (csrc/kernels/tuning.h)
    tuning_why: str
    isas: dict[str, str]  # every tier: "runs", "not built", "not on this CPU"
    cpu: str
    kv: str
    precision: str
    suppressed: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

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
        d["suppressed"] = ", ".join(map(str, d["suppressed"]))
        d["formats"] = ", ".join(f"{key}: {value:,}" for key, value in d["formats"].items())
        d["cache_shares"] = ", ".join(map(str, self.cache_shares))
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
    `bytes`: bytes of weights that every pass reads (for an embedding or routed experts: for one row)."""

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
        found = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


class PlanTable(list[Operation], Shown):
    """A plan's operations, in order. `print` shows them as a table."""

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
        if op.kind.routed:  # for one row
            size = size // mats[0].stack * op.top_k
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


_NORM_NAMES = {NORMS["rms"]: "RMSNorm", NORMS["layer"]: "LayerNorm", NORMS["l2"]: "L2", NORMS["none"]: "no norm"}


def _columns(op: Op) -> str:
    """Describes a norm of some columns of a buffer, or of its heads."""
    parts = [_NORM_NAMES[op.norm]]
    if op.width:
        parts.append(f"columns {op.column} to {op.column + op.width - 1}")
    if op.each:
        parts.append(f"groups of {op.each}")
    parts += [name.replace("_", " ") for name, flag in FLAGS.items() if op.flags & flag]
    return ", ".join(parts)


def _where(op: Op) -> str:
    """The positions that an operation is limited to, if any."""
    to = "" if op.pos_to == EVERYWHERE else f" to {op.pos_to - 1}"
    return "" if not (op.pos_from or to) else f" at positions {op.pos_from}{to}"


def _detail(plan: Plan, op: Op) -> str:
    if op.kind == Kind.REATTEND:
        return f"head {op.column}, {'weights' if op.flags else 'cuts'} of {op.width} tokens{_where(op)}"
    if op.kind.attends or op.kind.stores:
        c = plan.caches[op.cache]
        heads = f"{c.n_q} heads, {c.n_kv} kv, {c.dk} wide"
        heads += f", window {c.window}" if c.window else ""
        if op.kind.attends:
            return heads + (f", cap {op.cap:g}" if op.cap else "") + (", sinks" if op.vec >= 0 else "")
        rotated = "" if op.rope >= 0 else ", not rotated"
        return heads + rotated + ("" if op.stores else ", not appended")
    if op.kind.routes or op.kind.routed:
        n = plan.buffers[op.tmp].dim if op.kind.routes else plan.matrices[plan.segments[op.seg].matrix].stack
        return f"{op.top_k} of {n} experts"
    if op.kind.adds:
        norm = "" if op.vec < 0 else "post-norm" if op.norm == NORMS["rms"] else "post-norm, LayerNorm"
        return ", ".join(part for part in (norm, f"times {op.scale:.6g}" if op.scale != 1 else "") if part)
    if op.kind in (Kind.NORM, Kind.HEAD_NORM) and (op.width or op.flags):
        return _columns(op)
    if op.norm != NORMS["rms"]:
        return _NORM_NAMES[op.norm]
    if op.kind == Kind.GLU:
        name = next(name for name, number in ACTIVATIONS.items() if number == op.act).removesuffix("_tanh")
        return name + (f", at most {op.limit:g}" if op.limit else "") + ("" if op.n_seg == 2 else ", not gated")
    if op.kind == Kind.SCALE_ADD:
        where = _where(op)
        plus = f"plus {plan.buffers[op.inp].name}, " if op.inp != op.out else ""
        what = "replaced" if op.vec >= 0 and op.scale == 0 else f"times {op.scale:.6g}{' plus' if op.vec >= 0 else ''}"
        return f"columns {op.column} to {op.column + op.width - 1} {plus}{what}{where}"
    if op.kind.lookup and op.scale != 1:
        return f"times {op.scale:.6g}"
    return ""
