"""DRY, XTC, top-n-sigma, dynamic temperature, mirostat, and steps in any order, against the NumPy twin."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid._kernels import sampling

from . import twin
from .test_sampler import DEFAULT, DOUBT, Row, each_isa, g_limit, rows

FAST = next(isa for isa in reversed(sampling.isas()))
SEED = 31


def numbers(order: tuple[str, ...]) -> list[int]:
    return [twin.ORDER.index(name) for name in order]


def compare(isa: str, x: Row, draw: int, order: tuple[str, ...] = twin.ORDER, **chosen: Any) -> bool:
    """Compares the tokens left and their probabilities with the twin's -> whether no decision was too close to tell."""
    u = twin.uniform(SEED, draw, 1)
    dry = chosen.pop("dry", {})
    expected = twin.kept(x.astype(np.float64), order=order, dry=dry, xtc_u=u, **chosen)
    got = sampling.sample(isa, x, draw, seed=SEED, order=numbers(order), dry=list(dry.items()), **chosen)
    assert got["id"] in got["kept_id"]
    assert got["n_kept"] == len(got["kept_id"])
    np.testing.assert_allclose(got["kept_prob"].sum(dtype=np.float64), 1, rtol=2e-6)
    if expected.margin < DOUBT:
        return False
    assert got["kept_id"].tolist() == expected.ids.tolist(), (order, chosen)
    np.testing.assert_allclose(got["kept_prob"], expected.probs, rtol=2e-5, atol=1e-9)
    if chosen.get("mirostat") and chosen["temperature"] > 0:
        surprise = -np.log2(expected.probs[expected.ids.tolist().index(got["id"])])
        assert got["mirostat_mu"] == pytest.approx(chosen["mirostat_mu"] - 0.1 * (surprise - 5), abs=1e-4)
    return True


def random_settings(rng: np.random.Generator, vocab: int) -> dict[str, Any]:
    """Random options of all steps, each off about half of the time. Penalties and temperatures are
    multiples of powers of two, so that float32 computes as float64 does."""

    def maybe(name: str, *values: float) -> None:
        if rng.random() < 0.5:
            chosen[name] = type(values[0])(rng.choice(values))

    chosen: dict[str, Any] = dict(temperature=float(rng.choice([0.5, 1.0, 2.0])))
    maybe("top_k", 1, 2, 5, 40, 1500)
    maybe("top_p", 0.1, 0.5, 0.9, 0.99)
    maybe("min_p", 0.0001, 0.05, 0.3)
    maybe("typical_p", 0.2, 0.9, 0.99)
    maybe("top_n_sigma", 0.5, 1.0, 3.0)
    maybe("xtc_probability", 0.5, 1.0)
    maybe("xtc_threshold", 0.0, 0.001, 0.05, 0.3)
    maybe("repeat_penalty", 2.0, 0.5)
    maybe("presence_penalty", 0.5, -0.25)
    maybe("frequency_penalty", 0.125)
    chosen["recent"] = rng.integers(min(vocab, 20), size=int(rng.integers(0, 30))).tolist()
    chosen["dry"] = {int(i): int(n) for i, n in zip(rng.integers(vocab, size=4), rng.integers(2, 5, 4), strict=True)}
    chosen.update(dry_base=2.0)
    maybe("dry_multiplier", 0.5)
    if rng.random() < 0.3:
        chosen["bias"] = (
            {int(i): float(rng.choice([4.0, -np.inf])) for i in rng.integers(1, vocab, size=2)} if vocab > 1 else {}
        )
    if rng.random() < 0.2:
        chosen.update(mirostat=2, mirostat_mu=float(rng.choice([-1.0, 0.5, 3.0, 9.0, 30.0])))
    return chosen


@each_isa
@pytest.mark.parametrize("vocabularies, n", [((1, 2, 3, 5), 400), ((40, 700, 3000), 300)])
def test_steps_in_any_order(isa: str, vocabularies: tuple[int, ...], n: int) -> None:
    rng = np.random.default_rng(n)
    compared = 0
    for i, x in enumerate(rows(rng, n, vocabularies)):
        x = np.clip(np.round(x * 64) / 64, -(2.0**16), 2.0**16) if i % 7 != 3 else np.round(x)  # sums stay exact
        if not np.isfinite(x).any():
            continue
        order = list(twin.ORDER)
        if i % 3:
            rng.shuffle(order)
            order = order[: int(rng.integers(10))]
        chosen = random_settings(rng, len(x))
        if i % 7 == 3:  # next to -1e30 a penalty is lost
            for name in ("repeat_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier", "bias"):
                chosen.pop(name, None)
        compared += compare(isa, x.astype(np.float32), i, tuple(order), **chosen)
    assert compared > 0.7 * n


@each_isa
@pytest.mark.parametrize(
    "chosen",
    [
        dict(top_n_sigma=1.0),
        dict(top_n_sigma=3.0, top_k=1000),
        dict(typical_p=0.9),
        dict(xtc_probability=1.0, xtc_threshold=0.01),
        dict(DEFAULT, xtc_probability=1.0, dynatemp_range=0.5, top_n_sigma=2.0),
        dict(dynatemp_range=0.5, dynatemp_exponent=2.0, temperature=0.8),
        dict(mirostat=2, mirostat_mu=6.0),
        dict(mirostat=2, mirostat_mu=17.0),
    ],
)
def test_a_large_vocabulary(isa: str, chosen: dict[str, Any]) -> None:
    vocab = 4099 if isa == "scalar" else 150_000
    made = rows(np.random.default_rng(8), 5, (vocab,))
    assert sum(compare(isa, x, i, **{"temperature": 1.0, **chosen}) for i, x in enumerate(made)) >= 2


# ---- DRY -------------------------------------------------------------------------------------------------------------


def longest(found: list[tuple[int, int]]) -> dict[int, int]:
    lengths: dict[int, int] = {}
    for token, length in found:
        lengths[token] = max(length, lengths.get(token, 0))
    return lengths


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 2), max_size=60).flatmap(
        lambda ids: st.tuples(st.just(ids), st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    ),
    st.integers(0, 4),
)
def test_dry_finds_what_comparing_everything_finds(case: tuple[list[int], list[bool] | None], least: int) -> None:
    ids, breaks = case
    flags = None if breaks is None else [int(b) for b in breaks]
    assert longest(sampling.dry_match(ids, least, flags)) == twin.dry_lengths(ids, least, flags)


def test_dry_by_hand() -> None:
    #       0  1  2  3  4  5  6  7  8
    ids = [5, 1, 2, 3, 9, 1, 2, 3]
    assert sampling.dry_match(ids, 2) == [(9, 3)]
    assert sampling.dry_match(ids, 4) == []
    assert sampling.dry_match(ids, 2, [0, 0, 0, 0, 1, 0, 0, 0]) == []  # 9 is a breaker: never penalised
    assert sampling.dry_match(ids, 2, [0, 0, 1, 0, 0, 0, 1, 0]) == []  # 2 is one: what reaches over it is 1 long
    assert sampling.dry_match(ids, 1, [0, 0, 1, 0, 0, 0, 1, 0]) == [(9, 1)]
    assert sampling.dry_match([], 2) == sampling.dry_match([4], 1) == []
    assert longest(sampling.dry_match([7] * 6, 2)) == {7: 5}


@pytest.mark.parametrize("period", [1, 2, 7, 1000])
def test_dry_is_linear_in_a_loop(period: int) -> None:
    """Ten times the tokens of a long context, all of them repeating: a quadratic search would take an hour."""
    n = 1_300_000
    ids = np.arange(n, dtype=np.int32) % period
    started = time.process_time()
    found = sampling.dry_match(ids, 2)
    assert time.process_time() - started < 5
    assert max(length for _, length in found) == n - period
    assert {token for token, _ in found} == {n % period}


@each_isa
def test_dry_penalties(isa: str) -> None:
    x = np.array([3, 2, 1, 0, -1], np.float32)
    # multiplier * base ** (length - allowed length); of several lengths the longest
    got = sampling.sample(isa, x, dry=[(0, 2), (1, 5), (1, 3), (9, 4), (-1, 3)], dry_multiplier=0.5, dry_base=2.0)
    expected = twin.softmax(np.array([2.5, 2 - 4, 1, 0, -1]))
    assert dict(zip(got["kept_id"].tolist(), got["kept_prob"].tolist(), strict=True)) == pytest.approx(
        dict(enumerate(expected.tolist())), rel=1e-5
    )
    # However long a loop: the logit stays finite, and alone the token is still drawn.
    for base in (1.0, 1.75, 3e38):
        one: dict[str, Any] = dict(dry=[(0, 100_000)], dry_multiplier=3e38, dry_base=base)
        assert sampling.sample(isa, x[:1], **one)["id"] == 0
        assert sampling.sample(isa, x, temperature=0, **one)["id"] == 1


# ---- XTC -------------------------------------------------------------------------------------------------------------


@each_isa
def test_xtc_keeps_the_least_probable_of_the_top_choices(isa: str) -> None:
    x = np.log(np.array([0.02, 0.5, 0.1, 0.3, 0.08], np.float32))
    always: dict[str, Any] = dict(xtc_probability=1.0)
    assert sampling.sample(isa, x, xtc_threshold=0.09, **always)["kept_id"].tolist() == [2, 4, 0]
    assert sampling.sample(isa, x, xtc_threshold=0.25, **always)["kept_id"].tolist() == [3, 2, 4, 0]
    assert sampling.sample(isa, x, xtc_threshold=0.4, **always)["kept_id"].tolist() == [1, 3, 2, 4, 0]
    assert sampling.sample(isa, x, xtc_threshold=0.9, **always)["kept_id"].tolist() == [1, 3, 2, 4, 0]
    assert sampling.sample(isa, x, xtc_threshold=0.0, **always)["kept_id"].tolist() == [0]
    assert sampling.sample(isa, x, xtc_threshold=0.0, xtc_probability=0.0)["n_kept"] == 5
    tied = np.array([1, 1, 1, -9], np.float32)  # of equals the highest id is the last
    for min_p in (0.0, 1e-9):  # the whole row, and what a filter left
        assert sampling.sample(isa, tied, xtc_threshold=0.2, min_p=min_p, **always)["kept_id"].tolist() == [2, 3]


def test_xtc_draws_a_number_of_its_own() -> None:
    x = np.log(np.array([0.6, 0.4], np.float32))
    n = 4000
    ids = sampling.sample_many(FAST, x, n, seed=SEED, xtc_probability=0.3)
    acted = np.array([twin.uniform(SEED, i, 1) < 0.3 for i in range(n)])
    assert (ids[acted] == 1).all()
    free = ids[~acted]  # the token's number knows nothing of that one
    assert abs((free == 1).mean() - 0.4) < 4.5 * (0.24 / len(free)) ** 0.5
    assert abs(acted.mean() - 0.3) < 4.5 * (0.21 / n) ** 0.5
    pairs = np.array([[sampling.uniform(5, i, s) for s in (0, 1)] for i in range(n)])
    cells = np.zeros((8, 8))
    np.add.at(cells, tuple((pairs.T * 8).astype(int)), 1)
    assert np.sum((cells - n / 64) ** 2) / (n / 64) < g_limit(63)


# ---- top-n-sigma and the temperature ---------------------------------------------------------------------------------


@each_isa
def test_top_n_sigma(isa: str) -> None:
    x = np.array([4, 2, -np.inf, 0, -2, -4], np.float32)  # standard deviation 8 ** 0.5 = 2.83; -inf does not count
    for n, expected in ((0.7, [0]), (0.71, [0, 1]), (1.5, [0, 1, 3]), (2.9, [0, 1, 3, 4, 5]), (0.0, [0, 1, 3, 4, 5])):
        for temperature in (0.1, 1.0, 9.0):
            got = sampling.sample(isa, x, top_n_sigma=n, temperature=temperature)
            assert got["kept_id"].tolist() == expected
    assert sampling.sample(isa, np.full(50, 7, np.float32), top_n_sigma=0.001)["n_kept"] == 50
    # 1,000 near values and one far below: the square of the distance is beyond float32.
    far = np.r_[np.zeros(1000), [-1e30]].astype(np.float32)
    assert sampling.sample(isa, far, top_n_sigma=3.0)["n_kept"] == 1000
    assert sampling.sample(isa, far, top_n_sigma=40.0)["n_kept"] == 1001


@each_isa
def test_dynamic_temperature(isa: str) -> None:
    def used(x: list[float], **chosen: Any) -> float:
        got = sampling.sample(isa, np.array(x, np.float32), **chosen)
        by_id = dict(zip(got["kept_id"].tolist(), got["kept_prob"].tolist(), strict=True))
        return float((x[0] - x[1]) / np.log(by_id[0] / by_id[1]))

    even = [1e-3, 0.0]  # nearly all the entropy there may be
    for exponent in (0.5, 1.0, 3.0):
        t = used(even, temperature=1.0, dynatemp_range=0.5, dynatemp_exponent=exponent)
        assert t == pytest.approx(1.5, rel=1e-3)
    p = twin.softmax(np.array([2.0, 0.0]))
    share = -np.sum(p * np.log(p)) / np.log(2)
    for exponent, filters in ((1.0, {}), (2.0, {}), (2.0, dict(min_p=1e-9))):
        t = used([2.0, 0.0], temperature=0.8, dynatemp_range=0.5, dynatemp_exponent=exponent, **filters)
        assert t == pytest.approx(0.3 + share**exponent, rel=1e-4)
    # A range beyond the temperature ends at 0; where nothing is uncertain, that is greedy.
    sure = sampling.sample(isa, np.array([200.0, 0.0, 0.0], np.float32), temperature=0.5, dynatemp_range=2.0)
    assert sure["kept_prob"].tolist() == [1, 0, 0]
    # One token leaves nothing to measure; a temperature of 0 is greedy all the same.
    assert sampling.sample(isa, np.array([3.0], np.float32), dynatemp_range=1.0)["kept_prob"].tolist() == [1]
    greedy = sampling.sample(isa, np.array([1.0, 1.5], np.float32), temperature=0, dynatemp_range=1.0)
    assert greedy["kept_id"].tolist() == [1]


# ---- mirostat --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_mirostat_steers_the_surprise(tau: float) -> None:
    """On a Zipf distribution with an entropy of 8.6 bits, the mean surprise becomes tau."""
    x = -np.log(np.arange(1, 5001)).astype(np.float32)
    mu, surprises = 2 * tau, []
    for step in range(1500):
        got = sampling.sample(FAST, x, step, seed=3, mirostat=2, mirostat_tau=tau, mirostat_mu=mu, top_k=1)
        at = got["kept_id"].tolist().index(got["id"])
        surprises.append(-np.log2(float(got["kept_prob"][at])))
        assert got["mirostat_mu"] == pytest.approx(mu - 0.1 * (surprises[-1] - tau), abs=1e-4)
        mu = got["mirostat_mu"]
    assert abs(np.mean(surprises[200:]) - tau) < 0.1


@each_isa
def test_mirostat_replaces_the_filters_alone(isa: str) -> None:
    x = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32))
    strict: dict[str, Any] = dict(top_k=1, top_p=0.1, min_p=1.0, typical_p=0.1, top_n_sigma=0.1, xtc_probability=1.0)
    for mu, n in ((-5.0, 1), (0.9, 1), (1.1, 1), (2.1, 2), (3.1, 3), (4.1, 5), (1e9, 5)):
        assert sampling.sample(isa, x, mirostat=2, mirostat_mu=mu, **strict)["n_kept"] == n
    # At temperature 0.5 the second has 0.19: 2.4 bits.
    assert sampling.sample(isa, x, mirostat=2, mirostat_mu=2.1, temperature=0.5)["n_kept"] == 1
    assert sampling.sample(isa, x, mirostat=2, mirostat_mu=2.1, recent=[0], presence_penalty=9.0)["kept_id"][0] == 1
    greedy = sampling.sample(isa, x, mirostat=2, mirostat_mu=7.0, temperature=0)
    assert (greedy["id"], greedy["mirostat_mu"]) == (0, 7.0)


# ---- all of them -----------------------------------------------------------------------------------------------------

EVERY: dict[str, Any] = dict(
    DEFAULT, top_n_sigma=2.0, typical_p=0.95, xtc_probability=0.5, dynatemp_range=0.3, dry=[(0, 3)], dry_multiplier=0.8,
    recent=[0], repeat_penalty=1.1,
)  # fmt: skip
STEPS: list[dict[str, Any]] = [
    EVERY,
    dict(EVERY, mirostat=2),
    dict(top_n_sigma=1.0),
    dict(xtc_probability=1.0, xtc_threshold=0.0),
    dict(dynatemp_range=1.0, dynatemp_exponent=0.0),
    dict(mirostat=2),
]


@each_isa
@pytest.mark.parametrize("chosen", STEPS)
@pytest.mark.parametrize("vocab", [1, 3, 1000])
def test_rows_without_a_meaning_are_refused(isa: str, vocab: int, chosen: dict[str, Any]) -> None:
    base = np.random.default_rng(vocab).standard_normal(vocab).astype(np.float32)
    one = sampling.Sampler(isa, vocab, **chosen)
    assert one.draw(base) >= 0
    for bad in (np.nan, np.inf):
        x = base.copy()
        x[vocab // 2] = bad
        assert one.draw(x) == -1
    assert one.draw(np.full(vocab, -np.inf, np.float32)) == -1
    only = np.full(vocab, -np.inf, np.float32)
    only[vocab - 1] = -1e38
    assert set(one.draws(only, 20).tolist()) == {vocab - 1}
    # An order in which penalties come last makes a logit infinite only then.
    late = dict(order=numbers(("top_k", "penalties")), top_k=2, recent=[int(base.argmax())], presence_penalty=-3.4e38)
    assert sampling.Sampler(isa, vocab, frequency_penalty=-3.4e38, **late).draw(base) == -2  # its options


# Differences of logits stay within float32.
extremes = st.sampled_from([-np.inf, -1e37, -1e30, -1e4, -1.0, -0.0, 0.0, 1.0, 1.0000001, 80.0, 1e4, 1e30, 1e37])
unit = st.sampled_from([0.0, 1e-30, 0.1, 0.5, 1.0])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(extremes, min_size=1, max_size=40),
    st.permutations(range(9)),
    st.integers(0, 9),
    st.sampled_from([0.0, 1e-45, 0.1, 1.0, 50.0, 3e38]),
    st.fixed_dictionaries(
        {},
        optional=dict(
            top_k=st.integers(0, 41), top_p=unit, min_p=unit, typical_p=unit, xtc_probability=unit, xtc_threshold=unit,
            top_n_sigma=st.sampled_from([0.0, 1e-30, 1.0, 3e38]), dynatemp_range=st.sampled_from([0.0, 0.5, 3e38]),
            dynatemp_exponent=st.sampled_from([0.0, 1.0, 3e38]), mirostat=st.sampled_from([0, 2]),
            mirostat_mu=st.sampled_from([-1e9, 0.0, 8.0, 1e9]), dry_multiplier=st.sampled_from([0.0, 1.0, 3e38]),
            dry=st.just([(0, 90), (3, 2)]), presence_penalty=st.sampled_from([-1.0, 2.0]), recent=st.just([0, 0, 7]),
            n_logprobs=st.integers(-1, 5),
        ),
    ),
)  # fmt: skip
def test_whatever_the_logits_a_possible_token_is_drawn(
    logits: list[float], order: list[int], n: int, temperature: float, chosen: dict[str, Any]
) -> None:
    x = np.array(logits, np.float32)
    got = [sampling.sample(isa, x, 5, temperature=temperature, order=order[:n], **chosen) for isa in ("scalar", FAST)]
    for result in got:
        if result is None:
            assert not np.isfinite(x).any()
            continue
        assert np.isfinite(x[result["id"]])
        assert 1 <= result["n_kept"] == len(np.unique(result["kept_id"]))
        assert result["id"] in result["kept_id"]
        assert np.isfinite(result["kept_prob"]).all() and np.isfinite(result["mirostat_mu"])
        assert result["kept_prob"].sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    if got[0] is not None:
        assert (got[0]["id"], got[0]["n_kept"]) == (got[1]["id"], got[1]["n_kept"])


@each_isa
def test_a_row_depends_on_its_inputs_and_seed_alone(isa: str) -> None:
    x = np.random.default_rng(1).standard_normal(3000).astype(np.float32) * 2
    for chosen in STEPS:
        one = sampling.Sampler(isa, 3000, seed=7, **chosen)
        ids = one.draws(x, 60)
        assert [one.draw(x, i) for i in reversed(range(60))] == ids.tolist()[::-1]
        assert (sampling.sample_many("scalar", x, 60, seed=7, **chosen) == ids).all()
        before = x.copy()
        one.sample(x)
        assert (x == before).all()
    explicit = sampling.sample_many(isa, x, 60, seed=7, order=range(9), **DEFAULT)
    assert (explicit == sampling.sample_many(isa, x, 60, seed=7, **DEFAULT)).all()
