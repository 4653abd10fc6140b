"""OLMo 2 and 3, OLMoE: queries and keys normed over all heads; OLMo has norms after each half."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys, scaling_keys
from tests.families.mixture import keys, merged

EXPERTS = frozenset({"norm_topk_prob", "num_experts_per_tok"})
RESIZED = frozenset({"num_experts", "num_local_experts"})


def olmo3(config: Settings) -> Settings:
    full, local = (config["rope_parameters"][f"{kind}_attention"] for kind in ("full", "sliding"))
    return {
        **common_keys(config),
        **scaling_keys(full),
        "rope.freq_base": full["rope_theta"],
        "rope.freq_base_swa": local["rope_theta"],
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config["layer_types"]],
    }


OLMOE = Gguf("olmoe", keys, merge=merged)
OLMO2 = Gguf("olmo2", common_keys)
YARN = {
    "full_attention": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 64,
                       "beta_fast": 32.0, "beta_slow": 1.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
}  # fmt: skip
CASES = (
    Case("olmo2", "OLMo 2", "Olmo2Config", 221, "grouped heads", gguf=OLMO2, strict=True, sizes={"rms_norm_eps": 1e-4}),
    Case("olmo2_mha", "OLMo 2", "Olmo2Config", 222, "one KV head for each query head; biases in the folder alone",
         sizes={"num_key_value_heads": 4, "attention_bias": True, "hidden_size": 96}),
    Case("olmo3", "OLMo 3", "Olmo3Config", 223, "windows; YaRN in full layers alone", gguf=Gguf("olmo2", olmo3),
         strict=True, read=frozenset({"original_max_position_embeddings"}),
         sizes={"num_hidden_layers": 4, "sliding_window": 24, "rope_parameters": YARN}),
    Case("olmoe", "OLMoE", "OlmoeConfig", 224, "grouped heads", gguf=OLMOE, strict=True, read=EXPERTS, resized=RESIZED,
         tokens=4, sizes={"num_experts": 8, "num_experts_per_tok": 3, "rms_norm_eps": 1e-4}),
    Case("olmoe_renormalised", "OLMoE", "OlmoeConfig", 225, "one layer, six heads, one KV head, weights renormalised, "
         "biases, in the folder alone",
         sizes={"num_experts": 5, "num_experts_per_tok": 5, "num_hidden_layers": 1, "num_attention_heads": 6,
                "num_key_value_heads": 1, "hidden_size": 72, "norm_topk_prob": True, "attention_bias": True}),
    Case("olmoe_odd", "OLMoE", "OlmoeConfig", 226, "one layer, three heads of 14 columns, five experts of 32",
         gguf=OLMOE,
         sizes={"num_experts": 5, "num_experts_per_tok": 2, "num_hidden_layers": 1, "num_attention_heads": 3,
                "num_key_value_heads": 3, "hidden_size": 42, "intermediate_size": 32, "rms_norm_eps": 1e-5}),
)  # fmt: skip
