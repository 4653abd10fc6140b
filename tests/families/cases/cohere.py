"""Command-R and Command R7B: parallel residual, LayerNorm without bias, scaled logits."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys


def command_r(config: Settings) -> Settings:
    return {**common_keys(config), "logit_scale": config["logit_scale"], "rope.scaling.type": "none"}


def cohere2(config: Settings) -> Settings:
    return {
        **command_r(config),
        "attention.sliding_window": config["sliding_window"],
        "rope.dimension_count": config["hidden_size"] // config["num_attention_heads"],
    }


COMMAND_R = Gguf("command-r", command_r)
COHERE2 = Gguf("cohere2", cohere2)
READ = frozenset({"logit_scale", "layer_norm_eps"})
CASES = (
    Case("cohere", "Command-R, Aya", "CohereConfig", 261, "scaled logits", gguf=COMMAND_R, strict=True, read=READ,
         sizes={"logit_scale": 0.25, "layer_norm_eps": 1e-3}),
    Case("cohere_biases", "Command-R, Aya", "CohereConfig", 262, "biases of attention", gguf=COMMAND_R,
         sizes={"attention_bias": True, "hidden_size": 96}),
    Case("cohere_norms", "Command-R, Aya", "CohereConfig", 264, "norms of heads", gguf=COMMAND_R,
         ranges={r"[qk]_norm": (0.5, 1.5)}, sizes={"use_qk_norm": True, "num_attention_heads": 6, "hidden_size": 96}),
    Case("cohere2", "Command R7B", "Cohere2Config", 263, "windows in three of four layers", gguf=COHERE2, strict=True,
         read=READ, sizes={"num_hidden_layers": 4, "sliding_window": 24, "logit_scale": 0.5}),
)  # fmt: skip
