"""Rerankers with a classifier of two texts: forms of files, what is refused, pairs of texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pellucid import Model, Tokenizer
from pellucid.core import Core
from pellucid.errors import ModelFileError, TokenizerError, UnsupportedModelError
from tests.embedding.cases import BY_NAME
from tests.embedding.files import DOCUMENTS, QUERY, load_golden, write_folder
from tests.families.case import Array, Gguf, Settings, Weights, common_keys, write_gguf

SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def folder(name: str, path: Path) -> Path:
    return write_folder(BY_NAME[name], load_golden(BY_NAME[name]), path)


def scores(path: Path) -> list[float]:
    with Model.load(path, threads=2) as model:
        found = dict(model.rerank(QUERY, DOCUMENTS))
        return [found[i] for i in range(len(DOCUMENTS))]


def change(path: Path, **keys: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **keys}))


def test_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of the folder; the file has no tokenizer, so that it takes the folder's."""
    case = BY_NAME["xlm_reranker"]
    path = folder("xlm_reranker", tmp_path / "m")
    tokenizer = Tokenizer.load(path)
    monkeypatch.setattr(Core, "need_tokenizer", lambda core: tokenizer)
    found = scores(write_gguf(case.model, load_golden(case).model, tmp_path / "m.gguf"))
    assert np.abs(np.array(found) - load_golden(case).results).max() < 1e-5


def test_qwen3_reranker_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two rows of the head, as converters write them; the rest of the head may be missing."""
    case, golden = BY_NAME["qwen3_reranker"], load_golden(BY_NAME["qwen3_reranker"])
    tokenizer = Tokenizer.load(folder("qwen3_reranker", tmp_path / "m"))
    monkeypatch.setattr(Core, "need_tokenizer", lambda core: tokenizer)
    ids = [tokenizer.encode(answer, add_special=False)[0] for answer in ("yes", "no")]

    def change(config: Settings, name: str, value: Array) -> Array | Weights:
        if not name.endswith("embed_tokens.weight"):
            return value
        return {name: value, "cls.output.weight": np.ascontiguousarray(value[ids])}

    def keys(labels: list[str] | None) -> Any:
        own = {"pooling_type": 4, "classifier.output_labels": labels}
        return lambda config: {**common_keys(config), **own}

    made = Gguf("qwen3", keys(["yes", "no"]), change)
    path = write_gguf(replace(case.model, gguf=made), golden.model, tmp_path / "m.gguf")
    assert np.abs(np.array(scores(path)) - golden.results).max() < 1e-5
    with Model.load(path) as model:
        assert np.abs(model.rerank(QUERY, DOCUMENTS, instruction="other")[0].score - golden.results.max()) > 1e-7
        with pytest.raises(UnsupportedModelError, match="no head"):
            model.generate([1, 2])
    for labels in (["no", "yes"], ["yes"], None):  # None: the key is missing
        wrong = replace(case.model, gguf=Gguf("qwen3", keys(labels), change))
        with pytest.raises(UnsupportedModelError, match=r"classifier.output_labels"):
            Model.load(write_gguf(wrong, golden.model, tmp_path / "w.gguf"))
    missing = replace(case.model, gguf=Gguf("qwen3", keys(["yes", "no"])))
    with pytest.raises(ModelFileError, match=r"cls.output.weight: no such tensor"):
        Model.load(write_gguf(missing, golden.model, tmp_path / "w.gguf"))


def test_gguf_file_without_a_pooler(tmp_path: Path) -> None:
    """Converters leave out the layer between BERT's first token and its classifier: other scores, if nothing else."""
    case, golden = BY_NAME["xlm_reranker"], load_golden(BY_NAME["xlm_reranker"])
    golden.model.shapes.pop("classifier.dense.weight")
    with pytest.raises(ModelFileError, match=r"cls.weight: no such tensor"):
        Model.load(write_gguf(case.model, golden.model, tmp_path / "m.gguf"))


def test_what_follows_the_classifier(tmp_path: Path) -> None:
    path = folder("bert_reranker", tmp_path / "m")
    raw = np.array(scores(path))  # its configuration asks for no sigmoid
    assert raw.max() > 1 or raw.min() < 0
    expected = 1 / (1 + np.exp(-raw))
    for keys in (
        {"sbert_ce_default_activation_function": None},
        {"sbert_ce_default_activation_function": SIGMOID},
        {"sentence_transformers": {"activation_fn": SIGMOID, "version": "4.1.0"}},
    ):
        change(path, **keys)
        assert np.allclose(scores(path), expected, rtol=0, atol=1e-12), keys
    change(path, sentence_transformers={"activation_fn": IDENTITY, "version": "4.1.0"})
    assert np.array_equal(scores(path), raw)
    for key, value in (
        ("sentence_transformers", {"activation_fn": "torch.nn.modules.activation.Tanh"}),
        ("sentence_transformers", {"activation_fn": IDENTITY, "other": 1}),
        ("sbert_ce_default_activation_function", "mine.Act"),
    ):
        change(path, **{"sentence_transformers": None, key: value})
        with pytest.raises(UnsupportedModelError, match=r"activation_fn|sentence_transformers.other|mine\.Act"):
            Model.load(path)


def test_files_of_sentence_transformers(tmp_path: Path) -> None:
    path = folder("bert_reranker", tmp_path / "m")
    raw = np.array(scores(path))
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    (path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    (path / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "sequence-classification"}))
    own = path / "config_sentence_transformers.json"
    for table, expected in (
        ({"model_type": "CrossEncoder", "activation_fn": SIGMOID, "prompts": {}}, 1 / (1 + np.exp(-raw))),
        ({"model_type": "CrossEncoder", "activation_fn": IDENTITY}, raw),
        ({}, raw),
    ):
        own.write_text(json.dumps(table))
        assert np.allclose(scores(path), expected, rtol=0, atol=1e-12)
    for table, words in (
        ({"model_type": "SparseEncoder"}, "model_type"),
        ({"activation_fn": "torch.nn.modules.activation.ReLU"}, "activation_fn"),
        ({"default_prompt_name": "query", "prompts": {"query": "q: "}}, "default_prompt_name"),
    ):
        own.write_text(json.dumps(table))
        with pytest.raises(UnsupportedModelError, match=words):
            Model.load(path)


def test_types_of_tokens(tmp_path: Path) -> None:
    """They count where the folder's tokenizer gives them."""
    path = folder("bert_reranker", tmp_path / "m")
    typed, config = scores(path), path / "tokenizer_config.json"
    for table in ({"tokenizer_class": "BertTokenizer"}, {"model_input_names": ["input_ids", "token_type_ids"]}):
        config.write_text(json.dumps(table))
        assert scores(path) == typed
    config.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    untyped = scores(path)
    assert np.abs(np.array(untyped) - typed).max() > 1e-3
    config.write_text(json.dumps({"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids"]}))
    assert scores(path) == untyped
    config.write_text(json.dumps({"model_input_names": 3}))
    with pytest.raises((ModelFileError, TokenizerError), match="model_input_names"):
        Model.load(path)


@pytest.mark.parametrize("kind", ["Bert", "Electra", "DistilBert", "MPNet", "Roberta", "Unknown"])
def test_types_of_tokens_by_class(kind: str, tmp_path: Path) -> None:
    """Of model_input_names in transformers' classes."""
    path = folder("bert_reranker", tmp_path / "m")
    found = {}
    for name in (f"{kind}Tokenizer", f"{kind}TokenizerFast"):
        for more in ({}, {"model_input_names": ["input_ids"]}, {"model_input_names": ["token_type_ids"]}):
            (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **more}))
            found[len(more) and more["model_input_names"][0]] = scores(path)
        assert (found[0] == found["token_type_ids"]) == (kind in ("Bert", "Electra"))
        assert (found[0] == found["input_ids"]) == (kind not in ("Bert", "Electra"))


@pytest.mark.parametrize("name", ["bert_reranker", "xlm_reranker"])
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    path = folder(name, tmp_path / "m")
    with Model.load(path) as model:
        with pytest.raises(ValueError, match="instruction: this model has a classifier"):
            model.rerank(QUERY, DOCUMENTS, instruction="relevant?")
        with pytest.raises(ValueError, match="pooling"):
            model.embed(list(DOCUMENTS))
        assert model.embed(list(DOCUMENTS), pooling="first").shape == (len(DOCUMENTS), 64)
        assert model.rerank("", ["", "a"])
    whole = load_file(path / "model.safetensors")
    last = "classifier" if name == "bert_reranker" else "classifier.out_proj"
    for own in (one for one in whole if one.startswith(("classifier", "bert.pooler"))):
        save_file({other: value for other, value in whole.items() if other != own}, path / "model.safetensors")
        with pytest.raises((ModelFileError, UnsupportedModelError), match=own):
            Model.load(path)
    labels = {f"{last}.weight": np.ones((3, 64), np.float32), f"{last}.bias": np.ones(3, np.float32)}
    save_file({**whole, **labels}, path / "model.safetensors")
    with pytest.raises(ModelFileError, match=rf"{last}.weight.*\(3, 64\)"):
        Model.load(path)
