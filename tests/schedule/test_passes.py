"""The rows of a pass, and the seconds that it is predicted to take."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.schedule.batch import Batch
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.cost import Cost, Seconds, fit
from pellucid.schedule.passes import LEAST_PREFILL, Want, shares
from tests.schedule.test_interleavings import FakeJob, FakeSequence, alone

PROMPT = st.integers(1, 3000).map(lambda rows: Want(rows, False))
TOKEN = st.integers(1, 3).map(lambda rows: Want(rows, True))
WANTS = st.lists(st.one_of(PROMPT, TOKEN), min_size=1, max_size=40)


@given(WANTS, st.integers(1, 600), st.integers(1, 600))
def test_every_row_is_wanted_and_no_room_is_wasted(wants: list[Want], room: int, prefill: int) -> None:
    out = shares(wants, room, prefill)
    assert all(0 <= got <= want.rows for got, want in zip(out, wants, strict=True))
    fresh = sum(want.rows for want in wants if want.fresh)
    prompts = sum(want.rows for want in wants if not want.fresh)
    for_prompts = max(room - fresh, 0) if not fresh else min(max(room - fresh, 0), prefill)
    assert sum(got for got, want in zip(out, wants, strict=True) if want.fresh) == min(fresh, room)
    assert sum(got for got, want in zip(out, wants, strict=True) if not want.fresh) == min(prompts, for_prompts)


@given(WANTS, st.integers(1, 600), st.integers(1, 600))
def test_the_oldest_prompt_gets_half_and_the_shortest_the_rest(wants: list[Want], room: int, prefill: int) -> None:
    out = shares(wants, room, prefill)
    prompts = [i for i, want in enumerate(wants) if not want.fresh]
    if not prompts:
        return
    given = sum(out[i] for i in prompts)
    oldest, shortest = prompts[0], min(prompts, key=lambda i: wants[i].rows)
    assert out[oldest] >= min(wants[oldest].rows, (given + 1) // 2)
    assert out[shortest] >= min(wants[shortest].rows, given // 2)


@given(st.lists(st.builds(Want, st.integers(1, 99), st.booleans(), st.integers(0, 3), st.just(20)), min_size=1))
def test_a_call_limits_the_rows_of_its_requests(wants: list[Want]) -> None:
    out = shares(wants, 1000, 1000)
    assert sum(out) > 0
    for call in range(4):
        mine = [(got, want) for got, want in zip(out, wants, strict=True) if want.call == call]
        assert sum(got for got, _ in mine) == min(20, sum(want.rows for _, want in mine))


def test_examples() -> None:
    long, short, token = Want(4000, False), Want(40, False), Want(1, True)
    assert shares([long], 512, 64) == [512]  # nobody decodes
    assert shares([long, token, token], 512, 64) == [64, 1, 1]
    assert shares([long, short, token], 512, 64) == [32, 32, 1]
    assert shares([short, long, token], 512, 64) == [40, 24, 1]  # the oldest is the shortest
    assert shares([token] * 5, 3, 64) == [1, 1, 1, 0, 0]


@given(st.floats(0, 0.1), st.floats(1e-6, 0.01), st.floats(0, 1e-6), st.integers(0, 2**32))
def test_the_fit_finds_the_coefficients(each: float, row: float, deep: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = Seconds(each, row, deep)
    rows, depth = rng.integers(1, 513, 64), rng.integers(0, 8000, 64)
    found = fit([(int(n), int(n * d), true.of(int(n), int(n * d))) for n, d in zip(rows, depth, strict=True)])
    for n, d in ((1, 0), (100, 1000), (512, 512 * 8000)):
        assert found.of(n, d) == pytest.approx(true.of(n, d), rel=0.05)


@given(
    st.lists(st.tuples(st.integers(1, 512), st.integers(0, 10**6), st.floats(0, 10)), min_size=1, max_size=70),
    st.floats(0, 2),
    st.integers(1, 512),
)
def test_whatever_was_measured_the_rows_are_some(passes: list[tuple[int, int, float]], limit: float, most: int) -> None:
    cost = Cost()
    assert cost.rows(limit, 4, 0, 0, most) == min(most, LEAST_PREFILL)
    for one in passes:
        cost.add(*one)
    rows = cost.rows(limit, 4, 4000, 100, most)
    assert min(most, LEAST_PREFILL) <= rows <= most
    measured = 2 << max(rows.bit_length() for rows, _, _ in passes)
    assert rows in (most, max(measured, LEAST_PREFILL)) or (4 + rows) % 8 == 0


def test_rows_that_fit_a_gap() -> None:
    cost = Cost()
    for rows in (1, 64, 256, 512, 1, 300):
        cost.add(rows, 0, 0.002 + rows * 0.001)
    assert cost.rows(0.103, 2, 0, 0, 512) == 94  # 0.103 - 0.004 seconds, and with the two a multiple of 8
    for rows in (1, 64, 256, 512, 1, 300) * 12:  # the machine has become slower
        cost.add(rows, 0, 2 * (0.002 + rows * 0.001))
    assert cost.rows(0.103, 2, 0, 0, 512) == 46


def test_whole_tiles_of_rows() -> None:
    cost = Seconds(0.001, 0.001, 0)
    assert [cost.rows(0, rows, 0, 0, 512, 8) for rows in (0, 1, 7, 8, 9)] == [16, 23, 17, 16, 23]
    assert [cost.rows(0, rows, 0, 0, 512, 16) for rows in (0, 1, 8, 16, 17)] == [16, 31, 24, 16, 31]
    assert [cost.rows(0.06, 8, 0, 0, most, 16) for most in (512, 30, 10)] == [40, 30, 10]


def test_few_passes_of_one_size_leave_the_rest_open() -> None:
    """Where many coefficients fit, the least of them."""
    found = fit([(16, 0, 0.01)] * 3)
    assert found.each == pytest.approx(0.005) and found.row == pytest.approx(0.005 / 16) and found.deep == 0


def decodes(prompt: list[int], drawn: int, lacking: int = 1) -> Work:
    """A request that has drawn so many tokens, of which its sequence lacks the last."""
    job = FakeJob(prompt, 8)
    job.drawn = [(id, None, []) for id in alone(prompt, drawn)]
    job.taken = drawn
    assert job.advance() == (drawn < 8)
    job.sequence = FakeSequence()
    job.sequence.ids = job.tokens[: len(job.tokens) - lacking]
    work = Work(job, Caller(None, 8, Mock))
    work.told = drawn
    return work


def test_a_pass_that_follows_one_of_the_same_requests() -> None:
    works = [decodes([1, 2, 3], 1), decodes([4], 7), decodes(list(range(70)), 3)]
    usual = Batch()
    for work in works:
        usual.add(work, 1)
    assert usual.steady() == works
    short = Batch.decoding(works)
    assert short is not None
    for name in Batch.__slots__:
        assert getattr(short, name) == getattr(usual, name), name


@pytest.mark.parametrize("other", ["gone", "failed", "ahead", "untold", "ended", "lacks two"])
def test_one_that_does_not_decode_any_more(other: str) -> None:
    work = decodes([1, 2], 8 if other == "ended" else 2, 2 if other == "lacks two" else 1)
    work.gone = other == "gone"
    work.failure = ValueError() if other == "failed" else None
    work.unread = work.ahead if other == "ahead" else 0  # type: ignore[assignment]
    work.told -= other == "untold"
    assert Batch.decoding([decodes([3], 1), work]) is None


@pytest.mark.parametrize("other", ["alone", "deadline", "cut", "few rows", "prompt", "bound", "bound to a token"])
def test_a_pass_that_none_like_it_need_follow(other: str) -> None:
    works = [decodes([1], 2), decodes([2], 2, 3 if other == "prompt" else 1)][other == "alone" :]
    work, batch = works[-1], Batch()
    work.deadline = 1.0 if other == "deadline" else None
    work.cuts = [9] if other == "cut" else []
    work.caller.rows = 1 if other == "few rows" else 8
    if other.startswith("bound"):
        work.job.bound, work.job.options = Mock(), Mock(logprobs=1)
    if other == "bound to a token":  # and to one after it, which is left for a later pass
        work.job.tokens += [5, 6]
    for one in works:
        batch.add(one, len(one.job.tokens) - one.job.sequence.length if other == "prompt" else 1)
    assert batch.steady() == []
    assert other != "bound to a token" or (batch.wanted == [1, 1] and not batch.bounds)
