"""Vocabularies of encoders in GGUF files, WordPiece and unigram, against the packages' own tokenizers."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as PackageTokenizer

from pellucid import Tokenizer
from pellucid._parsers import decode_spm
from pellucid.errors import TokenizerError
from pellucid.text.vocabulary import CONTROL, NORMAL, UNKNOWN
from tests.embedding.files import TEXTS
from tests.embedding.vocabularies import qwen, unigram, wordpiece

MORE = (
    *TEXTS, "", " ", "  two  spaces ", "THE Owls, at 3.5!", "na\u00efve na\u0131ve \u00c9\u00e9", "a\tb\nc\u200bd",
    "\u6771\u4eac\u3042", "unknown\u2603thing", "x" * 150, "[CLS] [UNK] ##s", "\ufb01\uff21\u00bd\u2474",
)  # fmt: skip


def write(path: Path, model: str, pieces: list[Any], types: list[int], **keys: Any) -> Path:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tokenizer_model(model)
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    for key, value in keys.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, bytes):
            writer.add_key_value(name, value, gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.UINT8)
        else:
            writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_gguf(own: Any) -> tuple[list[str], list[int]]:
    """Pieces and types as converters write them."""
    spelled = [own.id_to_token(i) for i in range(own.get_vocab_size())]
    types = [CONTROL if i < 5 else NORMAL for i in range(len(spelled))]
    pieces = [
        text if kind == CONTROL else text.removeprefix("##") if text.startswith("##") else "\u2581" + text
        for text, kind in zip(spelled, types, strict=True)
    ]
    return pieces, types


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    pieces, types = as_gguf(wordpiece())
    path = tmp_path_factory.mktemp("bert") / "bert.gguf"
    return Tokenizer.load(write(path, "bert", pieces, types, cls_token_id=2, seperator_token_id=3, unknown_token_id=1))


@pytest.mark.parametrize("text", MORE)
def test_wordpiece(bert: Tokenizer, text: str) -> None:
    own = wordpiece()
    own.encode_special_tokens = True
    assert bert.encode(text) == own.encode(text).ids
    assert bert.encode(text, add_special=False) == own.encode(text, add_special_tokens=False).ids


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_wordpiece_of_any_text(bert: Tokenizer, text: str) -> None:
    own = wordpiece()
    own.encode_special_tokens = True
    try:
        found = bert.encode(text)
    except TokenizerError:
        text.encode("utf-8", "surrogatepass")
        return
    assert found == own.encode(text).ids


@pytest.mark.parametrize(("first", "second"), [("The owl", "at night?"), ("", "a"), ("owl [SEP]", ""), ("", "")])
def test_two_texts(bert: Tokenizer, first: str, second: str, tmp_path: Path) -> None:
    """As the tokenizers package joins them, whatever file the vocabulary comes from."""
    own = wordpiece()
    own.save(str(tmp_path / "tokenizer.json"))
    own.encode_special_tokens = True
    expected = own.encode(first, second)
    for one in (bert, Tokenizer.load(tmp_path / "tokenizer.json")):
        assert one.encode_pair(first, second) == (expected.ids, expected.type_ids)
    own = unigram()
    own.save(str(tmp_path / "tokenizer.json"))
    own.encode_special_tokens = True
    expected = own.encode(first, second)
    pair = Tokenizer.load(tmp_path / "tokenizer.json").encode_pair(first, second)
    assert pair == (expected.ids, expected.type_ids) and not any(pair[1])
    assert pair[0].count(2) == 3 and pair[0][0] == 0


def test_vocabularies_that_join_no_texts(bert: Tokenizer, tmp_path: Path) -> None:
    qwen().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="post_processor: it joins two texts without tokens"):
        Tokenizer.load(tmp_path / "tokenizer.json").encode_pair("a", "b")
    pieces, types = as_gguf(wordpiece())
    bare = Tokenizer.load(write(tmp_path / "b.gguf", "bert", pieces, types, add_bos_token=False, add_eos_token=False))
    with pytest.raises(TokenizerError, match="no tokens that begin and end a text"):
        bare.encode_pair("a", "b")
    wrong: list[Any] = [(3, "a"), ("a", None)]
    for texts in wrong:
        with pytest.raises(TypeError, match="text must be str"):
            bert.encode_pair(*texts)


@pytest.mark.parametrize("strips", [None, False, True])
@pytest.mark.parametrize("lowers", [None, False, True])
def test_wordpiece_as_the_file_says(tmp_path: Path, lowers: bool | None, strips: bool | None) -> None:
    """Of a vocabulary without capitals."""
    from tokenizers import normalizers

    pieces, types = as_gguf(wordpiece())
    given = {"normalizer.lowercase": lowers, "normalizer.strip_accents": strips}
    keys = {name: value for name, value in given.items() if value is not None}
    loaded = Tokenizer.load(write(tmp_path / "a.gguf", "bert", pieces, types, unknown_token_id=1, **keys))
    own = wordpiece()
    own.normalizer = normalizers.BertNormalizer(lowercase=lowers is not False, strip_accents=strips)
    found = set()
    for text in ("owl", "Owl", "\u00f6wl", "\u00d6wl", *MORE):
        ids = loaded.encode(text, add_special=False, parse_special=True)
        assert ids == own.encode(text, add_special_tokens=False).ids
        found.add((*ids,))
    assert len(found) > 10


def test_what_wordpiece_decodes(bert: Tokenizer) -> None:
    ids = bert.encode("The Owls")
    assert (bert.bos, bert.eos) == (2, 3) and ids[0] == 2 and ids[-1] == 3
    assert bert.decode(ids) == "the owls"
    assert bert.piece(ids[1]) == b" the" and bert.spelling(ids[1]) == "\u2581the"


def test_special_tokens_by_their_spelling(tmp_path: Path) -> None:
    pieces, types = as_gguf(wordpiece())
    plain = Tokenizer.load(write(tmp_path / "a.gguf", "bert", pieces, types))
    assert plain.encode("owl") == wordpiece().encode("owl").ids
    bare = Tokenizer.load(write(tmp_path / "b.gguf", "bert", pieces, types, add_bos_token=False, add_eos_token=False))
    assert bare.encode("owl") == wordpiece().encode("owl", add_special_tokens=False).ids


def test_a_vocabulary_with_capitals_keeps_them(tmp_path: Path) -> None:
    pieces = ["[UNK]", "[CLS]", "[SEP]", "\u2581Owl", "\u2581owl", "s", "\u2581\u00e9"]
    made = Tokenizer.load(write(tmp_path / "m.gguf", "bert", pieces, [CONTROL] * 3 + [NORMAL] * 4))
    assert made.encode("Owls owl \u00e9", add_special=False) == [3, 5, 4, 6]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [(["[CLS]", "\u2581a"], "unknown_token_id: missing"), (["[UNK]", "\u2581a", "\u2581a"], "given twice, as 1 and 2")],
)
def test_broken_wordpiece(tmp_path: Path, pieces: list[str], words: str) -> None:
    types = [CONTROL] + [NORMAL] * (len(pieces) - 1)
    with pytest.raises(TokenizerError, match=words):
        Tokenizer.load(write(tmp_path / "m.gguf", "bert", pieces, types))


@pytest.fixture(scope="module")
def trained() -> bytes:
    """A unigram model that normalises by NFKC, as that of XLM-R does."""
    model = io.BytesIO()
    lines = iter([*TEXTS, *("the owl is a bird of the night and hunts at night; it sleeps by day",) * 20])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=60, model_type="unigram", pad_id=3,
        normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def unigram_file(path: Path, trained: bytes, **changed: Any) -> Path:
    parts = decode_spm(trained)
    keys = {
        "scores": [float(x) for x in parts["scores"]], "unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "add_bos_token": True, "add_eos_token": True, "add_space_prefix": True, "remove_extra_whitespaces": True,
        "precompiled_charsmap": bytes(parts["precompiled_charsmap"]),
    }  # fmt: skip
    types = [int(kind) for kind in parts["types"]]
    assert types[0] == UNKNOWN
    return write(path, "t5", [bytes(piece) for piece in parts["pieces"]], types, **{**keys, **changed})


def test_unigram(tmp_path: Path, trained: bytes) -> None:
    own = sentencepiece.SentencePieceProcessor(model_proto=trained)
    made = Tokenizer.load(unigram_file(tmp_path / "m.gguf", trained))
    for text in MORE:
        assert made.encode(text, add_special=False) == own.encode(text), repr(text)
        assert made.encode(text) == [1, *own.encode(text), 2]
    assert made.decode(made.encode("the owl")) == "the owl"


def test_unigram_ids_that_the_file_leaves_out(tmp_path: Path, trained: bytes) -> None:
    """They are T5's: padding, EOS, the unknown token; EOS ends a text."""
    parts = decode_spm(trained)
    pieces, types = [bytes(piece) for piece in parts["pieces"]], [int(kind) for kind in parts["types"]]
    order = [3, 2, 0, 1, *range(4, len(pieces))]
    moved = [pieces[i] for i in order], [types[i] for i in order]
    path = write(tmp_path / "t5.gguf", "t5", *moved, scores=[float(parts["scores"][i]) for i in order])
    made = Tokenizer.load(path)
    own = sentencepiece.SentencePieceProcessor(model_proto=trained)
    assert (made.bos, made.eos, made.spelling(1)) == (None, 1, "</s>")
    assert made.encode("the owl") == [*(order.index(i) for i in own.encode("the owl")), 1]
    assert made.encode("\u2603")[-2:] == [2, 1]


SPELLED = (
    "</s>", "a</s>b", "</s></s>", "</s> </s>", "</</s>s>", "<s</s>>", "<s><pad></s>", "x <mask> y", "a<unk>b",
    "\u2603<unk>", "\uff1c/s\uff1e", "a\uff1c\uff0f\uff53\uff1e", "<\uff53>", "<\uff4d\uff41sk>", "\u2581</s>", "<one>",
    "<\uff4fne>",
)  # fmt: skip


@pytest.fixture(scope="module")
def xlm_r(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """The package's tokenizer and Pellucid's, of a tokenizer.json whose vocabulary has every character of the control
    tokens' spellings; <one> is no piece of the model, and <two> matches in every text."""
    own = unigram()
    own.add_special_tokens(["<one>"])
    own.add_tokens(["<two>"])
    table = json.loads(own.to_str())
    more = [[c, -9.0] for c in "</>kmu\u2603"]
    table["model"]["vocab"][5:5] = more
    for token in table["added_tokens"]:
        token["id"] += len(more) * (token["id"] > 4)
    path = tmp_path_factory.mktemp("xlm_r") / "tokenizer.json"
    path.write_text(json.dumps(table))
    own = PackageTokenizer.from_file(str(path))
    own.encode_special_tokens = True
    return own, Tokenizer.load(path)


def test_control_tokens_spelled_in_text(xlm_r: tuple[Any, Tokenizer]) -> None:
    """They stay text, also where normalisation spells them."""
    own, made = xlm_r
    special = {token: own.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<one>")}
    assert made.vocab_size == own.get_vocab_size()
    assert {i: made.spelling(i) for i in special.values()} == {i: token for token, i in special.items()}
    for text in SPELLED:
        ids = made.encode(text, add_special=False)
        assert not {*special.values()} & {*ids}, text
        assert made.decode(ids) == unicodedata.normalize("NFKC", text).replace("\u2581", " ").lstrip(" "), text
        first, second = made.encode_pair(text, text)[0], made.encode_pair("a", f"b {text}")[0]
        for pair in (first, second):
            assert pair[0] == 0 and pair.count(2) == 3 and len({*special.values()} & {*pair}) == 2, text
    for token, i in special.items():
        assert i in made.encode(token, parse_special=True, add_special=False)
    two = own.token_to_id("<two>")
    assert two == special["<one>"] + 1 and two in made.encode("a<two></s>")


@given(text=st.text(max_size=40) | st.lists(st.sampled_from([*SPELLED, *"<>/s aunk"]), max_size=8).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_of_a_unigram_folder(text: str, xlm_r: tuple[Any, Tokenizer]) -> None:
    """The package's ids, but where that finds a control token, or an unknown one by its spelling."""
    own, made = xlm_r
    try:
        found = made.encode(text, add_special=False)
    except TokenizerError:
        text.encode("utf-8", "surrogatepass")
        return
    control = {own.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<mask>", "<one>")}
    assert not control & {*found}
    expected = own.encode(text, add_special_tokens=False).ids
    if not control & {*expected} and "<unk>" not in unicodedata.normalize("NFKC", text):
        assert found == expected


@pytest.mark.parametrize("text", SPELLED)
def test_control_tokens_spelled_in_text_of_gguf_files(text: str, trained: bytes, tmp_path: Path) -> None:
    made = Tokenizer.load(unigram_file(tmp_path / "m.gguf", trained))
    assert not {1, 2, 3} & {*made.encode(text, add_special=False)}
    assert made.encode_pair(text, text)[0].count(2) == 3


def test_broken_tables_of_characters(tmp_path: Path, trained: bytes) -> None:
    table = bytearray(decode_spm(trained)["precompiled_charsmap"])
    rng = np.random.default_rng(1)
    refused = 0
    for i in range(60):
        broken = bytearray(table)
        for at in rng.integers(0, 5000, 3):
            broken[at] = int(rng.integers(0, 256))
        try:
            made = Tokenizer.load(unigram_file(tmp_path / f"{i}.gguf", trained, precompiled_charsmap=bytes(broken)))
            made.encode(TEXTS[3])
        except TokenizerError as error:
            refused += "precompiled_charsmap" in str(error)
    assert refused
    whole = 4 + int.from_bytes(table[:4], "little")
    empty = (1024).to_bytes(4, "little") + bytes(1024)  # the last three: rejected by the package
    for wrong in (b"", b"abc", bytes(table[:2000]), bytes(table[:whole]), empty, empty + b"\0", bytes(table) + b"x"):
        path = unigram_file(tmp_path / "m.gguf", trained, precompiled_charsmap=wrong or b"\0")
        with pytest.raises(TokenizerError, match="precompiled_charsmap"):
            Tokenizer.load(path)
