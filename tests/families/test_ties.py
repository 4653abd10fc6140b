"""Mixtures of experts: of the tokens compared here and in tests/look, none is so near a tie between experts that
rounding could make the other choice.

Such a choice alters the logits of its token, and of those after it, by far more than test_families.py allows. A case
with a near tie gets other tokens: `Case.tokens`, then a new golden file.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pellucid import Model
from pellucid._engine import ROUTES
from pellucid.plan import Experts
from tests.engine import arithmetic, mixtures
from tests.engine.models import ids_for, sequence
from tests.families.cases import BY_NAME, CASES
from tests.families.test_families import golden_of, ids_of, routed, write
from tests.look import kinds

Floats = npt.NDArray[np.float64]

LEAST = 5e-5  # a part of the range of a layer's scores
ROUNDING = 1e-5  # of one score, as such a part; so two come nearer to each other by at most 2e-5
ROUNDED = ("qwen2moe_dense_layers", "ernie4_5_moe_interval", "gpt_oss")  # it is greatest in these, up to 4.8e-6


def scores_of(engine: Any, ids: list[int]) -> list[tuple[Any, Floats]]:
    """Each operation that chooses among experts, and its scores (tokens, experts)."""
    taps = [(i, op.tmp) for i, op in enumerate(engine.plan.ops) if op.kind.routes]
    found, _ = engine.observe([(sequence(engine), np.array(ids, np.int32), len(ids))], taps=taps)
    return [(engine.plan.ops[tap[0]], found[tap].astype(np.float64)) for tap in taps]


def between(values: Floats, k: int) -> Floats:
    """For each row, how far the least of its k greatest values is from the next one; infinite where there is none."""
    if k == values.shape[1]:
        return np.full(len(values), np.inf)
    ordered = -np.sort(-values, axis=1)
    found: Floats = ordered[:, k - 1] - ordered[:, k]
    return found


def merits(plan: Any, op: Any, scores: Floats) -> Floats:
    """What experts are chosen by. scores: the router's products."""
    if op.vec < 0 and not op.groups:
        return scores
    by = 1 / (1 + np.exp(-scores)) if op.route & ROUTES["sigmoid"] else np.stack([*map(arithmetic._softmax, scores)])
    return by + plan.vectors[op.vec].data if op.vec >= 0 else by


def margin(plan: Any, op: Any, scores: Floats) -> float:
    """The least difference between the last that was chosen and the first that was not, of groups and of experts, as a
    part of the range of all scores."""
    (rows, n), by = scores.shape, merits(plan, op, scores)
    size, least = float(np.ptp(by)), np.inf
    if op.groups:
        best = -np.sort(-by.reshape(rows, op.groups, -1), axis=2)
        worth = best[:, :, :2].sum(axis=2) if op.route & ROUTES["group_sum2"] else best[:, :, 0]
        least = float(between(worth, op.group_k).min()) / size
        last = -np.sort(-worth, axis=1)[:, op.group_k - 1 : op.group_k]
        by = np.where(np.repeat(worth >= last, n // op.groups, axis=1), by, -np.inf)
    if op.route & ROUTES["sparse"]:
        least = _sparse(op, by)
    return min(least, float(between(by, op.top_k).min()) / size)


def _sparse(op: Any, scores: Floats) -> float:
    """How near a distance from the best score comes to the one up to which SparseMixer counts experts."""
    least, left = np.inf, scores.copy()
    for _ in range(op.top_k):
        best = left.max(axis=1, keepdims=True)
        far = (best - scores) / np.maximum(np.abs(scores), best)
        least = min(least, float(np.abs(far - 2 * op.limit)[np.isfinite(left)].min()))
        left[left == best] = -np.inf
    return least


@pytest.mark.parametrize("name", [case.name for case in CASES if routed(golden_of(case))])
def test_no_near_ties(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    golden = golden_of(case)
    with Model.load(write(case, "folder", tmp_path / "m"), threads=1) as model:
        engine, ids = model.core.engine, ids_of(case, golden)
        found = [*scores_of(engine, ids), *scores_of(engine, kinds.ids_of(case, engine.vocab))]
        assert found
        for op, scores in found:
            if scores.shape[1] > 1:  # a shared expert's gate is a router of one
                part = margin(engine.plan, op, scores)
                assert part >= LEAST, f"layer {op.layer}: {part:.1e}; try other tokens"


KINDS = {
    "plain": Experts(8, 3, 32),
    "biased": Experts(16, 4, 32, frozenset({"sigmoid", "renorm"}), biased=True),
    "groups": Experts(24, 4, 32, frozenset({"sigmoid", "group_sum2"}), groups=6, group_k=2, biased=True),
    "best_of_groups": Experts(12, 3, 32, groups=4, group_k=2),
    "sparse": Experts(8, 2, 32, frozenset({"sparse"}), limit=0.3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_margin_is_nothing_where_a_choice_turns(kind: str) -> None:
    """Between two tokens' scores there is a point at which the choice of the route's twin in float64 turns."""
    engine = mixtures.engine(mixtures.plan(KINDS[kind], layers=1))
    plan, k = engine.plan, KINDS[kind].top_k
    ((op, scores),) = scores_of(engine, ids_for(engine, 40))
    assert margin(plan, op, scores) > 1e-6
    turned = 0
    for a, b in pairwise(scores):
        first, low, high = arithmetic._routes(plan, op, a[None])[0, :k], 0.0, 1.0
        if (arithmetic._routes(plan, op, b[None])[0, :k] == first).all():
            continue
        for _ in range(50):
            half = (low + high) / 2
            same = (arithmetic._routes(plan, op, (a + half * (b - a))[None])[0, :k] == first).all()
            low, high = (half, high) if same else (low, half)
        turned += 1
        assert margin(plan, op, np.stack([*scores, a + low * (b - a)])) < 1e-9
    assert turned > 10


def test_a_margin_is_nothing_at_the_limit_of_sparse_mixer() -> None:
    engine = mixtures.engine(mixtures.plan(KINDS["sparse"], layers=1))
    ((op, _),) = scores_of(engine, [1, 2])
    row = np.array([[2.0, 1.6, 0.8, -1.0, -2.0, -3.0, -4.0, -5.0]])  # (2 - 0.8) / 2 is twice the limit of 0.3
    assert margin(engine.plan, op, row) < 1e-6 < 1e-2 < margin(engine.plan, op, row + np.eye(8)[2] * 0.1)


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scores in float32 against those in float64."""
    case, exact, route = BY_NAME[name], [], arithmetic._routes

    def routes(plan: Any, op: Any, scores: Floats) -> Floats:
        exact.append(scores)
        return route(plan, op, scores)

    monkeypatch.setattr(arithmetic, "_routes", routes)
    with Model.load(write(case, "folder", tmp_path / "m"), threads=1) as model:
        engine, ids = model.core.engine, ids_of(case, golden_of(case))
        arithmetic.logits(engine, ids)
        for (op, scores), more in zip(scores_of(engine, ids), exact, strict=True):
            found, expected = (merits(engine.plan, op, x) for x in (scores, more))
            assert scores.shape[1] == 1 or np.abs(found - expected).max() <= ROUNDING * np.ptp(expected)
