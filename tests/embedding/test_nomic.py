"""Nomic BERT's folders as they were released, before transformers had the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from pellucid import Model
from pellucid.errors import ModelFileError, UnsupportedModelError
from tests.embedding.cases import BY_NAME
from tests.embedding.files import TEXTS, load_golden, write_folder
from tests.engine.models import same

OTHERS = {
    "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0, "bos_token_id": None,
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}, "causal": False,
    "dense_seq_output": True, "embd_pdrop": 0.0, "eos_token_id": None, "fused_bias_fc": True,
    "fused_dropout_add_ln": True, "initializer_range": 0.02, "max_trained_positions": 2048, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "model_type": "nomic_bert", "pad_vocab_size_multiple": 64, "parallel_block": False,
    "parallel_block_tied_norm": False, "prenorm": False, "qkv_proj_bias": False, "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.0, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
    "summary_activation": None, "summary_first_dropout": 0.0, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "torch_dtype": "float32", "use_cache": True,
    "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True, "transformers_version": "4.37.2",
}  # fmt: skip
SIZES = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_inner": "intermediate_size", "n_positions": "max_position_embeddings", "layer_norm_epsilon": "layer_norm_eps",
    "type_vocab_size": "type_vocab_size", "vocab_size": "vocab_size",
}  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """(as transformers saves it, as it was released, the config.json of this)"""
    case = BY_NAME["nomic_bert"]
    new, old = (write_folder(case, load_golden(case), tmp_path / name) for name in ("new", "old"))
    config = json.loads((new / "config.json").read_text())
    older = {**OTHERS, **{key: config[name] for key, name in SIZES.items()}}
    older["rotary_emb_base"] = config["rope_parameters"]["rope_theta"]
    (old / "config.json").write_text(json.dumps(older))
    tensors = load_file(new / "model.safetensors")
    save_file({name.removeprefix("nomic_bert."): value for name, value in tensors.items()}, old / "model.safetensors")
    return new, old, older


def test_embeddings(folders: tuple[Path, Path, dict[str, Any]]) -> None:
    new, old, _ = folders
    with Model.load(new, threads=2) as a, Model.load(old, threads=1) as b:
        assert same(a.embed(TEXTS), b.embed(TEXTS))
        assert same(a.embed(TEXTS, instruction="query"), b.embed(TEXTS, instruction="query"))


def test_what_is_refused(folders: tuple[Path, Path, dict[str, Any]]) -> None:
    _, old, config = folders
    changes: dict[str, list[Any]] = {
        "activation_function": ["gelu", "geglu", None, 3], "causal": [True, None], "prenorm": [True, None, 0],
        "parallel_block": [True], "qkv_proj_bias": [True, None], "mlp_fc1_bias": [True], "mlp_fc2_bias": [True],
        "rotary_emb_fraction": [0.5, None, True], "rotary_emb_interleaved": [True], "rotary_emb_scale_base": [512],
        "rotary_scaling_factor": [2], "scale_attn_by_inverse_layer_idx": [True], "scale_attn_weights": [False],
        "use_rms_norm": [True], "num_experts": [8], "moe_every_n_layers": [2], "n_inner": [None, 0, "a"],
        "n_layer": [None], "layer_norm_epsilon": [None], "rotary_emb_base": [None], "hidden_size": [32],
        "an_unknown_key": [1],
    }  # fmt: skip
    for key, values in changes.items():
        for value in values:
            (old / "config.json").write_text(json.dumps({**config, key: value}))
            with pytest.raises((ModelFileError, UnsupportedModelError), match=key):
                Model.load(old)
    (old / "config.json").write_text(json.dumps({**config, "hidden_size": config["n_embd"], "unsloth_x": 1}))
    Model.load(old).close()
