"""Divergences between two models, against NumPy on their logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from pellucid.cli import main
from pellucid.errors import UnsupportedModelError, WrongValue
from pellucid.look.compare import Comparison, compare
from tests.embedding import cases as embeddings
from tests.embedding import files
from tests.making.test_convert import bpe, spm
from tests.reference import tiny

MODEL = tiny.Tiny(name="x", seed=4, vocab=700)
TEXT = "Some words of a text, and then some more of them; it goes on for a while. " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bpe(None, tiny.write_folder(MODEL, tmp_path_factory.mktemp("tiny") / "folder"))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_numbers_that_json_does_not_have() -> None:
    inf, nan = float("inf"), float("nan")
    found = Comparison(1, 0.5, 0.5, inf, 1.0, inf, nan, 7.0, nan).to_dict()
    assert [name for name, value in found.items() if value is None] == [
        "kl_99", "perplexity", "perplexity_error", "reference_perplexity_error",
    ]  # fmt: skip


def test_against_numpy(folder: Path) -> None:
    with Model.load(folder, quantize="q4_0") as a, Model.load(folder) as b:
        ids = a.tokenize(TEXT)
        assert 40 < len(ids) < 200
        found = compare(a.core, b.core, [TEXT], 256)
        q, p = (log_softmax(model.logits(ids))[:-1] for model in (a, b))
        score = b.score(TEXT)
        parts = compare(a.core, b.core, [TEXT], 160 if len(ids) > 160 else len(ids) // 2 * 2 - 2)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    assert found.tokens == parts.tokens == len(ids) - 1
    assert found.kl_mean == pytest.approx(kl.mean(), rel=1e-6)
    assert found.kl_median == pytest.approx(np.median(kl), rel=1e-6)
    assert found.kl_99 == pytest.approx(np.percentile(kl, 99), rel=1e-6)
    assert found.agreement == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert found.reference_perplexity == pytest.approx(score.perplexity, rel=1e-5)
    surprise = -q[np.arange(len(q)), ids[1:]]
    error = np.exp(surprise.mean()) * surprise.std(ddof=1) / np.sqrt(len(surprise))
    assert found.perplexity == pytest.approx(np.exp(surprise.mean()), rel=1e-6)
    assert found.perplexity_error == pytest.approx(error, rel=1e-6)
    assert found.kl_mean > 1e-4


def test_a_model_from_itself(folder: Path) -> None:
    with Model.load(folder) as model:
        found = compare(model.core, model.core, [TEXT, "Another text"], 64)
    assert (found.kl_mean, found.kl_99, found.agreement) == (0, 0, 1)
    assert found.perplexity == found.reference_perplexity


def test_models_that_do_not_compare(folder: Path, tmp_path: Path) -> None:
    other = spm(tiny.write_folder(MODEL, tmp_path / "spm"))
    small = bpe(None, tiny.write_folder(tiny.Tiny(name="y", seed=4, vocab=650), tmp_path / "small"))
    with Model.load(folder) as model, Model.load(other) as cut, Model.load(small) as less:
        for reference, message in ((cut, "different tokens"), (less, "650 tokens")):
            with pytest.raises(WrongValue, match=message):
                compare(model.core, reference.core, [TEXT], 256)
    with Model.load(folder) as model, Model.load(folder, context=16) as short:
        with pytest.raises(WrongValue, match="window=16"):
            compare(model.core, short.core, [TEXT], 256)
        assert compare(model.core, short.core, [TEXT], 16).kl_99 == 0


def test_models_without_a_head_do_not_compare(folder: Path, tmp_path: Path) -> None:
    case = embeddings.BY_NAME["qwen3_embedding"]
    headless = files.write_folder(case, files.load_golden(case), tmp_path / "headless")
    with Model.load(folder) as model, Model.load(headless) as other:
        for one, reference in ((model, other), (other, model), (other, other)):
            with pytest.raises(UnsupportedModelError, match="no head"):
                compare(one.core, reference.core, [TEXT], 256)


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["score", TEXT, "-m", str(folder), "--quantize", "q8_0", "--reference", str(folder)]
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reference"]["tokens"] == found["tokens"]
    assert found["reference"]["perplexity"] == pytest.approx(found["perplexity"], rel=1e-5)
    assert 0 < found["reference"]["kl_mean"] < 0.1
    assert main(call) == 0
    assert "KL divergence" in capsys.readouterr().out


def test_command_with_a_single_prediction(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One surprise has a mean and no standard error."""
    with Model.load(folder) as model:
        text = model.detokenize(model.tokenize(TEXT)[:2])
        assert len(model.tokenize(text)) == 2
    call = ["score", text, "-m", str(folder), "--reference", str(folder)]
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["reference"]
    assert (found["tokens"], found["perplexity_error"], found["reference_perplexity_error"]) == (1, None, None)
    assert main(call) == 0
    assert "nan" not in capsys.readouterr().out
