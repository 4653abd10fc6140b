"""Seeing inside models whose layers differ: in their heads, in their neurons, in what follows them (Gemma 4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pellucid import Model, Trace
from pellucid.look.places import find
from tests.engine.models import same
from tests.families.case import load_golden, write_folder
from tests.families.cases import BY_NAME

IDS = [int(i) for i in np.random.default_rng(3).integers(0, 97, 40)]
several = pytest.mark.parametrize("model", ["gemma4", "gemma4_equal", "gemma4_experts"], indirect=True)


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    case = BY_NAME[request.param]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=2, kv="f32") as model:
        yield model


@several
def test_traces(model: Model) -> None:
    """Scores are those of the queries and keys of the layer's own kind; heads' parts sum to what attention adds."""
    layers = find(model.core.engine.plan).layers
    found = model.trace(IDS, want=("attention", "scores", "attention_out", "head_out"))
    assert np.abs(found.attention.sum(-1) - 1).max() < 1e-5
    for i, layer in enumerate(layers):
        assert layer.group is not None
        one = model.trace(IDS, want=("q", "k", "v"), layers=i)
        assert one.q.shape == (1, layer.group.n_q, len(IDS), layer.group.dk)
        keys = np.repeat(one.k[0], layer.group.n_q // layer.group.n_kv, axis=0)
        scores = np.einsum("hid,hjd->hij", one.q[0].astype(np.float64), keys)
        seen = np.isfinite(found.scores[i])
        assert np.abs(scores - found.scores[i])[seen].max() < 1e-4 * np.abs(scores).max()
        if model.core.engine.plan.segments[model.core.engine.plan.ops[layer.project].seg].bias < 0:
            parts, whole = found.head_out[i].sum(0), found.attention_out[i]
            assert np.abs(parts - whole).max() < 1e-4 * np.abs(whole).max()
        assert same(model.trace(IDS, want="q").q[i], one.q[0])


@several
def test_attributions(model: Model) -> None:
    for position in (-1, 3):
        parts = model.trace(IDS).attribution(position)
        cap = model.core.config.logit_cap
        logit = cap * np.arctanh(parts.logit / cap) if cap else parts.logit
        assert parts.total == pytest.approx(logit, rel=1e-3, abs=1e-3)
        for part in (parts.mlp, parts.attention, parts.edits):
            assert np.abs(part).min() > 0


@pytest.mark.parametrize("model", ["gemma4"], indirect=True)
def test_layers_with_other_neurons(model: Model, tmp_path: Path) -> None:
    found = model.trace(IDS, want=("neurons", "hidden"), positions=[0, -1])
    assert isinstance(found.neurons, list) and found.hidden.shape[0] == len(found.neurons) + 1
    widths = [one.shape for one in found.neurons]
    assert len(set(widths)) == 2 and f"{min(w for _, w in widths)} to" in found._repr_html_()
    assert found.nbytes == found.hidden.nbytes + sum(one.nbytes for one in found.neurons)
    found.save(tmp_path / "t.npz")
    again = Trace.load(tmp_path / "t.npz")
    assert all(same(a, b) for a, b in zip(again.neurons, found.neurons, strict=True)) and len(again.neurons) == 6
    with pytest.raises(ValueError, match="quantity='neurons': the traced layers differ"):
        found.to_pandas("neurons")
    wide = model.trace(IDS, want=("neurons", "mlp_out"), layers=[3, 4, 5])
    assert wide.neurons.shape == (3, len(IDS), 192) and np.abs(wide.mlp_out).max() > 0


@pytest.mark.parametrize("model", ["gemma4_experts"], indirect=True)
def test_a_dense_network_beside_experts(model: Model) -> None:
    assert np.abs(model.trace(IDS, want="mlp_out").mlp_out).max(axis=(1, 2)).min() > 0
    with pytest.raises(ValueError, match="has experts, and no neurons"):
        model.trace(IDS, want="neurons")


@several
def test_skipping_the_feed_forward_network(model: Model) -> None:
    """What follows it in a layer stays: the part of the second embedding, and the layer's factor."""
    traced, plan = model.trace(IDS, want=("hidden", "attention_out")), model.core.engine.plan
    with model.edit() as edit:
        edit.skip(1, "mlp")
        found = edit.trace(IDS, want="hidden").hidden
    assert same(found[:2], traced.hidden[:2])
    factor = next(op.scale for op in plan.ops if op.name == "layer_output_scale" and op.layer == 1)
    rest = found[2] - (traced.hidden[1] + traced.attention_out[1]) * np.float32(factor)
    if any(op.name == "inp_gate" for op in plan.ops):
        assert np.abs(rest).max() > 0.01
    else:
        assert np.abs(rest).max() < 1e-5 * np.abs(found).max()
