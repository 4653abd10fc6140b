"""`pellucid plan`: the operations of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import options, output

if TYPE_CHECKING:
    from pellucid import Operation


def plan(
    model: options.ModelName = options.DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="Every operation on a line of its own, layer by layer.")] = False,
    isa: options.Isa = None,
    json: options.Json = False,
) -> None:
    """Shows the operations that a forward pass runs: buffers, weights, and the bytes that each pass reads."""
    with options.load(model, isa=isa) as loaded:
        table = loaded.plan()
    if json:
        output.document([op.to_dict() for op in table])
        return
    rows = [["kind", "operation", "from > to", "reads", "weights (rows x columns)"]]
    for heading, ops in _each(table) if every else _alike(table):
        rows += [[heading]] if heading else []
        rows += [[op.kind, op.name, _flow(op), options.size(op.bytes) if op.bytes else "", _work(op)] for op in ops]
    output.table(rows, right=(3,), gap=1)
    total = sum(op.bytes for op in table)
    output.line(f"{len(table)} operations; every pass reads {total:,} bytes of weights.")


def _layers(table: Sequence[Operation]) -> list[tuple[int | None, list[Operation]]]:
    return [(layer, list(ops)) for layer, ops in groupby(table, key=lambda op: op.layer)]


def _each(table: Sequence[Operation]) -> list[tuple[str, list[Operation]]]:
    return [("" if layer is None else f"layer {layer}", ops) for layer, ops in _layers(table)]


def _alike(table: Sequence[Operation]) -> list[tuple[str, list[Operation]]]:
    """Layers whose operations differ in nothing but the layer's number, shown once."""
    groups: dict[object, tuple[list[int], list[Operation]]] = {}
    for layer, ops in _layers(table):
        same = tuple(
            (op.kind, op.name, op.inputs, op.output, op.matrices and _work(op), op.detail, op.bytes) for op in ops
        )
        numbers, _ = groups.setdefault(same, ([], ops))
        if layer is not None:
            numbers.append(layer)
    return [(_ranges(numbers), ops) for numbers, ops in groups.values()]


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "layers 0-2, 5"."""
    if not numbers:
        return ""
    parts = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        layers = [n for _, n in run]
        parts.append(f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0]))
    return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(parts)}"


def _flow(op: Operation) -> str:
    """As in "h[576] > qkv[960]"; only the buffer where the operation works in place."""
    names = []
    for name, dim in (op.inputs[0], op.output):
        # Some buffers' names end in their width; of logits the weights' rows say it.
        short = name.removesuffix(str(dim)) or name
        names.append(short if short in ("token", "logits") else f"{short}[{dim}]")
    return names[0] if names[0] == names[1] else " > ".join(names)


def _work(op: Operation) -> str:
    """As in "Q4_1 576+192+192 x 576": segments of one format stand together."""
    parts = []
    for (kind, k), mats in groupby(op.matrices, key=lambda m: (m[1], m[3])):
        parts.append(f"{kind} {'+'.join(str(rows) for _, _, rows, _ in mats)} x {k}")
    detail = "" if op.kind == "rope_append" else op.detail  # attend says the same of its heads
    return "; ".join(part for part in (", ".join(parts), detail) if part)
