"""LFM3: convolutions of seven taps, windows, norms after each half, a gate for each head."""

from __future__ import annotations

from tests.families.case import Case

ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
}
READ = frozenset({"norm_eps"})
RESIZED = frozenset({"conv_L_cache", "layer_types", "conv_bias", "use_sandwich_norm", "use_attention_gate"})
GAINS = {r"in_proj|out_proj|w2|g_proj": 2.0, r"conv\.conv": 1.5}
CASES = (
    Case("lfm3", "LFM3", "Lfm3Config", 501, "each kind of layer", strict=True, read=READ, resized=RESIZED, gains=GAINS,
         sizes={"num_hidden_layers": 4, "head_dim": 24, "norm_eps": 1e-4, "sliding_window": 20,
                "layer_types": ["conv", "sliding_attention", "full_attention", "conv"], "rope_parameters": ROPES}),
    Case("lfm3_plain", "LFM3", "Lfm3Config", 502, "no norms after, no gates, biases, untied, another rotation",
         gains=GAINS,
         sizes={"num_hidden_layers": 3, "head_dim": 16, "layer_types": ["full_attention", "conv", "sliding_attention"],
                "use_sandwich_norm": False, "use_attention_gate": False, "attention_bias": True, "conv_bias": True,
                "conv_L_cache": 5, "tie_word_embeddings": False, "sliding_window": 33,
                "rope_parameters": {**ROPES, "full_attention": {"rope_type": "default", "rope_theta": 1e5}}}),
)  # fmt: skip
