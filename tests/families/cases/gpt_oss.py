"""gpt-oss: sinks, windows in every other layer, biases everywhere, a clamped activation, softmax over the chosen."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings, Weights
from tests.families.mixture import keys

RESIZED = frozenset({"num_local_experts", "layer_types"})
READ = frozenset({"num_experts_per_tok", "sliding_window", "layer_types", "attention_bias",
                  "original_max_position_embeddings"})  # fmt: skip


def oss_keys(config: Settings) -> Settings:
    rope = config["rope_parameters"]
    return {
        **keys(config),
        "expert_feed_forward_length": config["intermediate_size"],
        "attention.sliding_window": config["sliding_window"],
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(rope["factor"]),
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
    }


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    """Experts' matrices are transposed, and gate and up, which alternate, are taken apart."""
    if ".experts." not in name:
        return value
    layer, part = name.split(".")[2], name.rpartition(".")[2]
    kind = "bias" if part.endswith("_bias") else "weight"
    rows = value.swapaxes(1, 2) if value.ndim == 3 else value
    if part.startswith("down"):
        return {f"blk.{layer}.ffn_down_exps.{kind}": rows}
    return {f"blk.{layer}.ffn_gate_exps.{kind}": rows[:, ::2], f"blk.{layer}.ffn_up_exps.{kind}": rows[:, 1::2]}


NAMES = {f"model.layers.{i}.self_attn.sinks": f"blk.{i}.attn_sinks.weight" for i in range(4)}
OSS = Gguf("gpt-oss", oss_keys, change, names=NAMES)
RANGES = {"sinks": (-1.0, 3.0)}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 32}  # fmt: skip
SIZES = {"head_dim": 16, "num_local_experts": 8, "num_experts_per_tok": 3, "sliding_window": 24,
         "num_hidden_layers": 4, "rope_parameters": YARN}  # fmt: skip
CASES = (
    Case("gpt_oss", "gpt-oss", "GptOssConfig", 351, "even layers see a window; gate and up beyond the limit", gguf=OSS,
         strict=True, read=READ, resized=RESIZED, ranges=RANGES, gains={"gate_up_proj$": 12.0},
         sizes={**SIZES, "rms_norm_eps": 1e-4}),
    Case("gpt_oss_few", "gpt-oss", "GptOssConfig", 352, "two experts, one of them used; every layer sees all",
         ranges=RANGES,
         sizes={**SIZES, "num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": ["full_attention"] * 4}),
    Case("gpt_oss_odd", "gpt-oss", "GptOssConfig", 353, "three layers, five heads of 18 columns, one KV head, five "
         "experts, a window of 7 tokens", gguf=OSS, ranges=RANGES,
         sizes={**SIZES, "num_hidden_layers": 3, "num_attention_heads": 5, "num_key_value_heads": 1, "hidden_size": 45,
                "intermediate_size": 32, "head_dim": 18, "num_local_experts": 5, "num_experts_per_tok": 2,
                "sliding_window": 7}),
)  # fmt: skip
