"""Embeddings and relevance: against the golden values, the same bits in company, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pellucid import Model
from pellucid.errors import ContextFullError, ModelFileError, UnsupportedModelError
from tests.embedding.cases import BY_NAME, CASES, Embedding
from tests.embedding.files import DOCUMENTS, QUERY, ROWS, TEXTS, ids_of, load_golden, write_folder
from tests.engine.models import same
from tests.families.case import Gguf, Weights, write_gguf
from tests.families.test_families import TOLERANCE, distance
from tests.reference import tiny

EMBEDDERS = [case.name for case in CASES if case.pooling]
RERANKERS = [case.name for case in CASES if not case.pooling]
FORMS = [(case.name, form) for case in CASES for form in ("folder", "gguf") if form == "folder" or case.model.gguf]
COSINE = 0.99999

Load = Callable[..., Model]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """load(name, form, **options of Model.load)."""
    made: list[Model] = []

    def get(name: str, form: str = "folder", **options: Any) -> Model:
        path, case = tmp_path / f"{name}.{form}", BY_NAME[name]
        if not path.exists():
            golden = load_golden(case)
            if form == "gguf":
                write_gguf(case.model, golden.model, path)
            else:
                write_folder(case, golden, path, older=form == "older")
        made.append(Model.load(path, **{"threads": 2, **options}))
        return made[-1]

    yield get
    for model in made:
        model.close()


def hidden(model: Model, ids: list[int]) -> npt.NDArray[np.float32]:
    from tests.engine.test_encoders import hidden

    return hidden(model.core.engine, ids)[0]


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    a, b = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (a, b))
    return np.sum(a * b, axis=1)


@pytest.mark.parametrize(("name", "form"), FORMS, ids=["-".join(one) for one in FORMS])
def test_hidden_states(load: Load, name: str, form: str) -> None:
    golden = load_golden(BY_NAME[name]).model
    ids = ids_of(BY_NAME[name], golden)
    model = load(name, form)
    found = hidden(model, ids)
    assert distance(found[list(ROWS)], golden.logits) <= TOLERANCE
    for threads in (1, 3):
        assert same(hidden(load(name, form, threads=threads), ids), found)


@pytest.mark.parametrize("form", ["folder", "older"])
@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings(load: Load, name: str, form: str) -> None:
    golden = load_golden(BY_NAME[name])
    model = load(name, form)
    found = model.embed(TEXTS)
    assert found.dtype == np.float32 and found.shape == golden.results.shape
    assert cosines(found, golden.results).min() >= COSINE
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    if len(golden.prompted):
        assert cosines(model.embed(TEXTS, instruction="query"), golden.prompted).min() >= COSINE


@pytest.mark.parametrize(("name", "form"), FORMS, ids=["-".join(one) for one in FORMS])
def test_company_changes_no_bit(load: Load, name: str, form: str) -> None:
    """Rows of several passes, of texts that share passes, and of one text alone are the same."""
    model = load(name, form)
    vocab, pad = model.info().vocab, load_golden(BY_NAME[name]).model.config.get("pad_token_id")
    several = [[(7 * i * n + n) % vocab for i in range(n)] for n in (1, 30, 200, 3, 200, 64, 2, 190)]
    several = [[i + (i == pad) for i in ids] for ids in several]
    for pooling in ("last", "first", "mean"):
        if not BY_NAME[name].pooling:
            continue
        together = model.embed(several, pooling=pooling)
        alone = np.concatenate([model.embed(ids, pooling=pooling) for ids in several])
        assert same(together, alone)
    if BY_NAME[name].pooling and form == "gguf":
        found, expected = model.embed(several), load(name).embed(several, pooling=_by_key(model))
        # A GGUF file of Llama has the columns of queries and keys in another order.
        assert np.abs(found - expected).max() < 1e-5 if name == "llama_embedding" else same(found, expected)


def _by_key(model: Model) -> Any:
    assert model.core.embedder.pooling is not None
    return model.core.embedder.pooling


def test_long_texts_take_several_passes(tmp_path: Path) -> None:
    path = tiny.write_gguf(tiny.TINY[0], tmp_path / "model.gguf", context=2048)
    ids = [(5 * i * i + 3) % 97 for i in range(1500)]
    with Model.load(path) as model:
        for pooling in ("last", "first", "mean"):
            (found,) = model.embed(ids, pooling=pooling, normalize=False)
            rows = np.concatenate([hidden_parts(model, ids, 400)])
            expected = {"last": rows[-1], "first": rows[0], "mean": rows.mean(axis=0, dtype=np.float64)}[pooling]
            assert same(found[None], expected.astype(np.float32)[None])


def hidden_parts(model: Model, ids: list[int], step: int) -> npt.NDArray[np.float32]:
    from pellucid import _engine

    engine = model.core.engine
    sequence, out = _engine.Sequence(engine), np.empty((len(ids), engine.dim), np.float32)
    for i in range(0, len(ids), step):
        engine.forward([(sequence, ids[i : i + step], 0)], hidden=out[i : i + step])
    return out


def test_options(load: Load) -> None:
    model = load("qwen3_dense")
    raw = model.embed(TEXTS, normalize=False)
    unit = model.embed(TEXTS)
    assert same(unit, np.stack([row / np.sqrt(np.sum(np.square(row, dtype=np.float64))) for row in raw]).astype("f4"))
    few = model.embed(TEXTS, dimensions=20)
    assert few.shape == (5, 20) and np.abs(np.linalg.norm(few, axis=1) - 1).max() < 1e-6
    assert cosines(few, raw[:, :20]).min() > 1 - 1e-6
    prompted = model.embed(TEXTS, instruction="query")
    assert same(prompted, model.embed(TEXTS, instruction=BY_NAME["qwen3_dense"].prompts["query"]))
    assert same(unit, model.embed([f"Passage: {text}" for text in TEXTS], instruction=""))
    assert model.embed("one text").shape == (1, 48) and model.embed([]).shape == (0, 48)
    assert not same(prompted, unit)
    for options, error, words in (
        ({"dimensions": 49}, ValueError, "dimensions"),
        ({"dimensions": 0}, ValueError, "dimensions"),
        ({"pooling": "max"}, ValueError, "pooling"),
        ({"normalize": 1}, TypeError, "normalize"),
        ({"instruction": 3}, TypeError, "instruction"),
    ):
        with pytest.raises(error, match=words):
            model.embed(TEXTS, **options)
    with pytest.raises(TypeError, match="instruction is put before texts"):
        model.embed([[1, 2]], instruction="query")
    with pytest.raises(ContextFullError, match=r"texts\[1\]"):
        model.embed(["a", "a" * 300])
    with pytest.raises(TypeError, match=r"texts\[1\]"):
        model.embed(["a", 5])  # type: ignore[arg-type]


@pytest.mark.parametrize(("said", "size"), [(16, 16), (48, 48), (100, 48), (None, 48)])
def test_columns_that_the_folder_keeps(tmp_path: Path, said: int | None, size: int) -> None:
    """truncate_dim is the default of `dimensions`; more than there are means all."""
    path = write_folder(BY_NAME["qwen3_dense"], load_golden(BY_NAME["qwen3_dense"]), tmp_path)
    own = path / "config_sentence_transformers.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), "truncate_dim": said}))
    with Model.load(path, threads=1) as model:
        found = model.embed(TEXTS)
        assert found.shape == (len(TEXTS), size) and same(found, model.embed(TEXTS, dimensions=size))
        assert model.embed(TEXTS, dimensions=48).shape == (len(TEXTS), 48)


@pytest.mark.parametrize("name", ["xlm_roberta", "roberta"])
def test_the_padding_token_in_a_text(load: Load, name: str) -> None:
    """transformers gives it no position of its own in XLM-R and RoBERTa; in BERT it is a token as any other."""
    model, pad = load(name), load_golden(BY_NAME[name]).model.config["pad_token_id"]
    for texts, place in (([5, pad, 6], r"texts: token 1 "), ([[5, 6], [5, 6, 7, pad]], r"texts\[1\]: token 3 ")):
        with pytest.raises(ValueError, match=rf"{place}is the padding token \({pad}\), which has no position"):
            model.embed(texts)
    assert model.embed("a<pad>b").shape == (1, 64)
    assert load("bert").embed([5, 0, 6]).shape == (1, 64)


def test_pooling_must_be_known(tmp_path: Path) -> None:
    with Model.load(tiny.write_gguf(tiny.TINY[0], tmp_path / "model.gguf")) as model:
        with pytest.raises(ValueError, match="pooling: the model's files do not say"):
            model.embed([[1, 2]])
        assert model.embed([[1, 2]], pooling="last").shape == (1, 64)
        with pytest.raises(UnsupportedModelError, match="reranking with llama"):
            model.rerank("a", ["b"])


@pytest.mark.parametrize("name", RERANKERS)
def test_relevance(load: Load, name: str) -> None:
    expected = load_golden(BY_NAME[name]).results
    model = load(name)
    found = model.rerank(QUERY, DOCUMENTS)
    assert [i for i, _ in found] == sorted(range(len(DOCUMENTS)), key=lambda i: -expected[i])
    scores = dict(found)
    assert np.abs([scores[i] - expected[i] for i in range(len(DOCUMENTS))]).max() < 1e-5
    assert found[0].score == max(scores.values()) and found[0].index == found[0][0]
    for i, text in enumerate(DOCUMENTS):
        assert model.rerank(QUERY, [text]) == [(0, scores[i])]
    assert model.rerank(QUERY, []) == []
    for wrong in ("a text", ["a", 3], 5):
        with pytest.raises(TypeError, match="documents"):
            model.rerank(QUERY, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="query"):
        model.rerank(5, DOCUMENTS)  # type: ignore[arg-type]
    with pytest.raises(ContextFullError, match=r"documents\[1\]"):
        model.rerank(QUERY, ["a", "words " * 900])


def test_no_tokens_without_a_head(load: Load) -> None:
    model = load("qwen3_embedding")
    ids = [1, 2, 3]
    for call in (
        lambda: model.generate(ids), lambda: model.stream(ids), lambda: model.logits(ids), lambda: model.score(ids),
        lambda: model.context(), lambda: model.trace(ids), lambda: model.edit(), lambda: model.generate([ids, ids]),
    ):  # fmt: skip
        with pytest.raises(UnsupportedModelError, match=r"no head .*Model\.embed"):
            call()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("qwen2_embedding", {"is_causal": False}, r"config\.is_causal = false"),
        ("llama_embedding", {"is_causal": None}, r"config\.is_causal: it is null"),
        ("qwen2_embedding", {"auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}, r"config\.auto_map\.AutoModel = "),
        ("mistral_embedding", {"architectures": ["OtherModel"]}, "config.architectures = OtherModel"),
    ],
)
def test_decoders_that_see_later_tokens(tmp_path: Path, name: str, change: dict[str, Any], words: str) -> None:
    """As those of gte-Qwen2 do, in code of its own that may not even have a key that says so."""
    folder = write_folder(BY_NAME[name], load_golden(BY_NAME[name]), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
        Model.load(folder)


# ---- what is refused ------------------------------------------------------------------------------------------------

CHANGES: list[tuple[str, Any, str]] = [
    ("modules.json", {}, "modules.json"),
    ("modules.json", [], "a Pooling"),
    ("modules.json", [{"type": "sentence_transformers.models.Transformer"}], "with its type and path"),
    ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling_mode = 'max'"),
    ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pooling_mode"),
    ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt = False"),
    ("1_Pooling/config.json", {"embedding_dimension": 63}, "embedding_dimension"),
    ("1_Pooling/config.json", {"other": 1}, "other = 1"),
    ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.ReLU"}, "activation_function"),
    ("2_Dense/config.json", {"use_residual": True}, "use_residual = True"),
    ("2_Dense/config.json", {"in_features": 65}, "in_features"),
    ("2_Dense/config.json", {"out_features": 81}, "linear.weight"),
    ("2_Dense/config.json", {"bias": False}, "linear.bias"),
    ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
    ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case = True"),
    ("sentence_bert_config.json", {"other": 1}, "other = 1"),
    ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "model_type = 'SparseEncoder'"),
    ("config_sentence_transformers.json", {"default_prompt_name": "no"}, "default_prompt_name"),
    ("config_sentence_transformers.json", {"default_prompt_name": ["a"]}, "default_prompt_name"),
    ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts"),
    ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim: it is 0; expected at least 1 column"),
    ("config_sentence_transformers.json", {"truncate_dim": "16"}, "truncate_dim: it is '16'"),
]


@pytest.mark.parametrize("lowers", [True, False])
def test_small_letters_that_the_tokenizer_makes_anyway(tmp_path: Path, lowers: bool) -> None:
    """bge's files ask for them; another tokenizer would need a step that it does not have."""
    case = BY_NAME["bert"]
    folder = write_folder(case, load_golden(case), tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = lowers
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": True}))
    if lowers:
        with Model.load(folder, threads=1) as model:
            np.testing.assert_array_equal(model.embed(["An OWL"]), model.embed(["an owl"]))
    else:
        with pytest.raises(UnsupportedModelError, match="do_lower_case = True"):
            Model.load(folder, threads=1)


@pytest.mark.parametrize(("file", "change", "words"), CHANGES)
def test_what_alters_an_embedding_is_refused(tmp_path: Path, file: str, change: Any, words: str) -> None:
    case = BY_NAME["qwen3_dense"]
    folder = write_folder(case, load_golden(case), tmp_path)
    before = json.loads((folder / file).read_text())
    whole = file == "modules.json"
    (folder / file).write_text(json.dumps(change if whole else {**before, **change}))
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words.replace("[", r"\[")):
        Model.load(folder)


def counting(case: Embedding, types: int) -> Gguf:
    """The case's form, with the key of the number of types of tokens."""
    assert case.model.gguf is not None
    return replace(case.model.gguf, bare=lambda _: {"tokenizer.ggml.token_type_count": types})


@pytest.mark.parametrize("form", ["folder", "gguf"])
@pytest.mark.parametrize("name", ["bert", "nomic_bert"])
def test_types_of_tokens_as_the_file_says(tmp_path: Path, name: str, form: str) -> None:
    """Their number is compared with the table's rows."""
    case = BY_NAME[name]
    golden = load_golden(case)
    rows = golden.model.config["type_vocab_size"]
    for said in (rows, rows + 1, rows - 1):
        path = tmp_path / f"{said}.{form}"
        if form == "folder":
            write_folder(case, golden, path)
            config = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps({**config, "type_vocab_size": said}))
        else:
            write_gguf(replace(case.model, gguf=counting(case, said)), golden.model, path)
        if said == rows:
            Model.load(path).close()
            continue
        with pytest.raises(ModelFileError, match=rf"type.*: it is {said}; expected {rows}, the rows of .*token_type"):
            Model.load(path)


@pytest.mark.parametrize("name", ["bert", "nomic_bert"])
def test_files_without_types_of_tokens(tmp_path: Path, name: str) -> None:
    """As llama.cpp's converter writes DistilBERT: it says that there is one type, and there is no table."""
    case = BY_NAME[name]
    golden = load_golden(case).model
    table = {"token_types.weight": np.zeros((1, golden.config["hidden_size"]), np.float32)}

    def write(types: int, more: Weights) -> Path:
        def merge(tensors: Weights) -> Weights:
            return {key: value for key, value in tensors.items() if key != "token_types.weight"} | more

        return write_gguf(replace(case.model, gguf=replace(counting(case, types), merge=merge)), golden, tmp_path / "m")

    found = []
    for more in (table, {}):
        with Model.load(write(1, more)) as model:
            found.append(hidden(model, ids_of(case, golden)))
    assert same(*found)
    with pytest.raises(ModelFileError, match="token_types.weight: no such tensor"):
        Model.load(write(2, {}))


@pytest.mark.parametrize(
    "types",
    [
        ["Pooling", "Transformer"],
        ["Transformer", "Dense", "Pooling"],
        ["Transformer", "Pooling", "Normalize", "Dense"],
        ["Transformer", "Pooling", "Pooling"],
        ["Transformer", "Pooling", "LSTM"],
        ["Transformer", "Pooling", "..Dense"],
    ],
)
def test_other_orders_of_modules_are_refused(tmp_path: Path, types: list[str]) -> None:
    case = BY_NAME["qwen3_dense"]
    folder = write_folder(case, load_golden(case), tmp_path)
    places = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "..Dense": "../2_Dense"}
    modules = [{"type": f"sentence_transformers.models.{t.strip('.')}", "path": places.get(t, "x")} for t in types]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises((ModelFileError, UnsupportedModelError), match="modules.json"):
        Model.load(folder)


def test_each_golden_file_has_a_case() -> None:
    from tests.embedding.files import GOLDEN

    assert {path.stem for path in GOLDEN.glob("*.npz")} == {*BY_NAME}
