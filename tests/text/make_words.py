"""Makes golden_words.json: how each published pre-tokenizer splits the hard strings, by the ``regex`` package.

    python -m tests.text.make_words

A few lines replace the steps of the ``tokenizers`` package, so that the result depends neither on it nor on Oniguruma.
"""

from __future__ import annotations

import json
from pathlib import Path

import regex  # type: ignore[import-untyped]

from tests.text.published import BYTES, GPT2, PUBLISHED, TEXTS

PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
REST = [b for b in range(256) if b not in PLAIN]
ALPHABET = {b: chr(b) for b in PLAIN} | {b: chr(256 + i) for i, b in enumerate(REST)}
GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
OUTSIDE = r"(?![\p{L}\p{M}\p{N}\p{Pc}])"  # \b after a digit; to Oniguruma all numbers are of words
PUNCTUATION = r"[\p{P}$+<=>^`|~]"


def isolate(expression: str, part: str) -> list[str]:
    found, done = [], 0
    for match in regex.finditer(expression, part, regex.V1):
        found += [part[done : match.start()], match.group()]
        done = match.end()
    return [text for text in (*found, part[done:]) if text]


def apply(step: object, part: str) -> list[str]:
    if step == BYTES or step == GPT2:
        words = isolate(GPT2_REGEX, part) if step == GPT2 else [part]
        return ["".join(ALPHABET[byte] for byte in word.encode()) for word in words]
    if isinstance(step, str):
        return isolate(step.replace(r"\b", OUTSIDE), part)
    assert isinstance(step, dict)
    if step["type"] == "Digits":
        return isolate(r"\p{N}" if step["individual_digits"] else r"\p{N}+", part)
    return isolate(PUNCTUATION + ("+" if step["behavior"] == "Contiguous" else ""), part)


def cut(steps: list[object], text: str) -> list[int]:
    """The bytes of each word."""
    parts = [text]
    for step in steps:
        parts = [piece for part in parts for piece in apply(step, part)]
    return [len(part) for part in parts]


if __name__ == "__main__":
    lines = [
        f"  {json.dumps(names)}: {json.dumps([cut(steps, text) for text in TEXTS], separators=(',', ':'))}"
        for names, steps in PUBLISHED.items()
    ]
    Path(__file__).with_name("golden_words.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")
