"""Byte-level BPE on a small vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import Tokenizer
from pellucid.errors import TokenizerError
from pellucid.text import Vocabulary, build
from pellucid.text.bpe import BpeTokenizer, byte_characters, characters_to_bytes
from pellucid.text.vocabulary import CONTROL, NORMAL, USER_DEFINED
from pellucid.text.words import WORDS

Parts = dict[str, Any]
ByName = dict[str, BpeTokenizer]


@pytest.fixture(scope="module")
def by_name(bpe_parts: Parts) -> ByName:
    """The small vocabulary with each of the pre-tokenizers."""
    return {pre: BpeTokenizer(Vocabulary(**{**bpe_parts, "pre": pre})) for pre in WORDS}


def spelled(tokenizer: BpeTokenizer, text: str, **options: Any) -> list[str]:
    return [tokenizer.spelling(i) for i in tokenizer.encode(text, **options)]


def test_merges_in_their_order(bpe: Vocabulary) -> None:
    assert spelled(BpeTokenizer(bpe), "the hello") == ["the", "Ġ", "hello"]
    assert spelled(BpeTokenizer(bpe), "a the") == ["a", "Ġthe"]


def test_digits_stand_alone_where_the_name_says_so(by_name: ByName) -> None:
    assert spelled(by_name["gpt-2"], "12 12") == ["12", "Ġ", "12"]
    assert spelled(by_name["smollm"], "12 12") == ["1", "2", "Ġ", "1", "2"]
    assert spelled(by_name["qwen2"], "12") == ["1", "2"]
    assert spelled(by_name["llama-bpe"], "12") == ["12"]


def words(tokenizer: BpeTokenizer, text: str) -> list[str]:
    """How the pre-tokenizer splits the text, without the merges."""
    cut = tokenizer._model.pre_tokenizer.pre_tokenize_str(text)
    return [characters_to_bytes(word).decode() for word, _ in cut]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "I'll go  on 123!\n\nX", ["I", "'ll", " go", " ", " on", " 123", "!", "\n", "\n", "X"]),
        ("smollm", "x²12 3 a", ["x", "²", "1", "2", " ", "3", " a"]),
        ("llama-bpe", "I'LL 12345\n\n x", ["I", "'LL", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", "(foo) 12\n x", ["(foo", ")", " ", "1", "2", "\n", " x"]),
        ("qwen35", "e\u0301a 1", ["e\u0301a", " ", "1"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", " ", "123", "4"]),
        ("tekken", "HelloWORLD 12", ["Hello", "WORLD", " ", "1", "2"]),
        ("default", "a,b 12345 $x", ["a", ",", "b", " ", "123", "45", " ", "$", "x"]),
    ],
)
def test_pre_tokenizers(by_name: ByName, pre: str, text: str, expected: list[str]) -> None:
    assert words(by_name[pre], text) == expected


@pytest.mark.parametrize("pre", sorted({words: name for name, words in WORDS.items()}.values()))
@settings(max_examples=40)
@given(text=st.text())
def test_round_trip(by_name: ByName, pre: str, text: str) -> None:
    tokenizer = by_name[pre]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.piece, ids)) == text.encode()
    with_special = tokenizer.encode(text, parse_special=True)
    assert tokenizer.decode(with_special, special=True) == text


def test_special_text_is_text_unless_asked(bpe: Vocabulary) -> None:
    tokenizer = BpeTokenizer(bpe)
    text = "<|im_start|>the<|im_end|>"
    plain, parsed = tokenizer.encode(text), tokenizer.encode(text, parse_special=True)
    assert not {tokenizer.bos, *tokenizer.eog} & set(plain)
    assert tokenizer.decode(plain) == text
    assert [tokenizer.spelling(i) for i in parsed] == ["<|im_start|>", "the", "<|im_end|>"]
    assert tokenizer.decode(parsed) == "the"
    assert tokenizer.decode(parsed, special=True) == text


def test_user_defined_tokens_match_always_but_chat_markers_do_not(bpe: Vocabulary) -> None:
    tokenizer = BpeTokenizer(bpe)
    assert spelled(tokenizer, "the<think>the<think>>") == ["the", "<think>", "the", "<think>>"]
    assert len(tokenizer.encode("<|user|>")) == 8
    assert spelled(tokenizer, "<|user|>", parse_special=True) == ["<|user|>"]
    assert tokenizer.decode(tokenizer.encode("<think>")) == "<think>"
    assert tokenizer.piece(tokenizer.encode("<|user|>", parse_special=True)[0]) == b"<|user|>"


def test_bos_and_eos_are_added_where_the_vocabulary_says_so(bpe_parts: Parts) -> None:
    tokenizer = BpeTokenizer(Vocabulary(**{**bpe_parts, "add_bos": True, "add_eos": True}))
    assert spelled(tokenizer, "the") == ["<|im_start|>", "the", "<|endoftext|>"]
    assert spelled(tokenizer, "") == ["<|im_start|>", "<|endoftext|>"]
    assert spelled(tokenizer, "the", add_special=False) == ["the"]


def test_incomplete_and_wrong_bytes_become_replacement_characters(bpe: Vocabulary) -> None:
    tokenizer = BpeTokenizer(bpe)
    ids = tokenizer.encode("€")
    assert len(ids) == 3
    assert tokenizer.decode(ids[:2]) == "\ufffd"
    assert tokenizer.decode([ids[2], *ids]) == "\ufffd€"


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_lone_surrogates_are_refused_with_their_position(by_name: ByName, pre: str) -> None:
    for special in (False, True):
        with pytest.raises(TokenizerError, match=r"U\+D83D") as caught:
            by_name[pre].encode("é<|im_end|><think>\ud83dx", parse_special=special)
        assert caught.value.position == 18


def test_wrong_arguments(bpe: Vocabulary) -> None:
    tokenizer = BpeTokenizer(bpe)
    size = tokenizer.vocab_size
    for text in (b"bytes", None, 3, ["a"]):
        with pytest.raises(TypeError, match="text must be str"):
            tokenizer.encode(text)  # type: ignore[arg-type]
    for bad in (-1, size, 10**30):
        with pytest.raises(ValueError, match=f"{bad} is out of range: the vocabulary has {size}"):
            tokenizer.decode([0, bad])
        with pytest.raises(ValueError, match=str(size)):
            tokenizer.piece(bad)
    for ids in (["a"], [1.5], "12", b"12", 7, None):
        with pytest.raises(TypeError, match="id"):
            tokenizer.decode(ids)  # type: ignore[arg-type]
    assert tokenizer.decode(np.array(tokenizer.encode("the"))) == "the"


def renamed(parts: Parts, old: str, new: str) -> Parts:
    return {**parts, "pieces": [new if piece == old else piece for piece in parts["pieces"]]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "nonsense"}, r"^pre: unknown pre-tokenizer 'nonsense'; known: gpt-2.*smollm.*default"),
        ({"pre": "x" * 10**6}, r"^pre: unknown pre-tokenizer 'xxx"),
        ({"merges": None}, r"^merges: missing"),
        ({"merges": ["h e", "he"]}, r"^merges\[1\]: 'he'; expected two pieces"),
        ({"merges": ["h e", " he"]}, r"^merges\[1\]"),
        ({"rename": ("hello", "<gone>")}, r"^merges\[6\]: 'hell o' needs the piece 'hello', which does not exist"),
        ({"rename": ("h", "<gone>")}, r"^merges\[0\]: 'h e' needs the piece 'h', which does not exist"),
        ({"rename": ("b", "a")}, r"^pieces: 'a' is given twice, as 97 and 98"),
    ],
)
def test_impossible_vocabularies_are_refused_by_field(bpe_parts: Parts, changes: Parts, message: str) -> None:
    rest = dict(changes)
    parts = renamed(bpe_parts, *rest.pop("rename", ("", "")))
    with pytest.raises(TokenizerError, match=message) as caught:
        build(Vocabulary(**{**parts, **rest}))
    assert len(str(caught.value)) < 2000


def test_a_byte_without_a_piece_is_an_error_unless_there_is_an_unknown_token(bpe_parts: Parts) -> None:
    parts = renamed(bpe_parts, byte_characters()[4], "<gone>")
    with pytest.raises(TokenizerError, match=r"U\+0004 cannot be encoded") as caught:
        BpeTokenizer(Vocabulary(**parts)).encode("é<think>a\x04")
    assert caught.value.position == 9
    at = parts["pieces"].index("<gone>")
    types = parts["types"].copy()
    types[at] = 2
    tokenizer = BpeTokenizer(Vocabulary(**{**parts, "types": types, "unk": at}))
    assert tokenizer.decode(tokenizer.encode("a\x04b")) == "a\ufffdb"


def test_without_types_everything_is_text(bpe_parts: Parts) -> None:
    tokenizer = BpeTokenizer(Vocabulary(**{**bpe_parts, "types": None}))
    assert tokenizer.eog == {bpe_parts["pieces"].index(name) for name in ("<|endoftext|>", "<|im_end|>")}
    assert len(tokenizer.encode("<think>")) == 7


@pytest.mark.parametrize("text", ["The cat's 12 hats,  \n\n and a word ", "Größe \u4f60\u597d \U0001f600 and words "])
def test_a_long_text_has_the_ids_of_a_short_one(smollm2: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is encoded in another way, which lets other threads run."""
    tokenizer = Tokenizer.load(smollm2)
    many = text * 700
    found = tokenizer.encode(many)
    monkeypatch.setattr("pellucid.text.bpe._LONG_TEXT", 1 << 30)
    assert found == tokenizer.encode(many) and tokenizer.decode(found) == many


CONTROL_MERGES = ["E N", "EN D", "< /", "s >", "</ s>", "</s> >"]


@pytest.mark.parametrize("merges", [CONTROL_MERGES[:1], CONTROL_MERGES])
@pytest.mark.parametrize("pre", ["default", "gpt-2", "llama-bpe"])
def test_no_text_becomes_a_control_token(pre: str, merges: list[str]) -> None:
    """Neither by merges that make it, nor as a word that is a piece."""
    pieces = [*byte_characters().values(), "EN", "</", "s>", "</s>>", "END", "</s>", "<|a|>"]
    types = np.array([NORMAL] * 260 + [CONTROL] * 2 + [USER_DEFINED], np.int32)
    made = BpeTokenizer(Vocabulary(model="bpe", pre=pre, pieces=pieces, merges=merges, types=types))
    assert spelled(made, "END", parse_special=True) == ["END"]
    for text in ("END", "ENDEND", "</s>", "</s></s>", "a</s>>", "<|a|>"):
        ids = made.encode(text)
        assert max(ids) < 260 and made.decode(ids) == text, text
    assert 256 in made.encode("EN")


def test_a_byte_that_is_a_control_token_is_not_dropped() -> None:
    pieces, types = [*byte_characters().values()], np.full(256, NORMAL, np.int32)
    types[pieces.index("!")] = CONTROL
    made = BpeTokenizer(Vocabulary(model="bpe", pieces=pieces, merges=[], types=types))
    with pytest.raises(TokenizerError, match=r"U\+0021 cannot be encoded") as info:
        made.encode("ab!")
    assert info.value.position == 2 and made.encode("!", parse_special=True) == [pieces.index("!")]
