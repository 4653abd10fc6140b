"""Granite, dense: multipliers."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys, interleaved


def keys(config: Settings) -> Settings:
    return {
        **common_keys(config),
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    }


GRANITE = Gguf("granite", keys, change=interleaved)
READ = frozenset({"attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"})
CASES = (
    Case("granite", "Granite 3, 4 (dense)", "GraniteConfig", 241, "all multipliers", gguf=GRANITE, strict=True,
         read=READ,
         sizes={"attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.22,
                "logits_scaling": 4.0, "rms_norm_eps": 1e-4}),
    Case("granite_biases", "Granite 3, 4 (dense)", "GraniteConfig", 242, "tied, biases, other multipliers",
         gguf=GRANITE,
         sizes={"attention_multiplier": 0.25, "residual_multiplier": 1.5, "attention_bias": True, "mlp_bias": True,
                "tie_word_embeddings": True}),
)  # fmt: skip
