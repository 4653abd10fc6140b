"""transformers' and sentence-transformers' own results of a case. Imported only by make_golden.py and live tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer

from tests.embedding import vocabularies
from tests.embedding.files import DOCUMENTS, QUERY, ROWS, TEXTS, Embedding, Golden, ids_of, write_folder
from tests.families import case as families
from tests.families import reference
from tests.reference import hf

# What a tokenizer's class adds to its tokenizer.json.
SPECIAL: dict[str, dict[str, Any]] = {
    "qwen": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "wordpiece": {
        "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    },
    "unigram": {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}  # fmt: skip


def tokenizer_of(case: Embedding) -> Any:
    made = getattr(vocabularies, case.tokenizer)()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL[case.tokenizer])


def hidden(model: Any, ids: list[int]) -> npt.NDArray[np.floating[Any]]:
    """The last hidden states -> (n, dim)."""
    with torch.inference_mode():
        out = model(torch.tensor([ids]), output_hidden_states=True)
    states = out.last_hidden_state if hasattr(out, "last_hidden_state") else out.hidden_states[-1]
    found: npt.NDArray[np.floating[Any]] = states[0].numpy()
    return found


def results(case: Embedding, folder: Path, golden: Golden) -> tuple[Any, Any]:
    """(embeddings of TEXTS or scores of DOCUMENTS, embeddings with the prompt "query") in float32."""
    write_folder(case, golden, folder)
    tokenizer_of(case).save_pretrained(folder)
    if case.pooling:
        embedder = SentenceTransformer(str(folder), model_kwargs={"dtype": torch.float32}, device="cpu")
        # One at a time: no padding.
        plain = np.concatenate([embedder.encode([text]) for text in TEXTS])
        if "query" not in case.prompts:
            return plain, np.zeros((0, 0), np.float32)
        return plain, np.concatenate([embedder.encode([text], prompt_name="query") for text in TEXTS])
    found = scores(folder) if case.classifies else answers(case, folder)
    return found, np.zeros((0, 0), np.float32)


def scores(folder: Path) -> npt.NDArray[Any]:
    """Of sentence-transformers' CrossEncoder."""
    encoder = CrossEncoder(str(folder), device="cpu")
    return np.array([encoder.predict([(QUERY, text)])[0] for text in DOCUMENTS])


def answers(case: Embedding, folder: Path) -> npt.NDArray[Any]:
    """The probability of "yes" against "no", as the model card of Qwen3-Reranker computes it."""
    from pellucid.embedding import _INSTRUCTION, _TEMPLATE

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tokenizer_of(case)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    found = []
    for text in DOCUMENTS:
        middle = _TEMPLATE[1].format(instruction=_INSTRUCTION, query=QUERY, document=text)
        ids = tokenizer.encode(_TEMPLATE[0] + middle + _TEMPLATE[2], add_special_tokens=False)
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        found.append(torch.softmax(logits[[no, yes]].double(), 0)[1].item())
    return np.array(found)


def make(case: Embedding) -> Golden:
    blank = reference.blank(case.model)
    empty = np.zeros((0, 0), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        model = reference.load(case.model, blank, Path(folder), torch.float64)
        ids = ids_of(case, blank)
        states = hidden(model, ids)[list(ROWS)].astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        found, prompted = results(case, Path(folder), Golden(blank, empty, empty))
    made_of = sorted(f"{key}={value}" for key, value in hf.versions().items())
    return Golden(families.Golden(blank.config, blank.shapes, states, made_of), found, prompted)
