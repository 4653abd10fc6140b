"""Folders as GGUF files: the same logits to the bit, and the same ids from the same text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pellucid import Model
from pellucid.errors import ModelFileError, TokenizerError, UnsupportedModelError, WrongValue
from pellucid.making.convert import convert_folder
from pellucid.making.vocabulary import tokenizer_metadata
from pellucid.text.words import WORDS
from pellucid.tokenizer import Tokenizer as Own
from pellucid.weights import open_model
from pellucid.weights.writer import Value, write_gguf
from tests.families.case import load_golden, with_keys, write_folder
from tests.families.case import write_gguf as write_gguf_case
from tests.families.cases import BY_NAME
from tests.families.test_families import ids_of
from tests.reference import tiny
from tests.weights.test_prequantised_families import folders as quantised_folders

TEXT = (Path(__file__).parents[1] / "reference" / "text.txt").read_text("utf-8")[:40000]
TINY = {model.name: model for model in tiny.TINY}
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"


def compare(folder: Path, out: Path, ids: list[int]) -> None:
    """The same bits; nearly, where rows of q and k change their order, and with it the order of a score's sum, where
    the file rounds a factor of the rotation to float32, and where the file's weights are multiplied or reordered."""
    with Model.load(folder, threads=1) as a, Model.load(out, threads=1) as b:
        found, want = b.logits(ids), a.logits(ids)
        c = a.core.config
        changed = c.architecture in ("falcon-h1", "qwen35", "qwen35moe") and c.recurrent != () or bool(c.multipliers)
        if c.rope == b.core.config.rope and not changed:
            np.testing.assert_array_equal(found, want)
        else:
            assert np.abs(found - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("name", BY_NAME)
def test_logits_of_every_family(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    golden = load_golden(case)
    folder = write_folder(case, golden, tmp_path / "folder")
    convert_folder(folder, tmp_path / "out.gguf", "F32")
    compare(folder, tmp_path / "out.gguf", ids_of(case, golden)[:40])


@pytest.mark.parametrize("name", TINY)
def test_logits_and_tensors_of_the_first_families(name: str, tmp_path: Path) -> None:
    """As the file that tests/reference writes from the same weights, tensor by tensor."""
    model = TINY[name]
    folder = tiny.write_folder(model, tmp_path / "folder")
    convert_folder(folder, tmp_path / "out.gguf", "F32")
    compare(folder, tmp_path / "out.gguf", tiny.token_ids(model, 40))
    tiny.write_gguf(model, tmp_path / "want.gguf")
    found, want = ({t.name: t.data for t in gguf.GGUFReader(tmp_path / f).tensors} for f in ("out.gguf", "want.gguf"))
    assert {*found} == {*want}
    for key in want:
        np.testing.assert_allclose(found[key], want[key], rtol=1e-6, err_msg=key)


# Written by tests/families as converters write them with an option, or wrote them first.
OTHERWISE = ("deepseek_v2_in_one", "mixtral_window", "qwen35moe_ragged", "qwen3next_ragged")
# Keys that converters write for these families alone, and that say what is so anyway.
SAID_TWICE = {
    "attention.sliding_window": 0, "full_attention_interval": None, "rope.scaling.factor": 1.0,
    "rope.scaling.original_context_length": None, "rope.scaling.type": "none",
}  # fmt: skip
# Keys that no converter writes, of what no other key says.
OWN = {
    "post_norms", "attention.gates", "expert_layers", "hidden_activation", "ssm.norm_before_gate", "expert_bias",
    "ssm.time_step_min", "ssm.time_step_max", "rotated_layers", "rope.whole_heads", "rope.layer_freq_bases",
    "expert_jitter", "kda.head_count",
}  # fmt: skip
# Of converters that are younger than the gguf package.
YOUNG = {"attention.recurrent_layers", "attention.rope_pattern"}


def contents(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(architecture, keys without its name, tensors)"""
    reader = gguf.GGUFReader(path)
    name = reader.fields["general.architecture"].contents()
    keys = {key.removeprefix(f"{name}."): f.contents() for key, f in reader.fields.items()}
    keys = {key: value for key, value in keys.items() if not key.startswith(("GGUF.", "general.", "tokenizer."))}
    return name, keys, {tensor.name: tensor.data for tensor in reader.tensors}


@pytest.mark.parametrize("name", [name for name, case in BY_NAME.items() if case.gguf and name not in OTHERWISE])
def test_files_are_those_that_converters_write(name: str, tmp_path: Path) -> None:
    """As tests/families writes the same weights, tensor by tensor and key by key."""
    case = BY_NAME[name]
    golden = load_golden(case)
    convert_folder(write_folder(case, golden, tmp_path / "folder"), tmp_path / "out.gguf", "F32")
    arch, keys, tensors = contents(tmp_path / "out.gguf")
    want_arch, want_keys, want = contents(write_gguf_case(case, golden, tmp_path / "want.gguf"))
    assert arch == want_arch
    assert {key: value.shape for key, value in tensors.items()} == {key: value.shape for key, value in want.items()}
    for key in want:
        np.testing.assert_allclose(tensors[key], want[key], rtol=1e-6, err_msg=key)
    for key, value in want_keys.items():
        if key in SAID_TWICE and key not in keys:
            assert SAID_TWICE[key] in (None, value), key
            continue
        found = keys[key]
        if isinstance(found, list) and not isinstance(value, list):
            assert {*found} == {value}, key
        else:
            assert found == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize("name", BY_NAME)
def test_keys_are_published_ones(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    out = tmp_path / "out.gguf"
    convert_folder(write_folder(case, load_golden(case), tmp_path / "folder"), out, "F32")
    assert {*contents(out)[1]} <= {key.removeprefix("{arch}.") for key in published(gguf.Keys)} | OWN | YOUNG


def published(table: Any) -> Iterator[str]:
    for value in vars(table).values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, type):
            yield from published(value)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = tiny.write_folder(TINY["llama_gqa"], Path(f"{tmp_path}/m\udcff"))
    convert_folder(folder, tmp_path / "out.gguf", "F32")
    assert gguf.GGUFReader(tmp_path / "out.gguf").fields["general.name"].contents() == "m?"


@pytest.mark.parametrize("form", ["awq", "gptq-act", "int8"])
def test_keys_and_values_of_a_quantised_folder_in_one_tensor(form: str, tmp_path: Path) -> None:
    """MiniCPM3's: they are decoded."""
    folder, floats = quantised_folders(tmp_path, "minicpm3", form)
    convert_folder(folder, tmp_path / "m.gguf", "F32")
    with Model.load(tmp_path / "m.gguf", threads=1) as found, Model.load(floats, threads=1) as expected:
        np.testing.assert_allclose(found.logits([3, 60, 14]), expected.logits([3, 60, 14]), rtol=1e-4, atol=1e-4)


def test_a_quantised_file_is_that_of_the_float_file(tmp_path: Path) -> None:
    from pellucid.weights import open_model
    from pellucid.weights.quantise import quantize_file

    folder = tiny.write_folder(next(iter(TINY.values())), tmp_path / "f")
    convert_folder(folder, tmp_path / "f32.gguf", "F32")
    convert_folder(folder, tmp_path / "a.gguf", "Q4_0")
    with open_model(tmp_path / "f32.gguf") as file:
        quantize_file(file, tmp_path / "b.gguf", "Q4_0")
    a, b = ({t.name: t.data for t in gguf.GGUFReader(tmp_path / n).tensors} for n in ("a.gguf", "b.gguf"))
    assert {*a} == {*b}
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


# ---- tokenizers -------------------------------------------------------------------------------------------


def bpe(regex: str | None, folder: Path) -> Path:
    """A folder with a byte-level tokenizer trained on TEXT."""
    made = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    split = [] if regex is None else [pre_tokenizers.Split(Regex(regex), "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>", "<|user|>"]
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=special)
    made.train_from_iterator([TEXT], trainer)
    made.add_tokens(["<plain>"])
    made.post_processor = processors.TemplateProcessing("<|begin|> $A", None, [("<|begin|>", 0)])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    return folder


def spm(folder: Path) -> Path:
    out = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=out, vocab_size=500, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        control_symbols=["<|user|>"],
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "add_bos_token": True}))
    return folder


def merged(folder: Path) -> Path:
    """A folder with SentencePiece's pieces as a BPE tokenizer of bytes, and no tokenizer.model."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.train_from_iterator([TEXT.replace("\n", " ")], trainers.BpeTrainer(vocab_size=350, show_progress=False))
    table = json.loads(made.to_str())
    first = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces = [*first, *sorted(table["model"]["vocab"], key=table["model"]["vocab"].get)]
    table["model"] |= {
        "vocab": {piece: i for i, piece in enumerate(pieces)}, "unk_token": "<unk>", "byte_fallback": True,
        "fuse_unk": True,
    }  # fmt: skip
    space, bare = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}
    table["decoder"] = {"type": "Sequence", "decoders": [space, bare, {"type": "Fuse"}]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    table["added_tokens"] = [{"id": i, "content": first[i], **plain} for i in range(3)]
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(table))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def written(folder: Path, rows: int = 700) -> Own:
    """The tokenizer of a GGUF file that has the folder's."""
    path = folder / "out.gguf"
    write_gguf(path, tokenizer_metadata(str(folder), rows), [])
    return Own.load(path)


MAKE: dict[str, Callable[[Path], Path]] = {
    "gpt-2": lambda folder: bpe(None, folder),
    "qwen2": lambda folder: bpe(WORDS["qwen2"].steps[0], folder),
    "llama-bpe": lambda folder: bpe(WORDS["llama-bpe"].steps[0], folder),
    "spm": spm,
    "merged": merged,
}


@pytest.mark.parametrize("name", MAKE)
def test_tokenizers(name: str, tmp_path: Path) -> None:
    folder = MAKE[name](tmp_path / "folder")
    own, made = Own.load(folder), written(folder)
    for text in (TEXT[-3000:], "Hi 12345 <|user|> it's <plain>\n\n  x", "東京 \U0001f600", ""):
        for special in (False, True):
            for parse in (False, True):
                assert made.encode(text, special, parse) == own.encode(text, special, parse), (text, special, parse)
    assert (made.bos, made.eos, made.chat_template) == (own.bos, own.eos, TEMPLATE)
    assert own.eog <= made.eog
    assert made.vocab_size == 700
    with pytest.raises(TokenizerError, match="the model's embedding 20"):
        tokenizer_metadata(str(folder), 20)


def test_all_ends_of_a_generation(tmp_path: Path) -> None:
    """GGUF has keys for three."""
    folder = bpe(None, tmp_path / "folder")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 8, 5, 7]}))
    own, made = Own.load(folder), written(folder)
    assert made.eog == own.eog == {1, 2, 5, 7, 8}
    metadata = tokenizer_metadata(str(folder), 700)
    for ids, wrong in (([700], "id 700 is out of range"), ([-1], "id -1 is out of range")):
        write_gguf(folder / "bad.gguf", metadata | {"pellucid.eog_token_ids": Value("array of int32", ids)}, [])
        with pytest.raises(TokenizerError, match=f"pellucid.eog_token_ids: {wrong}"):
            Own.load(folder / "bad.gguf")


def test_a_word_that_ends_a_generation_stays_a_word(tmp_path: Path) -> None:
    """As a line's end may, for one: chats spell tokens out, and such a word in them is text."""
    folder = bpe(None, tmp_path / "folder")
    word = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["l"]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, word]}))
    own, made = Own.load(folder), written(folder)
    assert word in own.eog and word in made.eog
    for text in ("hello, a well", "<|user|>l</s>"):
        assert made.encode(text, False, True) == own.encode(text, False, True)


def test_numbers_that_keys_cannot_have(tmp_path: Path) -> None:
    case = BY_NAME["qwen25vl"]
    golden = load_golden(case)
    for wrong in (10**30, -5, 2**31, 2**40):
        table = {"mrope_section": [2, 3, wrong], "rope_theta": 1e5, "rope_type": "default"}
        config = with_keys(golden.config, rope_parameters=table)
        folder = write_folder(case, golden, tmp_path / f"folder{wrong}", config)
        with pytest.raises(ModelFileError, match="mrope_section"):
            convert_folder(folder, tmp_path / "out.gguf", "F32")
    table = {"mrope_section": [2, 3, 2**31 - 1], "rope_theta": 1e5, "rope_type": "default"}  # more than there are pairs
    folder = write_folder(case, golden, tmp_path / "more", with_keys(golden.config, rope_parameters=table))
    convert_folder(folder, tmp_path / "more.gguf", "F32")
    with open_model(tmp_path / "more.gguf") as file:
        assert file.get_list("qwen2vl.rope.dimension_sections", of=int)[2] == 2**31 - 1
    for kind in ("int32", "uint8", "int64"):
        with pytest.raises(WrongValue, match=f"a.b is 9223372036854775808: beyond {kind}"):
            write_gguf(tmp_path / "out.gguf", {"a.b": Value(f"array of {kind}", [1, 2**63])}, [])
    case = BY_NAME["deepseek_v3"]
    golden = load_golden(case)
    folder = write_folder(case, golden, tmp_path / "odd", with_keys(golden.config, rope_interleave="gelu"))
    with pytest.raises(ModelFileError, match="rope_interleave"):
        convert_folder(folder, tmp_path / "out.gguf", "F32")
    assert not (tmp_path / "out.gguf").exists()


def test_the_name_is_found(tmp_path: Path) -> None:
    for name in ("gpt-2", "qwen2", "llama-bpe"):
        folder = MAKE[name](tmp_path / name)
        pre = tokenizer_metadata(str(folder), 700)["tokenizer.ggml.pre"].value
        assert WORDS[pre].steps == WORDS[name].steps


@pytest.mark.parametrize("whole", [False, True])
def test_a_word_that_is_a_piece(whole: bool, tmp_path: Path) -> None:
    """Llama 3 takes it although no merges lead to it, DBRX does not; both cut words in the same way."""
    folder = MAKE["llama-bpe"](tmp_path / "folder")
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"] |= {"ignore_merges": whole, "vocab": {**table["model"]["vocab"], "Ġzqx": 600}}
    table["added_tokens"][-1]["id"] = 601
    (folder / "tokenizer.json").write_text(json.dumps(table))
    own, made = Own.load(folder), written(folder)
    assert (600 in own.encode("a zqx")) == whole
    assert made.encode("a zqx") == own.encode("a zqx")


def wordpiece(folder: Path, **options: Any) -> Tokenizer:
    """A folder's tokenizer; options: of BertNormalizer."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"aoözAOÖ東京", *(f"##{c}" for c in "aoözAOÖ東京")]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**options)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(pieces[:4])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return made


@pytest.mark.parametrize("lowers", [False, True])
@pytest.mark.parametrize("strips", [None, False, True])
def test_what_bert_does_to_text(lowers: bool, strips: bool | None, tmp_path: Path) -> None:
    made = wordpiece(tmp_path / "folder", lowercase=lowers, strip_accents=strips)
    file = written(tmp_path / "folder")
    for text in ("Aö Öza", "AÖOö", "z"):
        assert file.encode(text, add_special=False) == made.encode(text, add_special_tokens=False).ids


def test_words_that_no_file_can_name(tmp_path: Path) -> None:
    wordpiece(tmp_path / "bert", handle_chinese_chars=False)
    with pytest.raises(UnsupportedModelError, match="cutting words"):
        tokenizer_metadata(str(tmp_path / "bert"), 700)
    with pytest.raises(UnsupportedModelError, match="cutting words"):
        tokenizer_metadata(str(bpe(r"[\s\S]{2}", tmp_path / "folder")), 700)


def test_folders_without_tokenizer(tmp_path: Path) -> None:
    assert tokenizer_metadata(str(tmp_path), 10) == {"tokenizer.ggml.model": ("string", "none")}
