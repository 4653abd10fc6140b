"""Attention weights recomputed from queries and keys, in every tier, compared with float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid.errors import ClosedError
from tests.engine.models import Load, same


def reference(q: Any, k: Any, groups: list[int], positions: Any, scale: float, window: int) -> tuple[Any, Any]:
    s = np.einsum("hmd,hnd->hmn", q.astype(np.float64), k.astype(np.float64)[groups]) * scale
    key, at = np.arange(k.shape[1]), np.asarray(positions)[:, None]
    s[:, (key > at) | ((key <= at - window) if window else False)] = -np.inf
    e = np.exp(s - s.max(-1, keepdims=True))
    return s, e / e.sum(-1, keepdims=True)


CASES = [  # heads, KV heads, keys, width, positions (None: all), window
    (1, 1, 1, 1, None, 0),
    (4, 2, 40, 12, None, 0),
    (6, 3, 200, 64, None, 0),
    (4, 1, 200, 32, None, 17),
    (2, 2, 130, 16, [0, 1, 77, 129], 0),
    (2, 1, 300, 24, range(150, 299), 64),
    (3, 3, 65, 8, [64], 1),
]


@pytest.mark.parametrize(("heads", "kv", "n", "d", "positions", "window"), CASES)
def test_against_float64(
    load: Load, isa: str, heads: int, kv: int, n: int, d: int, positions: Any, window: int
) -> None:
    engine = load("llama_gqa", isa=isa).core.engine
    rng = np.random.default_rng(n)
    at = np.array(range(n) if positions is None else positions)
    q = rng.normal(size=(heads, len(at), d)).astype(np.float32) * 2
    k = rng.normal(size=(kv, n, d)).astype(np.float32)
    groups = [h * kv // heads for h in range(heads)]
    expected_scores, expected = reference(q, k, groups, at, d**-0.5, window)
    scores = np.full((heads, len(at), n), np.nan, np.float32)
    both, alone = np.zeros_like(scores), np.zeros_like(scores)
    options: dict[str, Any] = {"scale": d**-0.5, "window": window}
    engine.attention(q, k, groups, at, scores=scores, weights=both, **options)
    engine.attention(q, k, groups, at, weights=alone, **options)
    assert same(both, alone)
    seen = np.isfinite(expected_scores)
    assert (scores[~seen] == -np.inf).all()
    bound = d * 2**-23 * np.abs(expected_scores[seen]).max()
    assert np.abs(scores[seen] - expected_scores[seen]).max() <= bound
    assert not both[~seen].any() and np.abs(both - expected).max() <= 2 * bound + 1e-6
    # No row depends on the others.
    for i in (0, len(at) // 2, len(at) - 1):
        one = np.zeros((heads, 1, n), np.float32)
        engine.attention(np.ascontiguousarray(q[:, i : i + 1]), k, groups, at[i : i + 1], weights=one, **options)
        assert same(one[:, 0], both[:, i])


def test_cap_and_sinks(load: Load, isa: str) -> None:
    engine = load("llama_gqa", isa=isa).core.engine
    rng = np.random.default_rng(4)
    q, k = (rng.normal(size=(4, 70, 16)).astype(np.float32) for _ in range(2))
    sinks = np.array([-1e30, -2.0, 1.0, 90.0], np.float32)
    scores, weights = np.zeros((4, 70, 70), np.float32), np.zeros((4, 70, 70), np.float32)
    engine.attention(
        q, k, range(4), range(70), scale=0.25, window=40, cap=1.5, sinks=sinks, scores=scores, weights=weights
    )
    plain, _ = reference(q, k, [0, 1, 2, 3], range(70), 0.25, 40)
    seen = np.isfinite(plain)
    exact = np.where(seen, np.tanh(plain / 1.5) * 1.5, -np.inf)
    assert np.abs(scores[seen] - exact[seen]).max() <= 1e-5 and (scores[~seen] == -np.inf).all()
    most = np.maximum(exact.max(-1), sinks[:, None])[:, :, None]
    e = np.exp(exact - most)
    expected = e / (e.sum(-1, keepdims=True) + np.exp(sinks[:, None, None] - most))
    assert np.abs(weights - expected).max() <= 1e-6 and not weights[~seen].any()
    with pytest.raises(ValueError, match="3 sinks, expected 4"):
        engine.attention(q, k, range(4), range(70), scale=1.0, sinks=sinks[:3], weights=weights)


def test_wrong_requests(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    q, k, out = np.zeros((2, 3, 8), np.float32), np.zeros((1, 5, 8), np.float32), np.zeros((2, 3, 5), np.float32)

    def attention(q: Any = q, k: Any = k, groups: Any = (0, 0), at: Any = (0, 1, 4), **options: Any) -> None:
        engine.attention(q, k, groups, at, **{"scale": 1.0, "weights": out, **options})

    attention()
    assert np.allclose(out[:, 2], 0.2) and (out[:, 0, 0] == 1).all()
    for wrong, match in (
        ({"groups": (0, 1)}, "head 1: KV head 1 of 1"),
        ({"groups": (0, -1)}, "head 1: KV head -1 of 1"),
        ({"groups": (0,)}, "do not fit together"),
        ({"at": (0, 1, 5)}, "row 2: position 5"),
        ({"at": (1, 1, 2)}, "row 1: position 1"),
        ({"at": (-1, 1, 2)}, "row 0: position -1"),
        ({"at": (0, 1)}, "do not fit together"),
        ({"k": np.zeros((1, 5, 7), np.float32)}, "do not fit together"),
        ({"k": np.zeros((1, 0, 8), np.float32)}, "do not fit together"),
        ({"window": -1}, "attention of"),
        ({"weights": None}, "attention of"),
        ({"weights": out[:, :2]}, r"weights has shape \(2, 2, 5\)"),
        ({"scores": np.zeros((2, 3, 4), np.float32)}, "scores has shape"),
    ):
        with pytest.raises(ValueError, match=match):
            attention(**wrong)


def test_closed(tmp_path: Any) -> None:
    from pellucid import Model
    from tests.engine import models

    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        engine = model.core.engine
    one = np.zeros((1, 1, 1), np.float32)
    with pytest.raises(ClosedError):
        engine.attention(one, one, [0], [0], scale=1.0, weights=one.copy())
