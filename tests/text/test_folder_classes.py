"""What a folder's other files say of its tokenizer: special tokens, and what the class that they name does.

Each expectation is also what transformers gives (`--live`).
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Made

from pellucid import _parsers
from pellucid.errors import ModelFileError, TokenizerError
from pellucid.making.vocabulary import tokenizer_metadata
from pellucid.text.bpe import byte_characters
from pellucid.text.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN
from pellucid.tokenizer import Tokenizer, folder_description
from pellucid.weights.writer import write_gguf

E_O_T = "<|endoftext|>"
SPECIAL = ["<s>", "</s>", E_O_T, "<|im_end|>", "<bos>", "<eos>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"]
GENERAL = {"tokenizer_class": "PreTrainedTokenizerFast"}
END = {"content": "<|im_end|>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


def bytes_and_words() -> Any:
    """Byte-level BPE."""
    pieces = [*byte_characters().values(), "he", "Ġhe"]
    made = Made(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[("h", "e"), ("Ġ", "he")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    return made


LETTERS = "abhileovnHEïé你好"


def words() -> Any:
    """WordPiece that keeps capitals and accents, and has pieces for the text without them, too."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    made = Made(models.WordPiece(vocab={p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(pieces[:4])
    return made


class Case(NamedTuple):
    """Files of a folder -> spellings of BOS and EOS."""

    files: dict[str, Any]
    bos: str | None = None
    eos: str | None = None


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(data)
    return folder


def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


MAP = {"bos_token": "<s>", "eos_token": END, "pad_token": None}
LISTED = {"added_tokens_decoder": {"258": {"content": "<s>", "special": True}}}
ENDS = {
    "map": Case({"tokenizer_config.json": GENERAL, "special_tokens_map.json": MAP}, "<s>", "<|im_end|>"),
    "map alone": Case({"special_tokens_map.json": MAP}, "<s>", "<|im_end|>"),
    "map wins": Case(
        {"tokenizer_config.json": {**GENERAL, "eos_token": "</s>"}, "special_tokens_map.json": MAP}, "<s>", "<|im_end|>"
    ),
    "added tokens win": Case(
        {"tokenizer_config.json": {**GENERAL, **LISTED, "eos_token": "</s>"}, "special_tokens_map.json": MAP},
        None,
        "</s>",
    ),
    "general": Case({"tokenizer_config.json": GENERAL}),
    "no class": Case({"config.json": {"model_type": "llama"}}),
    **{
        f"{name}{fast}": Case({"tokenizer_config.json": {"tokenizer_class": f"{name}Tokenizer{fast}"}}, bos, eos)
        for name, bos, eos, fast in (
            ("GPT2", E_O_T, E_O_T, ""),
            ("GPT2", E_O_T, E_O_T, "Fast"),
            ("GPTNeoX", E_O_T, E_O_T, "Fast"),
            ("CodeGen", E_O_T, E_O_T, ""),
            ("Qwen2", None, E_O_T, "Fast"),
            ("Cohere", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "Fast"),
            ("Gemma", "<bos>", "<eos>", ""),
            ("Llama", None, None, "Fast"),  # bytes are not its own: the general class
        )
    },
    "given": Case({"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"}}, "<s>", E_O_T),
    "null": Case({"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": None}}),
    "model": Case({"config.json": {"model_type": "gpt_neox"}}, E_O_T, E_O_T),
    "model's class": Case({"config.json": {"model_type": "gemma", "tokenizer_class": "Qwen2Tokenizer"}}, None, E_O_T),
    "model wins": Case(
        {"config.json": {"model_type": "qwen2"}, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}},
        None,
        E_O_T,
    ),
    "general model": Case(
        {"config.json": {"model_type": "granite"}, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}}
    ),
    "model without one": Case(
        {"config.json": {"model_type": "llama"}, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}},
        E_O_T,
        E_O_T,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_first_and_last_tokens(name: str, tmp_path: Path) -> None:
    case = ENDS[name]
    made = Tokenizer.load(write(tmp_path, {"tokenizer.json": json.loads(bytes_and_words().to_str()), **case.files}))
    found = tuple(None if i is None else made.spelling(i) for i in (made.bos, made.eos))
    assert found == (case.bos, case.eos)
    assert made.eos is None or made.eos in made.eog


@pytest.mark.live
@pytest.mark.parametrize("name", ENDS)
def test_first_and_last_tokens_in_transformers(name: str, tmp_path: Path) -> None:
    case = ENDS[name]
    made = theirs(write(tmp_path, {"tokenizer.json": json.loads(bytes_and_words().to_str()), **case.files}))
    assert (made.bos_token, made.eos_token) == (case.bos, case.eos)


def test_a_map_names_tokens_that_are_not_there(tmp_path: Path) -> None:
    """Those of tokenizer_config.json count then, and none where it has none. The tokenizer goes into a pickle."""
    files = {
        "tokenizer.json": json.loads(bytes_and_words().to_str()),
        "special_tokens_map.json": {"eos_token": "<none>"},
    }
    for config, expected in (({"eos_token": "</s>"}, "</s>"), ({}, None)):
        folder = write(tmp_path / str(len(config)), {**files, "tokenizer_config.json": {**GENERAL, **config}})
        for made in (Tokenizer.load(folder), pickle.loads(pickle.dumps(Tokenizer.load(folder)))):
            assert (None if made.eos is None else made.spelling(made.eos)) == expected
            assert made.decode(made.encode("he he")) == "he he"


def test_a_class_names_tokens_that_are_not_there(tmp_path: Path) -> None:
    """transformers then adds them, beyond the model's embedding."""
    table = json.loads(bytes_and_words().to_str())
    table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] != E_O_T]
    for i, token in enumerate(table["added_tokens"]):
        token["id"] = 258 + i
    config = {"tokenizer_class": "GPT2Tokenizer"}
    made = Tokenizer.load(write(tmp_path, {"tokenizer.json": table, "tokenizer_config.json": config}))
    assert made.bos is None and made.eos is None


SPELLED = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
BERT = {"tokenizer_class": "BertTokenizer"}
TEXT = "Hï 你好"
CAPITALS, SMALL, ACCENTS = "H ##ï 你 好", "h ##i 你 好", "h ##ï 你 好"
LETTERS_OF = [
    (BERT, SMALL),
    ({**BERT, "do_lower_case": False}, CAPITALS),
    ({**BERT, "do_lower_case": False, "strip_accents": True}, "H ##i 你 好"),
    ({**BERT, "strip_accents": False}, ACCENTS),
    ({**BERT, "strip_accents": None}, SMALL),
    ({**BERT, "tokenize_chinese_chars": False}, "h ##i 你 ##好"),
    *(
        ({"tokenizer_class": f"{name}Tokenizer{fast}", "do_lower_case": lower}, SMALL if lower else CAPITALS)
        for name, fast in (("Bert", "Fast"), ("DistilBert", ""), ("Electra", "Fast"), ("MPNet", "Fast"))
        for lower in (True, False)
    ),
    ({"model_max_length": 512, "model_type": "bert"}, SMALL),
    ({"model_max_length": 512, "model_type": "nomic_bert", "do_lower_case": False}, CAPITALS),
    ({**GENERAL, "do_lower_case": True, "model_type": "bert"}, CAPITALS),
    ({**BERT, "do_lower_case": True, "model_type": "modernbert"}, CAPITALS),
]  # fmt: skip


def word_folder(folder: Path, config: dict[str, Any]) -> Path:
    """model_type is that of config.json."""
    files: dict[str, Any] = {"tokenizer.json": json.loads(words().to_str())}
    files["tokenizer_config.json"] = {**SPELLED, **{key: value for key, value in config.items() if key != "model_type"}}
    if "model_type" in config:
        files["config.json"] = {"model_type": config["model_type"]}
    return write(folder, files)


@pytest.mark.parametrize(("config", "expected"), LETTERS_OF, ids=str)
def test_options_of_bert(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folder = word_folder(tmp_path, config)
    made = Tokenizer.load(folder)
    assert " ".join(made.spelling(i) for i in made.encode(TEXT, add_special=False)) == expected
    assert folder_description(folder)["normalizer"]["lowercase"] == (expected[0] == "h")


@pytest.mark.live
@pytest.mark.parametrize(("config", "expected"), LETTERS_OF, ids=str)
def test_options_of_bert_in_transformers(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert " ".join(theirs(word_folder(tmp_path, config)).tokenize(TEXT)) == expected


@pytest.mark.parametrize("key", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_options_of_bert_that_are_no_flags(key: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=f"tokenizer_config.json: {key}: it is 'no'; expected true or false"):
        Tokenizer.load(word_folder(tmp_path, {**BERT, key: "no"}))


def test_converted_files_have_the_options(tmp_path: Path) -> None:
    folder = word_folder(tmp_path, {**BERT, "do_lower_case": True, "strip_accents": False})
    made = tokenizer_metadata(str(folder), 40)
    assert made["tokenizer.ggml.normalizer.lowercase"].value is True
    assert made["tokenizer.ggml.normalizer.strip_accents"].value is False


# (class, add_prefix_space of tokenizer_config.json, that of tokenizer.json, whether a space is put before the text)
PREFIXES = [
    *(
        (f"{name}TokenizerFast", given, own, bool(given))
        for name in ("GPT2", "GPTNeoX", "Qwen2", "Cohere", "Roberta")
        for given in (None, True, False)
        for own in (False, True)
    ),
    ("PreTrainedTokenizerFast", True, False, False),
    ("PreTrainedTokenizerFast", False, True, True),
]


def prefix_folder(folder: Path, name: str, given: bool | None, own: bool, nested: bool = False) -> Path:
    table = json.loads(bytes_and_words().to_str())
    table["pre_tokenizer"]["add_prefix_space"] = own
    if nested:
        steps = [{"type": "Digits", "individual_digits": True}, table["pre_tokenizer"]]
        table["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    more = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<s>", "pad_token": "<s>", "mask_token": "<s>"}
    config: dict[str, Any] = {"tokenizer_class": name, **more, "bos_token": "<s>", "eos_token": "</s>"}
    config |= {} if given is None else {"add_prefix_space": given}
    return write(folder, {"tokenizer.json": table, "tokenizer_config.json": config})


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("name", "given", "own", "prefixed"), PREFIXES)
def test_a_space_before_the_text(
    name: str, given: bool | None, own: bool, prefixed: bool, nested: bool, tmp_path: Path
) -> None:
    made = Tokenizer.load(prefix_folder(tmp_path, name, given, own, nested))
    ids = made.encode("hex", add_special=False)
    assert [made.spelling(i) for i in ids] == ["Ġhe" if prefixed else "he", "x"]
    assert made.decode(ids) == "hex"


@pytest.mark.live
@pytest.mark.parametrize(("name", "given", "own", "prefixed"), PREFIXES)
def test_a_space_before_the_text_in_transformers(
    name: str, given: bool | None, own: bool, prefixed: bool, tmp_path: Path
) -> None:
    assert theirs(prefix_folder(tmp_path, name, given, own)).tokenize("hex") == ["Ġhe" if prefixed else "he", "x"]


def test_a_space_that_is_no_flag(tmp_path: Path) -> None:
    folder = prefix_folder(tmp_path, "GPT2Tokenizer", 1, own=False)  # type: ignore[arg-type]
    with pytest.raises(
        ModelFileError, match="tokenizer_config.json: add_prefix_space: it is 1; expected true or false"
    ):
        Tokenizer.load(folder)


MODEL = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcxy", "▁a", "▁x", "[SPARE]"]
N = len(MODEL)
SP = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": False}
OWN = {str(i): {"content": text, "special": True} for i, text in enumerate(MODEL[:3])}


def marks(**more: Any) -> dict[str, Any]:
    """added_tokens_decoder with a special token, the options being its own, and one that is not."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {
        "added_tokens_decoder": {
            **OWN,
            str(N): {**flags, "content": "<x>", "special": True, **more},
            str(N + 1): {**flags, "content": "<b>", "special": False},
        }
    }


NEW = {"<x>": N, "<b>": N + 1}
SENTENCEPIECE: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    (marks(), {}, "a<x>a <b>c", "▁a <x> ▁a ▁ <b> ▁ c"),
    (SP, {"added_tokens.json": NEW}, "a<x>a", "▁a <x> ▁a"),
    ({"added_tokens_decoder": {**OWN, str(N - 1): {"content": "<x>", "special": True}}}, {}, "a<x>a", "▁a <x> ▁a"),
    ({**marks(), "legacy": False}, {}, "a<x>a<b>a x", "▁a <x> a <b> a ▁x"),
    ({**marks(), "legacy": False}, {}, " a", "▁a"),
    ({**marks(), "legacy": True}, {}, " a", "▁ ▁a"),
    ({**marks(), "legacy": False}, {}, "<x>a", "<x> a"),
    (marks(lstrip=True), {}, "a <x> a", "▁a <x> ▁ ▁a"),
    (marks(rstrip=True), {}, "a <x> a", "▁a ▁ <x> ▁a"),
    (marks(lstrip=True, rstrip=True), {}, "a  <x> a  ", "▁a <x> ▁a ▁ ▁"),
    (marks(rstrip=True, special=False), {}, "a <x> a", "▁a ▁ <x> ▁a"),
    (marks(lstrip=True, special=False), {}, "a <x> a", "▁a <x> ▁ ▁a"),
]


def sentencepiece_folder(folder: Path, config: dict[str, Any], files: dict[str, Any]) -> Path:
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (N - 259)]
    scores = [0.0] * 259 + [-10.0 - i for i in range(6)] + [-1.0, -2.0, -50.0]
    model = _parsers.encode_spm(MODEL, np.array(scores, np.float32), np.array(kinds, np.int32), True)
    model += b"\x1a\x02\x18\x01"  # a space is put before a text
    config = {**SP, **config}
    return write(folder, {"config.json": {"model_type": "mistral"}, "tokenizer.model": model,
                          "tokenizer_config.json": config, **files})  # fmt: skip


@pytest.mark.parametrize(("config", "files", "text", "expected"), SENTENCEPIECE)
def test_added_tokens_of_a_sentencepiece_model(
    config: dict[str, Any], files: dict[str, Any], text: str, expected: str, tmp_path: Path
) -> None:
    folder = sentencepiece_folder(tmp_path, config, files)
    made = Tokenizer.load(folder)
    assert " ".join(made.spelling(i) for i in made.encode(text, add_special=False, parse_special=True)) == expected
    if config.get("legacy") is False:  # so it is in the GGUF file that is made of it
        write_gguf(tmp_path / "made.gguf", tokenizer_metadata(str(folder), N + 2), [])
        again = Tokenizer.load(tmp_path / "made.gguf")
        assert again.encode(text, False, True) == made.encode(text, False, True)
    assert "<x>" in {made.spelling(i) for i in range(N - 1, made.vocab_size)}


@pytest.mark.live
@pytest.mark.parametrize(("config", "files", "text", "expected"), SENTENCEPIECE)
def test_added_tokens_of_a_sentencepiece_model_in_transformers(
    config: dict[str, Any], files: dict[str, Any], text: str, expected: str, tmp_path: Path
) -> None:
    made = theirs(sentencepiece_folder(tmp_path, config, files))
    assert " ".join(made.convert_ids_to_tokens(made(text)["input_ids"])) == expected


def test_user_defined_tokens_strip_in_ordinary_text(tmp_path: Path) -> None:
    made = Tokenizer.load(sentencepiece_folder(tmp_path, marks(rstrip=True, special=False), {}))
    assert made.encode("a <x> a", False) == made.encode("a <x>a", False) == made.encode("a <x> a", False, True)


def test_a_spelling_that_no_text_has(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path, {"bos_token": "\ud800"}, {})
    with pytest.raises(TokenizerError, match="tokenizer_config.json: bos_token: it is .*; expected text that is UTF-8"):
        Tokenizer.load(folder)


SPACES: dict[str, Any] = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
BYTES, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
STRIP: dict[str, Any] = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
LETTER = {"type": "Replace", "pattern": {"String": "x"}, "content": "yy"}
EVERY = [SPACES, BYTES, FUSE, STRIP]


def decoder_folder(folder: Path, steps: list[Any], sign: str = "▁") -> Path:
    pieces = [["<unk>", 0.0], [f"{sign}a", -1.0], [f"{sign}x", -1.0], [sign, -2.0], ["a", -3.0], ["x", -3.0]]
    step = {"type": "Metaspace", "replacement": sign, "prepend_scheme": "always", "split": True}
    table: dict[str, Any] = {
        "model": {"type": "Unigram", "vocab": pieces, "unk_id": 0, "byte_fallback": False},
        "pre_tokenizer": step,
        "decoder": {"type": "Sequence", "decoders": steps} if steps else step,
        "normalizer": None, "post_processor": None, "truncation": None, "padding": None, "version": "1.0",
        "added_tokens": [],
    }  # fmt: skip
    return write(folder, {"tokenizer.json": table, "tokenizer_config.json": GENERAL})


DECODERS: list[tuple[list[Any], str, str]] = [
    ([], "_", "a xa"),
    ([], "▁", "a xa"),
    (EVERY, "▁", "a xa"),
    ([LETTER, *EVERY], "▁", "a yya"),
    ([{**SPACES, "pattern": {"String": "_"}}, *EVERY[1:]], "_", "a xa"),
]


@pytest.mark.parametrize(("steps", "sign", "expected"), DECODERS)
def test_decoders(steps: list[Any], sign: str, expected: str, tmp_path: Path) -> None:
    made = Tokenizer.load(decoder_folder(tmp_path, steps, sign))
    assert made.decode(made.encode("a xa")) == expected


@pytest.mark.live
@pytest.mark.parametrize(("steps", "sign", "expected"), DECODERS)
def test_decoders_in_transformers(steps: list[Any], sign: str, expected: str, tmp_path: Path) -> None:
    made = theirs(decoder_folder(tmp_path, steps, sign))
    assert made.decode(made("a xa")["input_ids"]) == expected


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([*EVERY, LETTER], r"decoder.decoders\[4\]: Replace of 'x' is not supported after"),
        ([{**LETTER, "pattern": {"Regex": "x"}}, *EVERY], r"decoders\[0\].pattern: .*only a String is supported"),
        ([*EVERY[:3], {**STRIP, "stop": 1}], r"decoders\[3\].stop: it is 1; only 0 is supported"),
        ([*EVERY[:3], {**STRIP, "start": 2}], r"decoders\[3\].start: it is 2; only 1 is supported"),
        ([*EVERY[:3], {**STRIP, "content": "a"}], r"decoders\[3\].content: it is 'a'; only ' ' is supported"),
        ([{"type": "ByteLevel"}, STRIP], r"decoders\[1\]: 'Strip' is not supported beside ByteLevel"),
        (
            [{**LETTER, "content": "x" * 5}, {**LETTER, "content": "x" * 5}, *EVERY],
            "25 times as long; at most 16",
        ),
        ([LETTER, {"type": "ByteLevel"}], r"decoders\[0\]: 'Replace' is not supported beside ByteLevel"),
        ([{"type": "BPEDecoder"}, BYTES], r"decoders\[0\]: 'BPEDecoder' is not supported"),
    ],
)
def test_decoders_that_are_refused(steps: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(decoder_folder(tmp_path, steps))


def test_first_and_last_tokens_of_a_sentencepiece_model(tmp_path: Path, spm_parts: dict[str, Any]) -> None:
    model = _parsers.encode_spm(spm_parts["pieces"], spm_parts["scores"], spm_parts["types"], True)
    folder = write(tmp_path, {"tokenizer.model": model})
    assert Tokenizer.load(folder).bos is None and Tokenizer.load(folder).eos is None
    write(folder, {"config.json": {"model_type": "gemma2"}})
    made = Tokenizer.load(folder)
    assert (made.bos, made.eos) == (2, 1)
    write(folder, {"special_tokens_map.json": {"bos_token": "<eos>"}})
    assert Tokenizer.load(folder).bos == 1
