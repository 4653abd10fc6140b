"""Streaming: whole characters, stop strings, and nothing lost, however the text is cut."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.text import Vocabulary
from pellucid.text.bpe import BpeTokenizer
from pellucid.text.spm import SpmTokenizer
from pellucid.text.stream import TextStream, spell_out


def run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    """(results of each push and the flush, the stop string that ended it)."""
    stream = TextStream(pieces.__getitem__, stop)
    out = [stream.push(i) for i in range(len(pieces))]
    return [*out, stream.flush()], stream.stopped


def first_stop(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """The stop string by definition: the first one to be complete, and of several the longest."""
    for end in range(1, len(text) + 1):
        done = [one for one in stop if text[:end].endswith(one)]
        if done:
            longest = max(done, key=len)
            return text[: end - len(longest)], longest
    return text, None


def test_half_a_character_is_held_back() -> None:
    assert run([b"a\xf0\x9f", b"\x98", b"\x80b"]) == (["a", "", "😀b", ""], None)


def test_an_incomplete_end_becomes_a_replacement_character() -> None:
    assert run([b"a\xe2\x82"]) == (["a", "\ufffd"], None)
    assert run([b"a\xe2\x82", b"b"]) == (["a", "\ufffdb", ""], None)


def test_space_at_the_start_stays() -> None:
    assert run([b" Paris", b"."]) == ([" Paris", ".", ""], None)


def test_text_ends_before_the_stop() -> None:
    assert run([b"one ST", b"OP two"], ("STOP",)) == (["one ", "", ""], "STOP")


def test_what_could_begin_a_stop_waits_until_it_cannot() -> None:
    assert run([b"x\n", b"\nUs", b"ers\n\nUser:"], ("\n\nUser:",)) == (["x", "", "\n\nUsers", ""], "\n\nUser:")
    assert run([b"abab"], ("abac",)) == (["ab", "ab"], None)
    assert run([b"aab", b"aabaac"], ("aabaac",)) == (["", "aab", ""], "aabaac")


def test_nothing_comes_after_a_stop() -> None:
    stream = TextStream([b"a.", b"b"].__getitem__, ["."])
    assert (stream.push(0), stream.push(1), stream.flush(), stream.stopped) == ("a", "", "", ".")


def test_first_complete_wins_then_longest() -> None:
    assert run([b"xabcd"], ("abcd", "bc")) == (["xa", ""], "bc")
    assert run([b"xabc"], ("bc", "abc", "c")) == (["x", ""], "abc")


def test_stop_across_a_broken_character() -> None:
    assert run([b"a\xff", b"b"], ("\ufffdb",)) == (["a", "", ""], "\ufffdb")
    assert run([b"a\xe2\x82"], ("\ufffd",)) == (["a", ""], "\ufffd")


def test_one_stop_may_be_a_string() -> None:
    assert TextStream([b"a"].__getitem__, "ab")._stops == ("ab",)


def test_wrong_stops() -> None:
    with pytest.raises(ValueError, match="stop must not hold an empty string"):
        TextStream([].__getitem__, ["a", ""])
    with pytest.raises(TypeError, match="stop must hold strings, not int"):
        TextStream([].__getitem__, [3])  # type: ignore[list-item]


ALPHABET = st.sampled_from(
    [b"a", b"b", b"c", b"\xc3", b"\xa9", b"\xf0\x9f\x98", b"\x80", b"\xff", "é".encode(), b" ", b""]
)
PIECES = st.lists(st.lists(ALPHABET, max_size=4).map(b"".join), max_size=12)


@given(PIECES)
def test_joined_is_all_at_once(pieces: list[bytes]) -> None:
    assert "".join(run(pieces)[0]) == b"".join(pieces).decode("utf-8", "replace")


@given(PIECES, st.lists(st.text("abcé \ufffd", min_size=1, max_size=4), max_size=4).map(tuple))
def test_stops_do_not_depend_on_the_cuts(pieces: list[bytes], stop: tuple[str, ...]) -> None:
    out, stopped = run(pieces, stop)
    whole = b"".join(pieces).decode("utf-8", "replace")
    assert ("".join(out), stopped) == first_stop(whole, stop)
    shown = ""
    for text in out:  # at any time, what has been shown is a beginning of the final text
        shown += text
        assert first_stop(whole, stop)[0].startswith(shown)


@given(PIECES, st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple))
def test_nothing_is_held_back_without_need(pieces: list[bytes], stop: tuple[str, ...]) -> None:
    """Only the beginning of a stop string or of a character is held back."""
    stream = TextStream(pieces.__getitem__, stop)
    shown, seen = "", b""
    for i, piece in enumerate(pieces):
        shown += stream.push(i)
        seen += piece
        if stream.stopped is not None:
            return
        held = seen.decode("utf-8", "replace")[len(shown) :].rstrip("\ufffd")
        assert held == "" or any(one.startswith(held) for one in stop)


def test_any_ids_of_both_kinds_of_vocabulary(bpe: Vocabulary, spm: Vocabulary) -> None:
    chance = random.Random(3)
    for tokenizer in (BpeTokenizer(bpe), SpmTokenizer(spm)):
        for _ in range(200):
            ids = chance.choices(range(tokenizer.vocab_size), k=chance.randrange(30))
            stream = TextStream(tokenizer.piece)
            assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)


def test_long_stop_strings_are_quick() -> None:
    stop = "a" * 20_000 + "b"
    stream = TextStream(lambda i: b"a", [stop])
    assert "".join(stream.push(0) for _ in range(5_000)) == ""
    assert stream.flush() == "a" * 5_000


@given(st.lists(st.binary(max_size=4), max_size=12), st.lists(st.text("ab\u00e9", min_size=1, max_size=3), max_size=2))
def test_settled_tokens_and_the_tail_are_the_text(pieces: list[bytes], stop: list[str]) -> None:
    stream = TextStream(pieces.__getitem__, stop)
    text, settled = "", 0
    for i in range(len(pieces)):
        text += stream.push(i)
        assert settled <= stream.settled <= i + 1
        settled = stream.settled
        if stream.stopped is not None:
            break
    if stop:
        whole = b"".join(pieces[:settled])
        assert text == whole.decode("utf-8", "replace") + stream.tail
    else:
        assert settled == len(pieces)


def test_a_token_settles_when_no_stop_string_can_reach_it() -> None:
    stream = TextStream([b"a", b"x\xc3", b"\xa9", b"y", b"\xc3", b"\xa9z"].__getitem__, ["\u00e9z"])
    found = [(stream.push(i), stream.settled, stream.tail) for i in range(6)]
    assert found == [("a", 1, ""), ("x", 1, "x"), ("", 1, "x"), ("\u00e9y", 4, ""), ("", 4, ""), ("", 4, "")]
    assert stream.stopped == "\u00e9z"


def test_text_that_is_spelled_out_exactly() -> None:
    pieces = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % i for i in range(256))]
    pieces += [piece.encode() for piece in ("\u2581", "r", "i", "s", "\u2581r", "is", "\u2581is", "ris")]
    scores = [0.0] * 259 + [-float(i) for i in range(1, 9)]
    types = [2, 3, 3, *[6] * 256, *[1] * 8]
    for add_space in (True, False):
        tokenizer = SpmTokenizer(
            Vocabulary(
                model="spm", pieces=pieces, scores=np.array(scores, np.float32), types=np.array(types, np.int32),
                bos=1, eos=2, unk=0, add_bos=True, add_space_prefix=add_space,
            )
        )  # fmt: skip
        for text in ("ris", " ris", "is is", "  r", "\u00e9", "\n"):
            ids = spell_out(tokenizer, text)
            assert b"".join(map(tokenizer.piece, ids)).decode() == text, (add_space, text, ids)
