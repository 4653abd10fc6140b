"""The prefix tree against a dictionary of everything that was inserted."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.errors import OutOfMemoryError
from pellucid.schedule import prefix
from pellucid.schedule.prefix import PrefixCache, common

_numbers = count()


class Page:
    def __init__(self) -> None:
        self.number = next(_numbers)


class Fake:
    """A sequence of full attention, with pages of 4 tokens."""

    size = 4
    alive: weakref.WeakSet[Fake] = weakref.WeakSet()

    def __init__(self, ids: Sequence[int] = (), table: Sequence[Page | None] = ()) -> None:
        self.ids = list(ids)
        self.table = [*table, *(Page() for _ in range(-(-len(self.ids) // self.size) - len(table)))]
        Fake.alive.add(self)

    @property
    def length(self) -> int:
        return len(self.ids)

    def fork(self) -> Fake:
        return type(self)(self.ids, self.table)

    def rewind(self, n: int) -> int:
        n = self.reach(n)
        del self.ids[n:]
        del self.table[-(-n // self.size) :]
        return n

    def reach(self, n: int) -> int:
        return min(n, self.length)

    def pages(self) -> list[tuple[int, int]]:
        return [(page.number, 100) for page in self.table if page is not None]

    def extended(self, ids: Sequence[int]) -> Fake:
        """Computes more tokens; shared pages are copied when written."""
        full = self.length // self.size
        return type(self)([*self.ids, *ids], self.table[:full])


class Window(Fake):
    """Of a window of 8 tokens, whose pages stay for 2 tokens more."""

    def __init__(self, ids: Sequence[int] = (), table: Sequence[Page | None] = ()) -> None:
        super().__init__(ids, table)
        for i in range(max(self.length - 9, 0) // self.size):
            self.table[i] = None

    def reach(self, n: int) -> int:
        n = min(n, self.length)
        first = max(n - 7, 0) // self.size
        return n if all(self.table[i] is not None for i in range(first, -(-n // self.size))) else 0


class States(Fake):
    """Of recurrent layers, with marks at multiples of 5."""

    def reach(self, n: int) -> int:
        return self.length if n >= self.length else n - n % 5


KINDS: list[type[Fake]] = [Fake, Window, States]
TOKENS = st.lists(st.integers(0, 1), max_size=24)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("ab"), TOKENS, TOKENS, st.booleans()),
        st.tuples(st.just("evict"), st.integers(0, 900)),
    ),
    max_size=25,
)


def check(cache: PrefixCache) -> None:
    """The tree's own books are right, and it keeps nothing that it does not need."""
    owners = set()
    held: dict[int, int] = {}
    for root in cache._roots.values():
        assert root.children and root.depth == 0
        for node in root.below():
            for first, child in node.children.items():
                assert child.ids[0] == first and child.parent is node and child.depth == node.depth + len(child.ids)
            if node.sequence is not None:
                path: list[int] = []
                up = node
                while up.parent is not None:
                    path[:0] = up.ids
                    up = up.parent
                assert node.sequence.ids == path and node.pages == node.sequence.pages()
                owners.add(node)
                held.update(node.pages)
            assert node.children or node.sequence is not None
            assert not (cache._whole and node.children and node.sequence is not None)
    assert owners == set(cache._owners) and cache.bytes == sum(held.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [None, 0, 100, 700])
@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_against_all_prefixes(kind: type[Fake], limit: int | None, steps: list[Any]) -> None:
    """Requests look a prompt up, compute the rest and leave what they have."""
    cache = PrefixCache(limit, whole=kind is Fake)
    known: dict[tuple[str, tuple[int, ...]], list[Fake]] = {}  # every prefix that was inserted, with who holds it
    evicted = limit is not None
    for step in steps:
        if step[0] == "evict":
            before = cache.bytes
            assert cache.evict(step[1]) == (before > 0)
            assert before - cache.bytes >= min(step[1], before)
            evicted |= before > 0
            check(cache)
            continue
        _, key, prompt, answer, kept = step
        most = max(len(prompt) - 1, 0)
        found = cache.find(key, prompt, most)
        assert (found.source is None) == (found.length == 0) and found.length <= found.known <= most
        deepest = max((n for n in range(most + 1) if (key, tuple(prompt[:n])) in known), default=0)
        holders = known.get((key, tuple(prompt[:deepest])), [])
        shallower = [one for n in range(deepest) for one in known.get((key, tuple(prompt[:n])), [])]
        reached = (one.reach(common(one.ids, prompt[:deepest])) for one in (*holders, *shallower))
        best = max(reached, default=0)
        assert found.length <= best and found.known <= deepest
        if not evicted:
            assert found.known == deepest and found.length == best
            assert kind is not Fake or best == deepest
        sequence = kind() if found.source is None else cache.take(found)
        assert sequence.ids == prompt[: found.length]
        if kept and found.known > found.length:  # where paths part
            sequence = sequence.extended(prompt[found.length : found.known])
            cache.insert(key, sequence.ids, sequence.fork())
            _note(known, key, sequence.fork())
        sequence = sequence.extended([*prompt[sequence.length :], *answer])
        if sequence.length:
            _note(known, key, sequence.fork())
        cache.insert(key, list(sequence.ids), sequence)
        check(cache)
        assert limit is None or cache.bytes <= limit
        if not evicted and kept and sequence.length > 1 and kind is not States:
            assert cache.find(key, sequence.ids, sequence.length - 1).length == sequence.length - 1
    cache.evict(1 << 40)
    assert not cache._roots and not cache._owners and not cache._pages and cache.bytes == 0


def _note(known: dict[Any, list[Fake]], key: str, one: Fake) -> None:
    for n in range(one.length + 1):
        known.setdefault((key, tuple(one.ids[:n])), []).append(one)


@given(TOKENS, TOKENS, TOKENS)
def test_common(start: list[int], a: list[int], b: list[int]) -> None:
    for times in (1, 40):
        x, y = start * times + a * times, start * times + b * times
        expected = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
        assert common(x, y) == expected == common(y, x, expected)


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = PrefixCache(whole=True)
    system = [9] * 8
    for user in (1, 2, 3):
        cache.insert("", [*system, *[user] * 8], Fake().extended(system).extended([user] * 8))
    cache.take(cache.find("", [*system, 1, 1], 10))
    cache.insert("", [*system, 1, 1, 1, 1, 5], Fake([*system, 1, 1, 1, 1, 5]))
    cache.take(cache.find("", [*system, 4], 8))
    for left in (2, 3):  # the first one's end, then the second
        cache.evict(1)
        assert [len(cache), cache.find("", [*system, 4], 9).length] == [5 - left, 8]
    assert cache.find("", [*system, 2, 2], 10).length == 8 and cache.find("", [*system, 3, 3], 10).length == 10
    cache.evict(1)
    cache.evict(1)
    assert cache.find("", [*system, 1, 5], 10).length == 8 and len(cache) == 1  # the system prompt outlives its users


def test_a_long_tail_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "STEP", 8)
    monkeypatch.setattr(prefix, "PAGE", 4)
    cache = PrefixCache(1000, whole=True)
    cache.insert("", [1] * 50, Fake([1] * 50))
    assert cache.find("", [1] * 60, 59).length == 40 and cache.bytes == 1000
    cache.evict(1)
    assert cache.find("", [1] * 60, 59).length == 32
    check(cache)


def test_a_window_keeps_the_checkpoint_that_is_used() -> None:
    cache = PrefixCache(whole=False)
    for user in (1, 2):
        cache.insert("", [9] * 30, Window([9] * 30))
        cache.insert("", [*[9] * 30, *[user] * 30], Window([*[9] * 30, *[user] * 30]))
    assert cache.take(cache.find("", [*[9] * 30, 3], 30)).length == 30
    cache.evict(600)
    assert len(cache) == 1 and cache.find("", [*[9] * 30, 3], 30).length == 30
    check(cache)


class Interrupts(Fake):
    """Interrupts who counts its pages, once."""

    left = True

    def pages(self) -> list[tuple[int, int]]:
        found = super().pages()

        class Pages(list[tuple[int, int]]):
            def __iter__(pages) -> Iterator[tuple[int, int]]:
                yield found[0]
                if self.left:
                    self.left = False
                    raise KeyboardInterrupt
                yield from found[1:]

        return Pages(found)


@pytest.mark.parametrize("whole", [False, True])
def test_an_interrupt_in_a_change(whole: bool) -> None:
    """Pages are still counted as they are."""
    cache = PrefixCache(whole=whole)
    cache.insert("", [7] * 8, Fake([7] * 8))
    with pytest.raises(KeyboardInterrupt):
        cache.insert("", [1] * 12, Interrupts([1] * 12))
    check(cache)
    cache.insert("", [1] * 12, Fake([1] * 12))
    check(cache)
    last = Interrupts([2] * 12)
    last.left = False
    cache.insert("", [2] * 12, last)
    last.left = True
    with pytest.raises(KeyboardInterrupt):
        while cache.evict(1):
            pass
    check(cache)
    cache.insert("", [3] * 12, Fake([3] * 12))
    while cache.evict(1):
        pass
    assert cache.bytes == 0 and len(cache) == 0


def test_without_memory_for_a_fork_nothing_is_taken() -> None:
    class Full(Fake):
        def fork(self) -> Fake:
            raise OutOfMemoryError("no memory for a sequence")

    cache = PrefixCache(whole=True)
    cache.insert("", [1, 2, 3], Full([1, 2, 3]))
    assert cache.take(cache.find("", [1, 2, 3], 2)) is None


def test_keys_are_apart_and_sequences_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "MOST_SEQUENCES", 3)
    cache = PrefixCache(whole=True)
    for key in range(5):
        cache.insert(key, [1, 2, 3], Fake([1, 2, 3]))
    assert [cache.find(key, [1, 2, 3], 2).length for key in range(5)] == [0, 0, 2, 2, 2]
    cache.clear()
    assert len(cache) == 0 and cache.bytes == 0 and cache.find(4, [1, 2], 1) == (0, 0, None, None)
