"""Writes a case's folder as sentence-transformers saves it, without that package; and what its golden file holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tests.families import case as families
from tests.families.case import Case

GOLDEN = Path(__file__).resolve().parent / "golden"
TEXTS = (
    "hello world",
    "An owl sees well at night; it hears even better.",
    "a",
    "Élan vital, naïve cafés and 東京 in one line",
    "which bird is active at night " * 6,
)
QUERY, DOCUMENTS = TEXTS[4][:29], (TEXTS[1], "The castle was built in 1407.", TEXTS[0], "owls")
ROWS = (0, 1, 5, 16, 40, 63, 64, 65, 130, 199)  # positions whose hidden states the golden file holds


@dataclass(frozen=True, eq=False)
class Embedding:
    """A tiny embedder or reranker.

    model: its sizes. tokenizer: how text is cut: a function of tests/embedding/vocabularies.py. pooling: as
    sentence-transformers calls it; "": a reranker. dense: of each layer after pooling its width, and whether it has a
    bias and tanh follows.
    """

    model: Case
    tokenizer: str
    pooling: str = ""
    dense: tuple[tuple[int, bool], ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None  # the default

    @property
    def classifies(self) -> bool:
        """Whether it is a reranker with a classifier of two texts."""
        return self.model.auto == "AutoModelForSequenceClassification"

    @property
    def name(self) -> str:
        return self.model.name


@dataclass(frozen=True, eq=False)
class Golden:
    model: families.Golden  # its logits are the hidden states at ROWS
    results: npt.NDArray[np.float32]  # embeddings of TEXTS, or the scores of DOCUMENTS
    prompted: npt.NDArray[np.float32]  # embeddings of TEXTS with the prompt "query"; empty where there is none


def load_golden(case: Embedding) -> Golden:
    with np.load(GOLDEN / f"{case.name}.npz", allow_pickle=False) as file:
        shapes = {name: (list(shape), middle) for name, (shape, middle) in json.loads(str(file["shapes"])).items()}
        made_of = [str(x) for x in file["made_of"]]
        model = families.Golden(json.loads(str(file["config"])), shapes, file["hidden"], made_of)
        return Golden(model, file["results"], file["prompted"])


def save_golden(case: Embedding, golden: Golden) -> None:
    np.savez_compressed(
        GOLDEN / f"{case.name}.npz",
        config=np.array(json.dumps(golden.model.config)),
        shapes=np.array(json.dumps(golden.model.shapes)),
        hidden=golden.model.logits.astype(np.float32),
        made_of=np.array(golden.model.made_of),
        results=golden.results.astype(np.float32),
        prompted=golden.prompted.astype(np.float32),
    )


def ids_of(case: Embedding, golden: families.Golden) -> list[int]:
    """200 ids, none of which is padding's: transformers gives that token no position of its own."""
    padding, ids = golden.config.get("pad_token_id"), families.token_ids(case.model, golden.config["vocab_size"])
    return [i if i != padding else i + 1 for i in ids[:200]]


def dense_weights(seed: int, i: int, rows: int, width: int, bias: bool) -> dict[str, npt.NDArray[np.float32]]:
    """Of the i-th dense layer (rows, width)."""
    generator = np.random.Generator(np.random.PCG64([seed, i]))
    values = {"linear.weight": generator.normal(size=(rows, width)) / np.sqrt(width)}
    if bias:
        values["linear.bias"] = generator.normal(size=rows) / 4
    return {name: value.astype(np.float32) for name, value in values.items()}


def write_folder(case: Embedding, golden: Golden, path: Path, *, older: bool = False) -> Path:
    """The model's folder. older: with the files and names of sentence-transformers' versions before 5."""
    from tests.embedding import vocabularies

    families.write_folder(case.model, golden.model, path)
    getattr(vocabularies, case.tokenizer)().save(str(path / "tokenizer.json"))
    if case.pooling:
        write_modules(case, golden.model.config["hidden_size"], path, older)
    return path


def write_modules(case: Embedding, width: int, path: Path, older: bool = False) -> None:
    kinds = ["Transformer", "Pooling", *["Dense"] * len(case.dense), "Normalize"]
    modules, current = [], width
    for i, kind in enumerate(kinds):
        place = f"{i}_{kind}" if i else ""
        package = "sentence_transformer" if kind == "Pooling" else "base"
        home = "models" if older else f"{package}.modules.{kind.lower()}"
        modules.append({"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.{home}.{kind}"})
        (path / place).mkdir(exist_ok=True)
        if kind == "Pooling":
            _json(path / place / "config.json", _pooling(case.pooling, width, older))
        elif kind == "Dense":
            rows, tanh = case.dense[i - 2]
            weights = dense_weights(case.model.seed, i - 2, rows, current, tanh)
            act = "activation.Tanh" if tanh else "linear.Identity"
            table = {"in_features": current, "out_features": rows, "bias": "linear.bias" in weights}
            _json(path / place / "config.json", {**table, "activation_function": f"torch.nn.modules.{act}"})
            save_file(weights, path / place / "model.safetensors")
            current = rows
    _json(path / "modules.json", modules)
    _json(path / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    named = {"prompts": case.prompts, "default_prompt_name": case.prompt, "similarity_fn_name": "cosine"}
    _json(path / "config_sentence_transformers.json", named)


def _pooling(mode: str, width: int, older: bool) -> dict[str, Any]:
    if not older:
        return {"embedding_dimension": width, "pooling_mode": mode, "include_prompt": True}
    flags = {
        "cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "",
        "weightedmean_tokens": "", "lasttoken": "lasttoken",
    }  # fmt: skip
    return {"word_embedding_dimension": width, "include_prompt": True} | {
        f"pooling_mode_{key}": name == mode for key, name in flags.items()
    }


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
