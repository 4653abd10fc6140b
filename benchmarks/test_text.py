"""Text to ids and back, 1 MB of each kind: `pytest benchmarks/test_text.py --benchmark-enable`.

Times must be under a second for prose as well as for hostile texts: long runs, no spaces, only digits.
`extra_info` holds the bytes and the ids.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pellucid.tokenizer import Tokenizer
from pellucid.weights import catalog

SIZE = 1_000_000  # bytes
CHANCE = random.Random(0)


def repeated(text: str) -> str:
    return (text * (SIZE // len(text.encode()) + 1)).encode()[:SIZE].decode("utf-8", "ignore")


def drawn(letters: str) -> str:
    return repeated("".join(CHANCE.choices(letters, k=100_000)))


TEXTS = {
    "prose": repeated((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")),
    "prose, not ASCII": repeated("“Mixed” — naïve café, Ελληνικά и русский текст; 中文、日本語、한국어. العربية 😀\n"),
    "one letter": "a" * SIZE,
    "spaces": " " * (SIZE - 1) + "x",
    "newlines": "\n" * SIZE,
    "digits": drawn("0123456789"),
    "Arabic digits": drawn("٠١٢٣٤٥٦٧٨٩"),
    "hexadecimal": drawn("0123456789abcdef"),
    "marks": drawn("!?.,;:-+=*/#"),
    "Chinese": drawn("你好世界中文字符测试的一是在不了有和人这"),
    "emoji": repeated("👩‍👩‍👧‍👦👍🏽🇫🇷"),
    "almost special": repeated("<|im"),
}


@pytest.fixture(scope="module", params=[entry.name for entry in catalog.entries()])
def tokenizer(request: Any) -> Tokenizer:
    return Tokenizer.load(catalog.fetch(request.param))


@pytest.mark.parametrize("kind", TEXTS)
def test_encode(benchmark: Any, tokenizer: Tokenizer, kind: str) -> None:
    text = TEXTS[kind]
    ids = benchmark(tokenizer.encode, text)
    benchmark.extra_info.update(bytes=len(text.encode()), ids=len(ids))


@pytest.mark.parametrize("kind", ["prose", "digits"])
def test_decode(benchmark: Any, tokenizer: Tokenizer, kind: str) -> None:
    ids = tokenizer.encode(TEXTS[kind])
    assert benchmark(tokenizer.decode, ids) == TEXTS[kind]


def test_load(benchmark: Any) -> None:
    """A vocabulary from its file."""
    path = catalog.fetch("smollm2-135m")
    assert benchmark(Tokenizer.load, path).vocab_size == 49_152
