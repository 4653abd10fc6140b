"""Texts of a grammar without a model: a vocabulary of single bytes, and random walks over what a matcher allows."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from pellucid.structure import Structure
from pellucid.text.grammar import Grammar, Grammars

END = 256
SUITE = Path(__file__).with_name("suite.json")


class Bytes:
    """A tokenizer of bytes, an end and two control tokens."""

    vocab_size = 259
    pieces: list[bytes | None] = [None] * vocab_size
    bos: int | None = END
    eos: int | None = END
    eog = frozenset([END])
    add_bos = False
    chat_template: str | None = None
    special: dict[str, int] = {"<think>": 257, "</think>": 258}

    def piece(self, id: int, *, special: bool = False) -> bytes:
        return bytes([id]) if id < END else b""

    def spelling(self, id: int) -> str:
        return chr(id) if id < END else ("<|end|>", "<think>", "</think>")[id - END]

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return list(text.encode())

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        raise NotImplementedError

    def decode(self, ids: Any, *, special: bool = False) -> str:
        return b"".join(self.piece(id) for id in ids).decode()


def grammars() -> Grammars:
    return Grammars(Bytes(), Bytes.vocab_size)


def allowed(grammar: Grammar, text: bytes = b"", ends: bool = True) -> set[int]:
    """The tokens that may follow a text."""
    matcher = grammar.matcher()
    matcher.advance(text)
    return mask(matcher, grammar.grammars.words, ends)


def mask(matcher: Any, words: int, ends: bool = True) -> set[int]:
    bits = np.zeros(words, np.uint32)
    matcher.mask(bits, ends)
    return set(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())


def takes(grammar: Grammar, text: str) -> bool:
    """Whether a grammar allows just this text."""
    matcher = grammar.matcher()
    for byte in text.encode():
        if matcher.complete or byte not in mask(matcher, grammar.grammars.words):
            return False
        matcher.advance([byte])
    return bool(matcher.accepting)


def walk(grammar: Grammar, seed: int, most: int = 400) -> bytes | None:
    """A random text of a grammar; None where it did not end. What closes something is preferred, the more the longer
    the text is."""
    draw, matcher, out = random.Random(seed), grammar.matcher(), bytearray()
    while len(out) < most:
        forced = matcher.forced()
        matcher.advance(forced)
        out += bytes(forced)
        if matcher.complete:
            return bytes(out)
        may = sorted(mask(matcher, grammar.grammars.words))
        assert may, bytes(out)
        if END in may:
            may.remove(END)
            assert matcher.accepting
            if not may or draw.random() < 0.5:
                return bytes(out)
        closing = [id for id in may if id in b'"}],']
        id = draw.choice(closing if closing and draw.random() < 0.3 + len(out) / most else may)
        matcher.advance([id])
        out.append(id)
    return None


def suite() -> Iterator[tuple[str, Any]]:
    """(name, schema) of the JSON Schema test suite's required cases: drafts 2020-12 and 7. suite.json has them as
    jsonschema's sdist does (json/tests; licence: LICENSE.suite), without their instances and with their drafts."""
    for draft, file, about, schema in json.loads(SUITE.read_text()):
        yield f"{draft} {file}: {about}", schema


def validator(schema: Any) -> Any:
    known = schema if isinstance(schema, dict) else {}
    kind = jsonschema.validators.validator_for(known, default=jsonschema.Draft202012Validator)
    exact = jsonschema.validators.extend(kind, {"multipleOf": _multiple})
    return exact(schema, format_checker=kind.FORMAT_CHECKER)


def _multiple(validator: Any, of: Any, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """By the digits of both: jsonschema divides floats, and finds that 9.4035 is no multiple of 0.0001."""
    if validator.is_type(value, "number") and Fraction(str(value)) % Fraction(str(of)):
        yield jsonschema.ValidationError(f"{value} is not a multiple of {of}")


def of(schema: Any, strict: bool = True) -> Structure:
    return Structure("schema", json.dumps(schema), strict)
