"""Attributions of every kind against those of transformers in float64: two tokens against each other, several positions
and targets at once, heads, neurons, source tokens, direct paths, occlusion."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from pellucid import Model, look
from pellucid.look import record
from pellucid.look.places import find
from tests.look import attributed, inside
from tests.look.test_inside import TOLERANCE, loaded, of

__all__ = ["loaded"]  # a fixture

every = pytest.mark.parametrize("name", [*attributed.NAMES, "llama_gqa gguf"])


def compare(model: Model, name: str, stored: dict[str, Any]) -> None:
    ids = inside.ids_of(of(name), model.info().vocab)
    trace = model.trace(ids, "hidden")
    width = max((array.shape[-1] for key, array in stored.items() if key.startswith("neurons/")), default=0)
    targets, positions = list(attributed.TARGETS), list(attributed.POSITIONS)
    found = trace.attributions(positions, targets, neurons=width)
    assert found.ids.tolist() == [[5, 5, 9]] * 2 and found.against.tolist() == [[-1, 7, -1]] * 2
    # A part is off by a share of what the parts of the stream add, not of itself, which may be next to nothing.
    parts = [np.abs(array).max() for key, array in stored.items() if key.split("/")[0] in ("attention", "mlp")]
    bound = TOLERANCE * max(np.abs(stored["embedding"]).max(), *parts)

    def close(a: Any, key: str) -> None:
        assert a.shape == stored[key].shape and np.abs(a - stored[key]).max() <= bound, key

    close(found.embedding, "embedding")
    assert np.abs(found.bias - stored["bias"]).max() <= bound
    for key in stored:
        kind, _, number = key.partition("/")
        if kind in ("attention", "mlp", "heads", "edits"):
            close(getattr(found, kind)[:, :, int(number)], key)
        elif kind == "neurons":
            named = found.neurons[:, :, int(number)].astype(np.int64)
            count = stored[key].shape[-1]
            assert sorted(named[0, 0, :count].tolist()) == list(range(count)) and (named[..., count:] == -1).all()
            own = np.take_along_axis(stored[key], named[..., :count], -1)
            assert np.abs(found.neuron_logits[:, :, int(number), :count] - own).max() <= bound, key
        elif kind == "sources":
            for i, position in enumerate(positions):
                for t, target in enumerate(targets):
                    token, against = target if isinstance(target, tuple) else (target, None)
                    mine = trace.sources(position, token, against)[int(number)]
                    assert np.abs(mine - stored[key][i, t]).max() <= bound, key
                    if t == 1:
                        one = trace.attribution(position, token, against)
                        assert np.abs(one.heads[int(number)] - stored[f"heads/{number}"][i, t]).max() <= bound
        elif kind not in ("embedding", "bias", "occlusion", "path"):
            raise AssertionError(key)
    compare_path(model, of(name), ids, stored)
    lost = look.occlusion(model, ids, (5, 7)).values
    assert np.abs(lost - stored["occlusion"]).max() <= TOLERANCE * np.abs(model.logits(ids)[-1]).max()


def compare_path(model: Model, name: str, ids: list[int], stored: dict[str, Any]) -> None:
    attending = [int(key.partition("/")[2]) for key in stored if key.startswith("heads/")]
    if "path/q" not in stored:
        assert len(attending) == 1
        return
    sender, receiver = (min(attending), attributed.SENDER), (max(attending), attributed.RECEIVER)
    found = look.path(model, ids, sender, (receiver[0], receiver[1] % model.info().heads))
    for part in "qkv":
        expected = stored[f"path/{part}"]
        whole = getattr(model.trace(ids, ("q", "k", "v"), layers=receiver[0]), part)
        assert np.abs(getattr(found, part) - expected).max() <= TOLERANCE * np.abs(whole).max(), part


def test_targets_of_positions_in_any_order(loaded: Any) -> None:
    trace = loaded(attributed.NAMES[0]).trace(list(range(1, 9)))
    expected = trace.attributions([1, 3], np.array([[20, 21], [10, 11]]))
    for positions in ([3, 1], np.array([3, 1]), [-5, 1]):
        found = trace.attributions(positions, np.array([[10, 11], [20, 21]]))
        assert found.positions == expected.positions and np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.logits, expected.logits)
    with pytest.raises(ValueError, match="positions has one of them twice"):
        trace.attributions([3, 1, 3], np.array([[10], [20]]))
    assert repr(trace.attributions([1], 10)) == "<Attributions of 1 token at 1 position>"


@every
def test_attributions(loaded: Any, name: str) -> None:
    stored = attributed.load(of(name))
    assert {"embedding", "attention/0", "mlp/0", "occlusion"} <= stored.keys()
    compare(loaded(name), name, stored)


@pytest.mark.live
@pytest.mark.parametrize("name", attributed.NAMES)
def test_transformers_now(loaded: Any, name: str) -> None:
    from tests.look.attributed_hf import observe

    now, stored = observe(name), attributed.load(name)
    assert now.keys() == stored.keys()
    for key, value in now.items():
        assert np.abs(value - stored[key]).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), key
    compare(loaded(name), name, now)


@every
def test_from_what_a_trace_kept(loaded: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as of a run of the sequence."""
    model = loaded(name)
    ids = inside.ids_of(of(name), model.info().vocab)
    want: list[Any] = ["hidden", "attention_out", "mlp_out", "mixed"]
    experts = any(layer.routed for layer in find(model.core.engine.plan).layers)
    if any(layer.edits for layer in find(model.core.engine.plan).layers):  # what follows both parts is in no quantity
        found = model.trace(ids, want)
        monkeypatch.setattr(record, "walk", None)
        with pytest.raises(TypeError, match="NoneType"):  # it runs
            found.attribution(-1, 5)
        return
    wanted = model.trace(ids, "hidden").attributions([3, -1], [5, (5, 7)], neurons=0 if experts else 3)
    kept = model.trace(ids, want if experts else [*want, "neurons"], positions=[3, 5, -1])
    monkeypatch.setattr(record, "walk", None)  # no run
    found = kept.attributions([3, -1], [5, (5, 7)], neurons=0 if experts else 3)
    for field in fields(found):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name
    assert np.allclose(kept.attribution(-1, 5).heads, wanted.at(11).heads, rtol=1e-4, atol=1e-6)
    for lacking in (
        lambda: model.trace(ids, want[1:]).attribution(-1, 5),
        lambda: model.trace(ids, want, heads=[0]).attribution(-1, 5),
        lambda: model.trace(ids, want, layers=[0]).attribution(-1, 5),
        lambda: kept.attribution(2, 5),
    ):
        with pytest.raises(TypeError, match="NoneType"):  # it runs
            lacking()
