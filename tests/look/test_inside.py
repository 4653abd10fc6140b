"""Every quantity, edit, attribution and patch against those of transformers in float64: dense models, windows, experts,
recurrent layers, parallel residuals, norms behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pellucid import Model, look
from pellucid.errors import CancelledError
from pellucid.look import experiments
from pellucid.look.places import find
from pellucid.look.recorded import AXES
from tests.engine import models
from tests.families.case import load_golden, write_folder
from tests.look import inside
from tests.reference import tiny

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    kept: dict[str, Model] = {}

    def load(name: str) -> Model:
        """A name of inside.NAMES; "NAME gguf": in the other form of file."""
        if name not in kept:
            folder, (of, _, gguf) = tmp_path_factory.mktemp("m"), name.partition(" ")
            if gguf:
                path = models.write(folder, of, "F32")
            elif of in inside.DENSE:
                path = tiny.write_folder(inside.DENSE[of], folder / of)
            else:
                path = write_folder(inside.CASES[of], load_golden(inside.CASES[of]), folder / of)
            kept[name] = Model.load(path, threads=2, kv="f32")
        return kept[name]

    yield load
    for model in kept.values():
        model.close()


def close(found: Any, expected: Any, what: str) -> None:
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max(), what


def of(name: str) -> str:
    return name.partition(" ")[0]


every = pytest.mark.parametrize("name", [*inside.NAMES, "llama_gqa gguf"])


def compare_quantities(model: Model, name: str, stored: dict[str, Any], part: Any = None) -> None:
    ids = inside.ids_of(of(name), model.info().vocab)
    for key, expected in stored.items():
        quantity: Any
        quantity, _, layer = key.partition("/")
        if quantity not in AXES:
            continue
        trace = model.trace(ids, quantity) if not layer or quantity == "hidden" else None
        if trace is None:
            trace = model.trace(ids, quantity, layers=int(layer))
            found = getattr(trace, quantity)[0]
        else:
            found = getattr(trace, quantity)[int(layer)] if layer else getattr(trace, quantity)
        close(found if part is None else part(key, found), expected, key)


def part_of(name: str) -> Any:
    """What is stored of an array; None: all."""
    return inside.few if of(name) in inside.FEW else None


@every
def test_quantities(loaded: Any, name: str) -> None:
    _, stored = inside.load(of(name))
    quantities = {key.partition("/")[0] for key in stored}
    assert {"hidden", "middle", "attention_in", "mlp_in", "q", "k", "v", "attention", "final", "logits"} <= quantities
    compare_quantities(loaded(name), name, stored, part_of(name))


def compare_edits(
    model: Model, name: str, edits: list[dict[str, Any]], stored: dict[str, Any], part: Any = None
) -> None:
    ids = inside.ids_of(of(name), model.info().vocab)
    plain = model.logits(ids)
    for i, call in enumerate(edits):
        with model.edit() as edit:
            getattr(edit, call["do"])(**inside.values(call, i))
            found = edit.logits(ids)
            own, expected = found if part is None else part("edit", found), stored[f"edit/{i}"]
            close(own, expected, f"{call}")
            scaled = call["do"] == "scale" and call["positions"] is None  # of the last layer: the norm undoes it
            assert scaled or np.abs(found - plain).max() > 10 * np.abs(own - expected).max(), call
            assert np.array_equal(edit.logits(ids, chunk=5), found), call


@every
def test_edits(loaded: Any, name: str) -> None:
    edits, stored = inside.load(of(name))
    assert {"add", "patch", "scale", "patch_head", "patch_pattern", "cut"} <= {call["do"] for call in edits}
    compare_edits(loaded(name), name, edits, stored, part_of(name))


@every
def test_what_a_trace_shows_of_edits(loaded: Any, name: str) -> None:
    """Parts add up, an edited part has its new values, and a head's weights are those of the edit."""
    model, ids = loaded(name), inside.ids_of(of(name), loaded(name).info().vocab)
    edits, _ = inside.load(of(name))
    layers = find(model.core.engine.plan).layers
    for i, call in enumerate(edits):
        given = inside.values(call, i)
        with model.edit() as edit:
            getattr(edit, call["do"])(**given)
            t = edit.trace(ids, want=("hidden", "attention_out", "mlp_out", "attention"))
            if call["do"] == "patch" and "part" in call:
                part = {"attention": t.attention_out, "mlp": t.mlp_out}[call["part"]][call["layer"]]
                close(part[call["positions"]], given["values"], str(call))
            if call["do"] == "patch_pattern":
                rows = t.attention[call["layer"]][call["head"]][call["positions"]]
                seen = np.arange(8) <= np.array(call["positions"])[:, None]
                group = layers[call["layer"]].group
                assert group is not None
                if group.window:
                    seen &= np.arange(8) > np.array(call["positions"])[:, None] - group.window
                assert np.abs(rows[:, :8] - given["weights"] * seen).max() < 1e-6
                assert not rows[:, 8:].any()
            if call["do"] == "cut":
                at = slice(None) if call["positions"] is None else call["positions"]
                for head in np.atleast_1d(call["head"]):
                    assert not t.attention[call["layer"]][head][at][:, call["sources"]].any()
                    kept = t.attention[call["layer"]][head][-1].sum()
                    sinks = layers[call["layer"]].sinks >= 0
                    assert kept == pytest.approx(1, abs=1e-5) or sinks and kept < 1  # a sink has a share


def compare_patching(model: Model, name: str, stored: dict[str, Any]) -> None:
    vocab = model.info().vocab
    clean, corrupt = inside.ids_of(of(name), vocab, 1), inside.ids_of(of(name), vocab)
    for what in ("hidden", "attention_out", "mlp_out", "mixed"):
        expected, told = stored[f"patching/{what}"], list[tuple[int, int]]()
        found = look.patching(model, clean, corrupt, (5, 7), what, progress=lambda *done, told=told: told.append(done))
        there = np.isfinite(expected)
        assert found.values.shape == expected.shape and there.any()
        scale = np.abs(model.logits(corrupt)[-1]).max()
        assert np.abs(found.values - expected)[there].max() <= 2 * TOLERANCE * scale, what
        assert told[-1] == (there.sum(), there.sum()) and (found.values[~there] == found.corrupt).all()
        one = look.patching(model, clean, corrupt, lambda row: row[5] - row[7], what, positions=[2, -1])
        assert np.allclose(one.values, found.values[..., [2, -1]], atol=1e-6 * scale)
    ends = look.patching(model, clean, corrupt, (5, 7), "hidden", layers=-1, positions=-1)
    assert ends.restored == pytest.approx(np.ones((1, 1)), abs=1e-5)


@every
def test_patching(loaded: Any, name: str) -> None:
    compare_patching(loaded(name), name, inside.load(of(name))[1])


@every
def test_patching_prompts_longer_than_a_pass(loaded: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each patch is a run of its own, with the same result."""
    monkeypatch.setattr(experiments, "together", lambda engine: 5)
    model, stored = loaded(name), inside.load(of(name))[1]
    vocab = model.info().vocab
    clean, corrupt = inside.ids_of(of(name), vocab, 1), inside.ids_of(of(name), vocab)
    scale = np.abs(model.logits(corrupt)[-1]).max()
    for what in ("hidden", "attention_out", "mlp_out", "mixed"):
        found, expected = look.patching(model, clean, corrupt, (5, 7), what, positions=[7]), stored[f"patching/{what}"]
        expected = np.where(np.isfinite(expected), expected, found.corrupt)[..., [7]]
        assert np.abs(found.values - expected).max() <= 2 * TOLERANCE * scale, what


def test_metrics_of_every_type(loaded: Any) -> None:
    """Numbers of Python and NumPy, arrays of one, truths; a metric may ask the model itself."""
    model = loaded("llama_gqa")
    clean, corrupt = inside.ids_of("llama_gqa", model.info().vocab, 1), inside.ids_of("llama_gqa", model.info().vocab)
    wanted = look.patching(model, clean, corrupt, 5, positions=-1)
    metrics: list[Any] = [
        lambda row: row[5],
        lambda row: float(row[5]),
        lambda row: row[[5]],
        lambda row: row[5:6][None],
        np.int64(5),
        (np.int32(5),),
        lambda row: row[5] + 0 * model.logits([1, 2])[-1, 0],
    ]
    for metric in metrics:
        found = look.patching(model, clean, corrupt, metric, positions=-1)
        assert np.array_equal(found.values, wanted.values) and found.clean == wanted.clean
    best = look.patching(model, clean, corrupt, lambda row: row.argmax() == row.argmax(), positions=-1)
    assert (best.values == 1).all() and np.isnan(best.restored).all()


def test_prompts_longer_than_a_window(loaded: Any) -> None:
    model, n = loaded("gemma3"), 80  # a window of 8
    rng = np.random.default_rng(4)
    corrupt = rng.integers(3, model.info().vocab, n).tolist()
    clean = [*corrupt[:-20], 9, *corrupt[-19:]]
    assert n > experiments.together(model.core.engine)
    found = look.patching(model, clean, corrupt, 5, positions=[n - 20, n - 1], layers=[0, -1])
    assert found.clean == model.logits(clean)[-1, 5] and found.corrupt == model.logits(corrupt)[-1, 5]
    there = model.trace(clean, "hidden", layers=0, positions=n - 20).hidden[1]
    with model.edit() as edit:
        assert found.values[0, 0] == edit.patch(0, n - 20, there).logits(corrupt)[-1, 5]
    assert found.restored[1, 1] == pytest.approx(1, abs=1e-4) and found.restored[1, 0] == pytest.approx(0, abs=1e-4)
    one, other = (look.path(model, corrupt[:m], (0, 1), (2, 3)) for m in (n, 30))
    for part in "qkv":
        close(getattr(one, part)[:30], getattr(other, part), part)
    with pytest.raises(CancelledError):
        look.patching(model, clean, corrupt, 5, cancel=lambda: True)


@pytest.mark.live
@pytest.mark.parametrize("name", inside.NAMES)
def test_transformers_now(loaded: Any, name: str) -> None:
    import json

    from tests.look.inside_hf import observe

    now = observe(name)
    edits, stored = inside.load(name)
    assert json.loads(str(now.pop("edits"))) == edits
    stored.pop("edits", None)
    assert now.keys() == stored.keys()
    for key, value in now.items():
        # in float64, but for softmax and rotary factors, which transformers computes in float32
        own = inside.few(key, value) if name in inside.FEW else value
        there = np.isfinite(own)
        assert np.abs(own - stored[key])[there].max() <= 2e-5 * np.abs(own[there]).max(), key
    compare_quantities(loaded(name), name, now)
    compare_edits(loaded(name), name, edits, now)
    compare_patching(loaded(name), name, now)


# ---- attributions -------------------------------------------------------------------------------------------------


@every
def test_attributions(loaded: Any, name: str) -> None:
    """Sums, and single ones: those of one position and token; heads, neurons and tokens from a trace's quantities."""
    model = loaded(name)
    ids = inside.ids_of(of(name), model.info().vocab)
    trace = model.trace(ids, want=("hidden", "attention_out", "mlp_out", "final"))
    found = trace.attributions([3, -1], targets=[5, (5, 7)], neurons=4)
    logits = model.logits(ids)
    assert found.ids.tolist() == [[5, 5]] * 2 and found.against.tolist() == [[-1, 7]] * 2
    expected = np.stack([logits[[3, 11], 5], logits[[3, 11], 5] - logits[[3, 11], 7]], axis=1)
    assert np.allclose(found.logits, expected, atol=1e-6)
    cap = model.core.config.logit_cap
    if cap:
        before = cap * np.arctanh(logits[[3, 11]].astype(np.float64) / cap)
        expected = np.stack([before[:, 5], before[:, 5] - before[:, 7]], axis=1)
    assert np.allclose(found.total, expected, rtol=1e-3, atol=1e-3)
    for i, position in enumerate((3, 11)):
        for t, against in enumerate((None, 7)):
            one = trace.attribution(position, 5, against)
            mine = found.at(position, t)
            assert one.against == mine.against and one.total == pytest.approx(mine.total, abs=1e-9)
            assert np.allclose(one.heads, mine.heads, rtol=1e-4, atol=1e-6) and np.allclose(
                one.mlp, found.mlp[i, t], atol=1e-9
            )
    default = trace.attributions()
    assert default.ids[:-1, 0].tolist() == ids[1:] and default.ids[-1, 0] == np.argmax(logits[-1])


@pytest.mark.parametrize("name", ["llama_gqa", "qwen3", "gemma3", "olmo2", "phi2", "lfm2", "gemma2"])
def test_neurons(loaded: Any, name: str) -> None:
    """All neurons of a layer add what its network adds, but for a bias; the named ones are the strongest."""
    model = loaded(name)
    ids = inside.ids_of(name, model.info().vocab)
    trace = model.trace(ids, want="neurons")
    width = max(one.shape[-1] for one in trace.neurons)
    every_one = trace.attributions(-1, 5, neurons=width)
    few = trace.attributions(-1, 5, neurons=3)
    bias = any("ffn_down.bias" in v.name for v in model.core.engine.plan.vectors)
    if not bias:
        assert np.allclose(every_one.neuron_logits.sum(-1), every_one.mlp, rtol=1e-4, atol=1e-5)
    assert np.array_equal(few.neurons, every_one.neurons[..., :3])
    assert (np.diff(np.abs(every_one.neuron_logits), axis=-1) <= 1e-6).all()
    for layer in range(len(trace.layers)):
        chosen = few.neurons[0, 0, layer]
        assert np.array_equal(few.neuron_values[0, 0, layer], trace.neurons[layer][-1, chosen])


@every
def test_sources(loaded: Any, name: str) -> None:
    model = loaded(name)
    ids = inside.ids_of(of(name), model.info().vocab)
    trace = model.trace(ids)
    for position, against in ((-1, None), (4, 7)):
        heads = trace.attribution(position, 5, against).heads
        found = trace.sources(position, 5, against)
        assert found.shape == (*heads.shape, len(ids)) and (found[..., position % 12 + 1 :] == 0).all()
        assert np.abs(found.sum(-1) - heads).max() <= TOLERANCE * np.abs(heads).max()


@pytest.mark.parametrize("name", ["llama_gqa", "llama_gqa gguf", "qwen3", "gemma3", "olmo2", "phi2", "qwen3moe"])
def test_paths(loaded: Any, name: str) -> None:
    """What is left of the later head's query is that of an edited stream."""
    model = loaded(name)
    ids = inside.ids_of(of(name), model.info().vocab)
    t = model.trace(ids, want=("hidden", "head_out", "q", "k", "v", "scores"))
    found = look.path(model, ids, (0, 1), (2, 3))
    with model.edit() as edit:
        edit.patch(1, range(12), t.hidden[2] - t.head_out[0][1])
        less = edit.trace(ids, want=("q", "k", "v"))
    kv = 3 // (len(t.heads) // len(t.k[2]))
    for name_, head in (("q", 3), ("k", kv), ("v", kv)):
        close(getattr(found, name_), getattr(t, name_)[2][head] - getattr(less, name_)[2][head], name_)
    with pytest.raises(ValueError, match="receiver=.*expected a layer after 2"):
        look.path(model, ids, (2, 1), (2, 3))


def test_occlusion(loaded: Any) -> None:
    model = loaded("qwen3")
    ids = inside.ids_of("qwen3", model.info().vocab)
    found = look.occlusion(model, ids, 5)
    assert found.whole == pytest.approx(float(model.logits(ids)[-1, 5]), abs=1e-6)
    for p in (0, 4, 11):
        left = [*ids[:p], *ids[p + 1 :]]
        assert found.values[p] == pytest.approx(float(model.logits(left)[-1, 5]), abs=1e-6)
    other = look.occlusion(model, ids, (5, 7), replace=3, positions=[-2])
    row = model.logits([*ids[:10], 3, ids[11]])[-1]
    assert other.values == pytest.approx([float(row[5] - row[7])], abs=1e-6)
    assert other.lost == pytest.approx([other.whole - other.values[0]])


WRONG: Any = look  # called with what its types refuse


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda m: WRONG.patching(m, [1, 2], [1, 2, 3], 5),
            ValueError,
            "corrupt has 3 tokens, expected 2 as in clean",
        ),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], 500), ValueError, "metric.*=500"),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], (1, 2, 3)), ValueError, "metric: expected a callable"),
        (
            lambda m: WRONG.patching(m, [1, 2], [1, 3], lambda row: row[:2]),
            TypeError,
            "metric returned .*: expected a number",
        ),
        (
            lambda m: WRONG.patching(m, [1, 2], [1, 3], lambda row: None),
            TypeError,
            "metric returned None: expected a number",
        ),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], lambda row: "3"), TypeError, "metric returned '3'"),
        (
            lambda m: WRONG.patching(m, [1, 2], [1, 3], lambda row: np.nan),
            ValueError,
            "metric returned nan: expected a fin",
        ),
        (lambda m: WRONG.occlusion(m, [1, 2], lambda row: -np.inf), ValueError, "metric returned -inf: expected a fin"),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], 5, "q"), ValueError, "what='q': expected 'hidden'"),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], 5, layers=3), ValueError, "layers=3"),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], 5, heads=0), ValueError, "heads: only what="),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], 5, positions=9), ValueError, "positions=9"),
        (lambda m: WRONG.patching(m, [1, 200], [1, 3], 5), ValueError, r"^clean\[1\]=200"),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], 5, progress=3), TypeError, "progress=3: expected a callable"),
        (lambda m: WRONG.patching(m, [1, 2], [1, 3], 5, cancel=3), TypeError, "cancel"),
        (lambda m: WRONG.occlusion(m, [1], 5), ValueError, "prompt has one token"),
        (lambda m: WRONG.occlusion(m, [1, 2], 5, replace=-1), ValueError, "replace"),
        (lambda m: WRONG.path(m, [1, 2], 3, (1, 2)), TypeError, "sender=3: expected .layer, head"),
        (lambda m: WRONG.path(m, [1, 2], (0, 9), (1, 2)), ValueError, "sender=9"),
        (lambda m: m.trace([1, 2]).attributions(targets=[]), ValueError, "targets is empty"),
        (lambda m: m.trace([1, 2]).attributions(targets=[(1, 2, 3)]), ValueError, "targets has .1, 2, 3.: expected"),
        (lambda m: m.trace([1, 2]).attributions(targets=np.zeros((3, 1), int)), ValueError, "targets has shape"),
        (lambda m: m.trace([1, 2]).attributions(targets=500), ValueError, "targets.*=500"),
        (lambda m: m.trace([1, 2]).attributions(5), ValueError, "positions=5"),
        (lambda m: m.trace([1, 2]).attributions(neurons=-1), ValueError, "neurons=-1"),
        (lambda m: m.trace([1, 2]).attribution(against=500), ValueError, "against.*=500"),
        (lambda m: m.trace([1, 2]).lens_table(0), ValueError, "k=0"),
        (lambda m: m.trace([1, 2]).attributions().at(9), ValueError, "position=9: expected one of"),
    ],
)
def test_wrong_experiments(loaded: Any, call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(loaded("llama_gqa"))
