"""The cases in transformers and sentence-transformers, run now (`--live`; extra `reference`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from tests.embedding.cases import BY_NAME
from tests.embedding.files import DOCUMENTS, QUERY, ROWS, TEXTS, ids_of, load_golden
from tests.embedding.test_embedding import COSINE, FORMS, TOLERANCE, cosines, distance, hidden
from tests.embedding.test_transformer_keys import ENDS, FLAT, PARTS, folder, messages
from tests.families.case import write_gguf

INPUTS = ["input_ids", "attention_mask"]
pytestmark = pytest.mark.live


@pytest.mark.parametrize("name", BY_NAME)
def test_golden_files_are_those_of_this_version(name: str) -> None:
    from tests.embedding import reference

    golden, now = load_golden(BY_NAME[name]), reference.make(BY_NAME[name])
    assert now.model.shapes == golden.model.shapes
    config = {**golden.model.config, "transformers_version": now.model.config["transformers_version"]}
    assert now.model.config == config
    assert distance(now.model.logits, golden.model.logits) < 1e-5
    assert np.abs(now.results - golden.results).max() < 1e-5
    assert now.prompted.shape == golden.prompted.shape and np.abs(now.prompted - golden.prompted).sum() < 1e-3


@pytest.mark.parametrize("name", [case.name for case in BY_NAME.values() if case.pooling])
def test_what_sentence_transformers_saves(name: str, tmp_path: Path) -> None:
    """A folder that the package itself has saved, with its own tokenizer files."""
    from sentence_transformers import SentenceTransformer

    from tests.embedding import reference

    case = BY_NAME[name]
    expected, _ = reference.results(case, tmp_path / "made", load_golden(case))
    SentenceTransformer(str(tmp_path / "made"), device="cpu").save_pretrained(str(tmp_path / "saved"))
    with Model.load(tmp_path / "saved") as model:
        assert cosines(model.embed(TEXTS), expected).min() >= COSINE


@pytest.mark.parametrize(
    ("format", "template", "asks"), [("flat", FLAT, False), ("flat", ENDS, True), ("structured", PARTS, False)]
)
@pytest.mark.parametrize("name", ["qwen3_embedding", "xlm_roberta"])
def test_texts_that_become_messages(name: str, format: str, template: str, asks: bool, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    calls = {"chat_template": {"add_generation_prompt": asks}}
    path = folder(tmp_path, {**messages(format), "processing_kwargs": calls}, name, template)
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right", "model_input_names": INPUTS}
    pad = next(iter(json.loads((path / "tokenizer.json").read_text())["added_tokens"]))["content"]
    (path / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "pad_token": pad}))
    other = SentenceTransformer(str(path), device="cpu")
    with Model.load(path) as model:
        for prompt in ("", "Find: "):
            expected = other.encode(list(TEXTS), prompt=prompt, normalize_embeddings=True)
            assert cosines(model.embed(TEXTS, instruction=prompt), expected).min() >= COSINE


@pytest.mark.parametrize("name", [case.name for case in BY_NAME.values() if case.classifies])
def test_what_a_cross_encoder_saves(name: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    from tests.embedding import reference

    case = BY_NAME[name]
    expected, _ = reference.results(case, tmp_path / "made", load_golden(case))
    CrossEncoder(str(tmp_path / "made"), device="cpu").save_pretrained(str(tmp_path / "saved"))
    with Model.load(tmp_path / "saved") as model:
        found = dict(model.rerank(QUERY, DOCUMENTS))
    assert np.abs([found[i] - expected[i] for i in range(len(expected))]).max() < 1e-5


@pytest.mark.parametrize(("name", "form"), FORMS, ids=["-".join(one) for one in FORMS])
def test_hidden_states(name: str, form: str, tmp_path: Path) -> None:
    from tests.families import case as families
    from tests.families import reference as models

    case, golden = BY_NAME[name], load_golden(BY_NAME[name]).model
    from tests.embedding import reference

    transformer = models.load(case.model, golden, tmp_path / "reference")
    path = families.write_folder(case.model, golden, tmp_path / "m") if form == "folder" else tmp_path / "m.gguf"
    if form == "gguf":
        write_gguf(case.model, golden, path)
    ids = ids_of(case, golden)
    with Model.load(path) as model:
        for n in (1, 17, 200):
            assert distance(hidden(model, ids[:n]), reference.hidden(transformer, ids[:n])) <= TOLERANCE, n
    assert len(golden.logits) == len(ROWS)
