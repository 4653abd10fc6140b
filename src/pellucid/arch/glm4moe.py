"""GLM-4.5 and GLM-4.5-Air: experts chosen by sigmoid scores plus a bias, within groups; a shared expert; a rotation of
half the columns; the first layers dense (Zhipu AI 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source, without_predictors
from pellucid.arch.mixture import OWN, feed_forward, with_experts
from pellucid.arch.qwen2vl import check_images
from pellucid.folder import EXPERTS, KEYS, NAMES, SHARED_EXPERT, Folder, Settings
from pellucid.plan import Plan


def config(source: Source) -> Config:
    check_images(source)
    r = Reader(source)
    c = without_predictors(r, r.base(halves=True, own=(*OWN, "nextn_predict_layers")))
    c = replace(c, head_norms=r.norms_heads())
    return with_experts(r, c, gate="sigmoid", renorm=True, limit=1e-20, sum2=True, biased=True)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    if c.head_norms:
        p.head_norm(i, qkv)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    feed_forward(p, c, i, "post_attention_norm")


def _derive(c: Settings) -> Mapping[str, Any]:
    layers = c.get_int("num_hidden_layers", min=1, max=2048)
    more = c.get_int("num_nextn_predict_layers", 0, min=0, max=2048)
    c.get_int("topk_group", min=1, max=4096)
    return {"block_count": layers + more, "nextn_predict_layers": more}


FOLDERS = {
    "glm4_moe": Folder(
        classes=("Glm4MoeForCausalLM",),
        keys={
            **KEYS,
            "n_routed_experts": "expert_count",
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "moe_intermediate_size": "expert_feed_forward_length",
            "n_shared_experts": "expert_shared_count",
            "n_group": "expert_group_count",
            "topk_group": "expert_group_used_count",
            "routed_scaling_factor": "expert_weights_scale",
            "norm_topk_prob": "expert_weights_norm",
            "first_k_dense_replace": "leading_dense_block_count",
            "use_qk_norm": "attention.qk_norm",  # not a GGUF key
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "num_key_value_heads": 8,
            "moe_intermediate_size": 1408,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
            "first_k_dense_replace": 1,
            "use_qk_norm": False,
        },
        biases={"attention_bias": ("attn_q", "attn_k", "attn_v")},
        names={
            **NAMES,
            **EXPERTS,
            **SHARED_EXPERT,
            "post_attention_layernorm": "post_attention_norm",
            "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
        },
        unused=r"model\.layers\.\d+\.(eh_proj|enorm|hnorm|embed_tokens|shared_head\.(norm|head))\.weight",
        partial=0.5,
        derive=_derive,
    )
}
