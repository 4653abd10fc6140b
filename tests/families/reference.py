"""transformers' own model of a case. Imported only by make_golden.py and the live tests."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors.numpy import load_file
from transformers.cache_utils import CacheLayerMixin, DynamicCache

from tests.families.case import KEPT, SIZES, Case, Golden, routed, text_config, token_ids, write_folder
from tests.reference import hf

transformers.utils.logging.disable_progress_bar()


def config_of(case: Case) -> Any:
    """The configuration. SIZES that its class does not have are left out."""
    made = getattr(transformers, case.config)
    return made(**{key: value for key, value in SIZES.items() if key in fields(made)} | dict(case.sizes))


def fields(made: Any) -> set[str]:
    names = {*getattr(made, "__dataclass_fields__", {}), *getattr(made, "attribute_map", {})}
    return names - {*getattr(made, "attribute_map", {}).values()} | {"bos_token_id", "eos_token_id", "pad_token_id"}


def blank(case: Case) -> Golden:
    """The case's configuration and tensors as transformers saves them; no logits."""
    with tempfile.TemporaryDirectory() as folder:
        model = getattr(transformers, case.auto).from_config(config_of(case))
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
        shapes = {}
        for name, value in load_file(Path(folder) / "model.safetensors").items():
            ones = value.ndim < 2 and value.size and bool((value == 1).all())
            shapes[name] = (list(value.shape), 1.0 if ones else 0.0)
    return Golden(config, shapes, np.zeros((0, 0), np.float32), [])


def load(case: Case, golden: Golden, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The case's folder, read by transformers; no tensor may be missing or left over."""
    write_folder(case, golden, folder)
    auto = getattr(transformers, case.auto)
    # the grouped products of experts have no float64
    options = {"experts_implementation": "eager"} if routed(golden) else {}
    model, found = auto.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not found[what], f"{what}: {found[what]}"
    return model.eval()


def make(case: Case) -> Golden:
    """The golden values, of transformers in float64 (norms, rotations and softmax stay in float32 there)."""
    golden = blank(case)
    with tempfile.TemporaryDirectory() as folder:
        model = load(case, golden, Path(folder), torch.float64)
        ids = token_ids(case, text_config(golden.config)["vocab_size"])
        logits = hf.logits(model, ids)[list(KEPT)].astype(np.float32)
    made_of = sorted(f"{key}={value}" for key, value in hf.versions().items())
    return Golden(golden.config, golden.shapes, logits, made_of)


def steps(model: Any, ids: list[int], first: int) -> npt.NDArray[np.floating[Any]]:
    """Logits of the positions from `first` on, each in a pass of its own over a cache of the earlier ones; without a
    cache for a model that has no attention layer, since transformers then cannot tell how long its cache is."""
    layers = DynamicCache(config=model.config.get_text_config()).layers
    if layers and not any(isinstance(layer, CacheLayerMixin) for layer in layers):
        return np.stack([hf.logits(model, ids[: i + 1])[-1] for i in range(first, len(ids))])
    rows = []
    with torch.inference_mode():
        cache = model(torch.tensor([ids[:first]]), use_cache=True).past_key_values
        for i in ids[first:]:
            out = model(torch.tensor([[i]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(np.asarray(out.logits[0, -1].numpy()))
    return np.stack(rows)
