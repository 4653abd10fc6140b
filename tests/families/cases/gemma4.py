"""Gemma 4: heads by kind of layer, a second embedding, shared keys and values, experts beside the dense network."""

from __future__ import annotations

import re

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights, common_keys


def kinds(config: Settings) -> tuple[list[bool], Settings]:
    """For each layer whether it has a window; and the sizes of the layers that have none."""
    local = [kind == "sliding_attention" for kind in config["layer_types"]]
    given = {int(i): sizes for i, sizes in config["per_layer_config"].items()}
    sizes = given.get(local.index(False), {})
    return local, {key: sizes.get(key, config[key]) for key in ("head_dim", "num_key_value_heads")}


def keys(config: Settings) -> Settings:
    local, full = kinds(config)
    layers, shared, ff = len(local), config.get("num_kv_shared_layers") or 0, config["intermediate_size"]
    ropes = config["rope_parameters"]
    experts = {
        "expert_count": config.get("num_experts"),
        "expert_used_count": config.get("top_k_experts"),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
    }
    arrays: Settings = {}
    if full["num_key_value_heads"] != config["num_key_value_heads"]:
        of_kind = (full["num_key_value_heads"], config["num_key_value_heads"])
        arrays = {"attention.head_count_kv": [of_kind[windowed] for windowed in local]}
    if config.get("use_double_wide_mlp"):
        arrays = {**arrays, "feed_forward_length": [ff if i < layers - shared else ff * 2 for i in range(layers)]}
    return {
        **common_keys(config),
        **(experts if config.get("enable_moe_block") else {}),
        **arrays,
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": config.get("hidden_size_per_layer_input") or 0,
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": local,
        "attention.key_length": full["head_dim"],
        "attention.value_length": full["head_dim"],
        "attention.key_length_swa": config["head_dim"],
        "attention.value_length_swa": config["head_dim"],
        "rope.freq_base": ropes["full_attention"]["rope_theta"],
        "rope.freq_base_swa": ropes["sliding_attention"]["rope_theta"],
        "rope.dimension_count": full["head_dim"],
        "rope.dimension_count_swa": config["head_dim"],
        "final_logit_softcapping": config["final_logit_softcapping"],
    }


def freqs(config: Settings) -> Weights:
    """Factors of the frequencies in layers with full attention: 1e30 for pairs that do not turn."""
    width, rope = kinds(config)[1]["head_dim"], config["rope_parameters"]["full_attention"]
    n = int(width * rope["partial_rotary_factor"] / 2)
    return {"rope_freqs.weight": np.array([1.0] * n + [1e30] * (width // 2 - n), np.float32)}


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    layer = next(iter(re.findall(r"layers\.(\d+)\.", name)), "")
    if name.endswith("router.scale"):
        return {f"blk.{layer}.ffn_gate_inp.scale": value}
    if name.endswith("router.per_expert_scale"):
        return {f"blk.{layer}.ffn_down_exps.scale": value}
    return value if name.endswith((".weight", ".bias")) else {f"{name}.weight": value}


GEMMA4 = Gguf("gemma4", keys, change, extra=freqs)
READ = frozenset({"final_logit_softcapping", "num_kv_shared_layers"})
RESIZED = frozenset({
    "per_layer_config", "hidden_size_per_layer_input", "layer_types", "enable_moe_block", "attention.sliding_window",
    "attention.key_length_swa", "attention.value_length_swa", "embedding_length_per_layer_input",
    "attention.shared_kv_layers", "attention.sliding_window_pattern", "attention_k_eq_v", "num_kv_shared_layers",
    "use_double_wide_mlp",
})  # fmt: skip
UNIFIED = frozenset({"vocab_size_per_layer_input"})
SIZES = {"head_dim": 16, "global_head_dim": 32, "sliding_window": 20, "rms_norm_eps": 1e-5}
RANGES = {"q_norm": (0.3, 0.7)}  # scores are not divided by the root of their width
PAIRS = ["sliding_attention", "full_attention"]
CASES = (
    Case("gemma4", "Gemma 4", "Gemma4TextConfig", 231, "the last layers reuse keys and values, and are wider",
         gguf=GEMMA4, strict=True, read=READ, resized=RESIZED, gains={"embed": 1.0}, ranges=RANGES,
         sizes={**SIZES, "num_hidden_layers": 6, "layer_types": PAIRS * 3, "num_kv_shared_layers": 3,
                "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "use_double_wide_mlp": True,
                "final_logit_softcapping": 3.0}),
    Case("gemma4_equal", "Gemma 4", "Gemma4TextConfig", 232, "values are keys in layers with full attention; biases",
         gguf=GEMMA4, gains={"embed": 1.0}, ranges=RANGES,
         sizes={**SIZES, "head_dim": 24, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 3,
                "num_global_key_value_heads": 2, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0,
                "sliding_window": 63, "layer_types": [PAIRS[0], PAIRS[0], PAIRS[1], PAIRS[1]],
                "attention_bias": True}),
    Case("gemma4_experts", "Gemma 4", "Gemma4TextConfig", 233, "experts beside the dense network, each with its norm",
         gguf=GEMMA4, strict=True, read=READ | {"top_k_experts"},
         resized=RESIZED | {"num_experts", "moe_intermediate_size", "expert_used_count"},
         gains={"embed": 1.0}, ranges=RANGES,
         sizes={**SIZES, "layer_types": [*PAIRS, PAIRS[1]], "num_global_key_value_heads": 1, "attention_k_eq_v": True,
                "hidden_size_per_layer_input": 0, "enable_moe_block": True, "num_experts": 6, "top_k_experts": 2,
                "moe_intermediate_size": 32}),
    Case("gemma4_unified", "Gemma 4", "Gemma4UnifiedTextConfig", 235, "the 12B's text model: no second embedding",
         gguf=GEMMA4, strict=True, read=READ, resized=RESIZED | UNIFIED, gains={"embed": 1.0}, ranges=RANGES,
         sizes={**SIZES, "num_hidden_layers": 4, "layer_types": PAIRS * 2, "num_global_key_value_heads": 1,
                "attention_k_eq_v": True, "final_logit_softcapping": 4.0}),
    Case("gemma4_one_kind", "Gemma 4", "Gemma4TextConfig", 234,
         "all heads alike, a whole rotation, one layer of each kind, an untied head",
         gains={"embed": 1.0}, ranges=RANGES,
         sizes={**SIZES, "num_hidden_layers": 2, "per_layer_config": {}, "layer_types": PAIRS,
                "tie_word_embeddings": False, "hidden_size_per_layer_input": 12, "vocab_size_per_layer_input": 97,
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e4},
                                    "sliding_attention": {"rope_type": "default", "rope_theta": 3e3}}}),
)  # fmt: skip
