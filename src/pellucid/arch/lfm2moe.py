"""LFM2 with experts: LFM2 whose later layers are mixtures of experts, chosen by sigmoid scores plus a bias (Liquid AI
2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch import lfm2
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.lfm2 import block as block
from pellucid.arch.mixture import OWN, with_experts
from pellucid.folder import Folder, Settings


def config(source: Source) -> Config:
    r = Reader(source)
    biased = source.get_bool(r.key("expert_bias"), True)
    return with_experts(r, lfm2.read(r, OWN), gate="sigmoid", renorm=True, limit=1e-6, biased=biased)


def _derive(c: Settings) -> Mapping[str, Any]:
    return {"attention.head_count_kv": lfm2.kv_heads(c)}


FOLDERS = {
    "lfm2_moe": Folder(
        classes=("Lfm2MoeForCausalLM",),
        keys={
            **lfm2.OWN_KEYS,
            "intermediate_size": "feed_forward_length",
            "num_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "moe_intermediate_size": "expert_feed_forward_length",
            "num_dense_layers": "leading_dense_block_count",
            "routed_scaling_factor": "expert_weights_scale",
            "norm_topk_prob": "expert_weights_norm",
            "use_expert_bias": "expert_bias",  # not a GGUF key
        },
        defaults={
            "hidden_size": 2048,
            "intermediate_size": 7168,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 128000,
            "norm_eps": 1e-5,
            "rope_theta": 1e6,
            "conv_L_cache": 3,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1792,
            "num_dense_layers": 2,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
            "use_expert_bias": True,
        },
        inert=lfm2.INERT,
        biases=lfm2.BIASES,
        names={
            **lfm2.OWN_NAMES,
            "feed_forward.gate": "ffn_gate_inp",
            "feed_forward.expert_bias": "exp_probs_b.bias",
            "feed_forward.experts.*.w1": "ffn_gate_exps",
            "feed_forward.experts.*.w3": "ffn_up_exps",
            "feed_forward.experts.*.w2": "ffn_down_exps",
            "feed_forward.experts.gate_up_proj": "ffn_gate_up_exps.weight",
            "feed_forward.experts.down_proj": "ffn_down_exps.weight",
        },
        tied=True,
        derive=_derive,
    )
}
