"""Mutated tokenizer.json files: each is refused by an error of Pellucid's, or encodes texts to ids of its vocabulary.

``python -m tests.fuzz.tokenizer_json SEED COUNT`` runs mutations one after the other and prints each one's seed first.
"""

from __future__ import annotations

import base64
import copy
import json
import random
import resource
import sys
from typing import Any

from pellucid.errors import PellucidError
from pellucid.text.bpe import byte_characters
from pellucid.text.components import KINDS
from pellucid.text.hf import JsonTokenizer

__all__ = ["known", "mutate", "run"]

MEMORY = 2 << 30  # bytes of address space that a process of mutations may have

TEXTS = ["", "a", "hello the hello", " 12 é😀\0\n  x", "<s>hi<m> </s>", "a" * 3000, " " * 3000 + "x", "ab1!é中\n" * 400]
NUMBERS: list[Any] = [-1, 0, 1, 2, 7, 255, 2**16, 200_000_000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**64, 0.5, 1e300]
STRINGS = ["", "a", "ab", "▁", " ", "é", "😀", "<s>", "a" * 100, "a" * 70_000, "Ġ", "\0", "\ud800", "##", "Isolated"]
REGEXES = [
    "", "a", r"\s+", r"\s+$", "(a+)+$", "(a|a)*b", "(a?){30}a{30}", "(?:a{1000}){1000}", r"(a)\1", "(", "[", "a**",
    "x*", r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", ".*.*.*x", "(?=a)*", "(?~a)", r"\p{Foo}", "^", "$", r"\b",
    r"\G", "(?i:a)+?", " {2,}", "a{,3}", "a{3,1}", "(?<=a*)b", "(?<n>a)+", "(?x) a b", "(.)(?:.*)$", "[a&&b]",
    "[[:alpha:]]",
]  # fmt: skip
STEPS: dict[str, list[dict[str, Any]]] = {
    "normalizer": [
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
         "lowercase": True},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aab"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        *({"type": kind} for kind in ("ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents")),
    ],
    "pre_tokenizer": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Split", "pattern": {"Regex": r"\s+(?!\S)|\s+"}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed", "invert": True},
        {"type": "FixedLength", "length": 3},
        {"type": "CharDelimiterSplit", "delimiter": "a"},
        {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": "Contiguous"},
        *({"type": kind} for kind in ("BertPreTokenizer", "UnicodeScripts", "Whitespace", "WhitespaceSplit")),
    ],
    "post_processor": [
        {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
        {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True,
         "add_prefix_space": False},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
    ],
    "decoder": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "ByteFallback"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    ],
}  # fmt: skip
INSIDE = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors",
          "decoder": "decoders"}  # fmt: skip


def _charsmap(rng: random.Random) -> str:
    """A trie of one block in which "a" leads to a replacement, and perhaps a few units that lead anywhere."""
    units = [0] * 256
    units[0] = 1 << 10
    units[1 ^ ord("a")] = ord("a") | 1 << 8 | 2 << 10
    units[1 ^ ord("a") ^ 2] = 1 << 31
    for _ in range(rng.choice([0, 0, 0, 1, 5, 100])):
        units[rng.randrange(256)] = rng.getrandbits(32)
    raw = b"".join(unit.to_bytes(4, "little") for unit in units)
    size = len(raw) if rng.random() < 0.95 else rng.getrandbits(rng.choice([8, 16, 32]))
    texts = rng.choice([b"bb\0"] * 6 + [b"b" * 300, b"", b"\xff"])
    return base64.b64encode(size.to_bytes(4, "little") + raw + texts).decode()


def _models() -> list[dict[str, Any]]:
    special = ["<unk>", "<s>", "</s>"]
    words = ["he", "ll", "hell", "hello", "▁", "##a", "##he"]
    pieces = {text: i for i, text in enumerate([*special, *byte_characters().values(), *words])}
    fallback = {text: i for i, text in enumerate([*special, *(f"<0x{b:02X}>" for b in range(256)), *"ahelo", *words])}
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]]
    options = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return [
        {"type": "BPE", **options, **flags, "vocab": pieces, "merges": merges},
        {"type": "BPE", **options, **flags, "vocab": pieces, "merges": ["h e", "l l"], "unk_token": "<unk>"},
        {"type": "BPE", **options, **flags, "vocab": fallback, "merges": merges, "byte_fallback": True},
        {"type": "Unigram", "vocab": [[text, -float(i)] for text, i in fallback.items()], "unk_id": 0,
         "byte_fallback": True},
        {"type": "WordLevel", "vocab": pieces, "unk_token": "<unk>"},
        {"type": "WordPiece", "vocab": pieces, "unk_token": "<unk>", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 100},
    ]  # fmt: skip


def _seed(rng: random.Random) -> dict[str, Any]:
    """A file that is usually valid."""
    model = copy.deepcopy(rng.choice(_models()))
    added = [("<s>", 1), ("</s>", 2), ("<m>", len(model["vocab"]))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    table: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags, "special": True} for text, i in added],
        "model": model,
        "decoder": copy.deepcopy(rng.choice(STEPS["decoder"][:3])),
    }
    for section in ("normalizer", "pre_tokenizer", "post_processor"):
        if rng.random() < 0.7:
            table[section] = _steps(section, rng)
    return table


def _steps(section: str, rng: random.Random) -> dict[str, Any]:
    count = rng.choice([1, 1, 1, 2, 2, 3, 3, 4, 40])
    chosen = [rng.choice(STEPS[section])] * count if rng.random() < 0.2 else rng.choices(STEPS[section], k=count)
    steps = copy.deepcopy(chosen)
    if section == "normalizer" and rng.random() < 0.3:
        steps.insert(rng.randrange(len(steps)), {"type": "Precompiled", "precompiled_charsmap": _charsmap(rng)})
    step = steps[0] if len(steps) == 1 else {"type": "Sequence", INSIDE[section]: steps}
    for _ in range(rng.choice([0] * 20 + [1, 2, 50])):
        step = {"type": "Sequence", INSIDE[section]: [step]}
    return step


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree; of long containers only the first ones."""
    if isinstance(value, (dict, list)):
        for key in list(value)[:12] if isinstance(value, dict) else range(min(len(value), 12)):
            found.append((value, key))
            _places(value[key], found)
    return found


def _change(table: dict[str, Any], rng: random.Random) -> None:
    where, key = rng.choice(_places(table, []))
    old = where[key]
    kind = rng.randrange(8)
    if kind == 0:
        where[key] = rng.choice(NUMBERS)
    elif kind == 1:
        where[key] = rng.choice(STRINGS)
    elif kind == 2:
        where[key] = rng.choice([None, True, False, [], {}, [[]], {"type": "Sequence"}, {"Regex": rng.choice(REGEXES)}])
    elif kind == 3:
        del where[key]
    elif kind == 4 and isinstance(old, list):
        where[key] = copy.deepcopy(old) * rng.choice([2, 3, 40])
    elif kind == 5 and isinstance(old, str):
        where[key] = rng.choice([rng.choice(REGEXES), old * rng.choice([2, 50]), old[1:], rng.choice(sorted(_KINDS))])
    elif kind == 6:
        where[key] = copy.deepcopy(rng.choice(_places(table, []))[0])
    elif isinstance(old, dict):
        name = rng.choice(["type", "id", "content", "pattern", "behavior", "vocab", "x"])
        old[name] = rng.choice([*STRINGS, *NUMBERS])


_KINDS = {kind for kinds in KINDS.values() for kind in kinds}


def mutate(rng: random.Random) -> bytes:
    """A mutated tokenizer.json, valid or not."""
    table = _seed(rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        _change(table, rng)
    for pattern in [w for w, key in _places(table, []) if key == "Regex" and isinstance(w, dict)]:
        if rng.random() < 0.3:
            pattern["Regex"] = rng.choice(REGEXES)
    data = json.dumps(table, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice([b"", b"\xff", b"0", b'"', b"{", b"[" * 5000, b"9" * 5000]) + data[at + 1 :]
    return data


def run(data: bytes) -> None:
    """Loads the file, encodes and decodes. Raises nothing but a ``PellucidError``."""
    try:
        description = data.decode()
    except UnicodeDecodeError:
        return  # refused before
    tokenizer = JsonTokenizer(description)
    spelled = tokenizer.spelling(tokenizer.vocab_size - 1)
    for text in [*TEXTS, spelled]:
        for parse_special in (False, True):
            try:
                ids = tokenizer.encode(text, parse_special=parse_special)
            except PellucidError:
                continue
            assert all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in ids)
            tokenizer.decode(ids, special=parse_special)


def known() -> dict[str, bytes]:
    """Files whose faulty component is named in the error; many once ended the process."""
    from tests.text.test_description import REFUSED, made

    return {name: made(**sections).encode() for name, (sections, _) in REFUSED.items()}


def main(seed: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    loaded = 0
    for number in range(seed, seed + count):
        print(number, flush=True)
        try:
            run(mutate(random.Random(number)))
            loaded += 1
        except PellucidError as error:
            assert str(error)
    print(f"loaded {loaded}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
