"""`pellucid plan`: shows the operations of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import options, output

if TYPE_CHECKING:
    from pellucid import Model, Operation


def plan(
    model: options.ModelName = options.DEFAULT,
    every: Annotated[
        bool, typer.Option("--all", help="Print the operations of every layer; default: of each kind of layer.")
    ] = False,
    time: Annotated[
        bool, typer.Option("--time", help="Also time each operation: the fastest of several passes.")
    ] = False,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="With --time: number of tokens in the pass.")] = 1,
    depth: Annotated[int, typer.Option(metavar="N", min=0, help="With --time: number of tokens in the cache.")] = 0,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    quantize: options.Quantize = None,
    json: options.Json = False,
) -> None:
    """Shows the operations of a forward pass: buffers, weights, and the bytes that each pass reads.

    --time runs passes over random tokens, by default one token with an empty cache, and adds the times of layers that
    are shown together.
    """
    if not time and (rows, depth) != (1, 0):
        raise output.UsageError("--rows and --depth: need --time; they describe the timed pass")
    with options.load(
        model, threads=threads, context=context, isa=isa, kv=kv, cache_bytes=cache_bytes, quantize=quantize
    ) as loaded:
        table = loaded.plan()
        ns = _time(loaded, rows, depth) if time else None
    if json:
        document = [op.to_dict() for op in table]
        for one, taken in zip(document, ns or (), strict=False):
            one["ns"] = taken
        output.document(document)
        return
    if ns is not None:
        _timed(table, ns, every, f"{rows} token{'s' if rows > 1 else ''} after {depth}")
        return
    shown = [["kind", "operation", "from > to", "reads", "weights (rows x columns)"]]
    for heading, layers in _each(table) if every else _alike(table):
        shown += [[heading]] if heading else []
        for op in layers[0]:
            shown.append([op.kind, op.name, _flow(op), options.size(op.bytes) if op.bytes else "", _work(op)])
    output.table(shown, right=(3,), gap=1)
    total = sum(op.bytes for op in table)
    experts = any(op.kind == "experts" for op in table)
    reads = "a pass of one token reads" if experts else "every pass reads"
    output.sentence(f"{len(table)} operations; {reads} {total:,} bytes of weights.")


def _time(model: Model, rows: int, depth: int) -> list[int]:
    """Nanoseconds of each operation."""
    import numpy as np

    from pellucid.bench.operations import fastest

    most = min(model.core.decoder().max_rows, model.context_length)
    if rows > most:
        raise output.UsageError(f"--rows={rows}: a pass has at most {most} tokens here")
    if depth + rows > model.context_length:
        room = model.context_length - rows
        raise output.UsageError(f"--depth={depth}: with {rows} more, a sequence holds at most {room} here (--context)")
    ids = np.random.default_rng(0).integers(0, model.core.open().vocab, depth + rows).tolist()
    repeat = 20 if rows * (depth + 1) < 64 else 5
    ns: list[int] = fastest(model.core.open(), [ids], before=depth, repeat=repeat).tolist()
    return ns


def _timed(table: Sequence[Operation], ns: Sequence[int], every: bool, what: str) -> None:
    """Prints a table of times; layers of the same kind are shown together, with the sum of their times."""
    total = sum(ns)
    rows = [["operation", "from > to", "reads", "time", "of all", "weights"]]
    for heading, layers in _each(table) if every else _alike(table):
        rows += [[heading]] if heading else []
        for same in zip(*layers, strict=True):
            op, taken = same[0], sum(ns[op.index] for op in same)
            read = options.size(op.bytes) if op.bytes else ""
            rows.append([op.name, _flow(op), read, _duration(taken), f"{taken / total:.1%}", _work(op)])
    output.table(rows, right=(2, 3, 4), gap=1)
    output.sentence(f"{what}: {len(table)} operations in {_duration(total)}, each run separately.")


def _duration(ns: int) -> str:
    return f"{ns / 1e3:,.1f} us" if ns < 1e6 else f"{ns / 1e6:,.2f} ms"


def _layers(table: Sequence[Operation]) -> list[tuple[int | None, list[Operation]]]:
    return [(layer, list(ops)) for layer, ops in groupby(table, key=lambda op: op.layer)]


def _each(table: Sequence[Operation]) -> list[tuple[str, list[list[Operation]]]]:
    return [("" if layer is None else f"layer {layer}", [ops]) for layer, ops in _layers(table)]


def _alike(table: Sequence[Operation]) -> list[tuple[str, list[list[Operation]]]]:
    """Groups layers whose operations differ only in the layer's number -> [(heading, layers)]."""
    groups: dict[object, tuple[list[int], list[list[Operation]]]] = {}
    for layer, ops in _layers(table):
        same = tuple(
            (op.kind, op.name, op.inputs, op.output, op.matrices and _work(op), op.detail, op.bytes) for op in ops
        )
        numbers, lists = groups.setdefault(same, ([], []))
        lists.append(ops)
        if layer is not None:
            numbers.append(layer)
    return [(_ranges(numbers), lists) for numbers, lists in groups.values()]


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
    """Buffers as in "h[576] > qkv[960]"; a single one if the operation works in place."""
    names = []
    for name, dim in (op.inputs[0], op.output):
        # Some buffers' names end in their width; the width of logits is the number of rows of the weights.
        short = name.removesuffix(str(dim)) or name
        names.append(short if short in ("token", "logits") else f"{short}[{dim}]")
    return names[0] if names[0] == names[1] else " > ".join(names)


def _work(op: Operation) -> str:
    """Weights, as in "Q4_1 576+192+192 x 576", with segments of the same format joined, and the operation's detail."""
    parts = []
    for (kind, k), mats in groupby(op.matrices, key=lambda m: (m[1], m[3])):
        parts.append(f"{kind} {'+'.join(str(rows) for _, _, rows, _ in mats)} x {k}")
    detail = "" if op.kind == "rope_append" else op.detail  # attend shows the same detail
    return "; ".join(part for part in (", ".join(parts), detail) if part)
