"""A page's arrays are what the library computes one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, Trace
from pellucid.look import collect, fewer, pages
from pellucid.look.places import find
from pellucid.look.record import head_blocks
from pellucid.page import weights
from pellucid.schedule.turns import Turns
from tests.engine.models import Load, ids_for
from tests.families.case import load_golden, write_folder
from tests.families.cases import BY_NAME
from tests.page.conftest import Parsed, parse

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The capital of France is Paris. The capital of"
MODELS = [
    ("llama_mha_untied", "F32"),
    ("gemma3", "F32"),
    ("qwen3", "F32"),
    ("wide", "K"),
    ("narrow", "all"),
    ("llama_biases", "F32"),
]


def made(model: Model, ids: list[int], **options: Any) -> Parsed:
    return parse(pages.page(model.core, ids, **options).text)


def compare_by_hand(model: Model, ids: list[int], found: Parsed) -> None:
    trace = model.trace(ids, ("scores", "attention"))
    layers, heads, at = len(trace.layers), found.meta["model"]["heads"], found.meta["hand"]
    scores = found.block("hand-scores").reshape(layers, heads, at + 1).astype(np.float64)
    sums = found.block("hand-sums").reshape(layers, heads)
    best = found.block("hand-found").reshape(layers, heads, -1)
    for layer in range(layers):
        if found.meta["windows"][layer] < 0:
            continue
        n = trace.scores.shape[1]
        exact = trace.scores[layer, :, at, : at + 1]
        np.testing.assert_allclose(scores[layer, :n], exact, rtol=1e-3, atol=1e-3)
        weights_ = np.exp(np.minimum(scores[layer, :n] - sums[layer, :n, None], 0))
        np.testing.assert_allclose(weights_, trace.attention[layer, :, at, : at + 1], rtol=0.05, atol=2e-3)
        first = best[layer, :n, 0].astype(np.int64)
        np.testing.assert_allclose(np.take_along_axis(exact, first[:, None], 1)[:, 0], exact.max(axis=1))


def compare(model: Model, ids: list[int], found: Parsed) -> None:
    compare_by_hand(model, ids, found)
    trace = model.trace(ids, ("hidden", "attention", "attention_out", "mlp_out", "logits"))
    n, layers, heads = len(ids), len(trace.hidden) - 1, found.meta["model"]["heads"]
    assert (found.meta["n"], found.meta["layers"], found.meta["ids"]) == (n, layers, ids)
    stats = found.block("stats").reshape(n, 5)
    x = trace.logits.astype(np.float64)
    sums = np.log(np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1)) + x.max(axis=1)
    np.testing.assert_allclose(stats[:, 0], sums, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats[:, 1], x.mean(axis=1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats[:, 2], x.std(axis=1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats[:, 3], trace.entropy, rtol=1e-4, atol=1e-4)
    for i, expected in enumerate(model.score(ids).tokens if n > 1 else []):
        bits = (stats[i, 0] - stats[i, 4]) / math.log(2)
        assert bits == pytest.approx(-expected.logprob / math.log(2), abs=1e-5)
    assert found.block("ranks")[: n - 1].tolist() == trace.next_rank[: n - 1].tolist()
    starts, cand = found.block("cand-starts"), found.block("cand-ids")
    logits, tail = found.block("cand-logits"), found.block("tail").reshape(n, -1)
    targets = found.block("targets").reshape(n, collect.TARGETS)
    lens_ids = found.block("lens-ids").reshape(layers + 1, n, collect.GUESSES)
    lens_p = found.block("lens-p").reshape(layers + 1, n, collect.GUESSES)
    pushes = {
        name: found.block(name).reshape(n, collect.TARGETS, layers) for name in ("att-push", "mlp-push", "edit-push")
    }
    by_head = found.block("head-push").reshape(n, collect.TARGETS, layers, heads)
    base = found.block("base-push").reshape(n, collect.TARGETS, 2)
    for at in {0, n // 2, n - 1}:
        some = slice(starts[at], starts[at + 1])
        order = np.lexsort((np.arange(len(x[at])), -x[at]))
        count = starts[at + 1] - starts[at]
        assert cand[some].tolist() == order[:count].tolist()
        assert logits[some].tolist() == trace.logits[at][order[:count]].tolist()
        assert count + tail[at].sum() == len(x[at])
        p = np.exp(x[at][order[:count]] - sums[at]).sum()
        assert p >= 0.99 or count in (len(order), collect.MOST)
        assert targets[at][0] == (ids[at + 1] if at + 1 < n else order[0])
        assert len({*targets[at].tolist()}) == min(collect.TARGETS, len(order))
        for after, guesses in enumerate(trace.lens(at, collect.GUESSES)):
            assert lens_ids[after, at].tolist() == [g.id for g in guesses]
            assert np.abs(lens_p[after, at] / 255 - [g.probability for g in guesses]).max() <= 0.51 / 255
        for t, id in enumerate(targets[at].tolist()):
            expected_push = trace.attribution(at, id)
            scale = max(1.0, *(abs(value) for _, value in expected_push.parts()))
            close: Any = {"rtol": 2e-3, "atol": 2e-3 * scale}
            np.testing.assert_allclose(pushes["att-push"][at, t], expected_push.attention, **close)
            np.testing.assert_allclose(pushes["mlp-push"][at, t], expected_push.mlp, **close)
            np.testing.assert_allclose(pushes["edit-push"][at, t], expected_push.edits, **close)
            wide = expected_push.heads.shape[1]
            np.testing.assert_allclose(by_head[at, t][:, :wide], expected_push.heads, **close)
            np.testing.assert_allclose(base[at, t], [expected_push.embedding, expected_push.bias], **close)
    lengths = found.block("lengths").reshape(3, layers + 1, n)
    np.testing.assert_allclose(lengths[0], np.linalg.norm(trace.hidden, axis=2), rtol=1e-3)
    np.testing.assert_allclose(lengths[1][1:], np.linalg.norm(trace.attention_out, axis=2), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(lengths[2][1:], np.linalg.norm(trace.mlp_out, axis=2), rtol=1e-3, atol=1e-3)
    rest = found.block("att-rest").reshape(layers, heads, n)
    for layer in range(layers):
        if found.meta["windows"][layer] < 0:
            assert f"att-{layer}" not in found.meta["blocks"]
            continue
        codes = found.block(f"att-{layer}").reshape(-1, n * (n + 1) // 2)
        for head, one in enumerate(codes):
            w = weights.unpack(one, n)
            exact = trace.attention[layer, head]
            assert np.abs(w - exact)[w > 0].max() <= np.sqrt(exact[w > 0].max()) / 255 + 1e-5
            sinks = 1 - exact.sum(axis=1)  # of gpt-oss, which belong to no token
            assert np.abs(w.sum(axis=1) + rest[layer, head] / 255 + sinks - 1).max() <= 0.03


@pytest.mark.parametrize(("name", "mix"), MODELS, ids=["-".join(pair) for pair in MODELS])
@pytest.mark.parametrize("n", [1, 2, 70])
def test_small_models(load: Load, name: str, mix: str, n: int) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, n)
    compare(model, ids, made(model, ids))


@pytest.mark.parametrize(
    "name", ["gpt_oss", "qwen3moe", "lfm2", "qwen35", "granitehybrid", "olmo2", "gemma2", "cohere"]
)
def test_other_kinds(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=1) as model:
        ids = list(range(3, 24))
        compare(model, ids, made(model, ids))


@pytest.mark.parametrize("name", BY_NAME)
def test_every_family_has_a_page(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=1) as model:
        ids = list(range(3, 12))
        found = made(model, ids)
        assert found.meta["n"] == 9
        wrong = [name for name in found.meta["blocks"] if not np.isfinite(found.block(name)).all()]
        assert {*wrong} <= {"hand-scores"}  # -inf where a head sees nothing


def test_a_real_model(smol: Model) -> None:
    ids = smol.tokenize(TEXT)
    found = made(smol, ids)
    compare(smol, ids, found)
    assert found.meta["title"] == TEXT
    spelled = found.pieces()
    assert "".join(spelled[str(id)] for id in ids) == TEXT
    assert found.meta["windows"] == [0] * 30 and found.meta["kv_heads"] == [3] * 30
    at = found.meta["hand"]
    trace = smol.trace(ids, ("q", "k", "mixed", "head_out"), positions=at)
    mixed = found.block("hand-mixed").reshape(30, 9, 64)
    np.testing.assert_allclose(mixed, trace.mixed[:, :, 0], rtol=1e-3, atol=1e-4)
    q = found.block("hand-q").reshape(30, 9, 64)
    np.testing.assert_allclose(q, trace.q[:, :, 0], rtol=5e-3, atol=1e-3)  # as it is multiplied
    keys = found.block("hand-keys").reshape(30, 9, 4, 64)
    best = found.block("hand-found").reshape(30, 9, 4)
    np.testing.assert_allclose(keys[23, 4], trace.k[23, 1][best[23, 4]], rtol=5e-3, atol=1e-3)
    with Turns(smol.core, "trace") as turns:
        (_, logits), *_ = head_blocks(turns, find(turns.plan), np.ascontiguousarray(trace.head_out[23, :, 0]))
    promoted = found.block("hand-promoted").reshape(30, 9, 3)
    assert promoted[23].tolist() == np.argsort(-logits, axis=1, kind="stable")[:, :3].tolist()


def test_the_nearest_embeddings(smol: Model) -> None:
    found = made(smol, smol.tokenize("It is Monday"), position=2)
    table = smol.weight("token_embd")
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosines = unit @ unit[found.meta["ids"][2]]
    best = np.argsort(-cosines, kind="stable")[1:7]
    np.testing.assert_allclose(found.block("near-row"), table[found.meta["ids"][2]], rtol=1e-3, atol=1e-6)
    assert found.block("near-ids").tolist() == best.tolist()
    np.testing.assert_allclose(found.block("near-cosines"), cosines[best], rtol=1e-3)
    assert " Tuesday" in [found.pieces()[str(id)] for id in best]


def test_weights_of_some_layers_and_tokens(load: Load) -> None:
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 12)
    whole, found = made(model, ids), made(model, ids, layers=[0, -1], positions=[3, -1])
    layers = model.info().layers
    assert found.meta["kept"] == {**whole.meta["kept"], "layers": [0, layers - 1], "positions": [3, 11]}
    names = [name for name in found.meta["blocks"] if name.startswith("att-") and name[4:].isdigit()]
    assert names == ["att-0", f"att-{layers - 1}"]
    heads = found.meta["model"]["heads"]
    kept, every = (weights.unpack(one.block("att-0").reshape(heads, -1)[1], 12) for one in (found, whole))
    assert (kept[[3, 11]] == every[[3, 11]]).all() and not np.delete(kept, [3, 11], axis=0).any()
    rest = found.block("att-rest").reshape(layers, heads, 12)
    assert (np.delete(rest[0], [3, 11], axis=1) == 255).all() and (rest[0][:, [3, 11]] < 255).all()
    assert parse(model.trace(ids).html(layers=[0, -1], positions=[3, -1]).text).meta["kept"] == found.meta["kept"]
    wrong: list[dict[str, Any]] = [{"layers": [99]}, {"positions": [12]}, {"layers": []}]
    for bad in wrong:
        with pytest.raises(ValueError, match=next(iter(bad))):
            made(model, ids, **bad)


def test_neurons(smol: Model) -> None:
    """The four that push most, as a sum over the matrix says."""
    ids = smol.tokenize(TEXT)
    found = made(smol, ids)
    acts = smol.trace(ids, "neurons").neurons
    which = found.block("neurons").reshape(len(ids), 30, 4)
    some = found.block("neuron-acts").reshape(which.shape)
    push = found.block("neuron-push").reshape(which.shape)
    mlp = found.block("mlp-push").reshape(len(ids), 4, 30)[:, 0]
    for layer in (0, 17, 29):
        rows = np.take_along_axis(acts[layer], which[:, layer].astype(np.int64), axis=1)
        np.testing.assert_allclose(some[:, layer], rows, rtol=2e-3, atol=1e-3)
        assert (np.abs(push[:, layer, :-1]) >= np.abs(push[:, layer, 1:]) - 1e-3).all()
    down = smol.weight("blk.29.ffn_down.weight")
    ablated = acts[29, -1].copy()
    ablated[which[-1, 29]] = 0
    with_all, without = acts[29, -1] @ down.T, ablated @ down.T
    share = np.linalg.norm(with_all - without) / np.linalg.norm(with_all)
    assert share > 0.1 and np.isfinite(mlp).all()


def test_head_scores() -> None:
    ids = [5, 6, 7, 5, 6]
    w = np.zeros((5, 5), np.float32)
    w[0, 0] = w[1, 0] = 1
    w[2, 1] = 1
    w[3, 1] = 1  # induction: what followed the earlier 5
    w[4, 1] = w[4, 4] = 0.5  # the same token, and itself
    scores = dict(zip(collect.SCORES, collect._Rules(ids).scores(w), strict=True))
    assert scores["first"] == pytest.approx(1 / 4) and scores["previous"] == pytest.approx(2 / 4)
    assert scores["same"] == pytest.approx((0 + 0.5) / 2) and scores["induction"] == pytest.approx((1 + 0) / 2)
    assert scores["entropy"] == pytest.approx(1 / 5) and scores["distance"] == pytest.approx((1 + 1 + 2 + 1.5) / 5)


@pytest.mark.parametrize("n", [1, 5, 24, 25, 100])
def test_thumbnails_lose_no_point(n: int) -> None:
    w = np.zeros((n, n), np.float32)
    w[n - 1, n // 2] = 1
    found = collect.thumbnail(w)
    assert found.shape == (24, 24) and (found == 255).sum() == 1


def test_an_edited_model(load: Load) -> None:
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 12)
    with model.edit() as edit:
        edit.skip(0, "attention").add(1, np.ones(model.core.config.dim), positions=[3])
        found = made(edit, ids)
        compare(edit, ids, found)
        trace = edit.trace(ids)
    assert parse(trace.html().text).meta == found.meta  # what was computed with an edit outlives it
    assert found.block("edit-push").reshape(12, 4, -1)[3, 0, 1] != 0
    assert "att-0" not in found.meta["blocks"]


def test_compared_with_another_trace(load: Load) -> None:
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 12)
    others = [*ids[:5], (ids[5] + 1) % 100, *ids[6:]]
    plain, other = made(model, ids), made(model, others)
    with model.edit() as edit:
        edit.skip(1, "mlp")
        found = parse(edit.trace(ids).html(against=model.trace(ids)).text)
        assert found.meta["against"] == {"ids": ids, "edited": True}
        assert (found.block("b-stats") == plain.block("stats")).all()
        assert not (found.block("stats") == plain.block("stats")).all()
    found = parse(model.trace(ids).html(against=model.trace(others)).text)
    assert found.meta["against"] == {"ids": others, "edited": False}
    for name in pages.COMPARED:
        assert (found.block(f"b-{name}") == other.block(name)).all() and (found.block(name) == plain.block(name)).all()
    assert {str(id) for id in (*ids, *others)} <= {*found.pieces()}
    with pytest.raises(ValueError, match="against has 3 tokens: expected 12"):
        model.trace(ids).html(against=model.trace([1, 2, 3]))


def test_a_part_of_the_model_s_ids_without_a_tokenizer(load: Load) -> None:
    model = load("llama_gqa")
    found = made(model, [1, 2, 3])
    assert {*found.pieces().values()} == {""} and found.meta["title"] == "A text through a model"


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_the_budget(smol: Model) -> None:
    ids = ids_for(smol.core.engine, 100, seed=3)
    whole = pages.page(smol.core, ids)
    assert parse(whole.text).meta["kept"] == {"attention": {"share": 1.0, "most": 0}}
    size = len(whole.text)
    small = pages.page(smol.core, ids, megabytes=size / 1e6 * 0.8)
    assert len(small.text) <= 0.8 * size
    kept = parse(small.text).meta["kept"]["attention"]
    assert kept is not None and kept["share"] < 1
    least = pages.page(smol.core, ids, megabytes=size / 1e6 * 0.62)
    assert len(least.text) <= 0.62 * size
    with pytest.raises(ValueError, match=r"megabytes=0.5: a page of 100 tokens needs at least \d"):
        pages.page(smol.core, ids, megabytes=0.5)
    assert find(smol.core.engine.plan)


def test_the_budget_of_all_but_weights(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below what a page without weights of heads takes, it has fewer pushes, neurons and candidates, and says so."""
    ids, at = ids_for(smol.core.engine, 100, seed=3), 7
    whole = collect.collect(smol.core, ids, len(ids) - 1)
    logits = smol.trace(ids, "logits").logits[at].astype(np.float64)
    for rung in fewer.LADDER:
        arrays = fewer.fewer(whole, rung)
        assert (arrays["head-push"] == whole.arrays["head-push"][:, : rung.pushed]).all()
        assert (arrays["neuron-push"] == whole.arrays["neuron-push"][..., : rung.neurons]).all()
        start, end = arrays["cand-starts"][at : at + 2]
        some = arrays["cand-ids"][start:end]
        assert len(some) == rung.candidates and (arrays["cand-logits"][start:end] == logits[some]).all()
        others = np.delete(logits, some)
        assert logits[some].min() == logits[some[-1]] >= others.max()
        below = arrays["tail"][at]
        assert below.sum() == len(others) and below[0] == np.count_nonzero(logits[some[-1]] - others < 0.25)
    monkeypatch.setattr(pages, "collect", lambda *_: whole)
    with pytest.raises(ValueError, match="needs at least") as raised:
        pages.page(smol.core, ids, megabytes=0.5)
    least = float(str(raised.value).split()[-1])
    found = made(smol, ids, megabytes=least)
    assert found.meta["kept"]["pushed"] == found.meta["kept"]["neurons"] == 1 and found.meta["kept"]["candidates"] == 64
    assert (found.block("cand-starts") == fewer.fewer(whole, fewer.LADDER[-1])["cand-starts"]).all()
    assert len(found.text) <= least * 1e6


def test_sixty_tokens(smol: Model) -> None:
    """At random, so that each row has as many candidates as a page keeps, or nearly."""
    ids = ids_for(smol.core.engine, 60, seed=3)
    found = made(smol, ids)
    assert len(found.text) <= 1_500_000
    assert found.meta["kept"]["attention"]["share"] == 1 and len(found.block("cand-ids")) > 50_000


@pytest.mark.nightly
def test_512_tokens(smol: Model) -> None:
    ids = smol.tokenize((ROOT / "LICENSE").read_text())[:512]
    found = made(smol, ids)
    assert len(ids) == 512 and len(found.text) <= 15_000_000
    assert found.meta["kept"]["attention"]["share"] >= 0.95


@pytest.mark.gemma
@pytest.mark.nightly
def test_512_tokens_of_a_model_with_windows(gemma3: Path) -> None:
    with Model.load(gemma3, threads=2) as model:
        ids = model.tokenize((ROOT / "LICENSE").read_text())[:512]
        found = made(model, ids)
        assert len(ids) == 512 and len(found.text) <= 8_000_000


def test_refused(smol: Model) -> None:
    with pytest.raises(
        ValueError, match="prompt has 2,049 tokens: a page shows at most 2,048; the app, `pellucid serve"
    ):
        pages.page(smol.core, [1] * 2049)
    for bad in (0, -1, math.nan, math.inf, 1e9):
        with pytest.raises(ValueError, match="megabytes"):
            pages.page(smol.core, [1, 2], megabytes=bad)


def test_two_runs_give_the_same_bytes(smol: Model, smollm2: Path) -> None:
    ids = smol.tokenize(TEXT)
    first = pages.page(smol.core, ids).text
    assert pages.page(smol.core, ids).text == first
    with Model.load(smollm2, threads=1) as other:
        assert pages.page(other.core, ids).text == first


def test_stopped_by_progress(smol: Model) -> None:
    told: list[float] = []

    def stop(share: float) -> None:
        told.append(share)
        if share > 0.75:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pages.page(smol.core, [1] * 70, progress=stop)
    assert told == sorted(told) and told[0] == 0


# ---- Trace.html -----------------------------------------------------------------------------------------------------


def test_a_trace_in_a_notebook(smol: Model, load: Load, tmp_path: Path) -> None:
    """The page, where there is a model and room for it; else a table."""
    trace = smol.trace("The capital of France is", "hidden", layers=0, positions=-1)
    assert trace._repr_html_() == trace.html(megabytes=2)._repr_html_()
    assert "<iframe " in trace._repr_html_() and len(trace.html(megabytes=2).text) <= 2_000_000
    trace.save(tmp_path / "t.npz")
    assert "<table" in Trace.load(tmp_path / "t.npz")._repr_html_()
    model = load("llama_gqa")
    long = model.trace([1] * (pages.NOTEBOOK_TOKENS + 1), "hidden", layers=0, positions=-1)
    assert "iframe" not in long._repr_html_() and "<table" in long._repr_html_()
    with model.edit() as edit:
        edit.skip(0, "mlp")
        edited = edit.trace([1, 2, 3], "hidden")
    assert "<iframe " in edited._repr_html_()


def test_trace_html(smol: Model, tmp_path: Path) -> None:
    trace = smol.trace(TEXT, "hidden", layers=0, positions=-1)
    page = trace.html(tmp_path / "a.html", title="Mine & <b>")
    assert (tmp_path / "a.html").read_bytes() == page.text.encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    assert parse(page.text).meta["title"] == "Mine & <b>" and "Mine &amp; &lt;b&gt;</title>" in page.text
    shown = page._repr_html_()
    assert shown.startswith("<iframe ") and 'sandbox="allow-scripts"' in shown and shown.count("<") == 2
    big = pages.Page("x" * 3_000_000, "t")
    assert "3.0 MB" in big._repr_html_() and "iframe" not in big._repr_html_()
    with pytest.raises(Exception, match="nowhere"):
        trace.html(tmp_path / "nowhere" / "a.html")
    saved = tmp_path / "a.npz"
    trace.save(saved)
    with pytest.raises(ValueError, match="without a model"):
        Trace.load(saved).html()
    assert Trace.load(saved, smol).html(title="Mine & <b>").text == page.text
