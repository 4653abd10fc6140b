"""StableLM: LayerNorm, a rotation of a quarter of the columns, and, in some sizes, both halves of a layer in parallel
and a norm with its own weights for each head (Stability AI 2023)."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import ANY, KEYS, NAMES, Folder, Same
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    parallel = bool(source.get_bool(r.key("use_parallel_residual"), "blk.0.ffn_norm.weight" not in source.tensors))
    return replace(
        r.base(halves=True, norms="layer", own=("use_parallel_residual",)),
        parallel=parallel,
        head_norms=r.norms_heads(),
    )


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    h = p.norm(i, "attn_norm")
    qkv = p.qkv(i, h, attention)
    if c.head_norms:
        p.head_norm(i, qkv, norm="layer", weights="own")
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    h = h if c.parallel else p.norm(i, "ffn_norm")
    p.add(i, "ffn_down", p.glu(i, h, c.ff, c.act))


FOLDERS = {
    "stablelm": Folder(
        classes=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
        keys={
            **{key: name for key, name in KEYS.items() if key != "rms_norm_eps"},
            "layer_norm_eps": "attention.layer_norm_epsilon",
            "use_parallel_residual": "use_parallel_residual",
            "qk_layernorm": "attention.qk_norm",  # not a GGUF key
        },
        defaults={
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "hidden_act": "silu",
            "num_key_value_heads": 32,
            "qk_layernorm": False,
        },
        inert={
            "norm_eps": Same("layer_norm_eps"),
            "rope_pct": Same("partial_rotary_factor", 0.25),
            "rotary_scaling_factor": 1.0,
            "use_norm_bias": ANY,
        },
        biases={"use_qkv_bias": ("attn_q", "attn_k", "attn_v")},
        biased=("attn_norm", "ffn_norm", "output_norm"),
        names={
            **{name: own for name, own in NAMES.items() if not name.endswith(("q_norm", "k_norm"))},
            "self_attn.q_layernorm.norms.*": "attn_q_norm",
            "self_attn.k_layernorm.norms.*": "attn_k_norm",
        },
        partial=0.25,
    )
}
