"""GPT-2: learned positions; matrices of folders are (in, out)."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings


def keys(config: Settings) -> Settings:
    return {
        "context_length": config["n_positions"],
        "block_count": config["n_layer"],
        "embedding_length": config["n_embd"],
        "feed_forward_length": config["n_inner"] or 4 * config["n_embd"],
        "attention.head_count": config["n_head"],
        "attention.layer_norm_epsilon": config["layer_norm_epsilon"],
    }


def turned(config: Settings, name: str, value: Array) -> Array:
    return value.T if ".c_" in name and value.ndim == 2 else value


GPT2 = Gguf("gpt2", keys, change=turned)
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 256}
CASES = (
    Case("gpt2", "GPT-2", "GPT2Config", 271, "learned positions", gguf=GPT2,
         strict=True, sizes={**SIZES, "layer_norm_epsilon": 1e-3},
         read=frozenset({"layer_norm_epsilon", "activation_function", "n_head"}),
         resized=frozenset({"n_embd", "n_head", "n_inner", "n_layer", "n_positions", "num_layers"})),
    Case("gpt2_wide", "GPT-2", "GPT2Config", 272, "an inner width of its own; untied", gguf=GPT2,
         sizes={**SIZES, "n_inner": 160, "n_embd": 96, "tie_word_embeddings": False}),
    Case("gpt2_odd", "GPT-2", "GPT2Config", 273, "heads of 5 columns", gguf=GPT2,
         sizes={**SIZES, "n_head": 3, "n_embd": 15, "n_layer": 1}),
)  # fmt: skip
