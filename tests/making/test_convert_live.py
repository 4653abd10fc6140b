"""Converted folders in llama.cpp (llama-cpp-python): they load, cut text alike, and give the logits, embeddings and
scores of the folder."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.cli import main
from pellucid.making.convert import convert_folder
from pellucid.weights.writer import Value
from pellucid.weights.writer import write_gguf as write_file
from tests.embedding.cases import BY_NAME as EMBEDDERS
from tests.embedding.files import DOCUMENTS, QUERY, TEXTS
from tests.families.case import Case, Golden, load_golden, write_folder, write_gguf
from tests.families.cases import BY_NAME
from tests.families.test_families import ids_of
from tests.making.llama import run
from tests.reference import tiny

from .test_convert import MAKE, TEXT
from .test_embedders import folder_of
from .test_vocabulary import MADE, both
from .test_vocabulary import TEXTS as SOME_TEXTS

pytestmark = pytest.mark.live

# Tiny model -> the tokenizer that it is given.
PAIRS = {"llama_gqa": "llama-bpe", "llama_linear": "spm", "qwen3": "qwen2", "gemma3": "spm"}
# What llama.cpp cannot run, or computes otherwise; nor can it run the file that tests/families writes.
BIASES, WINDOWS = "it reads no such biases", "it reads no such window"
NOT_THERE = {
    "arcee_biases": BIASES, "cohere_biases": BIASES, "ernie4_5_biases": BIASES, "gptneox_serial": "it wants biases",
    "granitehybrid_experts_one": BIASES, "lfm2_bias": BIASES, "mamba2_one": BIASES, "seed_oss_biases": BIASES,
    "starcoder2_plain": "it wants biases",
    "mixtral_window": WINDOWS, "phi3_windows": WINDOWS, "starcoder2": WINDOWS,
    "cohere_norms": "norms of heads depend on the number of layers",
    "ernie4_5_moe_interval": "experts in every second layer",
    "exaone4": "windows depend on the number of layers", "exaone4_full": "windows depend on the number of layers",
    "gemma4": "sizes", "gemma4_equal": "sizes",
    "gpt_oss": "YaRN's ramp ends at whole pairs",
    "granitehybrid": "sizes", "granitehybrid_mamba": "sizes", "nemotron_quarter": "heads as wide as the model's",
    "phimoe": "another norm, and other weights of experts", "phimoe_longrope": "another norm",
    "olmoe": "as many key heads as query heads", "phi3_shortrope": "factors are chosen by its context",
    "deepseek_v2": "queries of low rank", "qwen35": "sizes", "qwen35_ragged": "sizes", "qwen35moe": "sizes",
    "qwen35moe_ragged": "sizes", "qwen3next": "sizes", "qwen3next_ragged": "sizes",
}  # fmt: skip
NO_EMBEDDINGS = ("qwen3_dense", "modernbert_biases")  # no file can hold the first; llama.cpp reads no such biases
# Of these, the same in sizes that it runs.
DELTA = {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
RESIZED: dict[str, dict[str, Any]] = {
    "qwen35": DELTA, "qwen35moe": DELTA, "qwen3next": DELTA, "granitehybrid": {"mamba_expand": 2},
    "deepseek_v2": {"q_lora_rank": 24}, "lfm2_bias": {"conv_bias": False},
    "mamba2_one": {"use_conv_bias": True, "use_bias": False},
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_llama_cpp_runs_it(name: str, tmp_path: Path) -> None:
    llama_cpp: Any = importlib.import_module("llama_cpp")
    model = next(m for m in tiny.TINY if m.name.startswith(name))
    model = tiny.Tiny(**{**model.__dict__, "vocab": 700})
    folder = tiny.write_folder(model, tmp_path / "folder")
    MAKE[PAIRS[name]](folder)
    out = tmp_path / "out.gguf"
    convert_folder(folder, out, "F32")
    theirs = llama_cpp.Llama(str(out), n_ctx=128, logits_all=True, verbose=False, n_threads=1)
    text = TEXT[:150] + " 12345 it's\n\n x"
    with Model.load(folder, threads=1) as ours:
        ids = ours.tokenize(text)[:60]
        assert theirs.tokenize(text.encode(), add_bos=True, special=False)[:60] == ids
        want = ours.logits(ids)
    theirs.eval(ids)
    found = np.array(theirs.scores[: len(ids)])
    # Its attention rounds keys and values to float16.
    assert np.abs(found - want).max() <= 5e-3 * np.abs(want).max()
    assert theirs.metadata["tokenizer.chat_template"]


def compare(case: Case, golden: Golden, path: Path) -> None:
    """In a process of its own, since llama.cpp aborts where it cannot run a model."""
    folder, out = write_folder(case, golden, path / "folder"), path / "out.gguf"
    convert_folder(folder, out, "F32")
    ids = ids_of(case, golden)[:60]
    with Model.load(folder, threads=1) as ours:
        want = ours.logits(ids)
    found = run(out, ids)
    assert np.abs(found - want).max() <= 1e-2 * np.abs(want).max()
    assert (found.argmax(axis=1) == want.argmax(axis=1)).mean() >= 0.95


@pytest.mark.parametrize("name", [name for name, case in BY_NAME.items() if case.gguf and name not in NOT_THERE])
def test_logits_of_every_family(name: str, tmp_path: Path) -> None:
    compare(BY_NAME[name], load_golden(BY_NAME[name]), tmp_path)


@pytest.mark.parametrize("name", RESIZED)
def test_logits_in_sizes_that_it_runs(name: str, tmp_path: Path) -> None:
    from tests.families import reference

    case = replace(BY_NAME[name], sizes={**BY_NAME[name].sizes, **RESIZED[name]})
    compare(case, reference.blank(case), tmp_path)


@pytest.mark.parametrize("name", NOT_THERE)
def test_it_runs_no_other_file_of_these(name: str, tmp_path: Path) -> None:
    """Not ours alone: the file that tests/families writes by the converter's rules is refused, or differs, as well."""
    case, golden = BY_NAME[name], load_golden(BY_NAME[name])
    path = write_gguf(case, golden, tmp_path / "m.gguf")
    ids = ids_of(case, golden)[:60]
    with Model.load(path, threads=1) as ours:
        want = ours.logits(ids)
    writer_has_no_tokenizer = tmp_path / "none.gguf"
    add_no_tokenizer(path, writer_has_no_tokenizer)
    try:
        found = run(writer_has_no_tokenizer, ids)
    except AssertionError:
        return
    assert np.abs(found - want).max() > 1e-2 * np.abs(want).max()


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_keys_and_values_in_one_tensor(kind: str, tmp_path: Path) -> None:
    """A file of DeepSeek V2 as converters wrote them before April 2025: llama.cpp's logits."""
    case = BY_NAME["deepseek_v2_in_one"]
    golden = load_golden(case)
    path, whole = write_gguf(case, golden, tmp_path / "m.gguf", kind), tmp_path / "whole.gguf"
    add_no_tokenizer(path, whole)
    ids = ids_of(case, golden)[:60]
    with Model.load(path, threads=1) as ours:
        want = ours.logits(ids)
    found = run(whole, ids)
    most = 1e-2 if kind == "F32" else 0.1  # activations are rounded otherwise, which moves experts, too
    assert np.linalg.norm(found - want) <= most * np.linalg.norm(want)


# Rows of 256 are a super block of Q2_K to IQ4_XS; those of 64 take Q4_0 and IQ4_NL in their place.
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}
MIXED = ("Q4_K_M", "Q3_K_M", "IQ4_XS", "Q2_K", "MXFP4")


@pytest.mark.parametrize("mixture", MIXED)
@pytest.mark.parametrize("name", ["qwen2", "lfm2", "qwen3moe"])
def test_quantised_files(name: str, mixture: str, tmp_path: Path) -> None:
    """Files of `pellucid quantize`: llama.cpp computes from them what Pellucid computes from the same file."""
    from tests.families import reference

    case = replace(BY_NAME[name], sizes={**BY_NAME[name].sizes, **WIDE})
    golden = reference.blank(case)
    convert_folder(write_folder(case, golden, tmp_path / "folder"), tmp_path / "f32.gguf", "F32")
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(tmp_path / "f32.gguf"), str(out), "--type", mixture]) == 0
    ids = ids_of(case, golden)[:60]
    with Model.load(tmp_path / "f32.gguf", threads=1) as before:
        whole = before.logits(ids)
    with Model.load(out, threads=1, kv="f32", precision="high") as ours:
        want = ours.logits(ids)
    off = divergence(want, run(out, ids))
    # It rounds activations to int8, up to 256 with one scale: 0.0003 to 0.0034 nats; the formats: 0.03 to 1.5.
    assert off <= 0.01 and off <= divergence(want, whole) / 5


def divergence(p: Any, q: Any) -> float:
    """Mean KL divergence of q from p, logits."""
    logs = [np.float64(x) - np.logaddexp.reduce(np.float64(x), axis=1, keepdims=True) for x in (p, q)]
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


def add_no_tokenizer(path: Path, out: Path) -> None:
    """The same file with the key that says that it has no tokenizer."""
    from pellucid.weights import open_model
    from pellucid.weights.quantise import metadata_of, write_model

    metadata = {**metadata_of(str(path)), "tokenizer.ggml.model": Value("string", "none")}
    with open_model(path) as file:
        write_model(out, metadata, file.tensors, lambda name: None)


@pytest.mark.parametrize("name", [n for n, c in EMBEDDERS.items() if c.pooling and n not in NO_EMBEDDINGS])
def test_embeddings(name: str, tmp_path: Path) -> None:
    folder, out = folder_of(EMBEDDERS[name], tmp_path / "folder"), tmp_path / "out.gguf"
    convert_folder(folder, out, "F32")
    with Model.load(folder, threads=1) as ours:
        text = max(TEXTS, key=len)
        ids = ours.core.need_tokenizer().encode(text)
        want = ours.embed([text], instruction="")[0]
    found = run(out, [ids], "--embed")[0]
    assert float(found @ want) / float(np.linalg.norm(found) * np.linalg.norm(want)) >= 0.9999


@pytest.mark.parametrize("name", [n for n, c in EMBEDDERS.items() if c.classifies])
def test_scores(name: str, tmp_path: Path) -> None:
    """llama.cpp gives the score before the sigmoid, and all tokens the first type."""
    folder, out = folder_of(EMBEDDERS[name], tmp_path / "folder"), tmp_path / "out.gguf"
    convert_folder(folder, out, "F32")
    with Model.load(folder, threads=1) as ours:
        one_type = not ours.core.config.second_type
        scores = dict(ours.rerank(QUERY, DOCUMENTS))
        pairs = [ours.core.need_tokenizer().encode_pair(QUERY, text)[0] for text in DOCUMENTS]
        sigmoid = ours.core.embedder.sigmoid
    found = [float(run(out, [ids], "--score")[0, 0]) for ids in pairs]
    assert np.isfinite(found).all()
    if one_type:
        values = [1 / (1 + np.exp(-x)) for x in found] if sigmoid else found
        assert values == pytest.approx([scores[i] for i in range(len(DOCUMENTS))], abs=2e-3)


@pytest.mark.parametrize("name", [name for name in MADE if name != "cased"])  # llama.cpp makes all letters small
def test_tokenizers_of_encoders(name: str, tmp_path: Path) -> None:
    """llama.cpp cuts the texts alike, as far as it reads them in the same way."""
    llama_cpp: Any = importlib.import_module("llama_cpp")
    own, _, metadata = both(MADE[name](), tmp_path / "folder")
    out = tmp_path / "vocabulary.gguf"
    write_file(out, {"general.architecture": Value("string", "bert"), **metadata}, [])
    theirs = llama_cpp.Llama(str(out), vocab_only=True, verbose=False)
    for text in SOME_TEXTS[1:3]:
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == own.encode(text), text
