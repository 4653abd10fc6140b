"""Granite 4 H: most layers are Mamba 2, the others attention; with experts or without (IBM 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch import mamba2
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.granite import EXPERTS, MULTIPLIERS, multiplied, shared_width
from pellucid.arch.mixture import OWN, with_experts
from pellucid.experts import mixture
from pellucid.folder import ANY, KEYS, NAMES, QKVO, Folder, Settings
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=False, recurrent=True, own=OWN)
    rotated = bool(source.get_bool(r.key("rope.scaling.finetuned"), True))
    c = replace(multiplied(r, c, 1.0), rotated=(rotated,) * c.layers, memory=mamba2.memory(r))
    c = with_experts(r, c, gate="top_first")
    if c.experts is None:
        shared_width(r, c)
    return c


def block(p: Plan, c: Config, i: int) -> None:
    h = p.norm(i, "attn_norm")
    if c.recurrent[i]:
        p.add(i, "ssm_out", mamba2.mamba(p, c.memory, i, h), scale=c.residual_scale)
    else:
        attention, rope = c.kind(i)
        qkv = p.qkv(i, h, attention)
        p.rope_append(i, qkv, rope)
        p.add(i, "attn_output", p.attend(i, qkv), scale=c.residual_scale)
    h = p.norm(i, "ffn_norm")
    if c.experts is None:
        p.add(i, "ffn_down", p.glu(i, h, c.ff, c.act), scale=c.residual_scale)
        return
    mixture(p, i, h, replace(c.experts, shared=0), c.act, c.residual_scale)
    if c.experts.shared:
        plain = any(f"blk.{i}.ffn_{part}.weight" in p.tensors for part in ("up", "down"))
        kind = "" if plain else "_shexp"  # folders name it like that of dense models
        f = p.glu(i, h, c.experts.shared, c.act, kind)
        p.add(i, f"ffn_down{kind}", f, scale=c.residual_scale)


def _derive(c: Settings) -> Mapping[str, Any]:
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    kinds = c.get_list("layer_types", None, of=str, length=layers) or ["linear_attention"] * layers
    recurrent = [kind in ("linear_attention", "mamba") for kind in kinds]
    if not {*kinds} <= {"linear_attention", "mamba", "full_attention", "attention"}:
        raise c.refuse("layer_types", "linear_attention, mamba, full_attention, attention")
    for key in ("output_router_logits", "router_aux_loss_coef", "mamba_chunk_size"):
        c.get_any(key, None)
    experts = c.get_int("num_local_experts", min=0, max=512)
    ff = c.get_int("intermediate_size", min=1)
    shared = c.get_int("shared_intermediate_size", min=1)
    found: dict[str, Any] = {"expert_used_count": 0, **mamba2.steps(c)}
    if experts:
        used = c.get_int("num_experts_per_tok", min=1)
        found |= {"expert_used_count": used, "feed_forward_length": ff, "expert_shared_feed_forward_length": shared}
    if c.get_str("hidden_act", "silu") != "silu":  # of the convolution, too
        raise c.refuse("hidden_act", "silu")
    kind = c.get_str("position_embedding_type", "nope")
    heads = c.get_int("num_key_value_heads", c.get_int("num_attention_heads", min=1), min=1, max=4096)
    inner = c.get_int("mamba_expand", min=1, max=64) * c.get_int("hidden_size", min=1)
    n = c.get_int("mamba_n_heads", min=1, max=4096)
    width = c.get_any("mamba_d_head", "auto")
    if width not in ("auto", inner // n):
        raise c.refuse("mamba_d_head", str(inner // n))
    return {
        **found,
        "attention.head_count_kv": [0 if one else heads for one in recurrent],
        "rope.scaling.finetuned": kind == "rope",
        "ssm.inner_size": inner,
    }


FOLDERS = {
    "granitemoehybrid": Folder(
        classes=("GraniteMoeHybridForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key not in ("intermediate_size", "num_key_value_heads")},
            "shared_intermediate_size": "feed_forward_length",
            **MULTIPLIERS,
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "mamba_d_conv": "ssm.conv_kernel",
            "mamba_d_state": "ssm.state_size",
            "mamba_n_groups": "ssm.group_count",
            "mamba_n_heads": "ssm.time_step_rank",
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "shared_intermediate_size": 1024,
            **dict.fromkeys(MULTIPLIERS, 1.0),
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 11008,
            "mamba_d_conv": 4,
            "mamba_d_state": 256,
            "mamba_n_groups": 1,
            "mamba_n_heads": 128,
            "mamba_expand": 2,
            "mamba_conv_bias": True,
        },
        inert={"init_method": ANY, "normalization_function": "rmsnorm"},
        biases={
            "attention_bias": QKVO,
            "mamba_conv_bias": ("ssm_conv1d",),
            "mamba_proj_bias": ("ssm_in", "ssm_out"),
        },
        names={
            **{name: own for name, own in NAMES.items() if not name.startswith("mlp.")},
            **EXPERTS,
            "shared_mlp.input_linear": "ffn_up",
            "shared_mlp.output_linear": "ffn_down",
            **mamba2.mixer_names("mamba"),
        },
        others=mamba2.mixer_others("mamba"),
        derive=_derive,
    )
}
