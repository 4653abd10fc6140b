"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3-VL with experts: whole models, of which the text model alone is compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.families.case import SIZES, Array, Case, Gguf, Settings, Weights, common_keys
from tests.families.cases.qwen_moe import READ, RESIZED
from tests.families.mixture import keys

DEEPSTACK = [0, 1]  # layers of the encoder whose features are added to layers of the text model


def images(config: Settings) -> dict[str, Any]:
    """What converters write of the three positions."""
    sections = config["rope_parameters"]["mrope_section"]
    return {"rope.dimension_sections": [*sections, 0]}


def qwen2(config: Settings) -> Settings:
    return {**common_keys(config), **images(config), "attention.key_length": None, "attention.value_length": None}


def qwen3(config: Settings) -> Settings:
    return {**common_keys(config), **images(config), "n_deepstack_layers": len(DEEPSTACK)}


def experts(config: Settings) -> Settings:
    return {**keys(config), **images(config), "n_deepstack_layers": len(DEEPSTACK)}


def text(tensors: Weights) -> Weights:
    return {name: value for name, value in tensors.items() if "visual." not in name}


def stacked(config: Settings, name: str, value: Array) -> Array | Weights:
    """Experts as one tensor for each of gate, up and down, rows first."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj", name)
    if match is None:
        return value
    if match[2] == "down":
        return {f"blk.{match[1]}.ffn_down_exps.weight": value}
    half = value.shape[1] // 2
    return {
        f"blk.{match[1]}.ffn_gate_exps.weight": value[:, :half],
        f"blk.{match[1]}.ffn_up_exps.weight": value[:, half:],
    }


def whole(rope: Settings, vision: Mapping[str, Any], **sizes: Any) -> Settings:
    """The configuration of a model with a tiny encoder of images."""
    own = {**SIZES, **sizes, "rope_parameters": {"rope_type": "default", **rope}}
    encoder = {"depth": 2, "num_heads": 2, "patch_size": 4, "hidden_size": 16, "intermediate_size": 24, **vision}
    tokens = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
    tied = {"tie_word_embeddings": sizes.get("tie_word_embeddings", False)}
    return {"text_config": own, "vision_config": encoder, **tokens, **tied}


ENCODER = r"(model\.)?visual\."
AUTO = "AutoModelForImageTextToText"
QWEN2 = Gguf("qwen2vl", qwen2, merge=text)
QWEN3 = Gguf("qwen3vl", qwen3, merge=text)
MOE = Gguf("qwen3vlmoe", experts, change=stacked, merge=text)
OLD = {"embed_dim": 16, "hidden_size": 64}
NEW = {"out_hidden_size": 64, "fullatt_block_indexes": [1]}
NEWEST = {"out_hidden_size": 64, "num_position_embeddings": 16, "deepstack_visual_indexes": DEEPSTACK}
SIZES3 = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "head_dim": 24}
CASES = (
    Case("qwen2vl", "Qwen2-VL, Qwen2.5-VL", "Qwen2VLConfig", 511, "three positions that are one", gguf=QWEN2,
         strict=True, auto=AUTO, optional=ENCODER,
         sizes=whole({"rope_theta": 1e5, "mrope_section": [2, 3, 3]}, OLD, rms_norm_eps=1e-4)),
    Case("qwen25vl", "Qwen2-VL, Qwen2.5-VL", "Qwen2_5_VLConfig", 512, "tied head", gguf=QWEN2, strict=True, auto=AUTO,
         optional=ENCODER,
         sizes=whole({"rope_theta": 1e5, "mrope_section": [2, 3, 3]}, NEW, rms_norm_eps=1e-4,
                     tie_word_embeddings=True)),
    Case("qwen25vl_windows", "Qwen2-VL, Qwen2.5-VL", "Qwen2_5_VLConfig", 513, "windows in the later layers", auto=AUTO,
         sizes=whole({"rope_theta": 1e4, "mrope_section": [4, 2, 2]}, NEW, use_sliding_window=True, sliding_window=24,
                     max_window_layers=1)),
    Case("qwen3vl", "Qwen3-VL", "Qwen3VLConfig", 514, "three positions that are one", gguf=QWEN3, strict=True,
         auto=AUTO, optional=ENCODER, read=frozenset({"rope_theta"}),
         sizes=whole({"rope_theta": 1e5, "mrope_section": [4, 4, 4], "mrope_interleaved": True}, NEWEST, head_dim=24,
                     rms_norm_eps=1e-4)),
    Case("qwen3vl_tied", "Qwen3-VL", "Qwen3VLConfig", 515, "tied head, biases, one KV head", auto=AUTO,
         sizes=whole({"rope_theta": 1e4, "mrope_section": [3, 3, 2], "mrope_interleaved": True}, NEWEST, head_dim=16,
                     num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True)),
    Case("qwen3vlmoe", "Qwen3-VL with experts", "Qwen3VLMoeConfig", 516, "experts, always renormalised", gguf=MOE,
         tokens=2, strict=True, auto=AUTO, optional=ENCODER, read=READ, resized=RESIZED,
         sizes=whole({"rope_theta": 1e5, "mrope_section": [4, 4, 4], "mrope_interleaved": True}, NEWEST, **SIZES3,
                     rms_norm_eps=1e-4)),
    Case("qwen3vlmoe_square", "Qwen3-VL with experts", "Qwen3VLMoeConfig", 517,
         "square matrices, of which no size says whether they are transposed", auto=AUTO,
         sizes=whole({"rope_theta": 1e4, "mrope_section": [6, 1, 1], "mrope_interleaved": True}, NEWEST, **{
             **SIZES3, "moe_intermediate_size": 32, "head_dim": 16, "mlp_only_layers": [1]})),
)  # fmt: skip
