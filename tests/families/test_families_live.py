"""The cases in transformers, run now (`--live`; extra `reference`): in float32, uncached and step by step."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import PellucidError
from tests.conftest import Some
from tests.families.case import STEPS, load_golden, text_config, weights, with_keys, write_folder
from tests.families.cases import BY_NAME, CASES
from tests.families.changes import changes
from tests.families.test_families import IN_FLOAT, TOLERANCE, distance, ids_of, write
from tests.families.test_families_strict import MODELS, STRICT, golden_of, results

pytestmark = pytest.mark.live


@pytest.mark.parametrize("name", BY_NAME)
def test_golden_files_are_those_of_this_version(name: str) -> None:
    from tests.families import reference

    golden, now = load_golden(BY_NAME[name]), reference.make(BY_NAME[name])
    assert now.shapes == golden.shapes
    assert {**now.config, "transformers_version": ""} == {**golden.config, "transformers_version": ""}
    assert distance(now.logits, golden.logits) < 1e-5


@pytest.mark.parametrize(("name", "form"), IN_FLOAT, ids=["-".join(one) for one in IN_FLOAT])
def test_logits(name: str, form: str, tmp_path: Path) -> None:
    from tests.families import reference
    from tests.reference import hf

    case = BY_NAME[name]
    golden = load_golden(case)
    ids = ids_of(case, golden)
    transformer = reference.load(case, golden, tmp_path / "reference")
    with Model.load(write(case, form, tmp_path / "model")) as model:
        for length in case.lengths:
            assert distance(model.logits(ids[:length]), hf.logits(transformer, ids[:length])) <= TOLERANCE
        n = len(ids) - STEPS
        assert distance(model.logits(ids)[n:], reference.steps(transformer, ids, n)) <= TOLERANCE


def reference_results(model: Any, ids: list[int]) -> Any:
    """As `results`, of transformers."""
    import torch

    from tests.embedding import reference
    from tests.reference import hf

    if hasattr(model, "lm_head"):
        return hf.logits(model, ids)
    found = reference.hidden(model, ids).reshape(-1)
    with torch.inference_mode():
        score = model(torch.tensor([ids])).logits[0].numpy() if hasattr(model, "classifier") else found[:64]
    return np.concatenate([found, score])


REDRAWN = {"rescale_prenorm_residual"}  # Mamba 2's: transformers then draws projections anew after it has read them


@STRICT
def test_what_loads_is_right(name: str, some: Some[Any], tmp_path: Path) -> None:
    """Each change of config.json is refused by Pellucid or by transformers, or gives the same logits or hidden
    states."""
    import torch
    import transformers

    case, golden = MODELS[name], golden_of(name)
    # The token of padding has no position of its own in transformers' encoders.
    ids = [i if i != golden.config.get("pad_token_id") else i + 1 for i in ids_of(case, golden)[:40]]
    compared = 0
    tried = some(list(changes(case, text_config(golden.config))), name)
    for key, value in tried:
        if key in REDRAWN and value:
            continue
        if key == "pad_token_id" and value in ids:
            continue
        folder = write_folder(case, golden, tmp_path / "m", with_keys(golden.config, **{key: value}))
        try:
            with Model.load(folder, threads=1) as model:
                found = results(model, ids)
        except PellucidError:
            continue
        try:
            theirs = getattr(transformers, case.auto).from_pretrained(folder, dtype=torch.float32).eval()
            expected = reference_results(theirs, ids)
        except Exception:  # whatever it raises of a value that it cannot take
            continue
        compared += 1
        assert distance(found, expected) <= TOLERANCE, f"{key} = {value}"
    assert compared > len(tried) / 8
    assert all(np.isfinite(value).all() for value in weights(case, golden).values())


DRAWN = [f"{case.name}-{i}" for case in CASES if case.auto == "AutoModelForCausalLM" for i in range(8)]


def test_configurations_that_no_case_has(some: Some[str], tmp_path: Path) -> None:
    """Several keys at once, other counts of heads and layers among them: refused by a key's or a tensor's name, or the
    same logits. What transformers cannot make or run, or what is beyond float32, is left out."""
    import torch

    from tests.families import drawn, reference
    from tests.reference import hf

    outcomes = {"same": 0, "refused": 0, "not made": 0}
    for name in some(DRAWN, "drawn"):
        folder = tmp_path / name
        try:
            case = drawn.drawn(BY_NAME[name.rpartition("-")[0]], Random(name))
            made = reference.blank(case)
            transformer = reference.load(case, made, folder, torch.float64)
            ids = ids_of(case, made)[:60]
            expected = hf.logits(transformer, ids)
            assert np.isfinite(expected).all() and np.abs(expected).max() < 1e6
        except Exception:
            outcomes["not made"] += 1
            continue
        try:
            with Model.load(folder, threads=1) as model:
                found = model.logits(ids)
        except PellucidError as error:
            assert re.search(r"config\.(?!json)\w|weight|bias", str(error)), f"{name}: {error}"
            outcomes["refused"] += 1
            continue
        apart = distance(found, expected)
        if apart > TOLERANCE:  # as far from it as float32 of transformers is?
            assert apart < 10 * distance(hf.logits(transformer.float(), ids), expected), f"{name}: {case.sizes}"
        outcomes["same"] += 1
        shutil.rmtree(folder)
    assert outcomes["same"] > 3 * outcomes["refused"] and outcomes["same"] > 2 * outcomes["not made"], outcomes
