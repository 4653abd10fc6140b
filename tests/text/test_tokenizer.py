"""The public Tokenizer, from every kind of file, valid and invalid."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import _parsers
from pellucid.errors import PellucidError, TokenizerError
from pellucid.text import Vocabulary
from pellucid.text.bpe import byte_characters
from pellucid.tokenizer import Tokenizer

Parts = dict[str, Any]
WriteGguf = Callable[..., Path]

TEXTS = ["", "the hello", " 12 é😀\0\n  x", "<|im_end|><think>", "שלום e\u0301", "<bos>\u2581<end_of_turn>"]


def same(a: Tokenizer, b: Tokenizer) -> None:
    for text in TEXTS:
        for special in (False, True):
            assert a.encode(text, parse_special=special) == b.encode(text, parse_special=special), text
        assert a.decode(a.encode(text)) == text
    assert (a.vocab_size, a.bos, a.eos, a.eog) == (b.vocab_size, b.bos, b.eos, b.eog)
    assert [a.piece(i) for i in range(a.vocab_size)] == [b.piece(i) for i in range(b.vocab_size)]


# -- GGUF


def test_gguf_of_a_byte_level_vocabulary(write_gguf: WriteGguf, bpe_parts: Parts, bpe: Vocabulary) -> None:
    loaded = Tokenizer.load(write_gguf(bpe_parts, chat_template="{{ x }}"))
    same(loaded, Tokenizer.from_vocabulary(bpe))
    assert loaded.chat_template == "{{ x }}"
    assert not loaded.add_bos


def test_gguf_of_a_sentencepiece_vocabulary(write_gguf: WriteGguf, spm_parts: Parts, spm: Vocabulary) -> None:
    loaded = Tokenizer.load(str(write_gguf(spm_parts, unknown_token_id=3)))
    same(loaded, Tokenizer.from_vocabulary(spm))
    assert loaded.add_bos  # the default of this kind
    assert not Tokenizer.load(write_gguf(spm_parts, add_bos_token=False)).add_bos


def test_gguf_of_a_sentencepiece_vocabulary_with_merges(write_gguf: WriteGguf, spm_parts: Parts) -> None:
    changes = {"merges": ["h e", "l l"], "add_space_prefix": None, "scores": None}
    loaded = Tokenizer.load(write_gguf(spm_parts, model="gemma4", **changes))
    assert [loaded.spelling(i) for i in loaded.encode("he all\n")] == ["<bos>", "he", "▁", "a", "ll", "<0x0A>"]
    assert loaded.decode(loaded.encode("▁ he")) == "▁ he"
    same(loaded, Tokenizer.load(write_gguf(spm_parts, model="gpt2", pre="gemma4", **changes)))
    same(loaded, Tokenizer.load(write_gguf(spm_parts, model="gpt2", pre="granite-embed-multi-311m", **changes)))
    cut = Tokenizer.load(write_gguf(spm_parts, model="gpt2", pre="mmbert", **changes))
    assert [cut.spelling(i) for i in cut.encode("he all")] == ["▁", "he", "▁", "a", "ll"]
    with pytest.raises(TokenizerError, match="tokenizer.ggml.merges: missing"):
        Tokenizer.load(write_gguf(spm_parts, model="gemma4"))


@pytest.mark.parametrize("pre", ["gemma4", "granite-embed-multi-311m", "sarvam-moe", "mmbert"])
def test_gguf_gemma4_adds_bos_whatever_the_file_says(write_gguf: WriteGguf, spm_parts: Parts, pre: str) -> None:
    path = write_gguf(spm_parts, model="gpt2", pre=pre, merges=["h e"], add_bos_token=False)
    assert Tokenizer.load(path).add_bos == (pre in ("gemma4", "granite-embed-multi-311m"))


def test_gguf_space_prefix_is_the_default(write_gguf: WriteGguf, spm_parts: Parts) -> None:
    loaded = Tokenizer.load(write_gguf(spm_parts, add_space_prefix=None))
    assert [loaded.spelling(i) for i in loaded.encode("the")] == ["<bos>", "▁the"]
    assert loaded.decode(loaded.encode("the")) == "the"


def test_gguf_llama3_adds_bos_unless_told_otherwise(write_gguf: WriteGguf, bpe_parts: Parts) -> None:
    assert Tokenizer.load(write_gguf(bpe_parts, pre="llama-bpe")).encode("the")[0] == bpe_parts["bos"]
    assert len(Tokenizer.load(write_gguf(bpe_parts, pre="llama-bpe", add_bos_token=False)).encode("the")) == 1


@pytest.mark.parametrize(("pre", "whole"), [("glm4", True), ("glm5", True), ("chatglm-bpe", False), ("dbrx", False)])
def test_gguf_a_word_that_is_a_piece(write_gguf: WriteGguf, bpe_parts: Parts, pre: str, whole: bool) -> None:
    """In GLM-4's vocabulary no chain of merges leads to some words."""
    parts = {**bpe_parts, "pieces": [*bpe_parts["pieces"], "Ġhe"], "types": np.append(bpe_parts["types"], 1)}
    loaded = Tokenizer.load(write_gguf(parts, pre=pre))
    assert [loaded.spelling(i) for i in loaded.encode("a he")] == ["a", *(["Ġhe"] if whole else ["Ġ", "he"])]


def test_gguf_further_ends(write_gguf: WriteGguf, bpe_parts: Parts) -> None:
    loaded = Tokenizer.load(write_gguf(bpe_parts, eot_token_id=65, eom_token_id=66))
    assert {65, 66, bpe_parts["eos"]} < loaded.eog
    fim = {"fim_pad_token_id": 67, "fim_rep_token_id": 68, "fim_sep_token_id": 69, "fim_pre_token_id": 70}
    assert Tokenizer.load(write_gguf(bpe_parts, **fim)).eog & set(fim.values()) == {67, 68, 69}


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        (
            {"<|im_end|>": 1, "<|tool_response>": 1, "<|file_sep|>": 4},
            {"<|im_end|>", "<|tool_response>", "<|file_sep|>"},
        ),
        ({"</s>": 4, "[PAD]": 4, "<eos>": 1}, set()),
        ({"</s>": 3, "[PAD]": 3}, {"</s>", "[PAD]"}),
        ({"<|end|>": 3, "<|call|>": 3}, {"<|end|>", "<|call|>"}),
        ({"<|end|>": 3, "<|calls|>": 3, "<|flush|>": 3}, {"<|calls|>", "<|flush|>"}),
        ({"<|end|>": 3, "<|call|>": 3, "<|return|>": 3}, {"<|call|>", "<|return|>"}),
    ],
)
def test_gguf_ends_by_their_spelling(write_gguf: WriteGguf, bpe_parts: Parts, more: Parts, ends: set[str]) -> None:
    """Whatever type the file gives them, but for those that other texts have."""
    kept = [i for i, piece in enumerate(bpe_parts["pieces"]) if piece not in ("<|endoftext|>", "<|im_end|>")]
    types = np.array([*bpe_parts["types"][kept], *more.values()], np.int32)
    parts = {**bpe_parts, "pieces": [*(bpe_parts["pieces"][i] for i in kept), *more], "types": types}
    loaded = Tokenizer.load(write_gguf({**parts, "bos": None, "eos": None}))
    assert {loaded.spelling(i) for i in loaded.eog} == ends


def test_gguf_ids_that_are_none(write_gguf: WriteGguf, bpe_parts: Parts, bpe: Vocabulary) -> None:
    """Converters wrote 2^32 - 1 for no token; padding may be a token that the vocabulary lost."""
    none = np.uint32(2**32 - 1)
    same(
        Tokenizer.load(write_gguf(bpe_parts, padding_token_id=none, eot_token_id=none)), Tokenizer.from_vocabulary(bpe)
    )
    same(Tokenizer.load(write_gguf(bpe_parts, padding_token_id=271)), Tokenizer.from_vocabulary(bpe))


@pytest.mark.parametrize("kind", ["bpe_parts", "spm_parts"])
def test_gguf_empty_pieces(write_gguf: WriteGguf, request: pytest.FixtureRequest, kind: str) -> None:
    parts = request.getfixturevalue(kind)
    more = {**parts, "pieces": [*parts["pieces"], "", ""], "types": np.append(parts["types"], [1, 3])}
    if parts.get("scores") is not None:
        more["scores"] = np.append(parts["scores"], [0.0, 0.0])
    loaded, plain = Tokenizer.load(write_gguf(more)), Tokenizer.load(write_gguf(parts))
    first = len(parts["pieces"])
    assert [loaded.spelling(first), loaded.spelling(first + 1)] == [f"[EMPTY_{first}]", f"[EMPTY_{first + 1}]"]
    assert loaded.piece(first) == loaded.piece(first + 1) == b""
    for text in (*TEXTS, f"[EMPTY_{first}]"):
        assert loaded.encode(text, parse_special=True) == plain.encode(text, parse_special=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "rwkv"},
            'tokenizer.ggml.model: unknown kind of vocabulary \'rwkv\'; known: "gpt2", "llama", "gemma4"',
        ),
        ({"model": None}, "tokenizer.ggml.model: missing"),
        ({"model": 3}, "tokenizer.ggml.model: it is 3; expected text"),
        ({"tokens": None}, "tokenizer.ggml.tokens: missing"),
        ({"tokens": [1, 2]}, r"tokenizer.ggml.tokens: it is .*expected an array of strings"),
        ({"tokens": ["a", "b"]}, r"tokenizer.ggml.token_type: shape \(\d+,\); expected \(2,\)"),
        ({"token_type": [1, 2, 3]}, r"tokenizer.ggml.token_type: shape \(3,\)"),
        ({"token_type": ["a"]}, "tokenizer.ggml.token_type: .*expected an array of numbers"),
        ({"scores": [1.0]}, r"tokenizer.ggml.scores: shape \(1,\)"),
        ({"scores": "high"}, "tokenizer.ggml.scores: it is 'high'; expected an array of numbers"),
        ({"merges": None}, "tokenizer.ggml.merges: missing"),
        ({"merges": ["q u", "qu x"]}, r"merges\[0\]: 'q u' needs the piece 'qu'"),
        ({"merges": [1]}, "tokenizer.ggml.merges: .*expected an array of strings"),
        ({"pre": "other"}, "tokenizer.ggml.pre: unknown pre-tokenizer 'other'; known: gpt-2"),
        ({"bos_token_id": 999}, "tokenizer.ggml.bos_token_id: id 999 is out of range; the vocabulary has 271 pieces"),
        ({"eos_token_id": -1}, "tokenizer.ggml.eos_token_id: id -1 is out of range"),
        ({"eot_token_id": 271}, "tokenizer.ggml.eot_token_id: id 271 is out of range"),
        ({"unknown_token_id": True}, "tokenizer.ggml.unknown_token_id: it is True; expected a token id"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token: it is 1; expected a boolean"),
        ({"add_bos_token": True, "bos_token_id": None}, "tokenizer.ggml.add_bos_token: is set, but"),
        ({"chat_template": 5}, "tokenizer.chat_template: it is 5; expected text"),
    ],
)
def test_gguf_errors_name_file_and_field(write_gguf: WriteGguf, bpe_parts: Parts, changes: Parts, message: str) -> None:
    path = write_gguf(bpe_parts, **changes)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


def test_gguf_without_a_vocabulary(write_gguf: WriteGguf, bpe_parts: Parts) -> None:
    from pellucid.weights.gguf import open_gguf

    path = write_gguf(bpe_parts, model=None, tokens=None)
    with open_gguf(path) as file:
        assert Tokenizer.from_gguf(file) is None
    with pytest.raises(TokenizerError, match="the file holds no vocabulary"):
        Tokenizer.load(path)


# -- tokenizer.json and folders


@pytest.fixture
def folder(tmp_path: Path, bpe_parts: Parts) -> Path:
    """A model folder with the small byte-level vocabulary, as the tokenizers package writes it."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    kinds = dict(zip(bpe_parts["pieces"], bpe_parts["types"].tolist(), strict=True))
    normal = {p: i for i, p in enumerate(bpe_parts["pieces"]) if kinds[p] == 1}
    made = tokenizers.Tokenizer(models.BPE(normal, [tuple(m.split(" ")) for m in bpe_parts["merges"]]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens(
        [tokenizers.AddedToken(p, special=kind == 3, normalized=False) for p, kind in kinds.items() if kind > 1]
    )
    made.enable_truncation(3)
    made.enable_padding(length=10)
    where = tmp_path / "model"
    where.mkdir()
    made.save(str(where / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|endoftext|>"}, "chat_template": "{{ y }}"}
    (where / "tokenizer_config.json").write_text(json.dumps(config))
    return where


def test_folder_with_tokenizer_json(folder: Path, bpe: Vocabulary) -> None:
    loaded = Tokenizer.load(folder)
    same(loaded, Tokenizer.from_vocabulary(bpe))
    assert loaded.chat_template == "{{ y }}"
    assert not loaded.add_bos


def test_tokenizer_json_takes_linear_time(folder: Path) -> None:
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    regexes = [r"\s+$", r"\d{1,3}(?=(?:\d{3})*\b)", r"(?=(\d{3})+(?!\d))"]
    steps = [{**split, "pattern": {"Regex": regex}} for regex in regexes]
    table["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, table["pre_tokenizer"]]}
    path.write_text(json.dumps(table))
    loaded = Tokenizer.load(folder)
    assert [loaded.spelling(i) for i in loaded.encode("1212")] == ["1", "2", "12"]
    for text in ("12" * 100_000, "12" * 100_000 + "a", " " * 200_000 + "a"):  # minutes, if it were quadratic
        assert loaded.decode(loaded.encode(text)) == text


def test_spaces_are_never_cleaned_up(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "clean_up_tokenization_spaces": True}))
    loaded = Tokenizer.load(folder)
    for text in ("a , b . c ! d ?", "do n't I 'm it 's we 've", "  x \n . "):
        assert loaded.decode(loaded.encode(text)) == text


def test_tokenizer_json_alone(folder: Path, bpe: Vocabulary) -> None:
    loaded = Tokenizer.load(folder / "tokenizer.json")
    for text in TEXTS:
        assert loaded.encode(text) == Tokenizer.from_vocabulary(bpe).encode(text)
    assert (loaded.bos, loaded.chat_template) == (None, None)
    assert {loaded.spelling(i) for i in loaded.eog} == {"<|endoftext|>", "<|im_end|>"}


@pytest.mark.parametrize(("call", "other"), [("<|call|>", "<|return|>"), ("<|calls|>", "<|flush|>")])
def test_tokenizer_json_where_end_closes_a_message(folder: Path, call: str, other: str) -> None:
    import tokenizers

    path = folder / "tokenizer.json"
    made = tokenizers.Tokenizer.from_file(str(path))
    made.add_special_tokens(["<|end|>", call])
    made.save(str(path))
    assert Tokenizer.load(path).eog >= {made.token_to_id("<|end|>"), made.token_to_id(call)}
    made.add_special_tokens([other])
    made.save(str(path))
    ends = Tokenizer.load(path).eog
    assert ends >= {made.token_to_id(call), made.token_to_id(other)}
    assert made.token_to_id("<|end|>") not in ends


WHOLE = {"type": "WhitespaceSplit"}
PREFIX = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
SPLIT_MERGES = [["<", "/"], ["s", ">"], ["</", "s>"]]
JOINED_MERGES = ["< /", "s >", "</ s>"]


@pytest.mark.parametrize(
    ("model", "pre_tokenizer"),
    [
        ({"type": "BPE", "merges": SPLIT_MERGES, "unk_token": "<unk>"}, None),
        ({"type": "BPE", "merges": JOINED_MERGES, "unk_token": "<unk>"}, None),
        ({"type": "BPE", "merges": [], "unk_token": "<unk>", "ignore_merges": True}, None),
        ({"type": "BPE", "merges": [], "unk_token": "<unk>", "ignore_merges": True}, WHOLE),
        ({"type": "BPE", "merges": [], "unk_token": "<unk>"}, None),
        ({"type": "WordPiece", "unk_token": "<unk>", **PREFIX}, WHOLE),
        ({"type": "WordLevel", "unk_token": "<unk>"}, WHOLE),
    ],
)
def test_no_text_becomes_a_control_token(model: Parts, pre_tokenizer: Parts | None, tmp_path: Path) -> None:
    """Neither by merges that make it, nor as a word that is a piece."""
    pieces = ["<unk>", "<s>", "</s>", *"ab</>s", "</", "s>"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    table = {
        "added_tokens": [{"id": i, "content": pieces[i], "special": True, **flags} for i in range(3)],
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "ByteFallback"},
        "model": {**model, "vocab": {piece: i for i, piece in enumerate(pieces)}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    made = Tokenizer.load(tmp_path / "tokenizer.json")
    for text in ("</s>", "a</s>b", "a </s> b", "</s></s>", "<s>a", "<</s>/s>"):
        assert not {1, 2} & {*made.encode(text)}, text
    assert made.encode("a</s>", parse_special=True) == [3, 2]
    assert [made.spelling(i) for i in range(made.vocab_size)] == pieces


def test_folder_post_processor_adds_bos(folder: Path, bpe_parts: Parts) -> None:
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    bos = "<|im_start|>"
    table["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [bpe_parts["bos"]], "tokens": [bos]}},
    }
    path.write_text(json.dumps(table))
    loaded = Tokenizer.load(folder)
    assert loaded.add_bos
    assert [loaded.spelling(i) for i in loaded.encode("the")] == [bos, "the"]
    assert loaded.encode("") == [loaded.bos]
    assert loaded.decode(loaded.encode("the")) == "the"


def test_folder_further_ends_and_templates(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [65, 66]}')
    config = {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(folder)
    assert {65, 66} < loaded.eog
    assert loaded.chat_template == "d"
    (folder / "chat_template.json").write_text('{"chat_template": "p"}')
    assert Tokenizer.load(folder).chat_template == "d"
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer.load(folder).chat_template == "p"
    (folder / "chat_template.jinja").write_text("j")
    assert Tokenizer.load(folder).chat_template == "j"


def test_tokenizer_json_checks_as_the_others_do(folder: Path) -> None:
    loaded = Tokenizer.load(folder)
    with pytest.raises(TokenizerError, match=r"U\+D800") as caught:
        loaded.encode("ab\ud800")
    assert caught.value.position == 2
    with pytest.raises(TypeError, match="text must be str, not bytes"):
        loaded.encode(b"x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"999 is out of range: the vocabulary has {loaded.vocab_size}"):
        loaded.decode([999])
    table = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    vocabulary["<gone>"] = vocabulary.pop(byte_characters()[4])
    (folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(TokenizerError, match=r"U\+0004 cannot be encoded"):
        Tokenizer.load(folder).encode("\x04")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not a vocabulary"),
        ('{"a": ' + "[" * 100_000, "not JSON"),
        ("{}", "model: missing"),
        ('{"model": {}, "decoder": {"type": "ByteLevel"}}', "model.vocab: missing"),
        ('{"model": {"vocab": {}}, "decoder": {"type": "CTC"}}', "decoder: 'CTC' is not supported"),
        (
            '{"model": {"vocab": {}}, "decoder": {"type": "ByteLevel"}, "added_tokens": [3]}',
            "added_tokens: expected a list",
        ),
        ('{"model": {}, "x": "\xff"}', "not UTF-8 at byte 20"),
    ],
)
def test_broken_tokenizer_json(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"GGUF", b"\n\xff\xff\xff\xff\xff", b"\n\x00", b"hello"])
def test_files_that_are_no_vocabulary(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(PellucidError, match="file"):
        Tokenizer.load(path)


def test_missing_files(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(TokenizerError, match="nowhere.*No such file"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match="expected tokenizer.json or tokenizer.model"):
        Tokenizer.load(tmp_path)
    (folder / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(TokenizerError, match="tokenizer_config.json: it is .*expected a table"):
        Tokenizer.load(folder)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<nowhere>"}')
    with pytest.raises(TokenizerError, match="bos_token: '<nowhere>' is not in the vocabulary"):
        Tokenizer.load(folder)


# -- SentencePiece files


def test_folder_with_a_sentencepiece_model(tmp_path: Path, spm_parts: Parts, spm: Vocabulary) -> None:
    n = len(spm_parts["pieces"])
    model = _parsers.encode_spm(spm_parts["pieces"], spm_parts["scores"], spm_parts["types"], True)
    (tmp_path / "tokenizer.model").write_bytes(model)
    config = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "added_tokens_decoder": {
            str(n + 1): {"content": "<tool>", "special": False},
            str(n): {"content": "<|im_end|>", "special": True, "rstrip": True},
        },
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.vocab_size == n + 2
    assert {loaded.spelling(i) for i in loaded.eog} == {"<eos>", "<end_of_turn>", "<|im_end|>"}
    assert loaded.encode("the<tool>")[-1] == n + 1
    assert loaded.encode("<|im_end|>", parse_special=True) == [loaded.bos, n]
    assert loaded.encode("<|im_end|> \n the<tool> \n", parse_special=True) == [
        loaded.bos, n, *loaded.encode("the<tool> \n", add_special=False)
    ]  # fmt: skip
    bare = Tokenizer.load(tmp_path / "tokenizer.model")
    for text in TEXTS[:3]:
        assert loaded.encode(text) == Tokenizer.from_vocabulary(spm).encode(text)
        assert bare.encode(text, add_special=False) == loaded.encode(text, add_special=False)


def test_sentencepiece_models_that_normalise_are_refused(tmp_path: Path, spm_parts: Parts) -> None:
    model = _parsers.encode_spm(spm_parts["pieces"], spm_parts["scores"], spm_parts["types"], True)
    path = tmp_path / "tokenizer.model"
    for tail, name in [(b"\x12\x02\x18\x03", "model_type"), (b"\x1a\x03\x12\x01x", "precompiled_charsmap")]:
        path.write_bytes(model + tail)
        with pytest.raises(TokenizerError, match=f"tokenizer.model: {name} is .*; only .* supported"):
            Tokenizer.load(path)


# -- as a whole


def test_loading_is_lazy() -> None:
    """The tokenizer's module imports none of the packages; each kind of vocabulary imports only its own."""
    code = (
        "import sys, pellucid.tokenizer\n"
        "heavy = {'tokenizers', 'sentencepiece', 'jinja2', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["vocabulary", "json"])
def test_threads_share_one(bpe: Vocabulary, folder: Path, kind: str) -> None:
    tokenizer = Tokenizer.load(folder) if kind == "json" else Tokenizer.from_vocabulary(bpe)
    work = [(text * 50, special) for text in TEXTS for special in (False, True)] * 20
    with ThreadPoolExecutor(4) as pool:  # first, so that the lazy parts are made by several threads at once
        found = list(pool.map(lambda job: tokenizer.encode(job[0], parse_special=job[1]), work))
    assert found == [tokenizer.encode(text, parse_special=special) for text, special in work]


def test_phi3_control_tokens_swallow_white_space_after_them(write_gguf: WriteGguf, spm_parts: Parts) -> None:
    """As the family's tokenizer.json has it: "rstrip" on all control tokens but <s>, <unk> and <|endoftext|>."""
    renamed = {b"<bos>": b"<s>", b"<end_of_turn>": b"<|end|>", b"<pad>": b"<|endoftext|>"}
    parts = {**spm_parts, "pieces": [renamed.get(piece, piece) for piece in spm_parts["pieces"]]}
    text = "<s>the<|end|>\n \n<|endoftext|>\nthe<|end|> \n the<|end|>"

    def spelled(architecture: str) -> list[str]:
        loaded = Tokenizer.load(write_gguf(parts, architecture, add_bos_token=False, add_space_prefix=True))
        assert loaded.decode(loaded.encode(" \n the")) == " \n the"
        return [loaded.spelling(i) for i in loaded.encode(text, parse_special=True)]

    kept = ["<|endoftext|>", "▁", "<0x0A>", "t", "he", "<|end|>"]
    assert spelled("phi3") == ["<s>", "▁the", "<|end|>", *kept, "▁the", "<|end|>"]
    assert len(spelled("llama")) > 11


def test_load_of_no_path() -> None:
    with pytest.raises(TypeError, match="path must be a path or a catalogue name, not NoneType"):
        Tokenizer.load(None)  # type: ignore[arg-type]
