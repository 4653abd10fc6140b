"""The measures themselves, and the stored files: no engine needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.reference import corpus, golden, kl, tiny


def noisy_pair(rows: int = 70, vocab: int = 500, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    reference = (3.0 * generator.standard_normal((rows, vocab))).astype(np.float32)
    return reference, reference + (noise * generator.standard_normal((rows, vocab))).astype(np.float32)


def merged(reference: np.ndarray, candidate: np.ndarray, top: int) -> kl.Divergence:
    log_p = kl.log_softmax(reference)
    ids = np.argsort(-log_p, axis=-1)[:, :top]
    return kl.top_divergence(ids, *kl.top_and_rest(log_p, ids), candidate)


def test_known_value() -> None:
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL = ln(2)/2 - ln(2)/4.
    reference = np.log(np.array([[0.5, 0.25, 0.25]], dtype=np.float32))
    candidate = np.log(np.array([[0.25, 0.25, 0.5]], dtype=np.float32)) + np.float32(7.0)
    expected = 0.25 * np.log(2.0)
    assert kl.full_divergence(reference, candidate).kl[0] == pytest.approx(expected, abs=1e-6)
    # Likeliest alone against the rest: both other tokens become one of 1/2 in p and 3/4 in q.
    expected = 0.5 * np.log(2.0) + 0.5 * np.log(0.5 / 0.75)
    assert merged(reference, candidate, 1).kl[0] == pytest.approx(expected, abs=1e-6)
    assert merged(reference, candidate, 2).kl[0] == pytest.approx(0.25 * np.log(2.0), abs=1e-6)
    assert not kl.full_divergence(reference, candidate).same_top[0]
    assert not merged(reference, candidate, 1).same_top[0]


def test_of_itself_is_zero() -> None:
    reference, _ = noisy_pair()
    assert np.abs(kl.full_divergence(reference, reference).kl).max() < 1e-12
    same = merged(reference, reference, 32)
    assert np.abs(same.kl).max() < 1e-12
    assert same.agreement == 1.0


def test_merging_gives_a_lower_bound_that_grows_with_what_is_kept() -> None:
    reference, candidate = noisy_pair()
    full = kl.full_divergence(reference, candidate).kl
    below = [merged(reference, candidate, top).kl for top in (1, 8, 32, 128, 499)]
    for smaller, larger in zip(below, [*below[1:], full], strict=True):
        assert (smaller <= larger + 1e-12).all()
        assert (smaller >= -1e-12).all()
    assert below[-2].mean() > 0.9 * full.mean()


def test_nothing_left_for_the_rest() -> None:
    # Top-1 holds all mass to the last bit of float64: the rest must not become NaN on either side.
    reference = np.array([[0.0, -2000.0, -2000.0]], dtype=np.float32)
    log_p = kl.log_softmax(reference)
    ids = np.array([[0, 1]])
    top, rest = kl.top_and_rest(log_p, ids)
    assert kl.top_divergence(ids, top, rest, reference).kl[0] == 0.0
    assert kl.top_divergence(ids, top, rest, np.zeros((1, 3), np.float32)).kl[0] == pytest.approx(np.log(3.0))


def test_bad_input_is_named() -> None:
    reference, candidate = noisy_pair(rows=3)
    candidate[2, 7] = np.nan
    with pytest.raises(ValueError, match=r"logit \[2, 7\] is nan"):
        kl.full_divergence(reference, candidate)
    with pytest.raises(ValueError, match="2 positions, the candidate 3"):
        kl.top_divergence(np.zeros((2, 1), np.int32), np.zeros((2, 1)), np.zeros(2), candidate)
    with pytest.raises(ValueError, match=r"\(3, 500\), the candidate's \(2, 500\)"):
        kl.full_divergence(reference, reference[:2])


def test_golden_round_trip(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    log_p = -np.sort(30.0 * generator.random((2, 5, golden.TOP)))
    ids = generator.integers(0, 262144, log_p.shape, dtype=np.int32)
    rest = -10.0 * generator.random((2, 5))
    windows = generator.integers(0, 262144, (2, 5), dtype=np.int32)
    path = tmp_path / "golden.npz"
    golden.save(path, golden.Golden(windows, ids, log_p, rest, {"text_sha256": "a=b"}))
    back = golden.load(path)
    assert (back.ids == ids).all()
    assert (back.windows == windows).all()
    assert np.abs(back.log_p - log_p).max() <= 0.5 / golden.GRID + 1e-12
    assert np.abs(back.rest - rest).max() < 1e-6
    assert back.made_of == {"text_sha256": "a=b"}
    with pytest.raises(ValueError, match="must lie in"):
        golden.save(path, golden.Golden(windows, ids, log_p - 32.0, rest, {}))
    with pytest.raises(ValueError, match="must descend"):
        golden.save(path, golden.Golden(windows, ids, log_p[..., ::-1], rest, {}))


def test_text_is_the_one_named() -> None:
    assert len(corpus.read_text()) > 18000


@pytest.mark.parametrize("model", corpus.MODELS.values(), ids=corpus.MODELS)
def test_golden_file_is_whole(model: corpus.ReferenceModel) -> None:
    assert model.golden.stat().st_size < 700_000
    stored = golden.load(model.golden)
    assert stored.made_of["model_sha256"] == model.sha256
    assert stored.made_of["text_sha256"] == corpus.TEXT_SHA256
    assert {"torch", "transformers"} <= stored.made_of.keys()
    assert stored.windows.shape == (corpus.WINDOWS, corpus.WINDOW)
    assert stored.ids.shape == stored.log_p.shape == (corpus.WINDOWS, corpus.WINDOW, golden.TOP)
    assert stored.ids.min() >= 0 and stored.ids.max() < model.vocab_size
    assert stored.windows.min() >= 0 and stored.windows.max() < model.vocab_size
    if model.bos is not None:
        assert (stored.windows[:, 0] == model.bos).all()
    mass = np.exp(stored.log_p).sum(axis=-1) + np.exp(stored.rest)
    assert np.abs(mass - 1.0).max() < 0.6 / golden.GRID
    ordered = np.sort(stored.ids, axis=-1)
    assert (ordered[..., 1:] != ordered[..., :-1]).all()
    # Prose that these models read without trouble: the true next token is among the 32 most of the time.
    hit = (stored.ids[:, :-1] == stored.windows[:, 1:, None]).any(axis=-1)
    assert hit.mean() > 0.75


def test_tiny_weights_are_the_ones_the_golden_was_made_from() -> None:
    with np.load(tiny.GOLDEN, allow_pickle=False) as stored:
        for model in tiny.TINY:
            assert str(stored[f"{model.name}/weights_sha256"]) == tiny.weights_sha256(model), model.name
            for length in tiny.LENGTHS:
                logits = stored[f"{model.name}/{length}"]
                assert logits.shape == (length, model.vocab)
                assert np.isfinite(logits).all()
