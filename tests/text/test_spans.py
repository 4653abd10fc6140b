"""Where each token is in a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid import Tokenizer
from pellucid.errors import TokenizerError

TEXTS = [
    "",
    "a",
    "The capital of France is",
    "naïve café 😀👩‍👩‍👧 שלום\n\n  x",
    "<|im_start|>user\nhi<|im_end|>",
    "\u2028\0\u202e",
    "日本語のテキスト",
]


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return Tokenizer.load(smollm2)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("parse", [False, True])
def test_spans_cover_the_text(tokenizer: Tokenizer, text: str, parse: bool) -> None:
    ids, spans = tokenizer.encode(text, parse_special=parse), tokenizer.spans(text, parse_special=parse)
    assert len(ids) == len(spans)
    covered: set[int] = set()
    for id, (start, end) in zip(ids, spans, strict=True):
        assert 0 <= start <= end <= len(text)
        covered |= {*range(start, end)}
        piece = tokenizer.piece(id, special=parse)
        assert piece in text[start:end].encode()
        if "\ufffd" not in piece.decode("utf-8", "replace"):
            assert text[start:end] == piece.decode()
    assert covered == {*range(len(text))}
    assert spans == sorted(spans)


@pytest.mark.gemma
def test_sentencepiece(gemma3: Path) -> None:
    tokenizer = Tokenizer.load(gemma3)
    for text in TEXTS[1:]:
        spans = tokenizer.spans(text)
        assert spans[0] == (0, 0)  # BOS
        assert {i for start, end in spans for i in range(start, end)} == {*range(len(text))}


def test_a_vocabulary_that_changes_the_text() -> None:
    from pellucid.text import Vocabulary, build

    pieces = ["[UNK]", "[CLS]", "[SEP]", "\u2581hello", "\u2581world"]
    tokenizer = Tokenizer(build(Vocabulary(model="wordpiece", pieces=pieces, types=None, unk=0, bos=1, eos=2)))
    with pytest.raises(TokenizerError, match="is not what the text has"):
        tokenizer.spans("HELLO world", add_special=False)
