"""The reference: transformers on PyTorch (extra `reference`). Imported only by make_golden.py and the live tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from tests.reference.corpus import ReferenceModel

# transformers runs this model, but its list of causal models lacks it.
transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault("mistral4", "Mistral4ForCausalLM")


def versions() -> dict[str, str]:
    """Versions of the packages that the reference depends on."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def load_gguf(path: Path) -> Any:
    """A GGUF file as a float32 transformers model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval()


def load_folder(path: Path, dtype: torch.dtype) -> Any:
    """A folder of config.json and model.safetensors as a transformers model."""
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def tokenize(path: Path, text: str, model: ReferenceModel) -> list[int]:
    """The text's ids without BOS, from the tokenizer that transformers creates from the GGUF file."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = list(tokenizer(text).input_ids)
    return ids[1:] if model.bos is not None and ids[:1] == [model.bos] else ids


def logits(model: Any, ids: npt.ArrayLike) -> npt.NDArray[np.floating]:
    """Logits (n, vocab) of a new sequence, in the model's own precision."""
    with torch.inference_mode():
        result = model(torch.as_tensor(np.asarray(ids, dtype=np.int64))[None], use_cache=False).logits[0]
    return np.asarray(result.numpy())
