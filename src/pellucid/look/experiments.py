"""Which activations carry an answer: patching from one prompt into another (Meng et al. 2022), at every layer and
position, and what each token of the prompt contributes. Without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, checks
from pellucid.core import Core, Loaded
from pellucid.errors import TokenizerError, WrongType, WrongValue
from pellucid.generation import prefill
from pellucid.look import record
from pellucid.look.attributions import token_id
from pellucid.look.edit import Edits
from pellucid.look.places import Layer, Tap, find
from pellucid.look.recorded import Token
from pellucid.look.sizes import Selection, select
from pellucid.look.trace import prompts, watch
from pellucid.options import Ids, Prompt
from pellucid.plan import Plan
from pellucid.sampling import Cancel, Integer
from pellucid.schedule.turns import Turns

__all__ = ["Occlusion", "Patching", "Run", "live", "occlusion", "patching", "run", "single", "together"]

Floats = npt.NDArray[np.float32]
Metric = Callable[[Floats], float] | tuple[Any, Any] | int | str
WHAT = ("hidden", "attention_out", "mlp_out", "mixed")


@dataclass(frozen=True)
class Patching:
    """The metric when one activation of the corrupt prompt is replaced by that of the clean one.

    ``values`` (layers, positions); for "mixed" (layers, heads, positions); ``clean`` and ``corrupt``: the metric of the
    prompts as they are; ``tokens``: of the corrupt prompt, at the patched positions.
    """

    what: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[Token, ...]
    values: npt.NDArray[np.float64]
    clean: float
    corrupt: float

    @property
    def restored(self) -> npt.NDArray[np.float64]:
        """How much of the difference between the prompts each patch restores: 0 none, 1 all. NaN if they agree."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found: npt.NDArray[np.float64] = np.divide(self.values - self.corrupt, self.clean - self.corrupt)
        return found

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        return f"<Patching of {self.what}, {shape}: clean {self.clean:.3f}, corrupt {self.corrupt:.3f}>"


@dataclass(frozen=True)
class Occlusion:
    """The metric without each token of a prompt. ``values`` (positions); ``whole``: with all tokens; ``lost``:
    ``whole`` minus ``values``."""

    positions: tuple[int, ...]
    tokens: tuple[Token, ...]
    values: npt.NDArray[np.float64]
    whole: float

    @property
    def lost(self) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self.whole - self.values
        return found


def patching(
    model: Loaded,
    clean: Prompt,
    corrupt: Prompt,
    metric: Metric,
    what: str = "hidden",
    *,
    layers: Integer | Ids | None = None,
    positions: Integer | Ids | None = None,
    heads: Integer | Ids | None = None,
    cancel: Cancel | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Patching:
    """Runs the corrupt prompt with one activation at a time from the clean one, for every layer and position.

    clean, corrupt: prompts of equally many tokens. metric: a callable of the last token's logits (vocab), which returns
    a number; or a tuple of two tokens (ids, or texts of one token each), the difference of their logits; or one token,
    its logit. what: "hidden" (the residual stream after a layer), "attention_out", "mlp_out", or "mixed" (a head's
    output before its projection; `heads` selects some).
    Many patches share a pass, which begins at the patched place; the layers before are not computed again. If the
    prompts are longer than a pass (512 tokens) or a local layer's window, each patch is a separate run, so select
    layers and positions. cancel: a callable or a threading.Event; progress: called with (patches done, all patches).

    Raises ValueError or TypeError naming the argument; CancelledError. Use a model with ``precision="high"``.
    """
    core, seen = model.core, watch(cancel, progress)
    engine, measure = core.decoder(), _metric(core, metric)
    ids = [single(core, prompt, name) for prompt, name in ((clean, "clean"), (corrupt, "corrupt"))]
    if len(ids[0]) != len(ids[1]):
        raise WrongValue("corrupt", f" has {len(ids[1])} tokens, expected {len(ids[0])} as in clean")
    what, n = checks.choice("what", what, WHAT), len(ids[0])
    if heads is not None and what != "mixed":
        raise WrongValue("heads", ': only what="mixed" has heads')
    chosen = select("layers", layers, core.config.layers), select("positions", positions, n)
    which = select("heads", heads, core.config.attention.n_q)
    places = find(engine.plan)
    spots = {i: _spot(places.layers[i], what) for i in chosen[0]}
    if not any(spots.values()):
        raise WrongValue("what", f"={what!r}: no selected layer has it")
    if n > together(engine):
        return _one_by_one(core, ids, measure, what, [i for i in chosen[0] if spots[i]], *chosen, which, seen)
    taps = [_taps(engine.plan, spot) for spot in spots.values() if spot is not None]
    wanted = sorted({*(tap for row in taps for tap in row)})
    changes = sum(spot is not None for spot in spots.values()) * len(chosen[1]) * (len(which) if what == "mixed" else 1)
    seen.total = changes
    shape = (len(chosen[0]), len(which), len(chosen[1])) if what == "mixed" else (len(chosen[0]), len(chosen[1]))
    with record.cancelling(), Turns(core, "trace", [n, n], seen.cancel) as turns:
        base = [run(turns, one, wanted) for one in ids]
        before = [measure(run.logits) for run in base]
        values = np.full(shape, before[1])
        for j, (number, spot) in enumerate(spots.items()):
            if spot is None:
                continue
            layer = places.layers[number]
            columns = [slice(None)]
            if what == "mixed":
                columns = [slice(h * layer.value, (h + 1) * layer.value) for h in which]
            cases = [(c, p) for c in range(len(columns)) for p in range(len(chosen[1]))]
            rows = _variants(base, spot, [(columns[c], chosen[1][p]) for c, p in cases])
            resumed = _resume(turns, ids[1], base[1], spot, rows, len(cases), seen)
            for (c, p), logits in zip(cases, resumed, strict=True):
                values[(j, c, p) if what == "mixed" else (j, p)] = measure(logits)
    return Patching(what, *chosen, _tokens(core, ids[1], chosen[1]), values, *before)


def occlusion(
    model: Loaded,
    prompt: Prompt,
    metric: Metric,
    *,
    replace: Integer | str | None = None,
    positions: Integer | Ids | None = None,
    cancel: Cancel | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Occlusion:
    """The contribution of each token of a prompt to the model's next prediction: the metric without that token.

    metric: as in :func:`patching`. replace: a token to put in its place; None: the token is left out, and later ones
        move up.
    cancel, progress: as in :func:`patching`. Raises ValueError or TypeError naming the argument; CancelledError.
    """
    core, seen = model.core, watch(cancel, progress)
    core.decoder()
    measure, ids = _metric(core, metric), single(core, prompt, "prompt")
    if len(ids) < 2 and replace is None:
        raise WrongValue("prompt", " has one token: without it, none is left; use replace=")
    chosen = select("positions", positions, len(ids))
    other = [] if replace is None else [token_id(core, "replace", replace)]
    many = [ids, *([*ids[:p], *other, *ids[p + 1 :]] for p in chosen)]
    seen.total = len(many)
    with record.cancelling(), Turns(core, "trace", [len(one) for one in many], seen.cancel) as turns:
        found = [measure(row) for row in _last_logits(turns, many, seen)]
    return Occlusion(chosen, _tokens(core, ids, chosen), np.array(found[1:]), found[0])


# ---- arguments ----------------------------------------------------------------------------------------------------


def _tokens(core: Core, ids: Sequence[int], positions: Sequence[int]) -> tuple[Token, ...]:
    return tuple(Token(ids[p], core.spell(ids[p]), core.piece(ids[p], special=True)) for p in positions)


def single(core: Core, prompt: Any, name: str) -> list[int]:
    try:
        several, ids = prompts(core, prompt)
    except (WrongValue, WrongType) as error:
        raise type(error)(name, str(error).removeprefix("prompt")) from None
    except TokenizerError as error:
        if type(error) is not TokenizerError:
            raise
        raise TokenizerError(name + error.message.removeprefix("prompt"), position=error.position) from None
    if several:
        raise WrongValue(name, ": expected a single prompt, not several")
    return ids[0]


def _metric(core: Core, metric: Any) -> Callable[[Floats], float]:
    if callable(metric):

        def measure(logits: Floats) -> float:
            given = metric(logits)
            found = np.asarray(given)
            if found.size != 1 or found.dtype.kind not in "biuf":
                raise WrongType("metric", f" returned {checks.shown(given)}: expected a number")
            value = float(found.reshape(-1)[0])
            if not np.isfinite(value):
                raise WrongValue("metric", f" returned {value}: expected a finite number")
            return value

        return measure
    pair = metric if isinstance(metric, tuple) else (metric,)
    if len(pair) not in (1, 2):
        raise WrongValue("metric", ": expected a callable, a token or a tuple of two")
    first, *second = (token_id(core, "metric", token) for token in pair)
    return lambda logits: float(logits[first]) - (float(logits[second[0]]) if second else 0.0)


# ---- where --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spot:
    """A buffer before an operation, from which a pass is run again. of: the taps to patch in it; change: it holds the
    residual stream, so the difference is added."""

    start: int
    buffer: int
    of: tuple[Tap, ...]
    change: bool = False
    pairs: tuple[tuple[Tap, Tap], ...] = ()


def _spot(layer: Layer, what: str) -> _Spot | None:
    if what == "hidden":
        return _Spot(layer.hidden.op + 1, layer.hidden.buffer, (layer.hidden,))
    if what == "mixed":
        if layer.mixed is None or layer.group is None:
            return None
        return _Spot(layer.mixed.op + 1, layer.mixed.buffer, (layer.mixed,))
    if what == "attention_out":
        pairs = layer.attention_changes
        last = [tap.op for tap in layer.attention_out] + [after.op for _, after in pairs]
        return _Spot(max(last) + 1, layer.hidden.buffer, layer.attention_out, True, pairs) if last else None
    last = [tap.op for tap in layer.mlp_out] + [after.op for _, after in layer.experts]
    return _Spot(max(last) + 1, layer.hidden.buffer, layer.mlp_out, True, layer.experts) if last else None


def live(plan: Plan, start: int) -> list[int]:
    """The buffers that operations from `start` on read before they write them."""
    found: set[int] = set()
    written: set[int] = set()
    for op in plan.ops[start:]:
        reads = {op.inp} | {seg.input for seg in plan.segments[op.seg : op.seg + op.n_seg] if op.n_seg}
        reads |= {op.out} if _keeps(op.kind.name) else set()
        reads |= {op.tmp} if op.kind.routed or op.kind.name == "SCAN" else set()
        found |= reads - written
        written.add(op.out)
        if op.tmp >= 0:
            written.add(op.tmp)
    return sorted(found - {-1})


def _keeps(kind: str) -> bool:
    return kind in ("GATE", "SCALE_ADD", "NORM", "ROPE_APPEND", "HEAD_NORM", "LINEAR_ADD", "EXPERTS_ADD", "REATTEND")


def _taps(plan: Plan, spot: _Spot) -> list[Tap]:
    needed = [Tap(spot.start - 1, buffer) for buffer in live(plan, spot.start)]
    return [*needed, *spot.of, *(tap for pair in spot.pairs for tap in pair)]


# ---- passes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A prompt's rows at each tap, its sequence and its last logits."""

    found: dict[Tap, Floats]
    sequence: _engine.Sequence
    logits: Floats


def together(engine: _engine.Engine) -> int:
    """The maximum length of a prompt that runs in one pass and can be run again from the middle of the plan."""
    return min([engine.max_rows, *(group.window + 62 for group in engine.plan.caches if group.window)])


def run(turns: Turns, ids: Sequence[int], taps: Sequence[Tap]) -> Run:
    """Runs a prompt of at most `together` tokens."""
    sequence, out = turns.sequence(), np.empty((1, turns.vocab), np.float32)
    found: dict[Tap, list[Floats]] = {}
    while sequence.length < len(ids):
        start = sequence.length
        part = np.array(ids[start : start + turns.rows(len(ids), start)], np.int32)
        last = start + len(part) == len(ids)
        rows, _ = turns.observe([(sequence, part, len(part) - last)], taps=taps, out=out if last else None)
        for tap, some in rows.items():
            found.setdefault(Tap(*tap), []).append(some)
    return Run({tap: np.concatenate(parts) for tap, parts in found.items()}, sequence, out[0])


def _one_by_one(
    core: Core,
    ids: Sequence[Sequence[int]],
    measure: Callable[[Floats], float],
    what: str,
    having: Sequence[int],
    layers: tuple[int, ...],
    positions: tuple[int, ...],
    heads: tuple[int, ...],
    seen: record.Watch,
) -> Patching:
    """``patching`` with an edit for each patch. having: the layers that have the activation."""
    clean, corrupt = ids
    each = heads if what == "mixed" else (0,)
    seen.total = len(having) * len(each) * len(positions)
    engine, quiet = core.open(), record.Watch(seen.cancel)
    begin = partial(Turns, core, "trace", [len(corrupt)], seen.cancel)
    with record.cancelling():
        with begin() as turns:
            before = [measure(row) for row in _last_logits(turns, ids, quiet)]
        values = np.full((len(layers), len(each), len(positions)), before[1])
        for number in having:
            s = Selection((what,), (number,), heads, positions, len(clean))
            with begin() as turns:
                kept = record.record(turns, clean, s, find(engine.plan), 512, quiet)[what]
            rows = kept[0] if what == "mixed" else kept[-1][None]  # (heads, positions, width)
            for c, head in enumerate(each):
                for p, position in enumerate(positions):
                    edits = Edits(core)
                    if what == "mixed":
                        edits.patch_head(number, head, position, rows[c, p])
                    else:
                        part = {"attention_out": "attention", "mlp_out": "mlp"}.get(what)
                        edits.patch(number, position, rows[c, p], part)
                    with begin(_engine.Engine(edits.plan(), base=engine)) as turns:
                        (row,) = _last_logits(turns, [corrupt], quiet)
                    values[layers.index(number), c, p] = measure(row)
                    seen.step(1)
    shape = values.shape if what == "mixed" else values[:, 0].shape
    return Patching(what, layers, positions, _tokens(core, corrupt, positions), values.reshape(shape), *before)


def _variants(base: Sequence[Run], spot: _Spot, cases: Sequence[tuple[slice, int]]) -> Iterator[Floats]:
    """Yields, for each (columns, position), the corrupt prompt's rows of the buffer, patched there."""
    clean, corrupt = (run.found for run in base)
    rows = corrupt[Tap(spot.start - 1, spot.buffer)]
    if spot.change:
        change = sum((clean[tap].astype(np.float64) - corrupt[tap] for tap in spot.of), np.zeros(rows.shape))
        for before, after in spot.pairs:
            change += (clean[after].astype(np.float64) - clean[before]) - (
                corrupt[after].astype(np.float64) - corrupt[before]
            )
        wanted = (rows + change).astype(np.float32)
    else:
        wanted = clean[spot.of[0]]
    for columns, position in cases:
        patched = rows.copy()
        patched[position, columns] = wanted[position, columns]
        yield patched


def _resume(
    turns: Turns,
    ids: Sequence[int],
    base: Run,
    spot: _Spot,
    variants: Iterator[Floats],
    n_variants: int,
    seen: record.Watch,
) -> Iterator[Floats]:
    """The last token's logits (vocab) of each variant of a buffer, obtained by running the operations from the spot on
    again."""
    plan, part, at = turns.plan, np.array(ids, np.int32), spot.start
    others = [buffer for buffer in live(plan, at) if buffer != spot.buffer]
    left = n_variants
    while left:
        n = min(max(turns.rows(turns.max_rows, part=True) // len(ids), 1), 16, left)
        feeds = {spot.buffer: np.concatenate([next(variants) for _ in range(n)])}
        feeds |= {buffer: np.tile(base.found[Tap(at - 1, buffer)], (n, 1)) for buffer in others}
        out = np.empty((n, turns.vocab), np.float32)
        parts = [(turns.sequence(base.sequence), part, len(part) - 1) for _ in range(n)]
        turns.observe(parts, ops=(at, len(plan.ops)), feeds=feeds, out=out, at=0)
        for sequence, _, _ in parts:
            turns.drop(sequence)
        seen.step(n)
        left -= n
        yield from out


def _last_logits(turns: Turns, many: Sequence[Sequence[int]], seen: record.Watch) -> Iterator[Floats]:
    """The logits (vocab) after each prompt; short ones share passes."""
    waiting = list(many)
    while waiting:
        batch: list[tuple[_engine.Sequence, Any, int]] = []
        room = turns.rows(turns.max_rows)
        if len(waiting[0]) > room:
            sequence, ids = turns.sequence(), waiting[0]
            prefill(turns, sequence, ids[:-1], turns.max_rows, None, turns.rows)
            batch = [(sequence, np.array(ids[-1:], np.int32), 0)]
        else:
            for ids in waiting[:16]:
                if len(ids) > room:
                    break
                room -= len(ids)
                batch.append((turns.sequence(), np.array(ids, np.int32), len(ids) - 1))
        out = np.empty((len(batch), turns.vocab), np.float32)
        turns.forward(batch, out=out)
        for sequence, _, _ in batch:
            turns.drop(sequence)
        del waiting[: len(batch)]
        seen.step(len(batch))
        yield from out
