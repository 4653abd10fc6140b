"""A norm as a linear map: parts forward, directions back, against the norm itself in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pellucid._engine import NORMS
from pellucid.look.norm import NormMap

D, EPS = 24, 1e-3


def normed(kind: str, x: Any, w: Any) -> Any:
    x = x - x.mean(axis=-1, keepdims=True) if kind == "layer" else x
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS) * w


@pytest.mark.parametrize("kind", NORMS)
def test_parts_and_directions(kind: str) -> None:
    rng = np.random.default_rng(8)
    parts, w, direction = rng.normal(0.3, 1, (5, 3, D)), rng.normal(1, 0.3, D).astype(np.float32), rng.normal(0, 1, D)
    plan: Any = SimpleNamespace(vectors=[SimpleNamespace(data=w)])
    op: Any = SimpleNamespace(vec=0, norm=NORMS[kind], eps=EPS)
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
    op: Any = SimpleNamespace(vec=-1, norm=0, eps=EPS)
    norm = NormMap.of(plan, op, x)
    assert np.array_equal(norm.forward(x), x) and np.array_equal(norm.back(x), x)
