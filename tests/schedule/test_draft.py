"""Guesses at next tokens: what they are, and what is known of their worth."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.schedule.cost import NEAR, Cost
from pellucid.schedule.draft import LATER, Drafts, Lookup, Odds

SMALL = st.integers(0, 3)


def followed(ids: list[int]) -> int | None:
    """The place after the latest earlier occurrence of the last three tokens."""
    for at in range(len(ids) - 1, 2, -1):
        if ids[at - 3 : at] == ids[-3:]:
            return at
    return None


@given(st.lists(SMALL, min_size=1, max_size=40), st.lists(SMALL, max_size=40), st.integers(1, 12))
def test_it_guesses_what_followed_before(prompt: list[int], answer: list[int], most: int) -> None:
    lookup, ids, at = Lookup(prompt), list(prompt), followed(prompt)
    for token in [*answer, None]:
        assert bool(lookup) == (at is not None)
        guess = lookup.guess(most)
        if at is None:
            assert guess == []
        else:
            said = list(ids)
            for i in range(most):  # as if each guess had come
                said.append(said[at + i])
            assert guess == said[len(ids) :]
        if token is None:
            break
        at = at + 1 if at is not None and ids[at] == token else None
        ids.append(token)
        lookup.see(token)
        assert len(lookup) == len(ids)
        if at is None:
            at = followed(ids)


@given(st.lists(SMALL, min_size=1, max_size=20), st.lists(SMALL, min_size=1, max_size=40), st.data())
def test_it_follows_what_is_expected(prompt: list[int], expected: list[int], data: st.DataObject) -> None:
    lookup = Lookup(prompt, expected)
    n = data.draw(st.integers(0, len(expected) - 1))
    for i in range(n):
        assert lookup.guess(3) == expected[i : i + 3]
        lookup.see(expected[i])
    assert lookup.guess(len(expected)) == expected[n:] and lookup.right == n


def test_it_finds_back_into_what_is_expected() -> None:
    expected = [*range(10, 40), *range(10, 14), *range(50, 60)]
    lookup = Lookup([1, 2, 3], expected)
    for token in [*range(10, 20), 7, 8, 9, 25, 26]:
        lookup.see(token)
    assert not lookup
    lookup.see(27)
    assert lookup.guess(4) == [28, 29, 30, 31]
    for token in [*range(28, 40), 5, 10, 11, 12]:  # the second one: the first is behind
        lookup.see(token)
    assert lookup.guess(3) == [13, 50, 51]
    for token in [13, *range(50, 60)]:
        lookup.see(token)
    assert lookup.guess(3) == []  # its end


@given(st.lists(st.lists(SMALL, max_size=6), max_size=12))
def test_tokens_may_come_in_parts(parts: list[list[int]]) -> None:
    drafts, tokens, whole = Drafts(2, [1, 2, 3]), [1, 2], Lookup([1, 2], [1, 2, 3])
    for part in parts:
        tokens += part
        assert drafts.follow(tokens)
        for token in part:
            whole.see(token)
        assert drafts.lookup is not None and drafts.lookup.guess(8) == whole.guess(8)
        assert drafts.lookup.hits(8) == whole.hits(8)


def test_after_a_failure_there_are_none_for_a_while() -> None:
    drafts, tokens = Drafts(1), [1]
    assert drafts.follow(tokens)
    drafts.hold(tokens)
    waited = 0
    while not drafts.follow(tokens):
        tokens.append(1)
        waited += 1
    assert waited == 64


@given(st.lists(st.booleans(), max_size=60))
def test_odds_are_shares(results: list[bool]) -> None:
    odds = Odds(0.5, 2)
    for right in results:
        before = odds.share
        odds.add(right)
        assert 0 <= odds.share <= 1 and (odds.share >= before if right else odds.share <= before)


def test_what_guesses_are_worth_is_learnt_without_verifying_any() -> None:
    rng = random.Random(1)
    noise, text = Lookup([0]), Lookup([0])
    words = [[rng.randrange(50) for _ in range(30)] for _ in range(3)]
    for _ in range(400):
        noise.see(rng.randrange(3))
    for _ in range(8):
        for token in rng.choice(words):
            text.see(token)
    assert noise.first.share < 0.6 and noise.hits(8) < 2
    while text.right < LATER:
        text.see(text.guess(1)[0] if text else words[0][0])
    assert text.hits(8) > 5
    assert 0 < text.hits(2) < text.hits(4) < text.hits(8)


def test_small_passes_are_predicted_by_those_seen() -> None:
    """What deviates from a straight line."""
    cost = Cost()
    assert 0 < cost.of(1, 0) < cost.of(5, 0)
    real = {1: 0.010, 3: 0.011, 5: 0.030, 9: 0.034, 256: 1.0}
    for _ in range(40):
        for rows, seconds in real.items():
            cost.add(rows, 0, seconds)
    for rows in (1, 3, 5, 9):
        assert cost.of(rows, 0) == pytest.approx(real[rows], rel=0.1)
    assert cost.of(300, 0) > 0.9


def test_a_cold_first_pass_does_not_keep_guesses_away() -> None:
    """Passes of few rows are tried once, whatever the fit says; then what they took counts."""
    cost = Cost()
    cost.add(6, 0, 0.040)  # the memory of a model that was just loaded
    for depth in range(20):
        cost.add(1, depth, 0.004)
    alone = cost.of(1, 20)
    assert alone == pytest.approx(0.004, rel=0.01) and cost.of(9, 20) > 6 * alone
    assert cost.at_best(9, 20, 1, alone) < 3 * alone
    cost.add(9, 20, 0.014)
    assert cost.at_best(9, 20, 1, alone) == cost.of(9, 20) == pytest.approx(0.014)
    for depth in range(NEAR):  # other work came between, perhaps
        cost.add(9, depth, 0.9)
    assert cost.at_best(9, 20, 1, alone) > 0.5
    for depth in range(NEAR + 1):
        cost.add(1, depth, 0.004)
    assert cost.at_best(9, 20, 1, alone) < 3 * alone
