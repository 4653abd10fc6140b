"""Tables and figures of traces."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError
from pellucid.look import choice, plots, tables
from tests.engine.models import Load
from tests.sampling import twin


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 0, "top_p": 0.5, "min_p": 0, "temperature": 1},
        {"top_k": 7, "top_p": 1, "min_p": 0.3, "temperature": 2},
        {"top_k": 0, "top_p": 0, "min_p": 1},
        {"top_k": 10**9, "top_p": 0.9, "min_p": 0.01, "temperature": 0.3},
        {"temperature": 0},
    ],
)
def test_steps_end_with_what_the_sampler_draws_from(options: dict[str, Any]) -> None:
    """Compared with the twin that the sampler's tests compare C with."""
    logits = np.random.default_rng(5).normal(0, 3, 500).astype(np.float32)
    defaults = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    expected = twin.kept(logits.astype(np.float64), **{**defaults, **options})
    found = choice.steps(logits, **options)
    assert found[-1].ids.tolist() == expected.ids.tolist()
    assert found[-1].probabilities == pytest.approx(expected.probs, abs=1e-12)
    assert found[0].probabilities == pytest.approx(twin.softmax(np.sort(logits.astype(np.float64))[::-1]), abs=1e-12)
    assert all(step.probabilities.sum() == pytest.approx(1) for step in found)


def test_steps_refuse() -> None:
    with pytest.raises(ValueError, match="top_p=2: expected 0 to 1"):
        choice.steps([1.0, 2.0], top_p=2)
    with pytest.raises(ValueError, match="logits has shape"):
        choice.steps([[1.0, 2.0]])


def test_surprise(load: Load) -> None:
    model = load("llama_gqa")
    ids = [1, 2, 3, 4, 5]
    trace = model.trace(ids)
    score = model.score(ids)
    found = tables.surprise(trace)
    assert [row.token.id for row in found] == ids and found[0].bits is None
    assert [row.bits for row in found[1:]] == pytest.approx((-score.logprobs / np.log(2)).tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="positions: surprise needs"):
        tables.surprise(model.trace(ids, positions=-1))


def test_heads_of_some_layers(load: Load) -> None:
    model = load("llama_gqa")
    trace = model.trace([1, 2, 3, 4], "attention", layers=[0, 2], heads=[1, 3], positions=[1, 3])
    pushes = model.trace([1, 2, 3, 4]).attribution().heads
    found = tables.heads(trace, n=9)
    assert {(p.layer, p.head) for p in found} == {(0, 1), (0, 3), (2, 1), (2, 3)}
    assert [abs(p.logits) for p in found] == sorted((abs(p.logits) for p in found), reverse=True)
    assert all(p.logits == pytest.approx(pushes[p.layer, p.head]) for p in found)
    assert sum(look.weight for look in tables.looks(trace, 2, 3, 1, 9)) == pytest.approx(1, abs=1e-5)
    assert len(tables.looks(trace, 2, 3, 1, 9)) == 2
    with pytest.raises(ValueError, match="no layer 1, head 3 at position 1"):
        tables.looks(trace, 1, 3, 1)
    for wrong, name in (
        (lambda: tables.looks(trace, 0, 1, 9), "position=9: expected -4 to 3"),
        (lambda: tables.looks(trace, 0, 1, k=-1), "k=-1: expected at least 1"),
        (lambda: tables.heads(trace, 9), "position=9: expected -4 to 3"),
        (lambda: tables.heads(trace, n=0), "n=0: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=name):
            wrong()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures(smollm: Model, tmp_path: Path, kind: str) -> None:
    """Every axis has a label; unusual characters and long texts work; a file is the same each time."""
    trace = smollm.trace("a $x_$ \u65e5\u672c \U0001f389\n" * 6)
    few = smollm.trace("one two")
    assert len(trace) > plots.MOST["attention"]
    figures = {
        "lens": plots.lens(trace),
        "some": plots.lens(few, positions=[0, -1]),
        "maps": plots.attention(trace, 3),
        "map": plots.attention(few, -1, 2),
        "attribution": plots.attribution(few, 0),
    }
    for name, figure in figures.items():
        file = tmp_path / f"{name}.{kind}"
        plots.save(figure, file)
        assert file.stat().st_size > 5000
        above = bool(figure.get_supxlabel() and figure.get_supylabel())
        for axes in figure.axes:
            assert above or axes.get_ylabel(), name
    assert figures["lens"].axes[0].get_xlabel() == "after the token"
    assert "last 64 of" in figures["maps"].get_suptitle()
    assert [len(figures[name].axes) for name in ("maps", "map")] == [10, 2]
    again = tmp_path / f"again.{kind}"
    plots.save(plots.attention(few, -1, 2), again)
    if kind == "png":
        assert again.read_bytes() == (tmp_path / "map.png").read_bytes()


def test_figures_are_written_whole_and_to_what_is_open(smollm: Model, tmp_path: Path) -> None:
    trace, data = smollm.trace("one two"), io.BytesIO()
    (tmp_path / "a.folder").mkdir()
    for place in (tmp_path / "a.folder" / "figure", tmp_path / "x.png", data):
        figure = plots.lens(trace)
        plots.save(figure, place)
    assert data.getvalue() == (tmp_path / "x.png").read_bytes() == (tmp_path / "a.folder" / "figure.png").read_bytes()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="odd"):
        plots.save(figure, tmp_path / "x.odd")
    with pytest.raises(ModelFileError, match="nowhere"):
        plots.save(figure, tmp_path / "nowhere" / "x.png")
    assert sorted(tmp_path.rglob("*")) == before


def test_figures_refuse(smollm: Model) -> None:
    trace = smollm.trace("one two", layers=[4, 5], heads=[1, 2])
    with pytest.raises(ValueError, match="layer=3: the trace has 4, 5"):
        plots.attention(trace, 3)
    with pytest.raises(ValueError, match="heads=0: the trace has 1, 2"):
        plots.attention(trace, 4, 0)
    with pytest.raises(ValueError, match="positions=7"):
        plots.lens(trace, positions=[7])
    for draw in (plots.lens, plots.attention, plots.attribution):
        with pytest.raises(TypeError, match=r"trace must be a Trace, not Attribution"):
            draw(trace.attribution())  # type: ignore[arg-type]


def test_figures_are_pictures_in_a_notebook(smollm: Model) -> None:
    """Without warnings about characters that the font lacks."""
    trace = smollm.trace("one \u65e5\u672c")
    for figure in (plots.lens(trace), plots.attention(trace, 3), plots.attribution(trace)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert figure._repr_png_().startswith(b"\x89PNG")
        assert pickle.loads(pickle.dumps(figure))._repr_png_() == figure._repr_png_()
