"""Traces against transformers running now (`--live`; extra `reference`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, Trace
from pellucid.options import Precision, Quantity
from tests.look import golden
from tests.reference import corpus, tiny

pytestmark = pytest.mark.live

TEXT = "The tower was built in 1889 by a company of engineers, and for forty years it was the tallest in the world."

# Largest |x - r| / |r| (L2) of a layer's array. A weight's product rounds its inputs to int8 with a scale per 32: off
# by 1 / (127 sqrt(12)) of a block's largest value, 0.5 % of a typical input. Along the residual stream errors add in
# squares: 0.5 % sqrt(2 * 30 layers) = 4 %, and what is read from the stream is as far off. Found: 0.039. With
# precision="high" inputs have 16 bits; what is left is the 16-bit attention, 2^-9 of each query, key and value, in as
# many layers: 0.2 % sqrt(30) = 1 %. Found: 0.0102.
BOUNDS: dict[Precision, float] = {"default": 0.06, "high": 0.015}
QUANTITIES: tuple[Quantity, ...] = (
    "hidden",
    "q",
    "k",
    "v",
    "attention",
    "attention_out",
    "mlp_out",
    "neurons",
    "head_out",
    "logits",
)


@pytest.mark.parametrize("reference", corpus.MODELS.values(), ids=corpus.MODELS)
def test_real_models(reference: corpus.ReferenceModel, request: pytest.FixtureRequest) -> None:
    from tests.look.hf import observe
    from tests.reference import hf

    path: Path = request.getfixturevalue(reference.fixture)
    traces: dict[Precision, Trace] = {}
    for precision in BOUNDS:
        with Model.load(path, precision=precision) as model:
            ids = model.tokenize(TEXT)
            traces[precision] = model.trace(ids, QUANTITIES)
    expected = observe(hf.load_gguf(path), ids)
    for name in QUANTITIES:
        r = expected[name]
        axes = tuple(range(1, r.ndim)) if name != "logits" else None
        for level, t in traces.items():
            x = getattr(t, name)
            assert x.shape == r.shape
            off = np.sqrt(((x - r) ** 2).sum(axes) / (r**2).sum(axes)).max()
            assert off <= BOUNDS[level], (name, level, off)


@pytest.mark.parametrize("tiny_model", golden.MODELS, ids=lambda model: model.name)
def test_golden_is_what_transformers_computes(tiny_model: Any, tmp_path: Path) -> None:
    import torch

    from tests.look.hf import observe
    from tests.reference import hf

    model = hf.load_folder(tiny.write_folder(tiny_model, tmp_path), torch.float32)
    stored = golden.load(tiny_model)
    found = observe(model, golden.ids_of(tiny_model))
    assert found.keys() == stored.keys()
    for name, value in stored.items():
        assert golden.distance(found[name], value) <= 2e-5, name


def test_pandas(smollm: Model) -> None:
    t = smollm.trace("The capital of France is Paris", positions=range(3))
    frame = t.to_pandas()
    assert frame.shape == (3, 5) and frame.index.name == "position" and frame["piece"][1] == " capital"
    attention = t.to_pandas("attention")
    assert attention.loc[(3, 2, 1)].tolist() == t.attention[3, 2, 1].tolist()
    assert t.to_pandas("hidden").loc[(-1, 2)].tolist() == t.hidden[0, 2].tolist()
