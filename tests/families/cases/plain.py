"""Units without a gate: Arcee, Nemotron, StarCoder2, Phi-2, GPT-NeoX."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings, common_keys, interleaved


def part(config: Settings) -> Settings:
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {"rope.dimension_count": int(width * config["rope_parameters"].get("partial_rotary_factor", 1.0))}


def nemotron(config: Settings) -> Settings:
    return {
        **common_keys(config),
        **part(config),
        "attention.layer_norm_epsilon": config["norm_eps"],
        "rope.scaling.type": "none",
    }


def plus_one(config: Settings, name: str, value: Array) -> Array:
    return value + 1 if name.endswith("norm.weight") else value


def starcoder2(config: Settings) -> Settings:
    return {**common_keys(config), "attention.sliding_window": config["sliding_window"]}


def phi2(config: Settings) -> Settings:
    return {**common_keys(config), **part(config)}


def gptneox(config: Settings) -> Settings:
    return {
        **common_keys(config),
        **part(config),
        "attention.head_count_kv": None,
        "use_parallel_residual": config["use_parallel_residual"],
    }


def by_part(config: Settings, name: str, value: Array) -> Array:
    if "query_key_value" not in name:
        return value
    heads = config["num_attention_heads"]
    return value.reshape(heads, 3, len(value) // heads // 3, -1).swapaxes(0, 1).reshape(value.shape)


ARCEE = Gguf("arcee", common_keys, change=interleaved)
NEMOTRON = Gguf("nemotron", nemotron, change=plus_one)
STARCODER2 = Gguf("starcoder2", starcoder2)
PHI2 = Gguf("phi2", phi2)
GPTNEOX = Gguf("gptneox", gptneox, change=by_part)
PARTIAL = frozenset({"partial_rotary_factor"})
EPS = frozenset({"norm_eps", "norm_epsilon", "layer_norm_eps"})
CASES = (
    Case("arcee", "Arcee", "ArceeConfig", 191, "squared ReLU", gguf=ARCEE, strict=True, sizes={"head_dim": 24}),
    Case("arcee_biases", "Arcee", "ArceeConfig", 192, "biases, tied", gguf=ARCEE,
         sizes={"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    Case("nemotron", "Nemotron", "NemotronConfig", 193, "norms with an offset", gguf=NEMOTRON, strict=True,
         read=PARTIAL | EPS, sizes={"norm_eps": 1e-3}, ranges={r"norm\.weight$": (-0.4, 0.4)}),
    Case("nemotron_quarter", "Nemotron", "NemotronConfig", 194, "a quarter rotated; biases", gguf=NEMOTRON,
         sizes={"head_dim": 24, "partial_rotary_factor": 0.25, "attention_bias": True, "mlp_bias": True},
         ranges={r"norm\.weight$": (-0.4, 0.4)}),
    Case("starcoder2", "StarCoder2", "Starcoder2Config", 195, "biases, a window", gguf=STARCODER2, strict=True,
         read=EPS | {"use_bias"}, sizes={"sliding_window": 24, "norm_epsilon": 1e-3}),
    Case("starcoder2_plain", "StarCoder2", "Starcoder2Config", 196, "no biases, untied", gguf=STARCODER2,
         sizes={"use_bias": False, "tie_word_embeddings": False}),
    Case("phi2", "Phi-2", "PhiConfig", 197, "parallel residual, a bias of the head", gguf=PHI2, strict=True,
         read=PARTIAL | EPS, sizes={"layer_norm_eps": 1e-3}),
    Case("phi2_gqa", "Phi-2", "PhiConfig", 198, "one KV head; gelu by erf in the folder alone",
         sizes={"num_key_value_heads": 1, "partial_rotary_factor": 0.25, "hidden_act": "gelu"}),
    Case("phi2_norms", "Phi-2", "PhiConfig", 203, "norms of heads in the folder alone",
         sizes={"qk_layernorm": True, "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 48}),
    Case("phi2_tied", "Phi-2", "PhiConfig", 204, "the embedding as head, with a bias of its own",
         sizes={"tie_word_embeddings": True}),
    Case("gptneox", "GPT-NeoX, Pythia", "GPTNeoXConfig", 199, "parallel residual of two norms", gguf=GPTNEOX,
         strict=True, sizes={"layer_norm_eps": 1e-3},
         read=PARTIAL | EPS | {"use_parallel_residual", "rotary_pct", "rotary_emb_base", "num_attention_heads"}),
    Case("gptneox_serial", "GPT-NeoX, Pythia", "GPTNeoXConfig", 200, "one half after the other; no biases of attention",
         gguf=GPTNEOX,
         sizes={"use_parallel_residual": False, "attention_bias": False, "hidden_size": 96,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
)  # fmt: skip
