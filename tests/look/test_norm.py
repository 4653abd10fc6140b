"""A norm as a linear map: parts forward, directions back, against the norm itself in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pellucid._engine import NORMS, Kind
from pellucid.look.norm import NormMap

D, EPS = 24, 1e-3


def normed(kind: str, x: Any, w: Any) -> Any:
    if kind == "none":
        return x
    x = x - x.mean(axis=-1, keepdims=True) if kind == "layer" else x
    total = np.sum(x * x, axis=-1, keepdims=True)
    return x / np.sqrt((total if kind == "l2" else total / D) + EPS) * w


@pytest.mark.parametrize("kind", NORMS)
def test_parts_and_directions(kind: str) -> None:
    rng = np.random.default_rng(8)
    parts, w, direction = rng.normal(0.3, 1, (5, 3, D)), rng.normal(1, 0.3, D).astype(np.float32), rng.normal(0, 1, D)
    plan: Any = SimpleNamespace(vectors=[SimpleNamespace(data=w)])
    op: Any = SimpleNamespace(kind=Kind.NORM, vec=0, norm=NORMS[kind], eps=EPS)
    whole = parts.sum(axis=0)
    norm = NormMap.of(plan, op, whole)
    expected = normed(kind, whole, w)
    assert np.allclose(norm.forward(parts).sum(axis=0), expected, rtol=1e-12)
    pushes = (parts * norm.back(direction)).sum(axis=-1)
    assert np.allclose(pushes, norm.forward(parts) @ direction, rtol=1e-9)
    assert np.allclose(pushes.sum(axis=0), expected @ direction, rtol=1e-9)


def test_without_a_norm() -> None:
    x = np.random.default_rng(9).normal(0, 1, (3, D)).astype(np.float32)
    plan: Any = SimpleNamespace(vectors=[])
    op: Any = SimpleNamespace(kind=Kind.LINEAR_ADD, vec=-1, norm=0, eps=EPS, scale=1.0)
    norm = NormMap.of(plan, op, x)
    assert np.array_equal(norm.forward(x), x) and np.array_equal(norm.back(x), x)


def test_what_is_added_is_multiplied_first() -> None:
    rng = np.random.default_rng(10)
    x, w = rng.normal(0, 1, (3, D)), rng.normal(1, 0.3, D).astype(np.float32)
    plan: Any = SimpleNamespace(vectors=[SimpleNamespace(data=w)])
    op: Any = SimpleNamespace(kind=Kind.LINEAR_ADD, vec=0, norm=NORMS["rms"], eps=EPS, scale=0.25)
    assert np.allclose(NormMap.of(plan, op, x).forward(x), 0.25 * normed("rms", x, w), rtol=1e-12)
    op.vec = -1
    assert np.allclose(NormMap.of(plan, op, x).forward(x), 0.25 * x)
