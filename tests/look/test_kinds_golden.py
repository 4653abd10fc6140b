"""What traces hold, and what edits change, in models of each kind: dense, with windows and sinks, caps, other scales,
parallel residuals and norms behind, experts, recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import WrongValue
from pellucid.look import tables
from pellucid.look.places import find
from pellucid.look.recorded import AXES
from tests.engine.models import same
from tests.families.case import load_golden, write_folder
from tests.look import kinds

TOLERANCE = 1e-4


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    case = kinds.CASES[request.param]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=2, kv="f32") as model:
        yield model


def of(name: str) -> Any:
    return pytest.mark.parametrize("model", [name], indirect=True)


def ids_of(model: Model, name: str) -> list[int]:
    return kinds.ids_of(kinds.CASES[name], model.info().vocab)


def compare(model: Model, name: str, stored: dict[str, Any]) -> None:
    ids, quantities = ids_of(model, name), [q for q in AXES if any(key.startswith(f"{q}/") for key in stored)]
    assert {"hidden", *(("gates", "conv", "states") if name in kinds.RECURRENT else ("mlp_out",))} <= {*quantities}
    everything = model.trace(ids, [name for name in quantities if name != "gates"])  # type: ignore[misc]
    for key, expected in stored.items():
        quantity, _, layer = key.partition("/")
        if quantity == "gates":  # attention's have another width than those of recurrences
            found = model.trace(ids, "gates", layers=int(layer)).gates[0]
        else:
            found = getattr(everything, quantity)[int(layer)]
        found = found[-1] if quantity == "states" else found
        assert found.shape == expected.shape, key
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max(), key


@pytest.mark.parametrize(("model", "name"), [(name, name) for name in kinds.CASES], indirect=["model"])
def test_quantities(model: Model, name: str) -> None:
    compare(model, name, kinds.load(name))


@pytest.mark.live
@pytest.mark.parametrize(("model", "name"), [(name, name) for name in kinds.CASES], indirect=["model"])
def test_quantities_of_transformers_now(model: Model, name: str) -> None:
    from tests.look.kinds_hf import observe

    now = observe(name)
    compare(model, name, now)
    stored = kinds.load(name)
    assert stored.keys() == now.keys()
    for key, value in stored.items():
        assert np.abs(value - now[key]).max() <= 1e-5 * np.abs(value).max(), key


@of("qwen35")
def test_states_and_chunks(model: Model) -> None:
    """The state after a position is that of the text up to it, in any chunks and for any selection."""
    ids = ids_of(model, "qwen35")
    whole = model.trace(ids, want=("states", "conv", "hidden"))
    for chunk in (1, 5):
        again = model.trace(ids, want=("states", "conv", "hidden"), chunk=chunk)
        assert same(again.states, whole.states) and same(again.conv, whole.conv) and same(again.hidden, whole.hidden)
    few = model.trace(ids, want=("states", "hidden"), positions=[4, -1], layers=[0, 2])
    assert same(few.states[:, 0], whole.states[[0, 2], 4]) and same(few.states[:, 1], whole.states[[0, 2], -1])
    assert same(model.trace(ids[:5], want="states").states[:, -1], whole.states[:, 4])
    for i, layer in enumerate(find(model.core.engine.plan).layers):
        assert whole.states[i].any() == (layer.state is not None)


@pytest.mark.parametrize("model", ["phi2", "lfm2"], indirect=True)
def test_quantities_that_a_model_lacks(model: Model) -> None:
    recurs = model.core.engine.recurs
    for name, what in (("routes", "experts"), ("gates", "gates of its output"), ("states", "a recurrence")):
        with pytest.raises(ValueError, match=f"want: no selected layer has {what}, and so no {name}"):
            model.trace([1, 2, 3], want=("hidden", name))  # type: ignore[arg-type]
    if recurs:
        assert model.trace([1, 2, 3], want="conv").conv.any()
        with pytest.raises(ValueError, match="want: no selected layer has a convolution, and so no conv"):
            model.trace([1, 2, 3], want="conv", layers=1)


@of("qwen35")
def test_layers_whose_gates_differ(model: Model) -> None:
    found = model.trace([1, 2, 3], want="gates").gates
    assert len({one.shape for one in found}) == 2 and isinstance(found, list)
    assert same(model.trace([1, 2, 3], want="gates", layers=0).gates[0], found[0])
    assert model.trace([1, 2, 3], want="gates", layers=[0, 1]).gates.shape[:2] == (2, 3)


# ---- edits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["phi2", "cohere"], indirect=True)
def test_skipping_attention_beside_a_feed_forward_network(model: Model) -> None:
    """Both halves of a parallel residual read the same norm: the other one stays as it is."""
    ids = list(range(9))
    plain = model.trace(ids, want=("hidden", "mlp_out", "attention_out"))
    with model.edit() as edit:
        edit.skip(0, "attention")
        found = edit.trace(ids, want=("hidden", "mlp_out", "attention_out"))
    assert same(found.mlp_out[0], plain.mlp_out[0]) and not found.attention_out[0].any()
    assert np.abs(found.hidden[1] - plain.hidden[0] - plain.mlp_out[0]).max() < 1e-6 * np.abs(found.hidden).max()


@pytest.mark.parametrize("model", ["lfm2", "qwen35", "granitehybrid"], indirect=True)
def test_skipping_a_recurrent_layer(model: Model) -> None:
    ids = list(range(9))
    plain = model.trace(ids, want="hidden").hidden
    with model.edit() as edit:
        edit.skip(0, "attention")
        found = edit.trace(ids, want=("hidden", "mlp_out"))
        assert edit.generate(ids, max_tokens=4, temperature=0).ids
    rest = found.hidden[1] - plain[0] - found.mlp_out[0]
    assert np.abs(rest).max() < 1e-5 * np.abs(found.hidden).max()


@pytest.mark.parametrize("model", ["qwen3moe", "gpt_oss", "mixtral", "olmoe", "phimoe"], indirect=True)
def test_ablating_an_expert(model: Model) -> None:
    """The expert's weight alone becomes 0: rows that did not choose it keep their bits."""
    ids = list(range(11))
    plain = model.trace(ids, want=("routes", "mlp_out", "hidden"))
    weights = plain.routes[0]
    expert = int(np.argmax((weights > 0).sum(0) * ((weights > 0).sum(0) < len(ids))))
    chosen = weights[:, expert] > 0
    assert chosen.any() and not chosen.all()
    with model.edit() as edit:
        edit.scale_expert(0, expert, 0)
        found = edit.trace(ids, want=("routes", "mlp_out", "hidden"))
        assert not found.routes[0, :, expert].any()
        others = np.arange(weights.shape[1]) != expert
        assert same(found.routes[0][:, others], weights[:, others])
        assert same(found.hidden[1][~chosen], plain.hidden[1][~chosen])
        assert np.abs(found.hidden[1] - plain.hidden[1])[chosen].max(axis=1).min() > 0
        edit.scale_expert(1, expert, 1)
        assert same(edit.trace(ids, want="hidden").hidden, found.hidden)
    with model.edit() as edit:  # every expert: as if the network were skipped
        for e in range(weights.shape[1]):
            edit.scale_expert(0, e, 0)
        none = edit.trace(ids, want="mlp_out").mlp_out[0]
    assert np.abs(none).max() == 0


@pytest.mark.parametrize("model", ["qwen35", "lfm2", "granitehybrid"], indirect=True)
def test_layers_without_attention_have_no_heads(model: Model) -> None:
    ids = list(range(9))
    layers = [layer.group is not None for layer in find(model.core.engine.plan).layers]
    trace = model.trace(ids)
    found = tables.heads(trace, n=1000)
    assert len(found) == sum(layers) * len(trace.heads)
    assert {one.layer for one in found} == {i for i, attends in enumerate(layers) if attends}
    for i, attends in enumerate(layers):
        with model.edit() as edit:
            if attends:
                assert tables.looks(trace, i, 0)
                edit.scale_head(i, 0, 0)
                continue
            with pytest.raises(WrongValue, match=f"layer={i}: it has no attention heads"):
                tables.looks(trace, i, 0)
            with pytest.raises(WrongValue, match=f"layer={i}: it has no attention heads"):
                edit.scale_head(i, 0, 0)


@of("qwen3moe")
def test_wrong_experts(model: Model) -> None:
    with model.edit() as edit:
        for expert in (8, -9, True, "0"):
            with pytest.raises((ValueError, TypeError), match="^expert"):
                edit.scale_expert(0, expert, 0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="^factor"):
            edit.scale_expert(0, 0, float("nan"))


@of("phi2")
def test_an_expert_of_a_layer_without(model: Model) -> None:
    with model.edit() as edit, pytest.raises(ValueError, match="layer=1: it has no experts"):
        edit.scale_expert(1, 0, 0)
