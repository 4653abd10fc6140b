"""Benchmark results as a JSON document and as a table, and their comparison with an earlier document."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.bench.limits import UNITS, Limits
from pellucid.bench.scenarios import Bench, Op, Run

__all__ = ["SCHEMA", "compare", "document", "read", "rows"]

SCHEMA = 1

Document = dict[str, Any]
Rows = list[list[str]]


def document(bench: Bench, runs: Sequence[Run], limits: Sequence[Limits], ops: Sequence[Op] = ()) -> Document:
    """All measurements, as plain data. GB and Gop are 1e9; repeated measurements are {"median", "min", "max"}."""
    from pellucid import __version__

    info = bench.info
    return {
        "schema": SCHEMA,
        "pellucid": __version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpu": info.cpu,
            "system": f"{platform.system()} {platform.machine()}",
            "threads": info.threads,
            "threads_why": info.threads_why,
            "isa": info.isa,
            "huge_pages": info.huge_pages,
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
            kind: {"unit": unit, **_spread([x for x in (getattr(m, kind) for m in limits) if x is not None])}
            for kind, unit in UNITS.items()
            if getattr(limits[0], kind) is not None
        },
        "phases": [_phase(run) for run in runs],
        "operations": [_op(op, limits, info.huge_pages) for op in ops],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _phase(run: Run) -> Document:
    tokens = run.phase.tokens
    out: Document = {
        "name": run.phase.name,
        "about": run.phase.about,
        "tokens": tokens,
        "repeats": len(run.seconds),
        "seconds": _spread(run.seconds),
        "tokens_per_second": _spread([tokens / s for s in run.seconds]),
        "limit": None,
    }
    if run.work is not None:
        operations = sum(run.work.operations.values())
        out["limit"] = {
            "bytes": run.work.bytes,
            "operations": dict(run.work.operations),
            "bound": "memory" if statistics.median_low(run.memory_bound) else "compute",
            "tokens_per_second": _spread([tokens / s for s in run.limit_seconds]),
            "fraction": _spread([a / b for a, b in zip(run.limit_seconds, run.seconds, strict=True)]),
        }
        out["gb_per_second"] = _spread([run.work.bytes / s / 1e9 for s in run.seconds])
        out["gop_per_second"] = _spread([operations / s / 1e9 for s in run.seconds])
    return out


def _op(op: Op, limits: Sequence[Limits], huge: bool) -> Document:
    best = limits[0]
    for one in limits:
        best = Limits.better(best, one)
    return {
        "phase": op.phase,
        "kind": op.kind,
        "name": op.name,
        "count": op.count,
        "microseconds": op.ns / 1e3,
        "bytes": op.work.bytes,
        "operations": dict(op.work.operations),
        "limit_microseconds": max(op.work.seconds(best, huge)) * 1e6,
    }


# ---- as a table ----------------------------------------------------------------------------------------------------


def rows(doc: Document, earlier: Document | None = None) -> Rows:
    """A table for people. Rows of one cell are headings. earlier: a document to compare with, as new / old."""
    m, model = doc["machine"], doc["model"]
    memory = "2 MB pages" if m["huge_pages"] else "4 KB pages"
    name = model["name"] or Path(model["path"]).name
    out = [
        [f"{name}, {model['quantisation']}, {model['file_bytes'] / 1e6:.1f} MB, keys and values in {model['kv']}"],
        [f"{m['cpu']}, {m['threads']} threads ({m['threads_why']}), {m['isa']}, {memory}"],
        [""],
        ["limit", "median", "best", "", "", "", "", ""],
    ]
    out += [
        [_LIMIT_NAMES[kind], f"{x['median']:.1f}", f"{x['max']:.1f}", x["unit"], "", "", "", ""]
        for kind, x in doc["limits"].items()
    ]
    old = {p["name"]: p for p in earlier["phases"]} if earlier else {}
    out += [
        [""],
        ["phase", "tokens/s", "min..max", "limit", "of it", "GB/s", "Gop/s", "bound by" if not old else "new/old"],
    ]
    for p in doc["phases"]:
        out.append(_phase_row(p, old))
    if doc["operations"]:
        out += [[""], ["operation", "us", "%", "limit us", "of it", "GB/s", "Gop/s", "pass"]]
        totals: dict[str, float] = {}
        for o in doc["operations"]:
            totals[o["phase"]] = totals.get(o["phase"], 0.0) + o["microseconds"]
        out += [_op_row(o, totals[o["phase"]]) for o in doc["operations"]]
    return out


_LIMIT_NAMES = {
    "read_4k": "read, 4 KB pages",
    "read_2m": "read, 2 MB pages",
    "int8": "int8 products",
    "bf16": "bf16 products",
    "f32": "float32 products",
}


def _phase_row(p: Document, old: dict[str, Document]) -> list[str]:
    rate, limit = p["tokens_per_second"], p["limit"]
    ratio = ""
    if p["name"] in old:
        ratio = f"{rate['median'] / old[p['name']]['tokens_per_second']['median']:.3f}"
    if limit is None:
        seconds = p["seconds"]
        return [
            p["name"],
            f"{seconds['median']:.3f} s",
            f"{seconds['min']:.3f}..{seconds['max']:.3f}",
            "",
            "",
            "",
            "",
            ratio,
        ]
    return [
        p["name"],
        _number(rate["median"]),
        f"{_number(rate['min'])}..{_number(rate['max'])}",
        _number(limit["tokens_per_second"]["median"]),
        f"{100 * limit['fraction']['median']:.0f} %",
        f"{p['gb_per_second']['median']:.1f}",
        f"{p['gop_per_second']['median']:.0f}",
        ratio if old else limit["bound"],
    ]


def _op_row(o: Document, total: float) -> list[str]:
    us = max(o["microseconds"], 1e-3)
    ops = sum(o["operations"].values())
    return [
        o["name"] + (f" x {o['count']}" if o["count"] > 1 else ""),
        f"{us:.0f}",
        f"{100 * us / total:.1f}",
        f"{o['limit_microseconds']:.0f}" if o["bytes"] or ops else "",
        f"{100 * o['limit_microseconds'] / us:.0f} %" if o["bytes"] or ops else "",
        f"{o['bytes'] / us / 1e3:.1f}" if o["bytes"] else "",
        f"{ops / us / 1e3:.0f}" if ops else "",
        o["phase"],
    ]


def _number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}"


# ---- an earlier document -------------------------------------------------------------------------------------------


def read(path: str | Path) -> Document:
    """Reads a document that `pellucid bench --json` wrote. Raises ValueError, which says what is wrong with the file;
    OSError."""
    try:
        doc = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON document: {error}") from None
    if not isinstance(doc, dict) or doc.get("schema") != SCHEMA:
        raise ValueError(f'{path} is not a document of pellucid bench: expected "schema": {SCHEMA}')
    phases = doc.get("phases")
    if not isinstance(phases, list) or not all(_is_rate(p, "tokens_per_second") for p in phases):
        raise ValueError(f'{path}: expected "phases", each with a name and a positive tokens_per_second.median')
    limits = doc.setdefault("limits", {})
    if not isinstance(limits, dict) or not all(_is_positive(x) for x in limits.values()):
        raise ValueError(f'{path}: expected "limits", each with a positive median')
    return doc


def _is_rate(phase: Any, key: str) -> bool:
    return isinstance(phase, dict) and isinstance(phase.get("name"), str) and _is_positive(phase.get(key))


def _is_positive(spread: Any) -> bool:
    median = spread.get("median") if isinstance(spread, dict) else None
    return isinstance(median, (int, float)) and median > 0


def compare(doc: Document, earlier: Document) -> dict[str, dict[str, float]]:
    """Ratios new / old of the medians that both have: {"phases": {name: ratio}, "limits": {kind: ratio}}."""
    old = {p["name"]: p for p in earlier["phases"]}
    return {
        "phases": {
            p["name"]: p["tokens_per_second"]["median"] / old[p["name"]]["tokens_per_second"]["median"]
            for p in doc["phases"]
            if p["name"] in old
        },
        "limits": {
            kind: x["median"] / earlier["limits"][kind]["median"]
            for kind, x in doc["limits"].items()
            if kind in earlier["limits"]
        },
    }
