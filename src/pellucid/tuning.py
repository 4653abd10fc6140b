"""Settings that affect speed but no bit of a result, chosen by a short measurement at the first load on a machine.

How far ahead and in what order a product of few rows prefetches its weights, and how many tiles are multiplied by many
rows at a time, affect the speed by up to a third, and the best choice differs between processors of the same maker. So
candidates are timed on the engine's own threads, with weights in memory that no cache holds, and the choice is kept in
the cache folder, by processor, tier, number of threads and build. Without a measurement, the choice depends on the
processor (csrc/kernels/tuning.c).

PELLUCID_TUNE: "off" neither measures nor reads a stored choice; "now" measures again what a load measures, and reads
the rest, which `pellucid tune` measures, from the stored choice.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pellucid import _engine, checks
from pellucid.errors import OutOfMemoryError, PellucidError, one_line, os_reason
from pellucid.processor import processor, processors
from pellucid.weights import base, store

__all__ = ["Choice", "Timing", "Tuning", "check_folder", "choices", "decide", "find", "keep", "measure"]

SECONDS = 0.045  # of measuring at a load, with its buffer; with the last product and the file, less than 0.06 s
BYTES = 8 << 20  # of the weights of a memory-bound product; no cache holds them at its start
# A candidate must be faster than the processor's default by this share: at a load, in a long measurement.
GAIN, GAIN_AT_LENGTH = 0.05, 0.02
MOST_BYTES = 1 << 16  # of a stored file; a real one has a twentieth of it
ROWS = 96  # of a compute-bound product
K = 2048

Values = Mapping[str, int]


class Choice(NamedTuple):
    """One decision: the candidates, each {name: value}, and the products whose times decide, (format, rows)."""

    what: str
    candidates: tuple[Values, ...]
    products: tuple[tuple[str, int], ...]


class Timing(NamedTuple):
    """The times of a choice's candidates relative to the first, the processor's default; less is faster."""

    what: str
    candidates: tuple[Values, ...]
    ratios: tuple[float, ...]
    chosen: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "candidates": [dict(c) for c in self.candidates],
            "relative_time": [round(r, 4) for r in self.ratios],
            "chosen": self.chosen,
        }


class Tuning(NamedTuple):
    """values: {name: value} of all names in csrc/kernels/tuning.h; why: where they come from."""

    values: dict[str, int]
    why: str
    timings: tuple[Timing, ...] = ()


def _ahead(prefix: str, *ways: tuple[int, int, int]) -> tuple[Values, ...]:
    return tuple({f"{prefix}_bytes": far, f"{prefix}_lines": n, f"{prefix}_turns": turns} for far, n, turns in ways)


def choices(isa: str, long: bool = False) -> list[Choice]:
    """The choices to measure in a tier, in the order in which they are made; the default is the first candidate. long:
    with more candidates."""
    if isa in ("scalar", "neon", "i8mm"):  # their kernels have no such choices
        return []
    default = _engine.default_tuning(isa)
    in_order = ((0, 0, 0), (1024, 64, 0), (2048, 64, 0), (8192, 64, 0)) if long else ()
    ways = ((4096, 64, 1), (4096, 64, 0), (4096, 1, 0), *in_order)
    found = [
        # Four rows, too: one processor reads a single row faster in order in this measurement, but not in a model.
        Choice("prefetching, codes of less than a byte", _ahead("ahead", *ways), (("Q4_K", 1), ("Q4_K", 4))),
        Choice("prefetching, codes of a byte", _ahead("ahead8", *ways), (("Q8_0", 1),)),
    ]
    if isa.startswith("avx512"):
        tiles = tuple({"pair_tiles": n} for n in (1, 2))
        found.insert(0, Choice("tiles at once", tiles, (("Q4_0", ROWS), ("Q6_K", ROWS))))
    return [Choice(c.what, tuple(_default_first(c.candidates, default)), c.products) for c in found]


def _default_first(candidates: Sequence[Values], default: Values) -> Iterator[Values]:
    own = {name: default[name] for name in candidates[0]}
    yield own
    yield from (c for c in candidates if c != own)


def measure(isa: str, threads: int, seconds: float | None = None, long: bool = False) -> list[Timing]:
    """Times every candidate, in turns, for `seconds` in all (None: SECONDS). long: with more candidates, and a smaller
    gain is enough to replace the first. A choice with less than two turns in this time, because the machine is busy, is
    left out.

    Raises OutOfMemoryError if there is no memory for the buffer.
    """
    seconds = SECONDS if seconds is None else seconds
    plan = choices(isa, long)
    if not plan:
        return []
    end = time.perf_counter() + seconds
    probe = _engine.Probe(isa=isa, threads=threads, size=BYTES, small=False)
    found: list[Timing] = []
    values: dict[str, int] = {}
    for i, choice in enumerate(plan):
        now = time.perf_counter()
        turns = _turns(probe, choice, values, now + (end - now) / (len(plan) - i), end)
        if len(turns[0]) > 1:
            found.append(decide(choice.what, choice.candidates, turns, GAIN_AT_LENGTH if long else GAIN))
            values |= choice.candidates[found[-1].chosen]
    return found


def _turns(probe: _engine.Probe, choice: Choice, values: Values, until: float, end: float) -> list[list[list[float]]]:
    """The turns that `decide` needs: complete ones; none begins after `until`, and no product begins after `end`."""
    turns: list[list[list[float]]] = [[] for _ in choice.products]
    n = len(choice.candidates)
    runs = [_product(*product, {**values, **c}) for product in choice.products for c in choice.candidates]
    while (now := time.perf_counter()) < until:
        times = probe.products(runs, seconds=end - now)
        if len(times) < len(runs):
            break
        for i, turn in enumerate(turns):
            turn.append([float(t) for t in times[i * n : (i + 1) * n]])
    return turns


def decide(
    what: str, candidates: tuple[Values, ...], turns: Sequence[Sequence[Sequence[float]]], gain: float
) -> Timing:
    """The fastest candidate, if it is faster than the first by `gain`. turns: for each kind of work, a list of turns,
    each with a time per candidate. Minimum times are compared, since other work on the machine only adds to a time; so
    a single turn decides nothing."""
    least = [[min(column) for column in zip(*work, strict=True)] for work in turns]
    logs = [sum(math.log(times[i] / times[0]) for times in least) / len(least) for i in range(len(candidates))]
    best = min(range(len(logs)), key=logs.__getitem__)
    ratios = tuple(math.exp(x) for x in logs)
    return Timing(what, candidates, ratios, best if len(turns[0]) > 1 and ratios[best] < 1 - gain else 0)


def _product(format: str, rows: int, values: Values) -> dict[str, Any]:
    if rows < ROWS:
        return {"format": format, "k": K, "rows": rows, "size": BYTES, "cold": True, "tuning": values}
    return {"format": format, "k": K, "rows": rows, "size": 1 << 20, "tuning": values}  # about 50 tiles, cached


# ---- what is kept ---------------------------------------------------------------------------------------------------

_known: dict[str, Tuning] = {}  # by key: what this process has found so far
_lock = threading.Lock()
_build = os.stat(_engine.__file__)  # at import: an upgrade may remove the file, or put another build in its place


def _unlock() -> None:
    """In a forked child: the thread that measured in the parent does not exist here."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def find(isa: str, threads: int) -> Tuning:
    """The tuning for this machine: the one stored in the cache folder, or else measured now and stored.

    Raises ValueError for an invalid value of PELLUCID_TUNE.
    """
    default = _engine.default_tuning(isa)
    asked = checks.choice("PELLUCID_TUNE", os.environ.get("PELLUCID_TUNE") or "auto", ("auto", "off", "now"))
    if asked == "off":
        return Tuning(default, "by processor (PELLUCID_TUNE=off)")
    key = _key(isa, threads)
    with _lock:  # several simultaneous loads measure only once
        if key not in _known:
            measures = bool(choices(isa))
            kept = _read(key)
            if kept is None and not measures:
                kept = Tuning(default, "by processor: for this instruction set a load measures nothing")
            _known[key] = kept if kept and not (measures and asked == "now") else _measured(isa, threads, kept)
        return _known[key]


def keep(isa: str, threads: int, timings: Sequence[Timing], before: Tuning | None = None) -> Tuning:
    """Stores measurements for later processes, along with what only `before` has. ``why`` says where they are stored,
    or why they are not."""
    import json

    key = _key(isa, threads)
    values = _chosen(isa, timings, before)
    why = "measured now"
    try:
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        document = {"key": key, "values": values, "measured": [t.to_dict() for t in timings]}
        try:
            draft.write_text(json.dumps(document, indent=1))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        why += f", kept in {path}"
    except (OSError, PellucidError):
        why += ", not kept: the cache folder cannot be written"
    _known.pop(key, None)  # the next load reads it
    return Tuning(values, why, tuple(timings))


def check_folder() -> None:
    """Raises PellucidError if nothing can be stored."""
    import tempfile

    folder = _path("").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = os_reason(error)
        raise PellucidError(f"{one_line(str(folder))}: the result could not be kept there: {why}") from None


def _chosen(isa: str, timings: Sequence[Timing], before: Tuning | None) -> dict[str, int]:
    """The processor's default, or `before`, updated with what was measured."""
    values = _engine.default_tuning(isa) if before is None else dict(before.values)
    for timing in timings:
        values |= timing.candidates[timing.chosen]
    return values


def _measured(isa: str, threads: int, before: Tuning | None) -> Tuning:
    """Stored only if every choice was measured, so that otherwise the next process tries again. before: the stored
    tuning."""
    start = "by processor" if before is None else before.why
    cause = "other work" if threads <= processors() else "more threads than processors"
    try:
        timings = measure(isa, threads)
    except (MemoryError, OutOfMemoryError):
        return Tuning(_chosen(isa, (), before), f"{start}: no memory to measure")
    if not timings:
        return Tuning(_chosen(isa, (), before), f"{start}: {cause} left no time to measure")
    if len(timings) < len(choices(isa)):
        why = f"measured in part, not kept: {cause} left no time for the rest"
        return Tuning(_chosen(isa, timings, before), why, tuple(timings))
    return keep(isa, threads, timings, before)


def _key(isa: str, threads: int) -> str:
    """What a measurement is valid for: processor, tier, threads and build. Virtual machines give different processors
    one name, and several machines may share a home folder, so a processor's numbers are included, too."""
    words = (_engine.cpu_name(), processor(), isa, f"{threads} threads")
    return f"{', '.join(filter(None, words))}, build {_build.st_size:x}-{_build.st_mtime_ns:x}"


def _path(key: str) -> Path:
    import hashlib

    return store.cache_folder() / "tuning" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _read(key: str) -> Tuning | None:
    """The tuning stored for a key; None if there is none or the file is broken."""
    import json

    limits = _engine.tuning_limits()
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, PellucidError):
        path = _path(key)
        document = json.loads(base.read_file(str(path), MOST_BYTES, "a tuning"))
        values = document["values"]
        if not isinstance(values, dict) or values.keys() != limits.keys():
            return None
        good = all(type(v) is int and limits[n][0] <= v <= limits[n][1] for n, v in values.items())
        if good and document["key"] == key:
            return Tuning(values, f"measured earlier, kept in {path}")
    return None
