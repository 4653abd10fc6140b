"""Mistral Small 4: attention over latent rows as in DeepSeek, and queries that grow with the logarithm of their
position (Mistral AI 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Source
from pellucid.arch.deepseek2 import COMMON, LATENT_NAMES, V3_KEYS, LatentReader, latent_keys, only, with_latent
from pellucid.arch.deepseek2 import block as block
from pellucid.arch.mixture import OWN
from pellucid.folder import EXPERTS, SHARED_EXPERT, Folder, Settings


def config(source: Source) -> Config:
    r = LatentReader(source)
    return with_latent(r, r.base(halves=False, own=OWN), gate="softmax", sum2=True)


def _derive(c: Settings) -> Mapping[str, Any]:
    only(c, moe_layer_freq=1, scoring_func="softmax")
    where = "rope_parameters" if c.get_table("rope_parameters", None) is not None else "rope_scaling"
    c.get_int(f"{where}.max_position_embeddings", None, min=1)  # a copy of the one beside the table
    original = c.get_int(f"{where}.original_max_position_embeddings", min=1, max=1 << 24)
    return {
        **latent_keys(c),
        "attention.temperature_scale": c.get_float(f"{where}.llama_4_scaling_beta", min=0.0, max=1e3),
        "rope.scaling.original_context_length": c.get_int("original_max_position_embeddings", original, min=1),
        "expert_choice_bias": False,
    }


FOLDERS = {
    "mistral4": Folder(
        classes=("Mistral4ForCausalLM",),
        keys={**V3_KEYS, "first_k_dense_replace": "leading_dense_block_count"},
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
        },
        defaults={
            "hidden_act": "silu",
            "kv_lora_rank": 256,
            "q_lora_rank": 1024,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 64,
            "v_head_dim": 128,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 1048576,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 4,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
            "moe_intermediate_size": 2048,
            "norm_topk_prob": True,
            "first_k_dense_replace": 0,
            "rope_interleave": True,
        },
        rope={
            "type": "yarn",
            "rope_theta": 10000.0,
            "factor": 128.0,
            "original_max_position_embeddings": 8192,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        names={**LATENT_NAMES, **EXPERTS, **SHARED_EXPERT},
        derive=_derive,
        **{**COMMON, "rotated": ("qk_rope_head_dim", "qk_nope_head_dim")},
    )
}
