"""Tokenizers of encoders as GGUF's metadata: the same ids, of one text and of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pellucid.errors import UnsupportedModelError
from pellucid.making.vocabulary import tokenizer_metadata
from pellucid.tokenizer import Tokenizer as Own
from pellucid.weights.writer import Value, write_gguf

from .unigram import TEXT, unigram

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = (TEXT[-3000:], "Hi 12345 it's\n\n  x", " Élan naïve cafés, 東京 \U0001f600 ", "", "[MASK] [SEP] [PAD]", "a")


def wordpiece(*, lowercase: bool, accents: bool | None = None) -> Any:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    alphabet = [*"éeïi東京"]
    made.train_from_iterator(
        [TEXT], trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def both(made: Any, folder: Path, rows: int = 700) -> tuple[Own, Own, dict[str, Value]]:
    """(the folder's tokenizer, that of a GGUF file with it, the file's metadata)"""
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    metadata = tokenizer_metadata(str(folder), rows)
    write_gguf(folder / "out.gguf", metadata, [])
    return Own.load(folder), Own.load(folder / "out.gguf"), metadata


MADE = {
    "uncased": lambda: wordpiece(lowercase=True),
    "cased": lambda: wordpiece(lowercase=False),
    "accents": lambda: wordpiece(lowercase=True, accents=False),
    "unigram": lambda: unigram(500, split=False),
    "unigram_words": lambda: unigram(500, split=True),
}


@pytest.mark.parametrize("name", MADE)
def test_ids(name: str, tmp_path: Path) -> None:
    own, made, _ = both(MADE[name](), tmp_path / "folder")
    for text in TEXTS:
        for special in (False, True):
            assert made.encode(text, special) == own.encode(text, special), (text, special)
    for second in TEXTS:
        assert made.encode_pair(TEXTS[1], second) == own.encode_pair(TEXTS[1], second)
    assert made.vocab_size == 700


def test_keys_of_wordpiece(tmp_path: Path) -> None:
    metadata = both(MADE["uncased"](), tmp_path / "folder")[2]
    found = {key.removeprefix("tokenizer.ggml."): value.value for key, value in metadata.items()}
    assert found["model"] == "bert"
    ids = {"bos": 2, "cls": 2, "eos": 3, "seperator": 3, "unknown": 1, "padding": 0, "mask": 4}
    assert {name: found[f"{name}_token_id"] for name in ids} == ids
    assert found["add_bos_token"] and found["add_eos_token"] and found["add_sep_token"]
    assert found["tokens"][:5] == [piece.encode() for piece in SPECIAL]
    assert {"\u2581the".encode(), b"ing"} <= {*found["tokens"]}


def test_keys_of_unigram(tmp_path: Path) -> None:
    metadata = both(MADE["unigram_words"](), tmp_path / "folder")[2]
    found = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    assert found["model"].value == "t5" and found["remove_extra_whitespaces"].value
    assert found["precompiled_charsmap"].kind == "array of uint8" and len(found["precompiled_charsmap"].value) > 1000
    assert found["token_type"].value[:4] == [3, 3, 3, 2]
    ids = {"bos": 0, "padding": 1, "eos": 2, "unknown": 3}
    assert {name: found[f"{name}_token_id"].value for name in ids} == ids


def test_what_no_vocabulary_says(tmp_path: Path) -> None:
    made = wordpiece(lowercase=True)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] [MASK] $A", special_tokens=[("[CLS]", 2), ("[MASK]", 4)]
    )
    with pytest.raises(UnsupportedModelError, match="puts 2 tokens before a text and 0 after it"):
        both(made, tmp_path / "two")
    with pytest.raises(UnsupportedModelError, match="WordLevel"):
        made = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
        made.decoder = decoders.WordPiece()
        both(made, tmp_path / "words")
