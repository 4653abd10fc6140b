"""Hunyuan, dense: Llama with heads normed after their rotation (Tencent 2025)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import ANY, NAMES, QKVO, Folder, Same
from pellucid.plan import Plan

_ONE = ("expert_count", "expert_used_count")


def config(source: Source) -> Config:
    r = Reader(source)
    for name in _ONE:  # some configurations count the one network as an expert, and some converters repeat it
        source.get_int(r.key(name), 0, min=0, max=1)
    return r.base(halves=True, own=_ONE)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    if rope is not None:
        p.rotate(i, qkv, rope)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, None)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act))


# For images, for a classifier, and for special tokens.
_OTHER = """
    anyres_pooling_size cla_share_factor class_num dense_list im_end_id im_newline_id im_start_id image_token_id
    mask_init_id num_media_embeds org_vocab_size pad_id pool_type text_end_id text_start_id video_end_id video_start_id
"""
FOLDERS = {
    "hunyuan_v1_dense": Folder(
        classes=("HunYuanDenseV1ForCausalLM",),
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "hidden_act": "silu"},
        inert={
            **dict.fromkeys(_OTHER.split(), ANY),
            "attention_head_dim": Same("head_dim"),
            "enable_lm_head_fp32": ANY,
            "norm_type": "rms",
            "use_qk_norm": True,
            "use_rotary_pos_emb": True,
        },
        biases={"attention_bias": QKVO},
        names={
            **{name: own for name, own in NAMES.items() if name not in ("self_attn.q_norm", "self_attn.k_norm")},
            "self_attn.query_layernorm": "attn_q_norm",
            "self_attn.key_layernorm": "attn_k_norm",
        },
        alpha=True,
    )
}
