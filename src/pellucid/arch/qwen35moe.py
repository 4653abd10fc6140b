"""Qwen3.5 with experts: Qwen3.5 whose layers are mixtures of experts with a shared expert behind a gate (Qwen Team
2026)."""

from __future__ import annotations

from pellucid.arch import qwen35
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, with_experts
from pellucid.arch.qwen35 import block as block
from pellucid.folder import EXPERTS, QKVO, Folder


def config(source: Source) -> Config:
    r = Reader(source)
    return with_experts(r, qwen35.read(r, OWN), renorm=True, gated=True)


KEYS = {
    **{key: name for key, name in qwen35.OWN_KEYS.items() if key != "intermediate_size"},
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}
DEFAULTS = {
    **qwen35.DEFAULTS,
    "hidden_size": 2048,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
SHARED = {
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
FOLDERS = {
    "qwen3_5_moe_text": Folder(
        classes=("Qwen3_5MoeForCausalLM",),
        keys=KEYS,
        defaults={**DEFAULTS, "num_hidden_layers": 40, "num_experts": 256, "num_experts_per_tok": 8},
        biases={"attention_bias": QKVO},
        names={**qwen35.OWN_NAMES, **EXPERTS, **SHARED},
        others=qwen35.OTHERS,
        norm_offset=1.0,
        plain_norms=("ssm_norm",),
        partial=0.25,
        mrope=True,
        derive=qwen35.derive,
    ),
}
