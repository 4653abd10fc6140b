"""Hostile tokenizer.json files are refused, naming the component, before the package reads them; real kinds are not."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pellucid.errors import TokenizerError
from pellucid.text import hf
from pellucid.text.base import package_errors
from pellucid.text.bpe import byte_characters
from pellucid.text.components import KINDS, MODELS
from pellucid.text.description import Description
from pellucid.text.hf import JsonTokenizer
from pellucid.text.pattern import Pattern
from pellucid.text.words import KNOWN

from .published import PUBLISHED

VOCAB = {text: i for i, text in enumerate(["<unk>", "<s>", *byte_characters().values(), "he", "##e"])}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BASE: dict[str, Any] = {
    "version": "1.0",
    "model": {"type": "BPE", "vocab": VOCAB, "merges": [["h", "e"]], "unk_token": "<unk>"},
    "decoder": BYTE_LEVEL,
    "added_tokens": [],
}


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def regex(source: str) -> dict[str, Any]:
    return {**SPLIT, "pattern": {"Regex": source}}


def sequence(name: str, steps: list[Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: steps}


def token(**changes: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": len(VOCAB), "content": "<m>", **flags, "special": True, **changes}


def made(**sections: Any) -> str:
    table = copy.deepcopy(BASE)
    for name, value in sections.items():
        table[name] = {**table["model"], **value} if name == "model" and "type" not in value else value
    return json.dumps(table)


def template(single: list[Any], ids: list[int]) -> dict[str, Any]:
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"] * len(ids)}}
    parts = [{"A": a, "B": b}.get(part) or {"SpecialToken": {"id": part, "type_id": 0}} for part in single]
    return {"type": "TemplateProcessing", "single": parts, "pair": [a, b], "special_tokens": tokens}


def charsmap(units: dict[int, int], texts: bytes, size: int = 1024) -> dict[str, Any]:
    trie = b"".join(units.get(i, 0).to_bytes(4, "little") for i in range(256))
    raw = size.to_bytes(4, "little") + trie + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


GROW = replace("a", "a" * 100)
LEAF = {0: 1 << 10, 1 ^ 97: 97 | 1 << 8 | 2 << 10}  # "a" leads to the value in unit 1 ^ 2
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "chained replacements": (
        {"normalizer": sequence("normalizers", [GROW] * 6)}, r"normalizer.normalizers\[1\]: .* 256 times as long"),
    "a long replacement": ({"normalizer": replace("a", "b" * 300)}, "normalizer: .* 256 times as long"),
    "doublings": (
        {"pre_tokenizer": sequence("pretokenizers", [BYTE_LEVEL] * 40)}, r"pre_tokenizer.pretokenizers\[8\]: .*times"),
    "doublings of the normaliser": (
        {"normalizer": sequence("normalizers", [{"type": "ByteLevel"}] * 40)}, r"normalizer.normalizers\[8\]: .*times"),
    "many components": (
        {"normalizer": sequence("normalizers", [{"type": "Nmt"}] * 100)}, r"normalizers\[62\]: more than 64"),
    "deep components": (
        {"normalizer": json.loads('{"type": "Sequence", "normalizers": [' * 20 + '{"type": "NFC"}' + "]}" * 20)},
        "nested more than 8 deep"),
    "an empty replacement": (
        {"normalizer": replace("", "b")}, "normalizer.pattern: .*text that is neither empty"),
    "a long text to search for": (
        {"pre_tokenizer": {**SPLIT, "pattern": {"String": "a" * 2000}}}, "pre_tokenizer.pattern: .*too long"),
    "a replacement of nothing": (
        {"normalizer": {**replace("", "b"), "pattern": {"Regex": "x*"}}}, "normalizer: .*can match an empty text"),
    "a length of nothing": (
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "pre_tokenizer.length: it is 0; expected an"),
    "an unknown kind": ({"normalizer": {"type": "Rot13"}}, "normalizer.type: it is 'Rot13'; expected one of BertNorm"),
    "a kind of no text": ({"normalizer": {"type": ["NFC"]}}, "normalizer.type: "),
    "an unknown field": ({"pre_tokenizer": {**SPLIT, "limit": 3}}, "pre_tokenizer.limit: unknown field"),
    "a field of another type": ({"pre_tokenizer": {**SPLIT, "invert": 3}}, "pre_tokenizer.invert: it is 3; exp"),
    "no table": ({"pre_tokenizer": [SPLIT]}, "pre_tokenizer: .*expected a table"),
    "a template repeated": (
        {"post_processor": template(["A"] * 50, [1])}, "post_processor.single: expected only the sequence A, once"),
    "a template of many tokens": (
        {"post_processor": template(["A", *["<s>"] * 200], [1] * 100)}, "single: adds 20000 tokens"),
    "a template's unknown token": (
        {"post_processor": template(["A", "<x>"], [1])}, r"post_processor.single\[1\]: .*known token"),
    "a template's id": (
        {"post_processor": template(["A"], [5000])}, "special_tokens.*ids: 5000 is not an id below 260"),
    "a processor's id": (
        {"post_processor": {"type": "BertProcessing", "sep": ["<s>", 2**31], "cls": ["<s>", 1]}}, "post_processor.sep"),
    "a processor's id beyond the vocabulary": (
        {"post_processor": {"type": "BertProcessing", "sep": ["<s>", 1], "cls": ["<s>", 261]}}, "cls: id 261 is not"),
    "a prefix longer than a piece": (
        {"model": {"continuing_subword_prefix": "##", "merges": [["h", "e"]]}}, r"model.merges\[0\]: 'e' does not"),
    "a long prefix": ({"model": {"continuing_subword_prefix": "#" * 99}}, "model.continuing_subword_prefix: "),
    "chance": ({"model": {"dropout": 0.5}}, "model.dropout: it is 0.5; expected null"),
    "an enormous id": ({"model": {"vocab": {**VOCAB, "x": 200_000_000}}}, "model.vocab: id 200000000 of 260 pieces"),
    "an id of 32 bits": ({"model": {"vocab": {"x": 2**31}, "merges": []}}, "model.vocab: id 2147483648"),
    "a negative id": ({"model": {"vocab": {"x": -1}}}, r"model.vocab\['x'\]: it is -1"),
    "an id that is not whole": ({"model": {"vocab": {"x": 1.0}}}, r"model.vocab\['x'\]: it is 1.0"),
    "an id given twice": ({"model": {"vocab": {"x": 1, "y": 1}}}, r"model.vocab\['y'\]: its id 1 is another"),
    "merges of three": ({"model": {"merges": [["h", "e"], ["a", "b", "c"]]}}, r"model.merges\[1\]"),
    "merges of mixed kinds": ({"model": {"merges": [["a", "b"], "h e"]}}, r"model.merges\[1\]"),
    "a merge of unknown pieces": ({"model": {"merges": [["x1", "y"]]}}, "rejected by tokenizers"),
    "a score": ({"model": {"type": "Unigram", "vocab": [["a", 0], ["b", "c"]]}}, r"model.vocab\[1\]"),
    "an infinite score": ({"model": {"type": "Unigram", "vocab": [["a", -1e999]]}}, r"model.vocab\[0\]"),
    "an unknown piece": ({"model": {"type": "Unigram", "vocab": [["a", 0]], "unk_id": 1}}, "model.unk_id: it is 1"),
    "long words": (
        {"model": {"type": "WordPiece", "vocab": VOCAB, "unk_token": "<unk>", "max_input_chars_per_word": 10**6}},
        "model.max_input_chars_per_word"),
    "an unknown model": ({"model": {"type": "RNN", "vocab": {}}}, "model.type: it is 'RNN'; expected one of BPE"),
    "an added token's id": ({"added_tokens": [token(id=2**31 - 1)]}, r"added_tokens\[0\].id: id 2147483647"),
    "an added token's other id": ({"added_tokens": [token(id=999)]}, r"added_tokens\[0\].id: 999 for '<m>'"),
    "an added token without text": ({"added_tokens": [{"id": 1}]}, r"added_tokens\[0\].content: missing"),
    "added tokens that grow": (
        {"normalizer": GROW, "added_tokens": [token(content="a" * 60_000, normalized=True)]}, "added_tokens: .*bytes"),
    "a trie that is too short": ({"normalizer": charsmap(LEAF, b"", size=400)}, "normalizer: .*whole blocks"),
    "a trie beyond the file": ({"normalizer": charsmap(LEAF, b"", size=1 << 20)}, "normalizer: .*whole blocks"),
    "a trie that leads out": ({"normalizer": charsmap({0: 300 << 10}, b"b\0")}, "normalizer: .*points beyond"),
    "a trie whose root leads out": (
        {"normalizer": charsmap({0: 300 << 10 | 1 << 31}, b"b\0")}, "normalizer: .*points beyond"),
    "a trie to no replacement": ({"normalizer": charsmap({**LEAF, 98: 9}, b"b\0")}, "normalizer: .*no replacement"),
    "a trie into a character": (
        {"normalizer": charsmap({**LEAF, 98: 1}, "é\0".encode())}, "normalizer: .*no replacement"),
    "replacements that are not text": ({"normalizer": charsmap(LEAF, b"\xff\0")}, "normalizer: .*not UTF-8"),
    "no charsmap": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "normalizer: .*not base64"),
    "a nested repetition": ({"pre_tokenizer": regex("(a+)+$")}, "pre_tokenizer: .*length varies at character 5"),
    "truncation": ({"truncation": {"max_length": -1}}, "truncation.max_length: it is -1"),
    "padding": ({"padding": 3}, "padding: it is 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    sections, message = REFUSED[name]
    with pytest.raises(TokenizerError, match=message) as caught:
        JsonTokenizer(made(**sections))
    assert len(str(caught.value)) < 700
    assert capfd.readouterr() == ("", "")


def test_a_key_given_twice_is_refused() -> None:
    text = made().replace('"version"', '"normalizer": {"type": "NFC"}, "normalizer": null, "version"')
    with pytest.raises(TokenizerError, match="the key 'normalizer' is given twice"):
        Description(text)


# -- what is published

XLM_R = [charsmap({**LEAF, 98: 0}, b"x" * 33 + b"\0"), {**replace("x", "\u2581"), "pattern": {"Regex": " {2,}"}}]
HONEST: dict[str, dict[str, Any]] = {
    "Llama 2": {
        "normalizer": sequence(
            "normalizers", [{"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581")])},
    "XLM-R": {
        "normalizer": sequence("normalizers", XLM_R),
        "pre_tokenizer": sequence("pretokenizers", [{"type": "WhitespaceSplit"}, {"type": "Metaspace",
            "replacement": "\u2581", "add_prefix_space": True, "str_rep": "\u2581"}]),
        "model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1], ["\u2581", -2.5]], "unk_id": 0},
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True},
    },
    "BERT": {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    },
    "DeBERTa": {"normalizer": sequence("normalizers", [
        {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKC"}, {"type": "Lowercase"}])},
    "SmolLM": {"pre_tokenizer": sequence("pretokenizers", [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL])},
    "Llama 3": {"post_processor": sequence("processors", [BYTE_LEVEL, template(["<s>", "A"], [1])])},
    "without a type": {"model": {**{k: v for k, v in BASE["model"].items() if k != "type"}, "type": None}},
    "holes": {"model": {"vocab": {**VOCAB, "x": 3000}}},
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_published_kinds_load_and_encode_as_the_package_does(name: str) -> None:
    description = made(**HONEST[name])
    ours = JsonTokenizer(description)
    theirs = Tokenizer.from_str(description.replace('"type": null, ', "").replace(', "type": null', ""))
    for text in ("", "a b", "he  said:\n\u00e9\U0001f600 12", "aaa " * 5000):
        assert ours.encode(text) == theirs.encode(text).ids
        assert all(i < ours.vocab_size for i in ours.encode(text))


ABSTRACT = {"Decoder", "DecodeStream", "Normalizer", "PostProcessor", "PreTokenizer"}


def test_every_kind_of_the_package_is_known() -> None:
    """With the fields that the package writes."""
    sections: dict[str, tuple[Any, dict[str, Any]]] = {
        "normalizer": (normalizers, {"Replace": ("a", "b"), "Precompiled": None, "Sequence": ([],)}),
        "pre_tokenizer": (pre_tokenizers, {"Split": (" ", "removed"), "CharDelimiterSplit": ("a",), "Sequence": ([],)}),
        "decoder": (decoders, {"Replace": ("a", "b"), "Sequence": ([],), "Strip": (" ", 1, 1)}),
        "post_processor": (processors, {
            "BertProcessing": (("a", 1), ("b", 1)), "RobertaProcessing": (("a", 1), ("b", 1)), "Sequence": ([],)}),
    }  # fmt: skip
    checked = 0
    for section, (module, arguments) in sections.items():
        for name, kind in vars(module).items():
            if not isinstance(kind, type) or name in ABSTRACT:
                continue
            given = arguments.get(name, ())
            written = None if given is None else json.loads(kind(*given).__getstate__())
            if written is None:
                assert name in KINDS[section]
                continue
            if name in ("Split", "Replace"):
                written["pattern"] = {"Regex": "a+"}
            Description(made(**{section: written}))
            checked += 1
    assert checked >= 40
    kinds = {name for name, kind in vars(models).items() if isinstance(kind, type)} - {"Model"}
    assert kinds == set(MODELS)


def test_the_length_of_what_a_text_becomes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "_MOST_BYTES", 1000)
    tokenizer = JsonTokenizer(made(normalizer=replace("a", "b" * 10)))
    assert len(tokenizer.encode("a" * 100)) == 1000
    with pytest.raises(TokenizerError, match=r"the text has 101 bytes; this tokenizer.json allows 100"):
        tokenizer.encode("a" * 101)


def test_a_long_piece_limits_the_text() -> None:
    vocab = [["<unk>", 0.0], ["a", -1.0], ["a" * 5000, -2.0]]
    tokenizer = JsonTokenizer(made(model={"type": "Unigram", "vocab": vocab, "unk_id": 0}))
    assert len(tokenizer.encode("a" * 5000)) == 1
    with pytest.raises(TokenizerError, match="finding the text's pieces could take 800000000 steps"):
        tokenizer.encode("a" * 40_000)


def test_ids_are_checked_after_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = JsonTokenizer(made())
    tokenizer.vocab_size = 3
    with pytest.raises(TokenizerError, match=r"the text became id \d+; the vocabulary has 3 tokens"):
        tokenizer.encode("a")


# -- regular expressions

PUBLISHED_REGEXES = sorted({step for steps in PUBLISHED.values() for step in steps if isinstance(step, str)})


@pytest.mark.parametrize("source", [r for r in PUBLISHED_REGEXES if r not in KNOWN])
def test_published_expressions_can_be_read(source: str) -> None:
    assert Pattern(source).degree <= 1


@pytest.mark.parametrize(
    "source",
    [
        "(a+)+$", "(a|a)*b", "(a?){30}a{30}", "a?" * 30 + "a" * 30, "(x+x+)+y", "((a{0,9}){0,9}){0,9}b", "(a|b|ab)*c",
        "(?:a{999}){999}", "(?:(?=a))*b", r"(a)\1", r"\g<0>", "(?~a)", "(?<n>a)(?(1)b|c)", "(*FAIL)", "a**", "a{2}{3}",
        "a{1,2}+", "(", ")", "[", "[]a]", "[^]a]", "(?x) a b", r"\K", "a{3,1}", "(" * 40 + ")" * 40, "a" * 30_000,
        r"(?#comment)", "\\",
    ],
)  # fmt: skip
def test_expressions_that_may_take_for_ever_are_refused(source: str) -> None:
    with pytest.raises(TokenizerError, match=r"expression"):
        Pattern(source)


@pytest.mark.parametrize(
    ("source", "least", "degree"),
    [
        ("", 0, 0), ("a", 1, 0), ("a*", 0, 0), ("a+b", 2, 1), (r"\s+$", 1, 1), (".*.*.*x", 1, 3), (" {2,}", 2, 0),
        ("a++b", 2, 1), ("(?=a*b)", 0, 1), ("(?=a*)b", 1, 1), ("a+|b+c", 1, 1), ("a+b*", 1, 0), ("a+(?:b?)", 1, 0),
        ("(A|B){2}c", 3, 0), ("(?:abc)+", 3, 0), ("[a-z&&[^x]]+", 1, 0), ("a{3}?", 0, 0), ("a{,2}", 0, 0),
        ("a{b", 3, 0),
        (r"[\]\\]+\x{41}\p{^Lu}", 3, 1), ("(?i:a)(?>b)(?<n>c)(?i)", 3, 0),
    ],
)  # fmt: skip
def test_how_the_time_of_an_expression_grows(source: str, least: int, degree: int) -> None:
    pattern = Pattern(source)
    assert (pattern.least, pattern.degree) == (least, degree)


def test_an_expression_limits_the_runs_of_a_text_and_not_its_length() -> None:
    qwen = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    assert qwen not in KNOWN
    for first in ([], [regex(r"\d")]):
        steps = [*first, regex(qwen), {**BYTE_LEVEL, "use_regex": False}]
        tokenizer = JsonTokenizer(made(pre_tokenizer=sequence("pretokenizers", steps)))
        text = "Is it \u00e9 or 12? \n\n   Yes.\n" * 10_000
        assert tokenizer.decode(tokenizer.encode(text)) == text
        with pytest.raises(TokenizerError, match=r"pretokenizers\[\d\]: its regular expression could take \d+ steps"):
            tokenizer.encode(" " * 100_000 + "x")


def test_a_long_counted_repetition_limits_the_text() -> None:
    tokenizer = JsonTokenizer(made(pre_tokenizer=sequence("pretokenizers", [regex("[^x]{0,1000}x"), BYTE_LEVEL])))
    assert len(tokenizer.encode("a" * 1000)) == 1000
    with pytest.raises(TokenizerError, match="its regular expression could take 600300000 steps"):
        tokenizer.encode("a" * 300_000)


# -- what the package still raises


def test_a_panic_is_an_error_of_ours_and_an_interrupt_is_not() -> None:
    with pytest.raises(TokenizerError, match="the text could not be cut: chunk size must be non-zero"):
        with package_errors("the text could not be cut"):
            pre_tokenizers.FixedLength(0).pre_tokenize_str("abc")
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(kind), package_errors("x"):
            raise kind


def test_mutated_files_do_no_harm() -> None:
    """2,000 of them, in processes with little memory. Nothing is printed on standard error, as a panic would."""
    root = Path(__file__).parents[2]
    share = 500

    def work(seed: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.fuzz.tokenizer_json", str(seed), str(share)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=500)

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(work, range(0, 2000, share)):
            lines = done.stdout.split("\n")
            assert done.returncode == 0, f"seed {lines[-2]}: {done.stderr[-3000:]}"
            assert done.stderr == ""
            loaded = int(lines[-2].removeprefix("loaded "))
            assert loaded > share // 10
