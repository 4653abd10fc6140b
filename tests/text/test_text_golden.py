"""Both real vocabularies, compared with ids made by other implementations (make_golden.py)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid.errors import TokenizerError
from pellucid.tokenizer import Tokenizer


def golden(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(Path(__file__).with_name(f"golden_{name}.json").read_text())["cases"]
    assert len(cases) >= 100
    return cases


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Tokenizer:
    return Tokenizer.load(smollm2)


@pytest.fixture(scope="module")
def gemma(gemma3: Path) -> Tokenizer:
    return Tokenizer.load(gemma3)


def check(tokenizer: Tokenizer, cases: list[dict[str, Any]]) -> None:
    for case in cases:
        text, ids = case["text"], case["ids"]
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.encode(text, add_special=False, parse_special=True) == case.get("special", ids), text
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(case.get("special", ids), special=True) == text
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.flush()]) == text


def check_speed(tokenizer: Tokenizer, text: str, seconds: float) -> None:
    start = time.perf_counter()
    ids = tokenizer.encode(text)
    took = time.perf_counter() - start
    assert tokenizer.decode(ids) == text
    assert took < seconds


# Generous: what these catch is quadratic growth, which takes minutes. Measured on an idle core: 0.3 to 1 s.
LONG = [
    "1" * 1_000_000,
    "a" * 1_000_000,
    " " * 999_999 + "x",
    "\n" * 1_000_000,
    "the cat, 12 mice; " * 55_000,
    "<|im" * 250_000,
]


def test_smollm2_golden(smol: Tokenizer) -> None:
    check(smol, golden("smollm2"))


def test_smollm2_facts(smol: Tokenizer) -> None:
    assert (smol.vocab_size, smol.bos, smol.eos, smol.add_bos) == (49152, 1, 2, False)
    assert smol.eog == {0, 2, 4}  # "<reponame>", too, which begins another repository
    assert smol.chat_template is not None and "<|im_start|>" in smol.chat_template
    assert smol.piece(7042) == b" Paris"
    assert (smol.piece(2), smol.piece(2, special=True), smol.spelling(2)) == (b"", b"<|im_end|>", "<|im_end|>")
    assert smol.encode("") == []


def test_smollm2_has_no_piece_for_some_bytes(smol: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"U\+0004 .* byte 0x04") as caught:
        smol.encode("né 1\x04")
    assert caught.value.position == 4


@pytest.mark.parametrize("text", LONG, ids=["digit", "a", "space", "newline", "words", "special"])
def test_smollm2_long_text(smol: Tokenizer, text: str) -> None:
    check_speed(smol, text, 15)


@pytest.mark.gemma
def test_gemma3_golden(gemma: Tokenizer) -> None:
    check(gemma, golden("gemma3"))


@pytest.mark.gemma
def test_gemma3_facts(gemma: Tokenizer) -> None:
    assert (gemma.vocab_size, gemma.bos, gemma.eos, gemma.add_bos) == (262144, 2, 1, True)
    assert gemma.eog == {1, 106}
    assert gemma.chat_template is None
    assert gemma.encode("") == [2]
    assert gemma.encode("The capital of France is")[0] == 2
    assert gemma.piece(9079) == b" Paris"
    assert gemma.decode([2, 9079]) == " Paris"
    assert gemma.decode(gemma.encode("\u2581\u2582\u2583 \u2581")) == "\u2581\u2582\u2583 \u2581"


@pytest.mark.gemma
@pytest.mark.parametrize("text", LONG, ids=["digit", "a", "space", "newline", "words", "special"])
def test_gemma3_long_text(gemma: Tokenizer, text: str) -> None:
    check_speed(gemma, text, 15)
