"""The file of sentence-transformers' first module: which options load, what they do, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ChatTemplateError, ModelFileError, TokenizerError, UnsupportedModelError
from pellucid.making.convert import convert_folder
from tests.embedding.cases import BY_NAME
from tests.embedding.files import TEXTS, load_golden, write_folder

FILE = "sentence_bert_config.json"
FLAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}:{{ m['content'] }}<|im_end|>{% endfor %}"
ENDS = FLAT + "{% if add_generation_prompt %}<|im_start|>{% endif %}"
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}:{% for p in m['content'] %}{% if p['type'] == 'text' %}"
    "{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
)
WAY = {"method": "forward", "method_output_name": "last_hidden_state"}
OUTPUT = {"module_output_name": "token_embeddings"}


def messages(format: Any = "flat", **changes: Any) -> dict[str, Any]:
    kinds = {"text": WAY, "message": {**WAY, "format": format, **changes}}
    return {"modality_config": kinds, "transformer_task": "feature-extraction", **OUTPUT}


def folder(path: Path, keys: dict[str, Any], name: str = "bert", template: str | None = None) -> Path:
    write_folder(BY_NAME[name], load_golden(BY_NAME[name]), path)
    (path / FILE).write_text(json.dumps(keys))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path


@pytest.mark.parametrize(
    ("format", "template", "asks"),
    [("flat", FLAT, None), ("flat", ENDS, True), ("flat", ENDS, False), ("structured", PARTS, None)],
)
def test_texts_that_become_messages(tmp_path: Path, format: str, template: str, asks: bool | None) -> None:
    """As the template writes them, prompts as the system's, and nothing that the tokenizer adds to other texts."""
    calls = {"restore_suffix": True, **({} if asks is None else {"add_generation_prompt": asks})}
    keys = {**messages(format), "processing_kwargs": {"chat_template": calls}}
    path = folder(tmp_path, keys, "qwen3_embedding", template)
    end = "<|im_start|>" if asks else ""
    with Model.load(path, threads=1) as model:

        def ids(text: str) -> list[int]:
            return model.core.tokenize(text, add_special=False, parse_special=True)

        found = model.embed(TEXTS)
        expected = model.embed([ids(f"<|im_start|>user:{text}<|im_end|>{end}") for text in TEXTS])
        np.testing.assert_array_equal(found, expected)
        found = model.embed(TEXTS, instruction="Find: ")
        said = "<|im_start|>system:Find: <|im_end|><|im_start|>user:"
        np.testing.assert_array_equal(found, model.embed([ids(f"{said}{text}<|im_end|>{end}") for text in TEXTS]))
        with pytest.raises(TokenizerError, match=r"texts\[1\]"):
            model.embed(["a", "\ud800"])
    with pytest.raises(UnsupportedModelError, match="through the chat template"):
        convert_folder(path, tmp_path / "m.gguf", "F32")


def test_messages_begin_with_no_token_that_the_template_does_not_write(tmp_path: Path) -> None:
    path = folder(tmp_path, messages(), "xlm_roberta", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with Model.load(path, threads=1) as model:
        ids = model.core.tokenize("hello world", add_special=False)
        assert ids != model.core.tokenize("hello world")
        np.testing.assert_array_equal(model.embed("hello world"), model.embed([ids]))


def test_messages_without_a_template(tmp_path: Path) -> None:
    with Model.load(folder(tmp_path, messages(), "qwen3_embedding"), threads=1) as model:
        with pytest.raises(ChatTemplateError, match="no chat template"):
            model.embed("a")


KNOWN: list[dict[str, Any]] = [
    {"modality_config": {"text": WAY}, **OUTPUT, "transformer_task": "feature-extraction", "unpad_inputs": False},
    {"modality_config": {"text": {**WAY, "method_output_name": ["last_hidden_state"]}, "image": {}}, **OUTPUT},
    {"query_length": None, "query_expansion": None, "processing_kwargs": None},
    {"config_args": {}, "model_args": {"torch_dtype": "float16", "trust_remote_code": True}, "tokenizer_args": {}},
    {"model_kwargs": {"attn_implementation": "sdpa"}, "config_kwargs": {"use_cache": False}},
    {"processor_kwargs": {"padding_side": "left", "model_max_length": 128}},
    {"processing_kwargs": {"text": {"padding": True, "add_special_tokens": True}, "common": {"max_length": 64}}},
    {"processing_kwargs": {"image": {"size": 3}, "chat_template": {"add_generation_prompt": True}}},
]


@pytest.mark.parametrize("keys", KNOWN)
def test_options_that_alter_nothing(tmp_path: Path, keys: dict[str, Any]) -> None:
    with Model.load(folder(tmp_path, keys), threads=1) as model:
        found = model.embed(TEXTS)
    assert np.sum(found * load_golden(BY_NAME["bert"]).results, axis=1).min() > 0.9999


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"transformer_task": "fill-mask"}, "transformer_task = 'fill-mask'"),
    ({"module_output_name": "sentence_embedding"}, "module_output_name = 'sentence_embedding'"),
    ({"modality_config": {"text": WAY}}, "module_output_name: no such key"),
    ({"modality_config": [], **OUTPUT}, "modality_config: it is []; expected a table"),
    ({"modality_config": {"image": WAY}, **OUTPUT}, "modality_config = {'image'"),
    ({"modality_config": {"text": 3}, **OUTPUT}, "modality_config.text: it is 3"),
    (
        {"modality_config": {"text": {**WAY, "method": "get_text_features"}}, **OUTPUT},
        "modality_config.text.method = 'get_text_features'",
    ),
    (
        {"modality_config": {"text": {**WAY, "method_output_name": "pooler_output"}}, **OUTPUT},
        "modality_config.text.method_output_name = 'pooler_output'",
    ),
    (
        {"modality_config": {"text": {**WAY, "method_output_name": ["hidden_states", -2]}}, **OUTPUT},
        "modality_config.text.method_output_name",
    ),
    ({"modality_config": {"text": {"method": "forward"}}, **OUTPUT}, "modality_config.text.method_output_name = None"),
    (messages("auto"), "modality_config.message.format = 'auto'"),
    (messages(other=1), "modality_config.message.other = 1"),
    ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, "processing_kwargs.text.add_special_tokens"),
    ({"processing_kwargs": {"common": {"stride": 3}}}, "processing_kwargs.common.stride = 3"),
    ({"processing_kwargs": {"other": {}}}, "processing_kwargs.other = {}"),
    ({"processing_kwargs": 3}, "processing_kwargs: it is 3"),
    (
        {**messages(), "processing_kwargs": {"chat_template": {"enable_thinking": False}}},
        "processing_kwargs.chat_template.enable_thinking = False",
    ),
    (
        {**messages(), "processing_kwargs": {"chat_template": {"add_generation_prompt": 3}}},
        "processing_kwargs.chat_template.add_generation_prompt: it is 3",
    ),
    ({"config_kwargs": {"num_hidden_layers": 1}}, "config_kwargs.num_hidden_layers = 1"),
    ({"config_args": {"num_hidden_layers": 1}}, "config_args.num_hidden_layers = 1"),
    ({"model_kwargs": {"variant": "fp16"}}, "model_kwargs.variant = 'fp16'"),
    ({"model_args": {"load_in_8bit": True}}, "model_args.load_in_8bit = True"),
    ({"model_args": None}, "model_args: it is None; expected a table"),
    ({"tokenizer_args": {"do_lower_case": False}}, "tokenizer_args.do_lower_case = False"),
    ({"processor_kwargs": {"add_eos_token": True}}, "processor_kwargs.add_eos_token = True"),
    ({"tokenizer_kwargs": {}}, "tokenizer_kwargs = {}"),
    ({"query_length": 32}, "query_length = 32"),
]


@pytest.mark.parametrize(("keys", "words"), WRONG)
def test_options_that_alter_an_embedding(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError)) as caught:
        Model.load(folder(tmp_path, keys), threads=1)
    assert words in str(caught.value)


def test_options_of_a_reranker(tmp_path: Path) -> None:
    way = {"method": "forward", "method_output_name": "logits"}
    right = {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": way},
        "module_output_name": "scores",
    }
    path = folder(tmp_path, right, "bert_reranker")
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    (path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    Model.load(path, threads=1).close()
    for change, words in (
        ({"transformer_task": "feature-extraction"}, "transformer_task = 'feature-extraction'"),
        ({"module_output_name": "token_embeddings"}, "module_output_name = 'token_embeddings'"),
        ({"modality_config": {"text": WAY}}, "modality_config.text.method_output_name = 'last_hidden_state'"),
        ({"modality_config": {"text": way, "message": way}}, "modality_config.message = "),
    ):
        (path / FILE).write_text(json.dumps({**right, **change}))
        with pytest.raises(UnsupportedModelError) as caught:
            Model.load(path, threads=1)
        assert words in str(caught.value)


@pytest.mark.parametrize("name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_older_names_of_the_file(tmp_path: Path, name: str) -> None:
    """The first that has any key counts."""
    path = folder(tmp_path, {})
    older = path / f"sentence_{name}_config.json"
    older.write_text(json.dumps({"config_args": {"num_hidden_layers": 1}}))
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=rf"config_args.num_hidden_layers = 1 .*{older.name}"):
            Model.load(path, threads=1)
        (path / FILE).unlink(missing_ok=True)
    (path / FILE).write_text(json.dumps({"max_seq_length": 128}))
    Model.load(path, threads=1).close()
