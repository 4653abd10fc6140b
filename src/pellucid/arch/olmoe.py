"""OLMoE: a mixture of experts in every layer; all query heads are normed as one row, and so are all key heads (Ai2
2024)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, feed_forward, with_experts
from pellucid.folder import EXPERTS, KEYS, NAMES, QKVO, Folder
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    return with_experts(r, r.base(halves=True, own=OWN))


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.head_norm(i, qkv, weights="all")
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    feed_forward(p, c, i)


FOLDERS = {
    "olmoe": Folder(
        classes=("OlmoeForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key != "head_dim"},
            "num_experts": "expert_count",
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "norm_topk_prob": "expert_weights_norm",
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "hidden_act": "silu",
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        },
        biases={"attention_bias": QKVO},
        names={**{name: own for name, own in NAMES.items() if not name.startswith("mlp.")}, **EXPERTS},
    )
}
