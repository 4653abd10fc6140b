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
from pellucid.making.convert import convert_folder
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


WORDS = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    '<Instruct>: {{ of("system") }}\n<Query>: {{ of("query") }}\n<Document>: {{ of("document") }}<|im_end|>\n'
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ '' }}"
)
TEMPLATE = """{%- macro of(role) %}
{{- messages | selectattr("role", "eq", role) | map(attribute="content") | first }}
{%- endmacro -%}
"""
WEB = "Given a web search query, retrieve relevant passages that answer the query"


def answering(path: Path, **keys: Any) -> Path:
    """A Qwen3-Reranker as sentence-transformers saves it. keys: of config_sentence_transformers.json."""
    folder("qwen3_reranker", path)
    yes, no = (Tokenizer.load(path).encode(word, add_special=False)[0] for word in ("yes", "no"))
    kinds = ("base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore")
    modules = [{"path": place, "type": f"sentence_transformers.{kind}"} for place, kind in zip(("", "1"), kinds)]
    way = {"method": "forward", "method_output_name": "logits"}
    task = {"transformer_task": "text-generation", "module_output_name": "causal_logits"}
    (path / "1").mkdir()
    for name, table in (
        ("modules.json", modules),
        ("1/config.json", {"true_token_id": yes, "false_token_id": no}),
        ("sentence_bert_config.json", {**task, "modality_config": {"text": way, "message": {**way, "format": "flat"}}}),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder", **keys}),
        ("tokenizer_config.json", {"chat_template": TEMPLATE + WORDS, "eos_token": "<|endoftext|>"}),
    ):
        (path / name).write_text(json.dumps(table))
    return path


def test_logits_as_scores(tmp_path: Path) -> None:
    """sentence-transformers' LogitScore: the prompt is the chat template's."""
    golden = load_golden(BY_NAME["qwen3_reranker"]).results
    prompts = {"prompts": {"web": WEB, "other": "other"}, "default_prompt_name": "web"}
    path = answering(tmp_path / "m", activation_fn=SIGMOID, **prompts)
    assert np.abs(np.array(scores(path)) - golden).max() < 1e-5
    with Model.load(path) as model:
        other = model.rerank(QUERY, DOCUMENTS, instruction="other")
        assert np.abs(other[0].score - golden.max()) > 1e-7
        assert model.embed("a", pooling="mean").tolist() == model.embed(model.tokenize("a"), pooling="mean").tolist()
        assert model.generate([1, 2], max_tokens=1).ids
    path = answering(tmp_path / "plain", activation_fn=IDENTITY, **prompts)
    assert np.abs(np.array(scores(path)) - np.log(golden / (1 - golden))).max() < 1e-4
    table = json.loads((path / "1/config.json").read_text())
    (path / "1/config.json").write_text(json.dumps({**table, "false_token_id": None}))
    with Model.load(path, threads=2) as model:
        said = [("system", WEB), ("query", QUERY), ("document", DOCUMENTS[0])]
        ids = model.chat_prompt([{"role": role, "content": text} for role, text in said], add_generation_prompt=False)
        want = model.logits(ids.ids)[-1, table["true_token_id"]]
        assert dict(model.rerank(QUERY, DOCUMENTS))[0] == pytest.approx(want, abs=1e-4)


def test_logits_as_scores_in_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file has the prompt of Qwen3-Reranker, as every other."""
    convert_folder(answering(tmp_path / "m", prompts={"web": WEB}), tmp_path / "m.gguf", "F32")
    assert [one.getMessage().partition(": ")[2] for one in caplog.records] == [
        "GGUF has no key for the module LogitScore: rerank uses the prompt of Qwen3-Reranker"
    ]
    assert np.abs(np.array(scores(tmp_path / "m.gguf")) - load_golden(BY_NAME["qwen3_reranker"]).results).max() < 1e-5


def test_logits_as_scores_that_are_refused(tmp_path: Path) -> None:
    path = answering(tmp_path / "m")
    config = json.loads((path / "1/config.json").read_text())
    options = json.loads((path / "sentence_bert_config.json").read_text())
    texts = {**options, "modality_config": {"text": options["modality_config"]["text"]}}
    for name, right, table, words in (
        ("1/config.json", config, {**config, "true_token_id": None}, "true_token_id"),
        ("1/config.json", config, {**config, "false_token_id": -1}, "false_token_id"),
        ("1/config.json", config, {**config, "module_input_name": "scores"}, "module_input_name"),
        ("sentence_bert_config.json", options, texts, r"LogitScore .* the chat template"),
        ("sentence_bert_config.json", options, {**options, "transformer_task": "fill-mask"}, "transformer_task"),
        ("config_sentence_transformers.json", {}, {"activation_fn": "mine.Act"}, "activation_fn"),
    ):
        (path / name).write_text(json.dumps(table))
        with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
            Model.load(path)
        (path / name).write_text(json.dumps(right))
    (path / "1/config.json").write_text(json.dumps({**config, "false_token_id": 10**6}))
    with Model.load(path) as model, pytest.raises(TokenizerError, match="token 1000000"):
        model.rerank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("name", ["bert_reranker", "xlm_reranker", "modernbert_reranker"])
def test_several_labels(name: str, tmp_path: Path) -> None:
    """config.json says how many; transformers leaves two out."""
    path = folder(name, tmp_path / "m")
    for keys, words in (
        ({"id2label": {"0": "no", "1": "maybe", "2": "yes"}}, "id2label of 3 labels"),
        ({"id2label": None, "num_labels": 3}, "num_labels of 3 labels"),
        ({"id2label": None}, "num_labels of 2 labels"),
    ):
        change(path, **{"num_labels": None, **keys})
        with pytest.raises(UnsupportedModelError, match=rf"{words} is not supported; supported: one label"):
            Model.load(path)
    change(path, id2label=None, num_labels=1)
    assert scores(path)


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
