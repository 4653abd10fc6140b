"""csrc/engine/sample.c compared with its NumPy twin, and the distribution of its draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pellucid._kernels import sampling

from . import twin

each_isa = pytest.mark.parametrize("isa", sampling.isas())
Row = npt.NDArray[np.float32]

# The sums and the weights of wide rows are float32; a decision nearer than this may go either way.
DOUBT = 3e-6
DEFAULT: dict[str, Any] = dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)


def rows(rng: np.random.Generator, n: int, vocabularies: tuple[int, ...]) -> list[Row]:
    """Logits of every shape that matters: peaked, flat, tied, partly impossible, with outliers, constant."""
    made: list[Row] = []
    for i in range(n):
        vocab = int(rng.choice(vocabularies))
        x = rng.standard_normal(vocab) * rng.choice([0.05, 1, 3, 8])
        kind = i % 7
        if kind == 1:
            x = np.round(x)
        elif kind == 2:
            x[rng.random(vocab) < 0.5] = -np.inf
            x[rng.integers(vocab)] = 1
        elif kind == 3:
            x[rng.integers(vocab, size=1 + vocab // 50)] -= 1e30
        elif kind == 4:
            x[rng.integers(vocab, size=3)] += rng.uniform(5, 30)
        elif kind == 5:
            x = np.where(rng.random(vocab) < 0.5, -0.0, 0.0)
        elif kind == 6:
            x += rng.choice([-3000, 3000])
        made.append(x.astype(np.float32))
    return made


def settings(rng: np.random.Generator, vocab: int) -> dict[str, Any]:
    """Random filters, each off about half of the time."""

    def maybe(*values: float) -> Any:
        return rng.choice(values) if rng.random() < 0.5 else None

    chosen = dict(
        temperature=maybe(0.2, 0.8, 1.7),
        top_k=maybe(1, 2, 5, 40, 100, 1500, vocab, vocab + 1),
        top_p=maybe(0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 0.99999),
        min_p=maybe(0.0001, 0.01, 0.05, 0.3, 1.0),
        typical_p=maybe(0.2, 0.9, 0.99) if rng.random() < 0.4 else None,
    )
    return {k: (int(v) if k == "top_k" else float(v)) for k, v in chosen.items() if v is not None}


def check_row(isa: str, x: Row, step: int, **chosen: Any) -> bool:
    """Compares kept tokens, probabilities and the drawn token with the twin's -> whether they are exactly equal."""
    expected = twin.kept(x.astype(np.float64), **chosen)
    got = sampling.sample(isa, x, step, seed=99, **chosen)
    assert got["n_kept"] == len(got["kept_id"]) >= 1
    assert np.isfinite(x[got["kept_id"]]).all()
    np.testing.assert_allclose(got["kept_prob"].sum(dtype=np.float64), 1, rtol=2e-6)
    if expected.margin < DOUBT:
        # What differs weighs nothing, or is one value that stands on the boundary.
        differ = np.setxor1d(got["kept_id"], expected.ids)
        assert twin.softmax(x.astype(np.float64))[differ].sum() < 3 * DOUBT or len(np.unique(x[differ])) == 1
        return False
    assert got["kept_id"].tolist() == expected.ids.tolist(), chosen
    np.testing.assert_allclose(got["kept_prob"], expected.probs, rtol=4e-6, atol=1e-9)
    u = twin.uniform(99, step)
    filtered = 0 < chosen.get("top_k", 0) < len(x) or {"top_p", "min_p", "typical_p"} & chosen.keys()
    if filtered and len(expected.ids) <= 1024:
        bounds = np.cumsum(expected.probs)
        if np.abs(bounds - u).min() > DOUBT:
            assert got["id"] == expected.ids[np.searchsorted(bounds, u, "right")]
    else:
        order = np.argsort(expected.ids)
        bounds = np.cumsum(expected.probs[order])
        at = int(np.searchsorted(bounds, u, "right"))
        low, high = bounds[at - 1] if at else 0.0, bounds[min(at, len(bounds) - 1)]
        if min(abs(u - low), abs(high - u)) > DOUBT:
            assert got["id"] == expected.ids[order[at]]
    return True


@each_isa
@pytest.mark.parametrize("vocabularies, n", [((1, 2, 3, 4, 5), 700), ((31, 100, 1000, 4099), 1400), ((49152,), 28)])
def test_filters_equal_the_twin(isa: str, vocabularies: tuple[int, ...], n: int) -> None:
    rng = np.random.default_rng(n)
    compared = sum(check_row(isa, x, i, **settings(rng, len(x))) for i, x in enumerate(rows(rng, n, vocabularies)))
    assert compared > (0.8 if n > 100 else 0.4) * n


@each_isa
@pytest.mark.parametrize(
    "chosen",
    [
        DEFAULT,
        dict(top_p=0.999),
        dict(top_k=3000, top_p=0.9),
        dict(typical_p=0.9, min_p=0.01),
        dict(temperature=1.3),
    ],
)
def test_filters_on_a_large_vocabulary(isa: str, chosen: dict[str, Any]) -> None:
    rng = np.random.default_rng(7)
    for i, x in enumerate(rows(rng, 7, (262144,))):
        check_row(isa, x, i, **chosen)


@each_isa
@pytest.mark.parametrize(
    "p, n", [(1e-9, 1), (0.25, 1), (0.25000003, 2), (0.5, 2), (0.50000006, 3), (0.75, 3), (0.99999994, 4)]
)
@pytest.mark.parametrize("top_k", [0, 4])
def test_top_p_keeps_the_smallest_sufficient_prefix(isa: str, p: float, n: int, top_k: int) -> None:
    x = np.array([-np.inf, 2, 2, 2, 2, -np.inf], np.float32)  # sums that float32 represents exactly
    assert sampling.sample(isa, x, top_p=p, top_k=top_k)["kept_id"].tolist() == [1, 2, 3, 4][:n]


@each_isa
def test_filters_act_in_order_on_what_is_left(isa: str) -> None:
    x = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    # Of the two that top_k leaves, the first has 4/7: top_p=0.5 on the whole row would keep two.
    assert sampling.sample(isa, x, top_k=2, top_p=0.5)["kept_id"].tolist() == [1]
    assert sampling.sample(isa, x, top_p=0.5)["kept_id"].tolist() == [1, 3]
    # min_p sees probabilities at temperature 1, whatever the temperature: 0.1 < 0.3 * 0.4.
    for temperature in (0.1, 1.0, 50.0):
        assert sampling.sample(isa, x, min_p=0.3, temperature=temperature)["kept_id"].tolist() == [1, 3, 2]
    got = sampling.sample(isa, x, top_k=3, temperature=0.5)
    np.testing.assert_allclose(got["kept_prob"], np.array([16, 9, 4]) / 29, rtol=1e-6)


@each_isa
def test_typical_sampling_may_drop_the_most_probable(isa: str) -> None:
    x = np.log(np.array([0.4] + [0.06] * 10, np.float32))  # entropy 2.05: surprise 2.81 is nearer than 0.92
    got = sampling.sample(isa, x, typical_p=0.29)
    assert got["kept_id"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(got["kept_prob"], 0.2, rtol=1e-6)


@each_isa
@pytest.mark.parametrize("vocab", [1, 5, 64, 1000, 262144])
def test_greedy_takes_the_lowest_of_equals(isa: str, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    for _ in range(5):
        x = rng.standard_normal(vocab).astype(np.float32)
        best = np.sort(rng.integers(vocab, size=3))
        x[best] = 50
        got = sampling.sample(isa, x, temperature=0, top_k=3, top_p=0.1, typical_p=0.1)
        assert (got["id"], got["n_kept"], got["kept_id"].tolist()) == (best[0], 1, [best[0]])


@each_isa
@pytest.mark.parametrize("chosen", [{}, dict(top_k=5), dict(top_p=0.99999)])
@pytest.mark.parametrize("temperature", [1e-45, 1e-6, 1e30, 3e38, np.inf])
def test_extreme_temperatures(isa: str, chosen: dict[str, Any], temperature: float) -> None:
    x = np.array([3.0, -np.inf, 3.0, 2.999, -80.0, -1e20], np.float32)
    ids = set(sampling.sample_many(isa, x, 2000, temperature=temperature, **chosen).tolist())
    if temperature < 1:
        assert ids == {0, 2}
    else:
        every = {(): {0, 2, 3, 4, 5}, ("top_k",): {0, 2, 3, 4, 5}, ("top_p",): {0, 2, 3}}[tuple(chosen)]
        assert ids == every


def g_limit(freedom: int, z: float = 4.5) -> float:
    """Upper quantile of chi-square at z standard deviations (3e-6), by Wilson & Hilferty's cube root."""
    t = 2 / (9 * freedom)
    return freedom * (1 - t + z * t**0.5) ** 3


@each_isa
@pytest.mark.parametrize("vocab, n", [(2, 20000), (12, 20000), (1000, 10000), (262144, 150)])
@pytest.mark.parametrize("chosen", [{}, DEFAULT, dict(top_p=0.9, temperature=1.5), dict(typical_p=0.8)])
def test_draws_follow_the_probabilities(isa: str, vocab: int, n: int, chosen: dict[str, Any]) -> None:
    x = (np.random.default_rng(vocab).standard_normal(vocab) * 1.5).astype(np.float32)
    if vocab > 100000:
        x[[5, 200000, 262143]] = 11, 12, 12.5
    if isa == "scalar" and vocab > 100:
        n //= 10  # exp of one number at a time, to the last bit as the vectors do it
    expected = twin.kept(x.astype(np.float64), **chosen)
    ids = sampling.sample_many(isa, x, n, seed=2024, **chosen)
    assert np.isin(ids, expected.ids).all()
    seen = np.bincount(ids, minlength=vocab)[expected.ids]
    # Neighbours in the sorted order are pooled until 10 are expected.
    group = np.floor(np.cumsum(expected.probs * n) / 10).astype(int)
    o = np.bincount(group, seen)
    e = np.bincount(group, expected.probs * n)
    o, e = o[e > 0], e[e > 0]
    if e[-1] < 5 and len(e) > 1:
        o, e = np.r_[o[:-2], o[-2:].sum()], np.r_[e[:-2], e[-2:].sum()]
    if len(e) > 1:
        assert np.sum((o - e) ** 2 / e) < g_limit(len(e) - 1)
    else:
        assert o[0] == n


def test_random_numbers_are_philox() -> None:
    # Known answers of the authors' Random123 library.
    assert twin.philox((0, 0), (0, 0, 0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 0xFFFFFFFF
    assert twin.philox((ones, ones), (ones,) * 4) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert twin.philox((0xA4093822, 0x299F31D0), pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    for seed in (0, 1, 2**32, 2**64 - 1, 0x123456789ABCDEF):
        for step in (0, 1, 2**32 - 1, 2**32, 2**64 - 1):
            assert sampling.uniform(seed, step) == twin.uniform(seed, step)


def test_random_numbers_are_independent() -> None:
    """Numbers of successive steps and of adjacent seeds are independent, and uniform over 256 cells."""
    n = 20000
    by_step = np.array([sampling.uniform(5, i) for i in range(n)])
    by_seed = np.array([sampling.uniform(i, 5) for i in range(n)])
    for u in (by_step, by_seed):
        assert 0 <= u.min() and u.max() < 1
        cells = np.bincount((u * 256).astype(int), minlength=256)
        assert np.sum((cells - n / 256) ** 2) / (n / 256) < g_limit(255)
        for lag in (1, 2, 3, 7, 64):
            assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4.5 / n**0.5
    assert abs(np.corrcoef(by_step, by_seed)[0, 1]) < 4.5 / n**0.5


@each_isa
def test_a_draw_depends_on_seed_and_step_alone(isa: str) -> None:
    x = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    cases: list[dict[str, Any]] = [{}, DEFAULT, dict(top_p=0.97)]
    for chosen in cases:
        one = sampling.Sampler(isa, 3000, seed=7, **chosen)
        ids = one.draws(x, 300)
        assert [one.draw(x, i) for i in reversed(range(300))] == ids.tolist()[::-1]
        assert [one.sample(x, i)["id"] for i in range(300)] == ids.tolist()
        assert (sampling.sample_many(isa, x, 300, seed=7, **chosen) == ids).all()
        assert (sampling.sample_many(isa, x, 300, seed=8, **chosen) != ids).sum() > 150
        assert (sampling.sample_many("scalar", x, 300, seed=7, **chosen) == ids).all()
        pairs = np.zeros((4, 4))
        quarter = np.argsort(np.argsort(ids, kind="stable"), kind="stable") * 4 // 300
        np.add.at(pairs, (quarter[:-1], quarter[1:]), 1)
        assert np.sum((pairs - 299 / 16) ** 2) / (299 / 16) < g_limit(9)


@each_isa
@pytest.mark.parametrize("vocab, n", [(1, 1), (5, 3), (5, 9), (3000, 20), (3000, 1500), (262144, 5)])
def test_logprobs_are_of_the_raw_logits(isa: str, vocab: int, n: int) -> None:
    rng = np.random.default_rng(n)
    for i in range(4):
        x = (rng.standard_normal(vocab) * 3 + rng.choice([-300, 0, 300])).astype(np.float32)
        if vocab > 2:
            x[rng.integers(vocab, size=vocab // 3)] = -np.inf
            x[vocab // 2] = x[np.isfinite(x)].max(initial=1)
        expected = twin.logprobs(x)
        mask = np.ones(vocab, bool)
        mask[1:2] = False
        changes = dict(bias={0: 2.0, vocab - 1: -1.0}, mask=mask, recent=[0], presence_penalty=0.5)
        got = sampling.sample(isa, x, i, n_logprobs=n, top_k=3, **changes)
        assert abs(got["logprob"] - expected[got["id"]]) < 1e-5
        order = np.argsort(-expected, kind="stable")
        order = order[np.isfinite(expected[order])][:n]
        assert got["top_id"][: len(order)].tolist() == order.tolist()
        np.testing.assert_allclose(got["top_logprob"][: len(order)], expected[order], atol=1e-5)
        assert (got["top_id"][len(order) :] == -1).all()
        assert (got["top_logprob"][len(order) :] == -np.inf).all()
        assert sampling.sample(isa, x, i, temperature=0, n_logprobs=0)["logprob"] == pytest.approx(
            expected.max(), abs=1e-5
        )
        assert sampling.sample(isa, x, i, temperature=0, n_logprobs=-1)["logprob"] == 0


@each_isa
def test_bias_mask_and_penalties_come_before_the_filters(isa: str) -> None:
    rng = np.random.default_rng(3)
    for i in range(300):
        vocab = int(rng.choice([2, 40, 700]))
        x = (rng.standard_normal(vocab) * 3).astype(np.float32)
        mask = rng.random(vocab) < 0.7
        mask[rng.integers(vocab)] = True
        changes = dict(
            mask=mask,
            bias={int(k): float(v) for k, v in zip(rng.integers(vocab, size=3), rng.normal(0, 5, 3))},
            recent=rng.integers(min(vocab, 20), size=int(rng.integers(0, 60))).tolist(),
            repeat_penalty=float(rng.choice([1, 1.25, 0.5])),
            presence_penalty=float(rng.choice([0, 0.5, -0.25])),
            frequency_penalty=float(rng.choice([0, 0.125, -0.25])),
        )
        changes = {k: v for k, v in changes.items() if rng.random() < 0.8}
        expected = twin.kept(twin.adjusted(x, **changes), top_k=30, top_p=0.9, temperature=0.7)
        got = sampling.sample(isa, x, i, top_k=30, top_p=0.9, temperature=0.7, **changes)
        if expected.margin > DOUBT:
            assert got["kept_id"].tolist() == expected.ids.tolist()
            np.testing.assert_allclose(got["kept_prob"], expected.probs, rtol=2e-5)


@each_isa
def test_bias_can_force_and_forbid(isa: str) -> None:
    x = np.array([0, 5, 1, 4], np.float32)
    assert set(sampling.sample_many(isa, x, 500, bias={1: -np.inf, 3: -np.inf}).tolist()) == {0, 2}
    assert set(sampling.sample_many(isa, x, 500, bias={2: 100.0}).tolist()) == {2}
    # Ids outside the vocabulary do nothing.
    wild: dict[str, Any] = dict(
        bias={-1: 50.0, 4: 50.0, 2**31 - 1: 50.0}, recent=[-1, 4, -(2**31)], presence_penalty=50
    )
    assert (sampling.sample_many(isa, x, 500, **wild) == sampling.sample_many(isa, x, 500)).all()


@each_isa
@pytest.mark.parametrize("chosen", [dict(temperature=0), {}, DEFAULT, dict(top_p=0.5), dict(n_logprobs=2)])
@pytest.mark.parametrize("vocab", [1, 3, 1000, 70001])
def test_rows_without_a_meaning_are_refused(isa: str, vocab: int, chosen: dict[str, Any]) -> None:
    rng = np.random.default_rng(vocab)
    base = rng.standard_normal(vocab).astype(np.float32)
    one = sampling.Sampler(isa, vocab, **chosen)
    masked = sampling.Sampler(isa, vocab, mask=np.ones(vocab, bool), **chosen)
    assert one.draw(base) >= 0
    for at in {0, vocab // 2, vocab - 1}:
        for bad in (np.nan, np.inf):
            x = base.copy()
            x[at] = bad
            assert one.draw(x) == masked.draw(x) == -1 and one.sample(x) is None
    assert one.draw(np.full(vocab, -np.inf, np.float32)) == -1
    assert sampling.Sampler(isa, vocab, mask=np.zeros(vocab, bool), **chosen).draw(base) == -2
    assert sampling.Sampler(isa, vocab, bias={vocab - 1: np.inf}, **chosen).draw(base) == -2
    only = np.full(vocab, -np.inf, np.float32)
    only[vocab - 1] = -1e38
    assert set(one.draws(only, 50).tolist()) == {vocab - 1}


@each_isa
def test_logits_are_read_alone_when_nothing_changes_them(isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    before = x.copy()
    for chosen in (dict(temperature=0), {}, DEFAULT, dict(typical_p=0.5), dict(mask=x > 0, bias={3: 1.0})):
        sampling.sample(isa, x, n_logprobs=3, **chosen)
        assert (x == before).all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="isa='sse9'"):
        sampling.Sampler("sse9", 10)
    with pytest.raises(ValueError, match="vocab=0"):
        sampling.Sampler("scalar", 0)
    with pytest.raises(ValueError, match=r"float32 of shape \(10,\) expected, not float64"):
        sampling.Sampler("scalar", 10).draw(np.zeros(10))
