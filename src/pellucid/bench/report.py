"""Benchmark results as a JSON document and as a table."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from pellucid.bench import history, moments
from pellucid.bench.history import SCHEMA, Document
from pellucid.bench.limits import UNITS, Limits
from pellucid.bench.scenarios import Bench, Op, Run
from pellucid.processor import processor, processors

__all__ = ["COLUMNS", "document", "op_rows", "rows"]

Rows = list[list[str]]
COLUMNS = 8
PORTS_VARY = 1.25  # peaks per cycle that differ by more than this factor: something else uses the cores' ports


def document(bench: Bench, runs: Sequence[Run], limits: Sequence[Limits], ops: Sequence[Op] = ()) -> Document:
    """All measurements, as plain data. GB and Gop are 1e9; repeated measurements are {"median", "min", "max"}."""
    from pellucid import __version__

    info = bench.info
    compared = [run for run in runs if run.work is not None and _bound(run) == "memory"]
    edges = moments.edges(one.read for run in compared for one in run.once if one.read is not None)
    return {
        "schema": SCHEMA,
        "pellucid": __version__,
        "commit": history.commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpu": info.cpu,
            "processor": processor(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": info.threads,
            "threads_why": info.threads_why,
            "isa": info.isa,
            "huge_pages": info.huge_pages,
            "tuning": dict(info.tuning),
            "tuning_why": info.tuning_why,
        },
        "model": {
            "path": info.path,
            "name": info.name,
            "architecture": info.architecture,
            "quantisation": info.quantisation,
            "file_bytes": info.file_bytes,
            "kv": info.kv,
            "precision": info.precision,
        },
        "limits": {
            kind: _limit(kind, unit, limits, min(info.threads, processors()))
            for kind, unit in UNITS.items()
            if getattr(limits[0], kind) is not None
        },
        "phases": [_phase(run, edges if run in compared else None) for run in runs],
        "operations": [_op(op, limits, info.huge_pages) for op in ops],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _limit(kind: str, unit: str, limits: Sequence[Limits], cores: float) -> Document:
    """A limit's spread; for a peak, also the operations per cycle of a core. cores: that work at the same time."""
    out: Document = {"unit": unit, **_spread([x for x in (getattr(m, kind) for m in limits) if x is not None])}
    if unit == "Gop/s":
        out["per_cycle"] = _spread([getattr(m, kind) / (m.clock * cores) for m in limits])
    return out


def _bound(run: Run) -> str:
    memory = [reading >= computing for reading, computing in map(run.least, run.once)]
    return "memory" if statistics.median_low(memory) else "compute"


def _phase(run: Run, edges: Sequence[float] | None) -> Document:
    tokens = run.phase.tokens
    out: Document = {
        "name": run.phase.name,
        "about": run.phase.about,
        "tokens": tokens,
        "repeats": len(run.once),
        "seconds": _spread(run.seconds),
        "tokens_per_second": _spread([tokens / s for s in run.seconds]),
        "limit": None,
    }
    if run.work is not None:
        operations = sum(run.work.operations.values())
        least = [max(run.least(one)) for one in run.once]
        out["limit"] = {
            "bytes": run.work.bytes,
            "operations": dict(run.work.operations),
            "bound": _bound(run),
            "tokens_per_second": _spread([tokens / s for s in least]),
            "fraction": _spread([a / b for a, b in zip(least, run.seconds, strict=True)]),
        }
        out["gb_per_second"] = _spread([run.work.bytes / s / 1e9 for s in run.seconds])
        out["gop_per_second"] = _spread([operations / s / 1e9 for s in run.seconds])
    if edges is not None:
        out |= _by_bandwidth(run, edges)
    return out


def _by_bandwidth(run: Run, edges: Sequence[float]) -> Document:
    """The runs of a memory-bound phase, grouped by the bandwidth measured beside them (pellucid.bench.moments)."""
    steady = [(one, one.read) for one in run.once if one.read is not None]
    groups = moments.divide([read for _, read in steady], edges)
    return {
        "by_bandwidth": [
            {
                "gb_per_second": _spread([steady[i][1] for i in group]),
                "repeats": len(group),
                "tokens_per_second": _spread([run.phase.tokens / steady[i][0].seconds for i in group]),
                "fraction": _spread([max(run.least(*steady[i])) / steady[i][0].seconds for i in group]),
            }
            for group in groups
            if group
        ],
        "bandwidth_changed": len(run.once) - len(steady),
    }


def _op(op: Op, limits: Sequence[Limits], huge: bool) -> Document:
    best = limits[0]
    for one in limits:
        best = Limits.better(best, one)
    reading, computing = op.work.bytes / (op.read * 1e9), op.work.seconds(best, huge)[1]
    return {
        "phase": op.phase,
        "kind": op.kind,
        "name": op.name,
        "count": op.count,
        "microseconds": op.ns / 1e3,
        "bytes": op.work.bytes,
        "operations": dict(op.work.operations),
        "read_gb_per_second": op.read,
        "limit_microseconds": max(reading, computing) * 1e6,
        "kernel_microseconds": None if op.kernel_ns is None else op.kernel_ns / 1e3,
    }


# ---- as a table ----------------------------------------------------------------------------------------------------


def rows(doc: Document) -> Rows:
    """A readable table of COLUMNS columns. Rows of one cell are headings."""
    m, model = doc["machine"], doc["model"]
    memory = "2 MB pages" if m["huge_pages"] else "4 KB pages"
    name = model["name"] or Path(model["path"]).name
    out = [
        [f"{name}, {model['quantisation']}, {model['file_bytes'] / 1e6:.1f} MB, keys and values in {model['kv']}"],
        [f"{m['cpu']}, {m['threads']} threads ({m['threads_why']}), {m['isa']}, {memory}"],
        [""],
        ["limit", "median", "best", "", "/cycle", "", "", ""],
        *(_limit_row(kind, x) for kind, x in doc["limits"].items()),
        *([f"{_LIMIT_NAMES[kind]}: {_VARY}"] for kind, x in doc["limits"].items() if _varies(x)),
        [""],
        ["phase", "tokens/s", "min..max", "limit", "of it", "GB/s", "Gop/s", "bound by"],
        *map(_phase_row, doc["phases"]),
    ]
    grouped = [p for p in doc["phases"] if p.get("by_bandwidth")]
    if grouped:
        out += [[""], ["by bandwidth", "tokens/s", "min..max", "", "of it", "GB/s", "runs", ""]]
        out += [_moment_row(p["name"] if not i else "", x) for p in grouped for i, x in enumerate(p["by_bandwidth"])]
        if changed := sum(p["bandwidth_changed"] for p in grouped):
            out.append([f"left out: {changed} run{'s' if changed > 1 else ''} in which the bandwidth changed"])
    for (phase, read), ops in groupby(doc["operations"], key=lambda o: (o["phase"], o["read_gb_per_second"])):
        out += [[""], [f"a pass of {phase}, each operation separately; {read:.1f} GB/s beside it"]]
        out += [["operation", "us", "%", "limit", "of it", "GB/s", "Gop/s", "of kernel"]]
        out += op_rows(list(ops))
    return out


_LIMIT_NAMES = {
    "read_4k": "read, 4 KB pages",
    "read_2m": "read, 2 MB pages",
    "int8": "int8 products",
    "int8_wide": "int8, codes of 8 bits",
    "bf16": "bf16 products",
    "f32": "float32 products",
    "clock": "clock",
}
_VARY = "the rate per cycle varied, so something else used the cores at times; the best rate counts"


def _varies(limit: Document) -> bool:
    spread = limit.get("per_cycle")
    return spread is not None and spread["max"] > PORTS_VARY * spread["min"]


def _limit_row(kind: str, x: Document) -> list[str]:
    cycle = f"{x['per_cycle']['max']:.0f}" if "per_cycle" in x else ""
    digits = 2 if kind == "clock" else 1
    return [_LIMIT_NAMES[kind], f"{x['median']:.{digits}f}", f"{x['max']:.{digits}f}", x["unit"], cycle, "", "", ""]


def _phase_row(p: Document) -> list[str]:
    rate, limit = p["tokens_per_second"], p["limit"]
    if limit is None:
        seconds = p["seconds"]
        spread = f"{seconds['min']:.3f}..{seconds['max']:.3f}"
        return [p["name"], f"{seconds['median']:.3f} s", spread, "", "", "", "", ""]
    return [
        p["name"],
        number(rate["median"]),
        f"{number(rate['min'])}..{number(rate['max'])}",
        number(limit["tokens_per_second"]["median"]),
        percent(limit["fraction"]["median"]),
        f"{p['gb_per_second']['median']:.1f}",
        f"{p['gop_per_second']['median']:.0f}",
        limit["bound"],
    ]


def _moment_row(name: str, x: Document) -> list[str]:
    fraction = x["fraction"]
    return [
        name,
        number(x["tokens_per_second"]["median"]),
        f"{100 * fraction['min']:.0f}..{percent(fraction['max'])}",
        "",
        percent(fraction["median"]),
        f"{x['gb_per_second']['median']:.1f}",
        str(x["repeats"]),
        "",
    ]


def op_rows(ops: Sequence[Document]) -> Rows:
    """A row for each operation of a pass, and one for all that are products."""
    total = sum(o["microseconds"] for o in ops)
    products = [o for o in ops if o["kernel_microseconds"] is not None]
    sums = {
        key: sum(o[key] for o in products)
        for key in ("microseconds", "bytes", "limit_microseconds", "kernel_microseconds")
    }
    kinds = {kind: sum(o["operations"].get(kind, 0) for o in products) for o in products for kind in o["operations"]}
    return [_op_row(o, total) for o in [*ops, {"name": "all products", "count": 1, "operations": kinds, **sums}]]


def _op_row(o: Document, total: float) -> list[str]:
    us = max(o["microseconds"], 1e-3)
    ops = sum(o["operations"].values())
    work, kernel = bool(o["bytes"] or ops), o["kernel_microseconds"]
    return [
        o["name"] + (f" x {o['count']}" if o["count"] > 1 else ""),
        f"{us:.0f}",
        f"{100 * us / max(total, us):.1f}",
        f"{o['limit_microseconds']:.0f}" if work else "",
        percent(o["limit_microseconds"] / us) if work else "",
        f"{o['bytes'] / us / 1e3:.1f}" if o["bytes"] else "",
        f"{ops / us / 1e3:.0f}" if ops else "",
        percent(kernel / us) if kernel is not None else "",
    ]


def number(x: float) -> str:
    """A number in at most five characters, up to 10^9: a column of the table has no room for more."""
    if x >= 99_999.5:
        return f"{x / 1e6:.2f}M" if 999_500 <= x < 9_995_000 else f"{x / 1e6:.0f}M" if x >= 1e6 else f"{x / 1e3:.0f}k"
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}"


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"
