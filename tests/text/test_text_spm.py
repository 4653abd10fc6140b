"""SentencePiece vocabularies: a handwritten one, one trained in the test, and the files written for them."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from pellucid import _parsers
from pellucid.errors import TokenizerError
from pellucid.text import Vocabulary, build
from pellucid.text.spm import MergedSpmTokenizer, SpmTokenizer
from pellucid.text.vocabulary import CONTROL, NORMAL, USER_DEFINED
from pellucid.tokenizer import Tokenizer
from tests.text.make_golden import merge, partition

Parts = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizers(spm_parts: Parts) -> dict[bool, SpmTokenizer]:
    """Without and with a space put before the text."""
    return {add: SpmTokenizer(Vocabulary(**{**spm_parts, "add_space_prefix": add})) for add in (False, True)}


def spelled(tokenizer: SpmTokenizer, text: str, **options: Any) -> list[str]:
    return [tokenizer.spelling(i) for i in tokenizer.encode(text, add_special=False, **options)]


def test_best_score_first_then_leftmost(spm: Vocabulary) -> None:
    tokenizer = SpmTokenizer(spm)
    assert spelled(tokenizer, "hello") == ["hello"]
    assert spelled(tokenizer, " hello the") == ["▁hello", "▁the"]
    assert spelled(tokenizer, "lll") == ["ll", "l"]
    assert spelled(tokenizer, "éz") == ["é", "<0x7A>"]


def test_runs_of_spaces_match_longest_first(spm: Vocabulary) -> None:
    tokenizer = SpmTokenizer(spm)
    assert spelled(tokenizer, "a" + " " * 5 + "b") == ["a", "   ", "  ", "b"]
    assert spelled(tokenizer, "a the") == ["a", "▁the"]


def test_space_prefix(tokenizers: dict[bool, SpmTokenizer]) -> None:
    assert spelled(tokenizers[True], "the") == ["▁the"]
    assert spelled(tokenizers[False], "the") == ["t", "he"]
    assert spelled(tokenizers[True], "") == []
    assert spelled(tokenizers[True], "the<end_of_turn>the", parse_special=True) == ["▁the", "<end_of_turn>", "▁the"]
    # The space is dropped from decoded text, but a piece keeps it: what is generated continues a text.
    assert tokenizers[True].decode(tokenizers[True].encode("the")) == "the"
    assert tokenizers[True].piece(tokenizers[True].encode("the")[1]) == b" the"


@pytest.mark.parametrize("add_space_prefix", [False, True])
@given(text=st.text() | st.text("\u2581 \u2582ahelo<|>\0\n\xe9"))
def test_round_trip(tokenizers: dict[bool, SpmTokenizer], add_space_prefix: bool, text: str) -> None:
    tokenizer = tokenizers[add_space_prefix]
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos
    assert tokenizer.decode(ids) == text
    joined = b"".join(map(tokenizer.piece, ids)).decode()
    assert joined == (" " + text if add_space_prefix and text else text)


def test_special_text_is_text_unless_asked(spm: Vocabulary) -> None:
    tokenizer = SpmTokenizer(spm)
    text = "<bos>the<end_of_turn><eos><unk>"
    plain = tokenizer.encode(text, add_special=False)
    assert not {tokenizer.bos, spm.unk, *tokenizer.eog} & set(plain)
    assert tokenizer.decode(plain) == text
    assert spelled(tokenizer, text, parse_special=True) == ["<bos>", "t", "he", "<end_of_turn>", "<eos>", "<unk>"]
    assert (
        tokenizer.decode(tokenizer.encode(text, parse_special=True), special=True)
        == "<bos><bos>the<end_of_turn><eos>\ufffd"
    )
    assert spelled(tokenizer, "<think>") == ["<think>"]
    assert len(spelled(tokenizer, "<|user|>")) == 8
    assert spelled(tokenizer, "<|user|>", parse_special=True) == ["<|user|>"]


def test_spelling_of_a_byte_is_text(spm: Vocabulary) -> None:
    tokenizer = SpmTokenizer(spm)
    assert tokenizer.decode(tokenizer.encode("<0x41>")) == "<0x41>"
    assert tokenizer.piece(4 + 0x41) == b"A"


def test_end_of_generation(spm: Vocabulary) -> None:
    tokenizer = SpmTokenizer(spm)
    assert {tokenizer.spelling(i) for i in tokenizer.eog} == {"<eos>", "<end_of_turn>"}
    assert [tokenizer.piece(i) for i in tokenizer.eog] == [b"", b""]


def test_lone_surrogates_are_refused_with_their_position(tokenizers: dict[bool, SpmTokenizer]) -> None:
    for tokenizer in tokenizers.values():
        with pytest.raises(TokenizerError, match=r"U\+DFFF") as caught:
            tokenizer.encode("é<bos>\u2581x\udfff", parse_special=True)
        assert caught.value.position == 8


@pytest.mark.parametrize("add_space_prefix", [False, True])
def test_without_bytes_and_unknown_token_the_position_is_told(spm_parts: Parts, add_space_prefix: bool) -> None:
    keep = [i for i, kind in enumerate(spm_parts["types"]) if kind not in (2, 6)]
    parts = {**spm_parts, "unk": None, "pieces": [spm_parts["pieces"][i] for i in keep]}
    parts |= {name: spm_parts[name][keep] for name in ("scores", "types")}
    tokenizer = SpmTokenizer(Vocabulary(**{**parts, "add_space_prefix": add_space_prefix}))
    assert tokenizer.decode(tokenizer.encode("the hello")) == "the hello"
    with pytest.raises(TokenizerError, match="'z' cannot be encoded") as caught:
        tokenizer.encode("the<eos>he zhe", parse_special=True)
    assert caught.value.position == 11


def test_without_bytes_the_unknown_token_stands_in(spm_parts: Parts) -> None:
    keep = [i for i, kind in enumerate(spm_parts["types"]) if kind != 6]
    parts = {**spm_parts, "pieces": [spm_parts["pieces"][i] for i in keep]}
    parts |= {name: spm_parts[name][keep] for name in ("scores", "types")}
    tokenizer = SpmTokenizer(Vocabulary(**parts))
    assert tokenizer.decode(tokenizer.encode("az")) == "a\ufffd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "^scores: missing"),
        ({"scores": np.zeros(3, np.float32)}, r"^scores: shape \(3,\); expected"),
        ({"types": np.ones(3, np.int32)}, r"^types: shape \(3,\)"),
        ({"nan": 7}, "^scores: score nan of piece 7 is not finite"),
        ({"type": (5, 9)}, "^types: type 9 of piece 5; expected 1 to 6"),
        ({"bos": 10**6}, "^bos: id 1000000 is out of range; the vocabulary has"),
        ({"eos": -1}, "^eos: id -1 is out of range"),
        ({"eog": (1, 10**6)}, "^eog: id 1000000"),
        ({"bos": None}, "^add_bos: is set, but the vocabulary has no BOS"),
        ({"pieces": []}, "^pieces: the vocabulary is empty"),
        ({"piece": (280, b"")}, "^pieces: piece 280 is empty"),
        ({"piece": (270, b"hello")}, "^pieces: b'hello' is given twice, as (269 and 270|270 and 2..)"),
        ({"piece": (9, b"<0xZZ>")}, "^pieces: piece 9 is a byte by its type, but is '<0xZZ>'"),
        ({"model": "wordlevel"}, "unknown kind of vocabulary 'wordlevel'; known: "),
    ],
)
def test_impossible_vocabularies_are_refused_by_field(spm_parts: Parts, changes: Parts, message: str) -> None:
    parts, rest = {**spm_parts, "pieces": list(spm_parts["pieces"])}, dict(changes)
    if "nan" in rest:
        parts["scores"] = parts["scores"].copy()
        parts["scores"][rest.pop("nan")] = np.nan
    if "type" in rest:
        at, kind = rest.pop("type")
        parts["types"] = parts["types"].copy()
        parts["types"][at] = kind
    if "piece" in rest:
        at, piece = rest.pop("piece")
        parts["pieces"][at] = piece
    with pytest.raises(TokenizerError, match=message):
        build(Vocabulary(**{**parts, **rest}))


# -- merges in place of scores (Gemma 4)

MERGES = ["l l", "h e", "he ll", "▁ t", "▁t he", "hell o", "▁ hell", "e l"]


@pytest.fixture(scope="module")
def merged_parts(spm_parts: Parts) -> Parts:
    more = [b"el", "▁hell".encode()]
    parts = {**spm_parts, "pieces": [*spm_parts["pieces"], *more], "merges": MERGES, "scores": None}
    return {**parts, "types": np.append(spm_parts["types"], np.ones(len(more), np.int32))}


@pytest.fixture(scope="module")
def merged(merged_parts: Parts) -> MergedSpmTokenizer:
    made = build(Vocabulary(**merged_parts))
    assert isinstance(made, MergedSpmTokenizer)
    return made


def test_merges_have_the_say_over_pieces(merged: MergedSpmTokenizer) -> None:
    assert spelled(merged, "hello the") == ["hello", "▁the"]
    assert spelled(merged, " hello") == ["▁", "hello"]  # "▁hello" is a piece, but no merge makes it
    assert spelled(merged, "a  <think>z<bos>") == ["a", "  ", "<think>", "<0x7A>", "<", "b", "o", "<0x73>", ">"]
    assert spelled(merged, "a<bos>", parse_special=True) == ["a", "<bos>"]


def test_no_merge_makes_a_control_token(merged_parts: Parts) -> None:
    """Nor is a character one: it becomes its bytes."""
    pieces = [*merged_parts["pieces"], b"<a", b"b>", b"<ab>", "\u2603".encode()]
    types = np.append(merged_parts["types"], [NORMAL, NORMAL, CONTROL, CONTROL]).astype(np.int32)
    merges = [*MERGES, "< a", "b >", "<a b>"]
    made = MergedSpmTokenizer(Vocabulary(**{**merged_parts, "pieces": pieces, "types": types, "merges": merges}))
    assert spelled(made, "a<ab><ab>") == ["a", "<a", "b>", "<a", "b>"]
    assert spelled(made, "\u2603") == ["<0xE2>", "<0x98>", "<0x83>"]
    assert spelled(made, "<ab>\u2603", parse_special=True) == ["<ab>", "\u2603"]


@given(text=st.text() | st.text("\u2581 helot<think>\0\n\xe9", max_size=30))
def test_merged_in_their_order(merged: MergedSpmTokenizer, text: str) -> None:
    """Compared with the naive algorithm."""
    ranks = {tuple(one.split(" ")): i for i, one in enumerate(MERGES)}
    v = merged.vocabulary
    ids = {v.spelling(i): i for i in v.ids_of(1)}
    user = {v.spelling(i): i for i in v.ids_of(4) if v.spelling(i) != "<|user|>"}
    expected: list[int] = []
    for part in partition(text, user):
        if isinstance(part, int):
            expected.append(part)
            continue
        for number, plain in enumerate(part.split("\u2581")):  # in the text it is no space
            expected += [4 + byte for byte in "\u2581".encode()] if number else []
            for symbol in merge(list(plain.replace(" ", "▁")), lambda a, b: ranks.get((a, b))):
                expected += [ids[symbol]] if symbol in ids else [4 + byte for byte in symbol.encode()]
    assert merged.encode(text, add_special=False) == expected
    assert merged.decode(expected) == text


@pytest.fixture(scope="module")
def cut(merged_parts: Parts) -> tuple[MergedSpmTokenizer, Any]:
    """A vocabulary like mmBERT's, and the same by the ``tokenizers`` package as its tokenizer.json describes it."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    pieces = [*merged_parts["pieces"], b"\n\n", "a▁".encode(), "▁a▁".encode()]
    types = np.append(merged_parts["types"], [USER_DEFINED, NORMAL, NORMAL]).astype(np.int32)
    merges = ["a ▁", "▁ a▁", *MERGES]  # the first two join words, which nothing does
    ours = build(Vocabulary(**{**merged_parts, "pre": "mmbert", "pieces": pieces, "types": types, "merges": merges}))
    assert isinstance(ours, MergedSpmTokenizer)
    ids = {piece.decode(): i for i, piece in enumerate(pieces)}
    pairs: list[Any] = [tuple(one.split(" ")) for one in merges]
    theirs = Tokenizer(models.BPE(ids, pairs, byte_fallback=True))
    theirs.normalizer = normalizers.Replace(" ", "▁")
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    user = [pieces[i].decode() for i in ours.vocabulary.ids_of(USER_DEFINED)]
    theirs.add_tokens([AddedToken(one, normalized=False) for one in user if one != "<|user|>"])
    return ours, theirs


@given(text=st.text("  \nhelota<think>\xe9", max_size=30))
def test_every_space_begins_a_word_in_mmbert(cut: tuple[MergedSpmTokenizer, Any], text: str) -> None:
    ours, theirs = cut
    text = text.replace("\n", "\n\n")  # a line's end is an added token there
    assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False).ids


def test_words_of_mmbert(cut: tuple[MergedSpmTokenizer, Any]) -> None:
    assert spelled(cut[0], "hello the") == ["▁", "hello", "▁the"]
    assert spelled(cut[0], " hell\nthe<think>he\n\n\na a") == [
        "▁hell", "<0x0A>", "▁the", "<think>", "▁", "he", "\n\n", "<0x0A>", "▁", "a", "▁", "a",
    ]  # fmt: skip
    assert cut[0].decode(cut[0].encode("hello the")) == "hello the"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merges": ["l l", "he"]}, r"^merges\[1\]: 'he'; expected two pieces"),
        ({"merges": ["l z"]}, r"^merges\[0\]: 'l z' needs the piece 'z', which does not exist"),
        ({"merges": []}, None),
        ({"types": None}, "^pieces: some of the 256 bytes"),
    ],
)
def test_impossible_merges_are_refused(merged_parts: Parts, changes: Parts, message: str | None) -> None:
    if message is None:
        assert spelled(build(Vocabulary(**{**merged_parts, **changes})), "he") == ["h", "e"]  # type: ignore[arg-type]
        return
    with pytest.raises(TokenizerError, match=message):
        build(Vocabulary(**{**merged_parts, **changes}))


# -- the model files themselves


def test_models_survive_being_written_and_read(spm_parts: Parts) -> None:
    made = _parsers.encode_spm(spm_parts["pieces"], spm_parts["scores"], spm_parts["types"], True)
    read = _parsers.decode_spm(made)
    escaped = [
        p.replace(b" ", "▁".encode()) if t == 4 else p
        for p, t in zip(spm_parts["pieces"], spm_parts["types"], strict=True)
    ]
    assert read["pieces"] == escaped
    assert np.array_equal(read["scores"], spm_parts["scores"])
    assert np.array_equal(read["types"], spm_parts["types"])
    assert (read["model_type"], read["byte_fallback"], read["precompiled_charsmap"]) == (2, 1, b"")
    assert (read["add_dummy_prefix"], read["remove_extra_whitespaces"], read["escape_whitespaces"]) == (0, 0, 1)


@given(st.lists(st.tuples(st.text(), st.floats(width=32), st.integers(1, 6)), max_size=40))
def test_any_rows_survive(rows: list[tuple[str, float, int]]) -> None:
    pieces = [row[0] for row in rows]
    scores = np.array([row[1] for row in rows], np.float32)
    types = np.array([row[2] for row in rows], np.int32)
    read = _parsers.decode_spm(_parsers.encode_spm(pieces, scores, types, False))
    expected = [p.replace(" ", "▁") if t == 4 else p for p, t in zip(pieces, types, strict=True)]
    assert read["pieces"] == [p.encode() for p in expected]
    assert np.array_equal(read["scores"], scores, equal_nan=True)
    assert np.array_equal(read["types"], types)


def test_long_pieces_of_spaces_fit(spm_parts: Parts) -> None:
    pieces = [" " * 70_000, "é" * 70_000]
    read = _parsers.decode_spm(_parsers.encode_spm(pieces, np.zeros(2, np.float32), np.array([4, 1], np.int32), False))
    assert read["pieces"] == [("▁" * 70_000).encode(), pieces[1].encode()]


def test_arrays_must_have_one_entry_a_piece() -> None:
    with pytest.raises(ValueError, match="2 pieces, 1 scores and 2 types"):
        _parsers.encode_spm(["a", "b"], np.zeros(1, np.float32), np.ones(2, np.int32), False)
    with pytest.raises(TypeError):
        _parsers.encode_spm(["a", 3], np.zeros(2, np.float32), np.ones(2, np.int32), False)  # type: ignore[arg-type]


def test_damaged_models_are_refused_or_read_but_never_crash(spm_parts: Parts) -> None:
    made = _parsers.encode_spm(spm_parts["pieces"], spm_parts["scores"], spm_parts["types"], True)
    chance = random.Random(1)
    refused = 0
    for _ in range(2000):
        broken = bytearray(made[: chance.randrange(len(made))] if chance.random() < 0.5 else made)
        for _ in range(chance.randrange(1, 6)):
            if broken:
                broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            _parsers.decode_spm(bytes(broken))
        except TokenizerError as error:
            assert "not a SentencePiece model" in str(error)
            refused += 1
    assert refused > 1000


CORPUS = [
    "the cat sat on the mat",
    "  two  spaces",
    "a man, a plan: 1234 canals",
    "héllo wörld ñandú",
    "if (x == 10) { y(); }",
]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_agrees_with_a_trained_model(tmp_path: Path, kind: str) -> None:
    """A file with the trained model's pieces, scores and types gives the same ids as the trained file."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20), model_writer=trained, model_type=kind, vocab_size=380, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["<think>", "▁▁"],
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    parts = _parsers.decode_spm(trained.getvalue())
    assert parts["add_dummy_prefix"] == 1
    path = tmp_path / "tokenizer.model"
    path.write_bytes(trained.getvalue())
    ours = Tokenizer.load(path)
    chance = random.Random(2)
    letters = "".join(CORPUS) + "zq\n\t é😀"
    texts = [
        *CORPUS,
        *("".join(chance.choices(letters, k=chance.randrange(40))) for _ in range(500)),
        "a<think>b",
        "x    y",
    ]
    for text in texts:
        assert ours.encode(text, add_special=False) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text
