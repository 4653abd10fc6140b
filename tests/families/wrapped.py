"""Tiny whole models that hold a text model: their keys and names, and what their other parts are in transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from pellucid.wrappers import WRAPPERS
from tests.families.case import Weights, load_golden, text_config, weights
from tests.families.cases import CASES
from tests.reference import tiny
from tests.weights.test_strict import SMALL

PAIRS = [(kind, text) for kind, wrapper in WRAPPERS.items() for text in wrapper.texts]
# What begins the names of the text model's tensors, in present and older folders.
PREFIXES = ("model.language_model.", "language_model.model.")
OWN_PREFIXES = {
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), ("model.text_model.",)),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), ("model.language_model.", "model.")),
}
# Tensors of other parts, beside those that any folder may have.
PARTS = {
    "deepseek_vl": ["model.aligner.linear1.weight"],
    "idefics2": ["model.connector.modality_projection.gate_proj.weight"],
    "idefics3": ["model.connector.modality_projection.proj.weight"],
    "janus": ["model.aligner.fc1.weight", "model.generation_head.vision_head.weight", "model.vqmodel.quant_conv.bias"],
    "lighton_ocr": ["model.vision_encoder.ln_pre.weight", "model.vision_projection.linear_1.weight"],
    "llava_next": ["image_newline"],
    "llava_next_video": ["model.image_newline"],
    "llava_onevision": ["image_newline"],
    "minicpmv4_6": ["model.merger.mlp.0.pre_norm.weight"],
    "smolvlm": ["model.connector.modality_projection.proj.weight"],
    "video_llama_3": ["model.projector.readout.0.weight"],
    "video_llava": ["image_tower.embeddings.class_embedding", "model.video_tower.embeddings.class_embedding"],
}  # fmt: skip
ANYWHERE = [
    "vision_tower.a.weight", "model.visual.b.weight", "multi_modal_projector.c.bias", "model.embed_vision.d.weight",
    "audio_tower.e.weight", "model.embed_audio.f.weight", "model.vision_model.g.weight",
]  # fmt: skip


@cache
def text_model(kind: str) -> tuple[dict[str, Any], Weights]:
    """(config.json, tensors) of a tiny text model of this model_type."""
    if kind in SMALL:
        return dict(tiny.config(SMALL[kind])), dict(tiny.weights(SMALL[kind]))
    for case in CASES:
        golden = load_golden(case)
        config = text_config(golden.config)
        if config["model_type"] == kind:
            found = {name: value for name, value in weights(case, golden).items() if "visual." not in name}
            names = {name: "model.".join(name.split("model.language_model.", 1)) for name in found}
            tied = golden.config.get("tie_word_embeddings", False)
            return {**config, "tie_word_embeddings": tied}, {names[name]: value for name, value in found.items()}
    raise AssertionError(f"no tiny text model {kind}")


def renamed(tensors: Weights, prefix: str) -> Weights:
    """The text model's tensors as they are named within a whole model."""
    head = "language_model." if prefix.startswith("language_model.") else ""
    return {
        prefix + name.removeprefix("model.") if name.startswith("model.") else head + name: value
        for name, value in tensors.items()
    }


def write_text(text: str, path: Path) -> Path:
    """The text model alone, of a model_type that has folders of its own."""
    config, tensors = text_model(text)
    return write(path, config, tensors)


def write_whole(kind: str, text: str, prefix: str, path: Path, **top: Any) -> Path:
    """The whole, with tensors of other parts. top: keys of config.json."""
    config, tensors = text_model(text)
    config = {key: value for key, value in config.items() if key not in ("architectures", "tie_word_embeddings")}
    own = {
        "model_type": kind,
        "architectures": list(WRAPPERS[kind].classes[:1]),
        "text_config": config,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        **top,
    }
    others = {name: np.ones((2, 2), np.float32) for name in (*ANYWHERE, *PARTS.get(kind, ()))}
    return write(path, own, renamed(tensors, prefix) | others)


def write(path: Path, config: dict[str, Any], tensors: Weights) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


# ---- transformers' own ------------------------------------------------------------------------------------------

_ENCODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 16, "patch_size": 8, "num_channels": 3}  # fmt: skip
_QWEN = {"depth": 1, "hidden_size": 16, "embed_dim": 16, "num_heads": 2, "intermediate_size": 24,
         "patch_size": 8, "out_hidden_size": 64, "deepstack_visual_indexes": [0], "num_position_embeddings": 4,
         "fullatt_block_indexes": [0]}  # fmt: skip
_CLIP = {**_ENCODER, "model_type": "clip_vision_model"}
_SIGLIP = {**_ENCODER, "model_type": "siglip_vision_model"}
_PIXTRAL = {**_ENCODER, "model_type": "pixtral"}
_AUDIO = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "d_model": 16,
          "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 8,
          "max_source_positions": 8}  # fmt: skip
# model_type -> transformers' settings of the other parts; their token is 96 where it is not given.
OTHERS: dict[str, dict[str, Any]] = {
    "deepseek_vl": {"vision_config": _SIGLIP},
    "exaone4_5": {"vision_config": _QWEN},
    "gemma3": {"vision_config": _SIGLIP, "mm_tokens_per_image": 4},
    "gemma4": {"vision_config": None, "audio_config": None},
    "gemma4_unified": {"vision_config": None, "audio_config": None},
    "glmasr": {"audio_config": {**_AUDIO, "max_position_embeddings": 16}},
    "got_ocr2": {"vision_config": {"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "mlp_dim": 24,
                                   "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "window_size": 2,
                                   "global_attn_indexes": [0]}},
    "idefics2": {"vision_config": _ENCODER,
                 "perceiver_config": {"hidden_size": 64, "resampler_n_latents": 2, "resampler_depth": 1,
                                      "resampler_n_heads": 2, "resampler_head_dim": 8, "num_key_value_heads": 1}},
    "idefics3": {"vision_config": _ENCODER},
    "internvl": {"vision_config": {**_ENCODER, "image_size": [16, 16], "patch_size": [8, 8]}},
    "janus": {"vision_config": {**_ENCODER, "projection_dim": 64},
              "vq_config": {"embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1],
                            "num_res_blocks": 1, "projection_dim": 64, "num_hidden_layers": 1, "hidden_size": 64,
                            "image_token_embed_dim": 64}},
    "lfm2_vl": {"vision_config": {**_ENCODER, "model_type": "siglip2_vision_model", "num_patches": 4},
                "projector_hidden_size": 16},
    "lfm3_vl": {"vision_config": _ENCODER, "projector_hidden_size": 16},
    "lighton_ocr": {"vision_config": _PIXTRAL},
    "llava": {"vision_config": _CLIP},
    "llava_next": {"vision_config": _CLIP},
    "llava_next_video": {"vision_config": _CLIP},
    "llava_onevision": {"vision_config": _SIGLIP},
    "minicpmv4_6": {"vision_config": _ENCODER, "insert_layer_id": 0},
    "mistral3": {"vision_config": _PIXTRAL},
    "qwen2_5_vl": {"vision_config": _QWEN},
    "qwen2_audio": {"audio_config": {**_AUDIO, "model_type": "qwen2_audio_encoder"}},
    "qwen2_vl": {"vision_config": {**_QWEN, "hidden_size": 64}},
    "qwen3_5": {"vision_config": _QWEN},
    "qwen3_5_moe": {"vision_config": _QWEN},
    "qwen3_vl": {"vision_config": _QWEN},
    "qwen3_vl_moe": {"vision_config": _QWEN},
    "smolvlm": {"vision_config": _ENCODER},
    "video_llama_3": {"vision_config": _ENCODER},
    "video_llava": {"vision_config": _CLIP},
    "vipllava": {"vision_config": _CLIP, "vision_feature_layer": [-1, -1, 0]},
    "voxtral": {"audio_config": _AUDIO},
}  # fmt: skip


def save_whole(kind: str, text: str, path: Path) -> Path:
    """As transformers makes the whole, and names and saves it; the text model's values are those of `text_model`."""
    import dataclasses

    import transformers

    made = transformers.CONFIG_MAPPING[kind]
    config, tensors = text_model(text)
    left_out = ("architectures", "dtype", "transformers_version")
    own = {key: value for key, value in config.items() if key not in left_out}
    fields = {field.name for field in dataclasses.fields(made)}
    tokens = {key: 96 for key in fields if key.endswith(("image_token_id", "token_index", "video_token_id"))}
    tied = "lm_head.weight" not in tensors
    own["pad_token_id"] = 0  # Gemma 4's class asks for one
    whole = made(text_config=own, tie_word_embeddings=tied, **{**tokens, **OTHERS[kind]})
    auto = transformers.AutoModelForMultimodalLM
    auto.from_config(whole).save_pretrained(path)
    saved = load_file(path / "model.safetensors")
    for prefix in (*OWN_PREFIXES.get(kind, ()), *PREFIXES):
        names = renamed(tensors, prefix)
        if names.keys() <= saved.keys():
            save_file(saved | names, path / "model.safetensors", metadata={"format": "pt"})
            return path
    raise AssertionError(f"{kind}: names of {[*saved][:9]}")
