"""Marks of sequence breakers among tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pellucid.text.breakers import Breakers


def marks(pieces: list[bytes], texts: tuple[str, ...]) -> list[int]:
    return list(Breakers(pieces.__getitem__, texts).marks(range(len(pieces))))


def test_tokens_that_hold_or_end_one() -> None:
    pieces = [b"He", b" said", b':"', b"\n\n", b"Us", b"er", b": hi", b" the user:", b"\nUser"]
    assert marks(pieces, ("\n", ":", '"', "*")) == [0, 0, 1, 1, 0, 0, 1, 1, 1]
    assert marks(pieces, ("\nUser:",)) == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert marks([b"\n", b"User", b":", b":"], ("\nUser:",)) == [0, 0, 1, 0]
    assert marks([b"\xc3", b"\xa9", b"e"], ("é",)) == [0, 1, 0]
    assert marks(pieces, ()) == [0] * 9
    assert marks([b"a", b"\xff"], ("\udcff",)) == [0, 0]  # no text holds half a character


@given(
    st.lists(st.text("ab:", max_size=4).map(str.encode), max_size=12),
    st.lists(st.text("ab:", min_size=1, max_size=5), max_size=3).map(tuple),
    st.integers(0, 12),
)
def test_marks_do_not_depend_on_the_cuts(pieces: list[bytes], texts: tuple[str, ...], cut: int) -> None:
    whole = b"".join(pieces).decode()
    ends = {at + len(t) for t in texts for at in range(len(whole)) if whole.startswith(t, at)}
    expected, end = [], 0
    for piece in pieces:
        start, end = end, end + len(piece)
        expected.append(int(any(start < e <= end for e in ends)))
    assert marks(pieces, texts) == expected
    stepwise = Breakers(pieces.__getitem__, texts)
    cut = min(cut, len(pieces))
    assert list(stepwise.marks(range(cut)) + stepwise.marks(range(cut, len(pieces)))) == expected
