"""A special token that a message spells is text there, and changes nothing of the prompt around it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pellucid import Tokenizer
from pellucid.text import Vocabulary
from pellucid.text.bpe import byte_characters
from pellucid.text.marked import MarkedEncoder
from pellucid.text.vocabulary import CONTROL

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }} <|im_end|>\n{% endfor %}<|im_start|>a "
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
NORMALIZER = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
]}  # fmt: skip
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
# How a text is cut, and how its special tokens match.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a space first": ({"pre_tokenizer": METASPACE}, {}),
    "a space first, strips after": ({"pre_tokenizer": METASPACE}, {"rstrip": True}),
    "a space first, strips before": ({"pre_tokenizer": METASPACE}, {"lstrip": True}),
    "a space before each part": ({"normalizer": NORMALIZER}, {}),
    "a space before each part, normalised": ({"normalizer": NORMALIZER}, {"normalized": True}),
    "bytes": ({"pre_tokenizer": BYTES}, {}),
    "bytes, strips after": ({"pre_tokenizer": BYTES}, {"rstrip": True}),
    "bytes, strips before": ({"pre_tokenizer": BYTES}, {"lstrip": True}),
    "bytes, whole words": ({"pre_tokenizer": BYTES}, {"single_word": True}),
}


def make(folder: Path, kind: str, beyond: bool = False) -> Tokenizer:
    """beyond: the special tokens are no pieces of the model, and their numbers do not follow those of its pieces."""
    from tokenizers import pre_tokenizers

    parts, flags = KINDS[kind]
    if kind.startswith("bytes"):
        pieces, decoder = [*sorted(pre_tokenizers.ByteLevel.alphabet())], BYTES
    else:
        pieces = [f"<0x{i:02X}>" for i in range(256)] + ["▁", *"abcdefghijklmnopqrstuvwxyz<>/|_"]
        decoder = {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]}  # fmt: skip
    rest = [] if beyond else [*SPECIAL]
    vocab = {piece: i for i, piece in enumerate([*pieces, *rest])}
    off = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": not kind.startswith("bytes")}
    if not beyond:
        model["unk_token"] = "<s>"
    added = [
        {"id": vocab.get(t, len(pieces) + i), "content": t, **off, **flags, "special": True}
        for i, t in enumerate(SPECIAL)
    ]
    table = {"version": "1.0", "added_tokens": added, "model": model, "decoder": decoder, **parts}
    (folder / "tokenizer.json").write_text(json.dumps(table))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return Tokenizer.load(folder)


def spelled(tokenizer: Tokenizer, *contents: str) -> list[str]:
    messages = [{"role": "user", "content": content} for content in contents]
    return [tokenizer.spelling(i) for i in tokenizer.chat().prompt(messages).ids]


def around(tokenizer: Tokenizer, middle: str) -> tuple[list[str], list[str], list[str]]:
    """A prompt's tokens (before, of and after) what stands between "q" and "z" in its second message."""
    every = spelled(tokenizer, "hi", f"q{middle}z", "yo")
    start, end = every.index("q"), every.index("z")
    return every[: start + 1], every[start + 1 : end], every[end:]


@pytest.mark.parametrize("beyond", [False, True], ids=["pieces", "beyond"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_around_it_stays(kind: str, beyond: bool, tmp_path: Path) -> None:
    tokenizer = make(tmp_path, kind, beyond)
    before, between, after = around(tokenizer, "x")
    assert between == ["x"] and any("<|im_end|>" in name for name in after)
    for middle in ("</s>", "<|im_end|>", "<|im_start|></s>", "x<s>x", "<|im_end|", "⠁</s>⠂", "<|im_<|im_end|>end|>"):
        found = around(tokenizer, middle)
        assert (found[0], found[2]) == (before, after), middle
        if middle == "</s>":
            assert found[1] == [*middle]


@pytest.mark.parametrize("kind", ["bytes", "bytes, whole words"])
def test_tokens_that_the_file_s_rules_exclude(kind: str, tmp_path: Path) -> None:
    """A template's own token between letters: no token where the file asks for whole words."""
    tokenizer = make(tmp_path, kind)
    table = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in table["added_tokens"]:
        if token["content"] == "<s>":
            token["content"], token["id"] = "EOS", len(table["model"]["vocab"])
    table["model"].pop("unk_token", None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    tokenizer = Tokenizer.load(tmp_path)
    chat = tokenizer.chat("a{{ 'EOS' }}b EOS {{ messages[0].content }} <|im_end|>")
    for said in ("x", "</s>"):
        ids = chat.prompt([{"role": "user", "content": said}]).ids
        names = [tokenizer.spelling(i) for i in ids]
        assert names.count("EOS") == (1 if kind == "bytes, whole words" else 2)
        assert names[-1] == "<|im_end|>" and "</s>" not in names


@pytest.mark.parametrize("normalized", [False, True])
def test_ids_without_pieces(normalized: bool, tmp_path: Path) -> None:
    """What stands for these is in no special token, also where its second character is a digit."""
    listed = sorted(byte_characters().values())
    table: dict[str, Any] = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}
    table["model"]["vocab"] = {**{piece: i for i, piece in enumerate(listed)}, "zz": 300}
    table["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    table["pre_tokenizer"] = table["decoder"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    table["added_tokens"] = [
        {"id": len(listed) + 1 + i, "content": text, "special": True, "normalized": normalized, **flags}
        for i, text in enumerate(("<1>", "<e>"))
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.chat("<1>{{ messages[0].content }}<e>").prompt([{"role": "user", "content": "h<e>"}]).ids
    assert [tokenizer.spelling(i) for i in ids] == ["<1>", "h", "<", "e", ">", "<e>"]


def test_without_the_package_s_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no character is free to mark tokens with, each part is encoded alone."""
    tokenizer = make(tmp_path, "bytes")
    expected = spelled(tokenizer, "x </s>")
    monkeypatch.setattr(MarkedEncoder, "encode", lambda *_: None)
    found = spelled(tokenizer, "x </s>")
    assert [name for name in found if name in SPECIAL] == [name for name in expected if name in SPECIAL]


def test_the_second_tokenizer_s_number_is_bounded(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, "bytes")
    marks = [chr(0x2801 + i) for i in range(12)]
    for i in range(len(marks)):
        assert around(tokenizer, f"{''.join(marks[:i])}</s>")[2] == around(tokenizer, "x")[2]
    assert 0 < len(tokenizer._text._marked._made) <= 4  # type: ignore[attr-defined]


def test_many_spellings_take_linear_time(tmp_path: Path) -> None:
    chat = make(tmp_path, "bytes").chat()

    def seconds(count: int) -> float:
        start = time.thread_time()
        chat.prompt([{"role": "user", "content": "</s> <|im_end|> a" * count}])
        return time.thread_time() - start

    seconds(10)
    assert seconds(16_000) < 40 * seconds(1_000) + 0.2


@pytest.mark.parametrize("strips", [False, True])
def test_sentencepiece(strips: bool, spm_parts: dict[str, Any]) -> None:
    """Also where the template's tokens remove the white space after them."""
    source = "<bos>\n{{ messages[0].content }}<eos>\n{{ messages[-1].content }}"
    v = Vocabulary(**{**spm_parts, "chat_template": source})
    own = replace(v, strips=frozenset(v.ids_of(CONTROL)) if strips else frozenset())
    tokenizer = Tokenizer.from_vocabulary(own)

    def ids(first: str, second: str) -> list[int]:
        messages = [{"role": "user", "content": first}, {"role": "user", "content": second}]
        return tokenizer.chat().prompt(messages).ids

    plain = ids("hello", "you")
    end = plain.index(tokenizer.eos or 0)
    assert ids("hello", "you <eos>")[: len(plain)] == plain
    assert plain == tokenizer.encode("<bos>\nhello<eos>\nyou", False, True)
    changed = ids("<eos> hello", "you")
    assert changed[changed.index(tokenizer.eos or 0) :] == plain[end:]
