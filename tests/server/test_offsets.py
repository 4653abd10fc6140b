"""Where tokens begin in a text."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pellucid.openai.offsets import Offsets

PIECES = [b" Hello", b" ", b"world", "é".encode()[:1], "é".encode()[1:], b"", b"\xff", b"!"]
SPECIAL = 5  # spelled <s>


class Core:
    def piece(self, id: int) -> bytes:
        return PIECES[id]

    def spell(self, id: int) -> str:
        return "<s>" if id == SPECIAL else PIECES[id].decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "ids", "places"),
    [
        (" Hello world", [0, 1, 2], [0, 6, 7]),
        ("Hello world", [0, 1, 2], [0, 5, 6]),  # the tokenizer's space in front
        ("world", [1, 2, 7], [0, 0, 5]),
        ("é!", [3, 4, 7], [0, 0, 1]),
        ("<s>world", [5, 2, 7], [0, 3, 8]),  # a prompt that spells it
        ("world", [5, 2, 5, 7], [0, 0, 5, 5]),
        ("\ufffd!", [6, 7, 5], [0, 1, 2]),
        ("", [5, 5], [0, 0]),
    ],
)
def test_places(text: str, ids: list[int], places: list[int]) -> None:
    offsets = Offsets(cast(Any, Core()))
    assert offsets.add(text, ids) == places


def test_in_pieces() -> None:
    """Of a stream, of which the text may come after its tokens, and behind another text."""
    offsets = Offsets(cast(Any, Core()))
    assert offsets.add("é", [3, 4]) == [0, 0]
    assert offsets.add("", [0, 1]) == [1, 7]
    assert offsets.add(" Hello ", []) == []
    assert offsets.add("world", [2, 5]) == [8, 13]
    assert offsets.add("!", [7]) == [13]
